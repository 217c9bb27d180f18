//! A job that kills its worker each time ends, with a reason of its own.

use std::{num::NonZeroU32, time::Duration};

use queue::{
    Job, JobError, JobState, Pass, Task, TaskError, Worker,
    core::{ClaimRequest, Queues},
};
use serde::{Deserialize, Serialize};

use crate::scene::{Scene, eventually};

crate::on_every_store_by_the_clock!(
    a_job_whose_workers_vanish_fails_once_it_is_over_its_cap,
    a_crash_uses_no_retry,
);

const LEASE: Duration = Duration::from_secs(10);

crate::on_every_database!(
    a_job_that_kills_its_worker_process_fails_once_it_is_over_its_cap,
    a_job_that_kills_its_worker_process_costs_the_jobs_behind_it_nothing,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "poison", output = u32, retries = 1)]
struct Poison;

const MANY: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Takes the jobs as a worker that dies of them would, and waits until its lease is over.
async fn die_of(jobs: usize, scene: &Scene) {
    let queue = scene.sibling().await;
    let request = ClaimRequest::new(Queues::All, "dies", MANY, LEASE);
    assert_eq!(queue.store().claim(&request).await.unwrap().jobs.len(), jobs);
    scene.clock.advance(LEASE);
}

fn crashed(job: &Job) -> JobError {
    job.error.as_ref().unwrap().to().unwrap()
}

async fn a_job_whose_workers_vanish_fails_once_it_is_over_its_cap(scene: Scene) {
    let worker =
        Worker::new(scene.queue.clone()).task(|_: Poison| async { Ok(1) }).build().unwrap();
    let poison = scene.queue.enqueue(Poison).await.unwrap();
    for crashes in 1..=3 {
        die_of(1, &scene).await;
        assert_eq!(scene.queue.store().reap(NonZeroU32::MIN).await.unwrap().len(), 1);
        let job = poison.job().await.unwrap().unwrap();
        assert_eq!((job.state, job.crashes, job.attempt), (JobState::Waiting, crashes, 0));
    }
    die_of(1, &scene).await;
    let summary = worker.run(Pass::new()).await.unwrap();
    assert!(summary.jobs.is_empty(), "the pass took it back, and it was once too often");
    let job = poison.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.crashes), (JobState::Failed, 4));
    let error = crashed(&job);
    assert_eq!((error.name.as_str(), error.is_final, error.cancelled), ("crashed", true, false));
    assert!(error.message.contains("4 times"), "{error}");
}

/// Fails in its body, outside any step.
#[derive(Serialize, Deserialize, Task)]
#[task(name = "poisoned-flow", output = u32, retries = 1)]
struct PoisonedFlow;

async fn a_crash_uses_no_retry(scene: Scene) {
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Poison| async { Err::<u32, _>(TaskError::new("no")) })
        .workflow(|_: PoisonedFlow| async { Err::<u32, _>(TaskError::new("no")) })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(Poison).max_crashes(9).await.unwrap();
    let flow = scene.queue.enqueue(PoisonedFlow).max_crashes(9).await.unwrap();
    for _ in 0..5 {
        die_of(2, &scene).await;
        assert_eq!(scene.queue.store().reap(MANY).await.unwrap().len(), 2);
    }
    let summary = worker.drain(Pass::new()).await.unwrap();
    assert_eq!(summary.jobs.len(), 4, "one retry each, as the task and the workflow say");
    for id in [task.id(), flow.id()] {
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Failed, 2, 5));
        assert_eq!(crashed(&job).name, "task-failed");
    }
}

/// Set for a process that is to die of its job, to the URL of its store.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]
const VICTIM: &str = "QUEUE_SCENARIO_VICTIM";

/// Not a test of its own: what a process does that dies of its job. Without the variable it does nothing.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(url) = std::env::var(VICTIM) else { return };
    let queue = queue::Queue::connect(&url).await.unwrap();
    let worker = Worker::new(queue)
        .task(|_: Poison| async { std::process::abort() })
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    worker.run(Pass::new().sequential()).await.unwrap();
}

/// Runs a pass in a process that dies of it, and takes back what it held.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]
async fn die_in_a_process(scene: &Scene) {
    use std::process::{Command, Stdio};

    let url = scene.url().to_owned();
    let ended = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["poison::victim", "--exact"])
            .env(VICTIM, url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    });
    assert!(!ended.await.unwrap().success(), "its job killed it");
    eventually("its lease is over", || async {
        !scene.queue.store().reap(MANY).await.unwrap().is_empty()
    })
    .await;
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]
async fn a_job_that_kills_its_worker_process_fails_once_it_is_over_its_cap(scene: Scene) {
    let poison = scene.queue.enqueue(Poison).max_crashes(1).await.unwrap();
    for crashes in 1..=2 {
        die_in_a_process(&scene).await;
        assert_eq!(poison.job().await.unwrap().unwrap().crashes, crashes);
    }
    let job = poison.job().await.unwrap().unwrap();
    assert_eq!((job.state, crashed(&job).name.as_str()), (JobState::Failed, "crashed"));
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]
async fn a_job_that_kills_its_worker_process_costs_the_jobs_behind_it_nothing(scene: Scene) {
    let poison = scene.queue.enqueue(Poison).max_crashes(0).priority(1).await.unwrap();
    let behind = scene.queue.enqueue_many([Poison, Poison]).await.unwrap();
    die_in_a_process(&scene).await;
    assert_eq!(poison.job().await.unwrap().unwrap().state, JobState::Failed);
    for handle in behind {
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!((job.state, job.crashes, job.fence.count), (JobState::Waiting, 0, 0));
    }
}
