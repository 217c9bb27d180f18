//! Finished jobs that somebody retries by hand.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use queue::{
    Job, JobFilter, JobId, JobState, JobStates, Lane, Pass, QueueName, RETRY_OF, Retried, State,
    Task, TaskError, TaskResult, Unique, Worker,
    core::{ClaimRequest, Queues},
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    a_failed_job_is_retried_by_hand_as_a_new_job_linked_to_the_old_one,
    any_number_of_clicks_make_one_job,
    a_cancelled_job_can_be_retried_by_hand,
    only_failed_and_cancelled_jobs_can_be_retried_by_hand,
    a_retry_by_hand_that_failed_can_be_retried_in_turn,
    a_retry_by_hand_makes_nothing_where_another_job_holds_its_key,
    a_retry_by_hand_supersedes_nothing_and_is_not_superseded,
    a_failed_job_that_keeps_its_key_can_be_retried_by_hand,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "shaky", output = u32)]
struct Shaky(u32);

/// Whether the handler works by now.
type Mended = Arc<AtomicBool>;

async fn shaky(Shaky(n): Shaky, State(mended): State<Mended>) -> TaskResult<u32> {
    match mended.load(Ordering::SeqCst) {
        true => Ok(n),
        false => Err(TaskError::new("not yet")),
    }
}

fn worker(scene: &Scene, mended: &Mended) -> Worker {
    Worker::new(scene.queue.clone()).state(mended.clone()).task(shaky).all_queues().build().unwrap()
}

async fn read(scene: &Scene, id: JobId) -> Job {
    scene.queue.job(id).await.unwrap().unwrap()
}

/// A job that has failed.
async fn failed(scene: &Scene, unique: Option<Unique>) -> JobId {
    let mut job = scene.queue.enqueue(Shaky(7));
    if let Some(unique) = unique {
        job = job.unique(unique);
    }
    let handle = job.await.unwrap();
    worker(scene, &Mended::default()).run(Pass::new().ids([handle.id()])).await.unwrap();
    assert_eq!(read(scene, handle.id()).await.state, JobState::Failed);
    handle.id()
}

async fn jobs(scene: &Scene) -> u64 {
    scene.queue.tally(JobFilter::all()).await.unwrap().iter().map(|tally| tally.count).sum()
}

async fn a_failed_job_is_retried_by_hand_as_a_new_job_linked_to_the_old_one(scene: Scene) {
    let mended = Mended::default();
    let worker = worker(&scene, &mended);
    let handle = scene
        .queue
        .enqueue(Shaky(7))
        .queue(QueueName::new("narrow").unwrap())
        .priority(5)
        .label("tenant", "a")
        .lane(Lane::new("one"))
        .max_crashes(9)
        .delete_on_complete()
        .await
        .unwrap();
    worker.run(Pass::new()).await.unwrap();
    let old = read(&scene, handle.id()).await;
    assert_eq!(old.state, JobState::Failed);

    let retried = scene.queue.retry(old.id).await.unwrap();
    assert_eq!(retried, Retried::New(JobId::for_retry(old.id, old.fence)));
    let new = read(&scene, retried.id().unwrap()).await;
    assert_eq!((new.state, new.attempt, new.log.len()), (JobState::Waiting, 0, 0));
    assert_eq!((&new.kind, &new.input, &new.queue), (&old.kind, &old.input, &old.queue));
    assert_eq!((new.priority, new.max_crashes), (5, 9));
    assert_eq!(new.lane, old.lane);
    let mut labels = old.labels.clone();
    labels.insert(RETRY_OF.to_owned(), old.id.to_string());
    assert_eq!(new.labels, labels);
    assert_eq!(read(&scene, old.id).await, old, "the old job stays as it is");

    mended.store(true, Ordering::SeqCst);
    let by_link = Pass::new().label(RETRY_OF, old.id.to_string());
    assert_eq!(worker.run(by_link).await.unwrap().succeeded(), 1);
    let new = read(&scene, new.id).await;
    assert_eq!(new.output.unwrap().as_str(), "7", "kept, so that it is there for a late click");
}

async fn any_number_of_clicks_make_one_job(scene: Scene) {
    let old = failed(&scene, None).await;
    let sibling = scene.sibling().await;
    let clicks = (0..12).map(|n| {
        let queue = if n % 2 == 0 { scene.queue.clone() } else { sibling.clone() };
        tokio::spawn(async move { queue.retry(old).await.unwrap() })
    });
    let clicks: Vec<Retried> = join_all(clicks).await.into_iter().map(Result::unwrap).collect();
    let new = clicks.iter().filter(|click| matches!(click, Retried::New(_))).count();
    assert_eq!(new, 1, "{clicks:?}");
    assert!(clicks.iter().all(|click| click.id() == clicks[0].id()), "{clicks:?}");
    assert_eq!(jobs(&scene).await, 2);

    let mended = Mended::new(true.into());
    assert_eq!(worker(&scene, &mended).run(Pass::new()).await.unwrap().succeeded(), 1);
    let late = scene.queue.retry(old).await.unwrap();
    assert_eq!((late, jobs(&scene).await), (Retried::Existing(clicks[0].id().unwrap()), 2));
}

