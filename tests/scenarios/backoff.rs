//! How long a failed job waits, by a clock that the tests move.

use std::time::Duration;

use futures::future::join;
use queue::{
    Backoff, Jitter, JobHandle, JobResult, JobState, Pass, Restore, State, Task, TaskError,
    TaskOptions, TaskResult, Timestamp, Wf, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Scene, eventually};

crate::on_every_store_by_the_clock!(
    the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long,
    the_later_of_the_steps_and_the_jobs_dates_wins,
    a_step_waits_by_its_own_failures_and_not_by_the_jobs,
    of_several_failed_steps_the_latest_date_wins,
    a_later_failure_does_not_shorten_the_wait,
    jitter_is_the_same_for_one_failure_and_bounded_by_the_cap,
    a_wait_beyond_the_calendar_is_the_longest_there_is,
    a_failure_of_the_body_waits_by_the_jobs_failures,
);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "doubles", retries = 5, backoff(exponential = "1s", cap = "5s"))]
struct Doubles;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "slow-flow", output = u32, retries = 9, backoff(exponential = "10s"))]
struct SlowFlow;

fn worker(scene: &Scene, docs: &Docs) -> WorkerBuilder {
    // Nothing here takes long by the machine's clock, and the store's is moved by hours.
    Worker::new(scene.queue.clone()).state(docs.clone()).lease(1_000_000 * SECOND)
}

/// Makes a pass, and answers how long the one job that it ran is to wait.
async fn wait(worker: &Worker) -> Option<Duration> {
    let summary = worker.run(Pass::new()).await.unwrap();
    match &summary.jobs[..] {
        [] => None,
        [job] => match &job.result {
            JobResult::WillRetry { after, .. } => Some(*after),
            _ => None,
        },
        more => panic!("{more:?}"),
    }
}

async fn run_at<T: Task>(handle: &JobHandle<T>) -> Timestamp {
    handle.job().await.unwrap().unwrap().run_at
}

async fn the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long(scene: Scene) {
    let worker = worker(&scene, &Docs::default())
        .task(|_: Doubles| async { Err::<(), _>(TaskError::new("no")) })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Doubles).await.unwrap();
    for seconds in [1, 2, 4, 5, 5] {
        assert_eq!(wait(&worker).await, Some(seconds * SECOND));
        assert_eq!(run_at(&handle).await, scene.clock.now().plus(seconds * SECOND));
        scene.clock.advance(seconds * SECOND - Duration::from_micros(1));
        assert_eq!(worker.run(Pass::new()).await.unwrap().jobs.len(), 0);
        scene.clock.advance(Duration::from_micros(1));
    }
    assert_eq!(wait(&worker).await, None);
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Failed);
}

async fn fails() -> TaskResult<u32> {
    Err(TaskError::new("no"))
}

async fn the_later_of_the_steps_and_the_jobs_dates_wins(scene: Scene) {
    let worker = worker(&scene, &Docs::default())
        .workflow(|_: SlowFlow, wf: Wf| async move {
            wf.run("fails", fails).backoff(Backoff::fixed(30 * SECOND)).await
        })
        .build()
        .unwrap();
    scene.queue.enqueue(SlowFlow).await.unwrap();
    for seconds in [30, 30, 40, 80] {
        assert_eq!(wait(&worker).await, Some(seconds * SECOND));
        scene.clock.advance(seconds * SECOND);
    }
}

async fn a_step_waits_by_its_own_failures_and_not_by_the_jobs(scene: Scene) {
    let worker = worker(&scene, &Docs::default())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let flaky = |id: &'static str, failures| {
                let docs = &docs;
                let step = wf.run(id, move || async move {
                    docs.write(id);
                    if docs.count(id) <= failures { fails().await } else { Ok(1) }
                });
                step.retries(9).backoff(Backoff::exponential(SECOND)).into_future()
            };
            flaky("first", 3).await?;
            flaky("second", 2).await
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Flow).await.unwrap();
    for seconds in [1, 2, 4, 1, 2] {
        assert_eq!(wait(&worker).await, Some(seconds * SECOND));
        scene.clock.advance(seconds * SECOND);
    }
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
}

