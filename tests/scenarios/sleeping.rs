//! Durable sleeps, by a clock that the tests move.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::join;
use queue::{
    Backoff, Job, JobHandle, JobResult, JobState, Lane, Pass, SLEEP, State, StepEntry, StepState,
    Task, TaskError, TaskResult, Timestamp, Wf, Worker, WorkerBuilder,
    core::{BulkChange, ClaimRequest, Queues},
    step_statuses,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene, eventually};

crate::on_every_store_by_the_clock!(
    a_sleep_gives_the_job_back_and_uses_no_attempt,
    the_end_of_a_sleep_stands_over_crashes_and_other_workers,
    waking_a_sleeping_job_early_only_makes_it_look,
    waking_a_job_before_it_sleeps_makes_it_look_once_more,
    a_sleep_beside_a_running_step_ends_in_the_same_run,
    a_sleep_that_began_beside_a_running_step_survives_its_worker,
    a_step_that_outlasts_its_time_limit_is_given_up_in_the_same_run,
    a_step_within_its_time_limit_does_not_wait_for_it,
    of_several_sleeps_the_first_wakes_the_job,
    the_instant_given_when_a_sleep_first_began_stands,
    a_sleep_that_is_over_when_it_begins_costs_nothing,
    a_retry_keeps_its_backoff_beside_a_shorter_sleep,
    a_retry_is_not_put_off_by_a_longer_sleep,
    a_cancelled_sleeping_job_ends_at_once,
    a_sleep_inside_a_step_carries_its_parent_and_repeats_it,
    a_stopped_worker_gives_back_at_once_what_had_more_to_do_than_sleep,
    a_sleeping_job_holds_no_lane,
    a_sleep_used_twice_is_an_error_that_names_it,
);

crate::on_every_store!(a_sleep_does_not_end_early_because_a_claim_was_answered_late);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow;

/// A step that writes its name.
async fn step(wf: &Wf, docs: &Docs, id: &str) -> TaskResult<u32> {
    wf.run(id, || async {
        docs.write(id);
        Ok::<u32, TaskError>(1)
    })
    .await
}

fn worker(scene: &Scene, docs: &Docs) -> WorkerBuilder {
    // Nothing here takes long by the machine's clock, and the store's is moved by hours.
    Worker::new(scene.queue.clone()).state(docs.clone()).lease(1_000 * HOUR)
}

/// One pass, and what became of the one job that it ran.
async fn look(worker: &Worker) -> Option<JobResult> {
    let pass = tokio::time::timeout(Duration::from_secs(40), worker.run(Pass::new()));
    let mut summary = pass.await.expect("the pass hangs").unwrap();
    assert!(summary.jobs.len() <= 1, "{summary:?}");
    summary.jobs.pop().map(|job| job.result)
}

async fn read(handle: &JobHandle<Flow>) -> Job {
    handle.job().await.unwrap().unwrap()
}

fn wakes_at(result: Option<&JobResult>) -> Timestamp {
    match result {
        Some(JobResult::Sleeping { until }) => *until,
        other => panic!("{other:?}"),
    }
}

fn entries(job: &Job) -> Vec<(String, StepState)> {
    let steps = job.log.iter().filter_map(StepEntry::from_entry);
    steps.map(|entry| (entry.step, entry.state)).collect()
}

