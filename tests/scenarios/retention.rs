//! How long jobs that have ended are kept.

use std::{num::NonZeroU32, time::Duration};

use futures::future::join_all;
use queue::{
    JobFilter, JobHandle, JobState, Pass, QueueName, Retain, Retention, Task, TaskError,
    TaskResult, Worker, WorkerBuilder,
    core::{ClaimRequest, Queues},
};
use serde::{Deserialize, Serialize};

use crate::scene::{Lock, Scene, eventually};

crate::on_every_store!(
    a_sweep_keeps_the_newest_of_each_outcome_and_leaves_other_queues_alone,
    a_sweep_never_deletes_a_job_that_waits_or_runs,
    sweeps_at_once_leave_exactly_the_newest,
    a_sweep_deletes_any_number_of_jobs,
    what_is_said_for_a_queue_counts_before_what_is_said_for_all,
    a_sweep_with_nothing_to_delete_costs_no_trip,
);

crate::on_every_store_by_the_clock!(
    jobs_are_kept_for_a_time_after_their_end,
    a_worker_sweeps_while_it_serves,
);

#[derive(Clone, Copy, Serialize, Deserialize, Task)]
#[task(name = "ends", output = u32, retries = 1)]
enum Ends {
    Well,
    Badly,
    Cancelled,
    Retrying,
}

async fn ends(how: Ends) -> TaskResult<u32> {
    match how {
        Ends::Well => Ok(1),
        Ends::Badly => Err(TaskError::fatal(TaskError::new("no"))),
        Ends::Cancelled => Err(TaskError::cancel("not wanted")),
        Ends::Retrying => Err(TaskError::new("later")),
    }
}