async fn a_cancelled_job_can_be_retried_by_hand(scene: Scene) {
    let handle = scene.queue.enqueue(Shaky(3)).await.unwrap();
    assert!(handle.cancel("by mistake").await.unwrap().is_saved());
    let new = scene.queue.retry(handle.id()).await.unwrap().id().unwrap();
    let summary = worker(&scene, &Mended::new(true.into())).run(Pass::new()).await.unwrap();
    assert_eq!(summary.succeeded(), 1);
    assert_eq!(read(&scene, new).await.output.unwrap().as_str(), "3");
    assert_eq!(read(&scene, handle.id()).await.state, JobState::Cancelled);
}

async fn only_failed_and_cancelled_jobs_can_be_retried_by_hand(scene: Scene) {
    let completed = scene.queue.enqueue(Shaky(1)).await.unwrap();
    worker(&scene, &Mended::new(true.into())).run(Pass::new()).await.unwrap();
    let running = scene.queue.enqueue(Shaky(2)).await.unwrap();
    let claim =
        ClaimRequest::new(Queues::All, "somebody", NonZeroU32::MIN, Duration::from_secs(60));
    assert_eq!(scene.queue.store().claim(&claim).await.unwrap().jobs.len(), 1);
    let waiting = scene.queue.enqueue(Shaky(3)).await.unwrap();
    for (id, from) in [
        (completed.id(), JobState::Completed),
        (running.id(), JobState::Running),
        (waiting.id(), JobState::Waiting),
    ] {
        assert_eq!(scene.queue.retry(id).await.unwrap(), Retried::Illegal { from });
    }
    assert_eq!(scene.queue.retry(JobId::new()).await.unwrap(), Retried::Missing);
    assert_eq!(jobs(&scene).await, 3);
}

async fn a_retry_by_hand_that_failed_can_be_retried_in_turn(scene: Scene) {
    let first = failed(&scene, None).await;
    let second = scene.queue.retry(first).await.unwrap().id().unwrap();
    worker(&scene, &Mended::default()).run(Pass::new()).await.unwrap();
    let third = scene.queue.retry(second).await.unwrap();
    assert!(matches!(third, Retried::New(_)), "{third:?}");
    let labels = read(&scene, third.id().unwrap()).await.labels;
    assert_eq!(labels[RETRY_OF], second.to_string());
}

async fn a_retry_by_hand_makes_nothing_where_another_job_holds_its_key(scene: Scene) {
    let old = failed(&scene, Some(Unique::new("key"))).await;
    let newer = scene.queue.enqueue(Shaky(8)).unique(Unique::new("key")).await.unwrap();
    assert!(newer.is_new());
    assert_eq!(scene.queue.retry(old).await.unwrap(), Retried::KeyHeld { by: newer.id() });
    assert_eq!(jobs(&scene).await, 2);
    // Once the key is free the retry takes it.
    assert!(newer.cancel("in the way").await.unwrap().is_saved());
    let retried = scene.queue.retry(old).await.unwrap();
    assert!(matches!(retried, Retried::New(_)), "{retried:?}");
    let next = scene.queue.enqueue(Shaky(9)).unique(Unique::new("key")).await.unwrap();
    assert_eq!((next.is_new(), Some(next.id())), (false, retried.id()));
}

async fn a_retry_by_hand_supersedes_nothing_and_is_not_superseded(scene: Scene) {
    let old = failed(&scene, Some(Unique::supersede("key"))).await;
    let newer = scene.queue.enqueue(Shaky(8)).unique(Unique::supersede("key")).await.unwrap();
    let retried = scene.queue.retry(old).await.unwrap().id().unwrap();
    assert_eq!(read(&scene, newer.id()).await.state, JobState::Waiting);
    let newest = scene.queue.enqueue(Shaky(9)).unique(Unique::supersede("key")).await.unwrap();
    assert!(newest.is_new());
    assert_eq!(read(&scene, newer.id()).await.state, JobState::Cancelled);
    assert_eq!(read(&scene, retried).await.state, JobState::Waiting);
}

async fn a_failed_job_that_keeps_its_key_can_be_retried_by_hand(scene: Scene) {
    let mut unique = Unique::new("key");
    unique.within = JobStates::LIVE | JobState::Failed.into();
    let old = failed(&scene, Some(unique.clone())).await;
    let retried = scene.queue.retry(old).await.unwrap();
    assert!(matches!(retried, Retried::New(_)), "{retried:?}");
    let next = scene.queue.enqueue(Shaky(9)).unique(unique).await.unwrap();
    assert_eq!((next.is_new(), next.id()), (false, old), "the old job still holds the key");
}