async fn a_sleep_does_not_end_early_because_a_claim_was_answered_late(scene: Scene) {
    const NAP: Duration = Duration::from_millis(200);
    type First = Arc<Mutex<Option<Instant>>>;
    let worker = Worker::new(scene.queue.clone())
        .state(First::default())
        .workflow(|_: Flow, wf: Wf, State(first): State<First>| async move {
            let begun = *first.lock().unwrap().get_or_insert_with(Instant::now);
            wf.sleep("nap", NAP).await?;
            Ok(u32::from(begun.elapsed() >= NAP))
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    scene.trips.delay_answer("claim", 3 * NAP);
    worker.run_until_empty(|_| {}).await.unwrap();
    assert_eq!(handle.output().await.unwrap(), 1, "it slept for less than it said");
}

async fn a_sleep_gives_the_job_back_and_uses_no_attempt(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(&scene, &docs)
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            step(&wf, &docs, "before").await?;
            wf.sleep("nap", HOUR).await?;
            step(&wf, &docs, "after").await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let noon = scene.clock.now();
    scene.trips.clear();
    assert_eq!(wakes_at(look(&worker).await.as_ref()), noon.plus(HOUR));
    assert_eq!(scene.trips.of("update_jobs"), 2, "the first step, and the sleep with its release");
    let job = read(&handle).await;
    assert_eq!((job.state, job.attempt, job.run_at), (JobState::Waiting, 0, noon.plus(HOUR)));
    assert!(job.holder.is_none());
    scene.clock.advance(HOUR - Duration::from_micros(1));
    assert_eq!(look(&worker).await, None, "not a moment too soon");
    scene.clock.advance(Duration::from_micros(1));
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
    assert_eq!(docs.all(), ["before", "after"]);
    assert_eq!(scene.trips.of("update_jobs"), 4, "the second step, and the end");
    let job = read(&handle).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    let nap = ("nap".to_owned(), StepState::Completed);
    assert_eq!(entries(&job)[1..3], [("nap".to_owned(), StepState::Sleeping), nap]);
    let status = step_statuses(&job.log).into_iter().find(|status| status.task == SLEEP).unwrap();
    assert!(status.complete);
    assert_eq!((status.started_at, status.until), (noon, Some(noon.plus(HOUR))));
    assert_eq!(status.finished_at, Some(noon.plus(HOUR)));
}

/// A workflow that only sleeps for an hour.
async fn nap(_: Flow, wf: Wf) -> TaskResult<u32> {
    wf.sleep("nap", HOUR).await?;
    Ok(1)
}

/// Takes the job as a worker that dies would, and lets it come back.
async fn crash(scene: &Scene) {
    let queue = scene.sibling().await;
    let request = ClaimRequest::new(Queues::All, "gone", NonZeroU32::MIN, SECOND);
    assert_eq!(queue.store().claim(&request).await.unwrap().jobs.len(), 1);
    scene.clock.advance(SECOND);
    assert_eq!(queue.store().reap(NonZeroU32::MIN).await.unwrap().len(), 1);
}

async fn wake(scene: &Scene, handle: &JobHandle<Flow>) {
    let mut filter = queue::JobFilter::all();
    filter.ids = Some(vec![handle.id()]);
    let store = scene.queue.store();
    assert_eq!(store.update_where(&filter, &BulkChange::Wake).await.unwrap().changed, 1);
}

async fn the_end_of_a_sleep_stands_over_crashes_and_other_workers(scene: Scene) {
    let docs = Docs::default();
    let first = worker(&scene, &docs).workflow(nap).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = wakes_at(look(&first).await.as_ref());
    drop(first);
    scene.clock.advance(40 * MINUTE);
    wake(&scene, &handle).await;
    crash(&scene).await;
    let second = Worker::new(scene.sibling().await).workflow(nap).build().unwrap();
    assert_eq!(wakes_at(look(&second).await.as_ref()), end);
    assert_eq!((read(&handle).await.crashes, read(&handle).await.log_len), (1, 1));
    scene.clock.set(end);
    assert!(matches!(look(&second).await, Some(JobResult::Succeeded { .. })));
}

async fn waking_a_sleeping_job_early_only_makes_it_look(scene: Scene) {
    let worker = worker(&scene, &Docs::default()).workflow(nap).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = wakes_at(look(&worker).await.as_ref());
    for _ in 0..5 {
        scene.clock.advance(MINUTE);
        assert_eq!(look(&worker).await, None);
        wake(&scene, &handle).await;
        assert_eq!(wakes_at(look(&worker).await.as_ref()), end);
        let job = read(&handle).await;
        assert_eq!((job.log_len, job.attempt, job.run_at), (1, 0, end));
    }
}

/// What the test holds back while a step runs.
#[derive(Clone, Default)]
struct Held {
    docs: Docs,
    go_on: Arc<Notify>,
}

/// Its first attempt waits until it is told to go on.
async fn held_step(wf: &Wf, held: &Held) -> TaskResult<u32> {
    wf.run("held", || async {
        held.docs.write("held");
        if held.docs.count("held") == 1 {
            held.go_on.notified().await;
        }
        Ok::<u32, TaskError>(1)
    })
    .await
}

/// Sleeps for an hour beside a step that takes as long as the test wants.
async fn nap_beside(_: Flow, wf: Wf, State(held): State<Held>) -> TaskResult<u32> {
    let sleeps = async {
        wf.sleep("nap", HOUR).await?;
        held.docs.write("slept");
        Ok::<u32, TaskError>(1)
    };
    let (slept, stepped) = join(sleeps, held_step(&wf, &held)).await;
    Ok(slept? + stepped?)
}

async fn waking_a_job_before_it_sleeps_makes_it_look_once_more(scene: Scene) {
    let held = Held::default();
    let worker =
        worker(&scene, &held.docs).state(held.clone()).workflow(nap_beside).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = scene.clock.now().plus(HOUR);
    let waking = async {
        eventually("the sleep is recorded", || async { read(&handle).await.log_len == 1 }).await;
        let store = scene.queue.store();
        let woken = store.update_where(&queue::JobFilter::all(), &BulkChange::Wake).await.unwrap();
        assert_eq!((woken.changed, woken.signalled), (0, 1));
        held.go_on.notify_one();
    };
    let (result, ()) = join(look(&worker), waking).await;
    assert_eq!(wakes_at(result.as_ref()), end);
    assert_eq!(read(&handle).await.run_at, scene.clock.now(), "the mark made it due at once");
    assert_eq!(wakes_at(look(&worker).await.as_ref()), end);
    let job = read(&handle).await;
    assert_eq!((job.run_at, job.attempt, job.log_len), (end, 0, 2));
    assert_eq!(look(&worker).await, None);
}

async fn a_sleep_beside_a_running_step_ends_in_the_same_run(scene: Scene) {
    let held = Held::default();
    let worker =
        worker(&scene, &held.docs).state(held.clone()).workflow(nap_beside).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let moving = async {
        eventually("the sleep is recorded", || async { read(&handle).await.log_len == 1 }).await;
        scene.clock.advance(HOUR);
        eventually("it is over", || async { held.docs.count("slept") == 1 }).await;
        held.go_on.notify_one();
    };
    let (result, ()) = join(look(&worker), moving).await;
    assert!(matches!(result, Some(JobResult::Succeeded { .. })), "{result:?}");
    assert_eq!(held.docs.all(), ["held", "slept"]);
    assert_eq!(read(&handle).await.fence.count, 1, "one run");
}

async fn a_sleep_that_began_beside_a_running_step_survives_its_worker(scene: Scene) {
    let held = Held::default();
    let first =
        worker(&scene, &held.docs).state(held.clone()).workflow(nap_beside).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = scene.clock.now().plus(HOUR);
    let vanishing = async {
        eventually("the sleep is recorded", || async { read(&handle).await.log_len == 1 }).await;
        let job = read(&handle).await;
        let queue = scene.sibling().await;
        let mark = queue::core::Held::new(job.id, job.fence);
        assert!(queue.store().heartbeat(&[mark], SECOND).await.unwrap()[0].is_saved());
        scene.clock.advance(10 * MINUTE);
        assert_eq!(queue.store().reap(NonZeroU32::MIN).await.unwrap().len(), 1);
    };
    tokio::select! {
        result = look(&first) => panic!("{result:?}"),
        () = vanishing => {}
    }
    let second = Worker::new(scene.sibling().await).state(held).workflow(nap_beside);
    let second = second.build().unwrap();
    assert_eq!(wakes_at(look(&second).await.as_ref()), end);
}

/// A step with a time limit of an hour.
async fn limited(_: Flow, wf: Wf, State(held): State<Held>) -> TaskResult<u32> {
    tokio::select! {
        biased;
        done = held_step(&wf, &held) => done,
        over = wf.sleep("limit", HOUR) => over.map(|()| 99),
    }
}

async fn a_step_that_outlasts_its_time_limit_is_given_up_in_the_same_run(scene: Scene) {
    let held = Held::default();
    let worker = worker(&scene, &held.docs).state(held.clone()).workflow(limited).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let moving = async {
        eventually("the limit is recorded", || async { read(&handle).await.log_len == 1 }).await;
        scene.clock.advance(HOUR);
    };
    join(look(&worker), moving).await;
    assert_eq!(handle.output().await.unwrap(), 99);
    assert_eq!(read(&handle).await.fence.count, 1, "one run");
}

async fn a_step_within_its_time_limit_does_not_wait_for_it(scene: Scene) {
    let held = Held::default();
    let worker = worker(&scene, &held.docs)
        .state(held)
        .workflow(|_: Flow, wf: Wf, State(held): State<Held>| async move {
            // The step goes on once the limit has begun.
            let begun = async {
                held.go_on.notify_one();
                std::future::pending().await
            };
            let done = tokio::select! {
                biased;
                done = held_step(&wf, &held) => done,
                over = wf.sleep("limit", HOUR) => over.map(|()| 99),
                done = begun => done,
            }?;
            wf.sleep("later", 2 * HOUR).await?;
            Ok(done)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = scene.clock.now().plus(2 * HOUR);
    assert_eq!(wakes_at(look(&worker).await.as_ref()), end, "the limit does not wake it");
    scene.clock.set(end);
    look(&worker).await;
    assert_eq!(handle.output().await.unwrap(), 1);
}

async fn of_several_sleeps_the_first_wakes_the_job(scene: Scene) {
    let worker = worker(&scene, &Docs::default())
        .workflow(|_: Flow, wf: Wf| async move {
            let (long, short) = join(wf.sleep("long", 2 * HOUR), wf.sleep("short", HOUR)).await;
            long.and(short).map(|()| 1)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let noon = scene.clock.now();
    assert_eq!(wakes_at(look(&worker).await.as_ref()), noon.plus(HOUR));
    scene.clock.set(noon.plus(HOUR));
    assert_eq!(wakes_at(look(&worker).await.as_ref()), noon.plus(2 * HOUR));
    scene.clock.set(noon.plus(2 * HOUR));
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
    assert_eq!(read(&handle).await.log_len, 4, "each began once and ended once");
}

async fn the_instant_given_when_a_sleep_first_began_stands(scene: Scene) {
    let clock = scene.clock.clone();
    let worker = worker(&scene, &Docs::default())
        .workflow(move |_: Flow, wf: Wf| {
            // Another instant in each run.
            let at = clock.now().plus(HOUR);
            async move {
                wf.sleep_until("until", at).await?;
                Ok(1)
            }
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = scene.clock.now().plus(HOUR);
    assert_eq!(wakes_at(look(&worker).await.as_ref()), end);
    scene.clock.advance(30 * MINUTE);
    wake(&scene, &handle).await;
    assert_eq!(wakes_at(look(&worker).await.as_ref()), end);
    scene.clock.set(end);
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
}

async fn a_sleep_that_is_over_when_it_begins_costs_nothing(scene: Scene) {
    let past = scene.clock.now().minus(HOUR);
    let worker = worker(&scene, &Docs::default())
        .workflow(move |_: Flow, wf: Wf| async move {
            for n in 0..20 {
                wf.sleep(format!("zero-{n}"), Duration::ZERO).await?;
                wf.sleep_until(format!("past-{n}"), past).await?;
            }
            Ok(1)
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Flow).await.unwrap();
    scene.trips.clear();
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
    assert_eq!(scene.trips.total(), 2, "claim and settle: {:?}", scene.trips);
}

/// A sleep beside a step that fails once and is retried after `backoff`.
fn nap_beside_failure(worker: WorkerBuilder, nap: Duration, backoff: Duration) -> Worker {
    worker
        .workflow(move |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let flaky = wf.run("flaky", || async {
                docs.write("flaky");
                match docs.count("flaky") {
                    1 => Err(TaskError::new("once")),
                    _ => Ok(1),
                }
            });
            let flaky = flaky.retries(1).backoff(Backoff::fixed(backoff)).into_future();
            let (slept, done) = join(wf.sleep("nap", nap), flaky).await;
            slept?;
            done
        })
        .build()
        .unwrap()
}

async fn a_retry_keeps_its_backoff_beside_a_shorter_sleep(scene: Scene) {
    let docs = Docs::default();
    let worker = nap_beside_failure(worker(&scene, &docs), 10 * MINUTE, HOUR);
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let noon = scene.clock.now();
    let result = look(&worker).await;
    assert!(matches!(result, Some(JobResult::WillRetry { after: HOUR, .. })), "{result:?}");
    assert_eq!(read(&handle).await.run_at, noon.plus(HOUR));
    scene.clock.advance(10 * MINUTE);
    assert_eq!(look(&worker).await, None, "the sleep does not hurry the retry");
    scene.clock.set(noon.plus(HOUR));
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
    assert_eq!(docs.len(), 2);
}

async fn a_retry_is_not_put_off_by_a_longer_sleep(scene: Scene) {
    let docs = Docs::default();
    let worker = nap_beside_failure(worker(&scene, &docs), 24 * HOUR, MINUTE);
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let noon = scene.clock.now();
    let result = look(&worker).await;
    assert!(matches!(result, Some(JobResult::WillRetry { after: MINUTE, .. })), "{result:?}");
    scene.clock.advance(MINUTE);
    assert_eq!(wakes_at(look(&worker).await.as_ref()), noon.plus(24 * HOUR), "its end stood");
    assert_eq!((docs.len(), read(&handle).await.attempt), (2, 1));
    scene.clock.set(noon.plus(24 * HOUR));
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
}

async fn a_cancelled_sleeping_job_ends_at_once(scene: Scene) {
    let worker = worker(&scene, &Docs::default()).workflow(nap).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let end = wakes_at(look(&worker).await.as_ref());
    assert!(handle.cancel("enough").await.unwrap().is_saved());
    let job = read(&handle).await;
    assert_eq!((job.state, job.finished_at), (JobState::Cancelled, Some(scene.clock.now())));
    scene.clock.set(end);
    assert_eq!(look(&worker).await, None);
}

async fn a_sleep_inside_a_step_carries_its_parent_and_repeats_it(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(&scene, &docs)
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            wf.run("parent", || async {
                docs.write("parent");
                step(&wf, &docs, "child").await?;
                wf.sleep("nap", HOUR).await?;
                Ok::<u32, TaskError>(1)
            })
            .await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    scene.clock.set(wakes_at(look(&worker).await.as_ref()));
    assert!(matches!(look(&worker).await, Some(JobResult::Succeeded { .. })));
    assert_eq!(docs.all(), ["parent", "child", "parent"]);
    let statuses = step_statuses(&read(&handle).await.log);
    let nap = statuses.iter().find(|status| status.task == SLEEP).unwrap();
    assert_eq!(nap.parent.as_deref(), Some("parent"));
}

async fn a_stopped_worker_gives_back_at_once_what_had_more_to_do_than_sleep(scene: Scene) {
    let held = Held::default();
    let worker = worker(&scene, &held.docs).state(held.clone()).workflow(nap_beside);
    let worker = worker.grace(Duration::ZERO).build().unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let recorded =
        eventually("the sleep is recorded", || async { read(&handle).await.log_len == 1 });
    worker.run_until(recorded).await.unwrap();
    let job = read(&handle).await;
    assert_eq!((job.state, job.attempt, job.run_at), (JobState::Waiting, 0, scene.clock.now()));
}

async fn a_sleeping_job_holds_no_lane(scene: Scene) {
    let worker = worker(&scene, &Docs::default()).workflow(nap).build().unwrap();
    let lane = Lane::new("one at a time");
    scene.queue.enqueue_many([Flow, Flow, Flow]).lane(lane).await.unwrap();
    let drained = tokio::time::timeout(Duration::from_secs(10), worker.drain(Pass::new())).await;
    let summary = drained.expect("the pass hangs").unwrap();
    let asleep = summary.count(|result| matches!(result, JobResult::Sleeping { .. }));
    assert_eq!((asleep, summary.jobs.len()), (3, 3));
}

async fn a_sleep_used_twice_is_an_error_that_names_it(scene: Scene) {
    let worker = worker(&scene, &Docs::default())
        .workflow(|_: Flow, wf: Wf| async move {
            wf.sleep("twice", Duration::ZERO).await?;
            wf.sleep("twice", Duration::ZERO).await?;
            Ok(1)
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Flow).await.unwrap();
    match look(&worker).await {
        Some(JobResult::Failed { error }) => {
            assert_eq!(error.name, "step-used-twice");
            assert!(error.message.contains("\"twice\" of task \"sleep\""), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