fn worker(scene: &Scene) -> WorkerBuilder {
    Worker::new(scene.queue.clone()).task(ends).all_queues()
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

/// Jobs that have ended, the oldest first.
async fn ended(scene: &Scene, queue: &str, how: &[Ends]) -> Vec<JobHandle<Ends>> {
    let handles = scene.queue.enqueue_many(how.iter().copied()).queue(name(queue)).await.unwrap();
    let pass = Pass::new().limit(1_000).queues([name(queue)]);
    worker(scene).build().unwrap().run(pass).await.unwrap();
    handles
}

/// Which of the jobs are still there, by their places.
async fn kept(handles: &[JobHandle<Ends>]) -> Vec<usize> {
    let jobs = join_all(handles.iter().map(JobHandle::job)).await;
    let there = jobs.into_iter().enumerate().filter(|(_, job)| job.as_ref().unwrap().is_some());
    there.map(|(place, _)| place).collect()
}

const NEWEST_NONE: Retention = Retention::of_all(Retain::Newest(0));

async fn a_sweep_keeps_the_newest_of_each_outcome_and_leaves_other_queues_alone(scene: Scene) {
    use Ends::{Badly, Cancelled, Well};
    let how = [Well, Badly, Well, Cancelled, Badly, Well, Cancelled, Well];
    let (a, b) = (ended(&scene, "a", &how).await, ended(&scene, "b", &how).await);
    let retention = Retention::new().completed(Retain::Newest(2)).failed(Retain::Newest(1));
    let swept = scene.queue.sweep(name("a"), retention).await.unwrap();
    assert_eq!((swept.completed, swept.failed, swept.cancelled, swept.total()), (2, 1, 0, 3));
    assert_eq!(kept(&a).await, [3, 4, 5, 6, 7]);
    assert_eq!(kept(&b).await.len(), how.len());
    let again = scene.queue.sweep(name("a"), retention).await.unwrap();
    assert_eq!(again.total(), 0);
}

async fn a_sweep_never_deletes_a_job_that_waits_or_runs(scene: Scene) {
    let done = ended(&scene, "a", &[Ends::Well, Ends::Badly, Ends::Cancelled]).await;
    let retrying = ended(&scene, "a", &[Ends::Retrying]).await;
    let running = scene.queue.enqueue(Ends::Well).queue(name("a")).priority(9).await.unwrap();
    let claim = ClaimRequest::new(Queues::All, "holder", NonZeroU32::MIN, Duration::from_secs(60));
    let held = scene.queue.store().claim(&claim).await.unwrap().jobs;
    assert_eq!(held[0].id, running.id());
    let delayed = scene.queue.enqueue(Ends::Well).queue(name("a"));
    let delayed = delayed.delay(Duration::from_secs(60)).await.unwrap();
    let waiting = scene.queue.enqueue(Ends::Well).queue(name("a")).await.unwrap();
    for retention in [NEWEST_NONE, Retention::of_all(Retain::For(Duration::ZERO))] {
        scene.queue.sweep(Queues::All, retention).await.unwrap();
    }
    assert!(kept(&done).await.is_empty());
    assert_eq!(retrying[0].job().await.unwrap().unwrap().attempt, 1);
    assert_eq!(kept(&[running, delayed, waiting]).await, [0, 1, 2]);
}

async fn sweeps_at_once_leave_exactly_the_newest(scene: Scene) {
    let handles = ended(&scene, "a", &[Ends::Well; 30]).await;
    const SWEEPS: usize = 6;
    scene.trips.lock(Lock::Deletes);
    let retention = Retention::of_all(Retain::Newest(7));
    let sweeps = [(); SWEEPS].map(|()| {
        let queue = scene.queue.clone();
        tokio::spawn(async move { queue.sweep(Queues::All, retention).await.unwrap().total() })
    });
    eventually("all have looked", || async { scene.trips.hung() == SWEEPS }).await;
    scene.trips.unlock();
    let deleted: u64 = join_all(sweeps).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(kept(&handles).await, (23..30).collect::<Vec<_>>());
    assert_eq!(deleted, 23, "each job is counted by the sweep that deleted it");
}

async fn a_sweep_deletes_any_number_of_jobs(scene: Scene) {
    const JOBS: usize = 1_300;
    let handles = scene.queue.enqueue_many([Ends::Well; JOBS]).await.unwrap();
    scene.queue.cancel_where(JobFilter::all(), "not needed").await.unwrap();
    let later = scene.queue.enqueue(Ends::Well).await.unwrap();
    assert!(later.cancel("not needed").await.unwrap().is_saved());
    let retention = Retention::new().cancelled(Retain::Newest(4));
    let swept = scene.queue.sweep(Queues::All, retention).await.unwrap();
    assert_eq!((swept.cancelled, swept.total()), (JOBS as u64 - 3, JOBS as u64 - 3));
    assert_eq!(kept(&handles[JOBS - 5..]).await, [2, 3, 4]);
    assert_eq!(kept(&[later]).await, [0]);
}

async fn what_is_said_for_a_queue_counts_before_what_is_said_for_all(scene: Scene) {
    let (a, b) = (ended(&scene, "a", &[Ends::Well]).await, ended(&scene, "b", &[Ends::Well]).await);
    let c = ended(&scene, "c", &[Ends::Well, Ends::Well]).await;
    let worker = worker(&scene)
        .retention(name("a"), Retention::new())
        .retention(name("c"), Retention::new())
        .retention(Queues::All, NEWEST_NONE)
        .retention(name("c"), Retention::of_all(Retain::Newest(1)))
        .build()
        .unwrap();
    assert_eq!(worker.sweep().await.unwrap().total(), 2);
    assert_eq!((kept(&a).await, kept(&b).await, kept(&c).await), (vec![0], vec![], vec![1]));
}

async fn a_sweep_with_nothing_to_delete_costs_no_trip(scene: Scene) {
    ended(&scene, "a", &[Ends::Well]).await;
    scene.trips.clear();
    let swept = scene.queue.sweep(Queues::All, Retention::new()).await.unwrap();
    assert_eq!((swept.total(), scene.trips.total()), (0, 0));
}

async fn jobs_are_kept_for_a_time_after_their_end(scene: Scene) {
    const HOUR: Duration = Duration::from_secs(3_600);
    let early = ended(&scene, "a", &[Ends::Well, Ends::Badly, Ends::Cancelled]).await;
    // Enqueued with the others, it ends an hour later, and it is the end that counts.
    let late = scene.queue.enqueue(Ends::Well).queue(name("a")).delay(HOUR).await.unwrap();
    let retention = Retention::new().completed(Retain::For(2 * HOUR)).failed(Retain::For(3 * HOUR));
    let sweep = || scene.queue.sweep(Queues::All, retention);
    scene.clock.advance(HOUR);
    worker(&scene).build().unwrap().run(Pass::new()).await.unwrap();
    scene.clock.advance(HOUR);
    assert_eq!(sweep().await.unwrap().total(), 0, "kept to the end of the time");
    scene.clock.advance(Duration::from_millis(1));
    assert_eq!(sweep().await.unwrap().completed, 1);
    assert_eq!(kept(&early).await, [1, 2]);
    scene.clock.advance(HOUR);
    let swept = sweep().await.unwrap();
    assert_eq!((swept.completed, swept.failed), (1, 1));
    scene.clock.advance(1_000 * HOUR);
    assert_eq!(sweep().await.unwrap().total(), 0);
    assert_eq!(kept(&early).await, [2], "cancelled jobs are kept where nothing is said of them");
    assert!(late.job().await.unwrap().is_none());
}

async fn a_worker_sweeps_while_it_serves(scene: Scene) {
    const WEEK: Duration = Duration::from_secs(7 * 86_400);
    let worker = worker(&scene)
        .retention(Queues::All, Retention::new().completed(Retain::For(WEEK)))
        .sweep_every(Duration::from_secs(600))
        .build()
        .unwrap();
    let swept = async {
        for _ in 0..3 {
            let handle = scene.queue.enqueue(Ends::Well).await.unwrap();
            eventually("it is done", || async {
                handle.job().await.unwrap().unwrap().state == JobState::Completed
            })
            .await;
            // Sweeping begins anew only after the one before has ended, so the clock may have to be moved again.
            eventually("it is swept", || async {
                scene.clock.advance(WEEK);
                handle.job().await.unwrap().is_none()
            })
            .await;
        }
    };
    worker.run_until(swept).await.unwrap();
}