/// One step fails at once; another fails half an hour later.
async fn two_failures(scene: &Scene, early: Duration, late: Duration) -> Option<Duration> {
    let (docs, clock) = (Docs::default(), scene.clock.clone());
    let worker = worker(scene, &docs)
        .workflow(move |_: Flow, wf: Wf, State(docs): State<Docs>| {
            let clock = clock.clone();
            async move {
                let fails_early = wf.run("early", || async {
                    docs.write("early");
                    fails().await
                });
                let fails_late = wf.run("late", || async {
                    // By then it is noted: this is the same task, and the other ends in one breath.
                    eventually("one has failed", || async { docs.len() == 1 }).await;
                    clock.advance(30 * MINUTE);
                    fails().await
                });
                let (one, other) = join(
                    fails_early.retries(1).backoff(Backoff::fixed(early)).into_future(),
                    fails_late.retries(1).backoff(Backoff::fixed(late)).into_future(),
                )
                .await;
                one.and(other)
            }
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Flow).await.unwrap();
    wait(&worker).await
}

async fn of_several_failed_steps_the_latest_date_wins(scene: Scene) {
    // At 60 minutes and at 40 minutes from the beginning, half an hour of which is over.
    assert_eq!(two_failures(&scene, 60 * MINUTE, 10 * MINUTE).await, Some(30 * MINUTE));
}

async fn a_later_failure_does_not_shorten_the_wait(scene: Scene) {
    // At 10 minutes, which is past, and at 50 minutes.
    assert_eq!(two_failures(&scene, 10 * MINUTE, 20 * MINUTE).await, Some(20 * MINUTE));
}

async fn jitter_is_the_same_for_one_failure_and_bounded_by_the_cap(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "jittery", retries = 9)]
    #[task(backoff(exponential = "1m", cap = "3m", jitter = "full"), restore = false)]
    struct Jittery;

    let backoff = Backoff::exponential(MINUTE).capped(3 * MINUTE).jitter(Jitter::Full);
    let said = TaskOptions::new().retries(9).backoff(backoff).restore(Restore::Never);
    assert_eq!(Jittery::options(), said);

    let worker = worker(&scene, &Docs::default())
        .task(|_: Jittery| async { Err::<(), _>(TaskError::new("no")) })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Jittery).await.unwrap();
    let mut waits = Vec::new();
    for failures in 1..=6 {
        let wait = wait(&worker).await.unwrap();
        assert_eq!(wait, backoff.of(handle.id(), "jittery", failures));
        assert!(wait < 3 * MINUTE, "{wait:?}");
        waits.push(wait);
        scene.clock.advance(3 * MINUTE);
    }
    waits.dedup();
    assert_eq!(waits.len(), 6, "each failure has a share of its own");
}

async fn a_wait_beyond_the_calendar_is_the_longest_there_is(scene: Scene) {
    #[derive(Serialize, Deserialize)]
    struct Never;
    impl Task for Never {
        const NAME: &'static str = "never";
        type Output = ();
        fn options() -> TaskOptions {
            TaskOptions::new().retries(u32::MAX).backoff(Backoff::exponential(Duration::MAX))
        }
    }
    let worker = worker(&scene, &Docs::default())
        .task(|_: Never| async { Err::<(), _>(TaskError::new("no")) })
        .workflow(|_: Flow, wf: Wf| async move {
            let step = wf.run("fails", fails).retries(u32::MAX);
            step.backoff(Backoff::exponential(Duration::MAX)).await
        })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(Never).await.unwrap();
    let flow = scene.queue.enqueue(Flow).await.unwrap();
    worker.run(Pass::new()).await.unwrap();
    assert_eq!((run_at(&task).await, run_at(&flow).await), (Timestamp::MAX, Timestamp::MAX));
    assert_eq!(task.job().await.unwrap().unwrap().state, JobState::Waiting);
}

async fn a_failure_of_the_body_waits_by_the_jobs_failures(scene: Scene) {
    let worker = worker(&scene, &Docs::default()).workflow(|_: SlowFlow| fails()).build().unwrap();
    scene.queue.enqueue(SlowFlow).await.unwrap();
    for seconds in [10, 20, 40] {
        assert_eq!(wait(&worker).await, Some(seconds * SECOND));
        scene.clock.advance(seconds * SECOND);
    }
}
