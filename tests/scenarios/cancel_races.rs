//! Cancelling while a job completes, fails or is given back: exactly one of them wins.

use std::{num::NonZeroU32, time::Duration};

use queue::{
    Failure, JobCtx, JobFilter, JobResult, JobState, Outcome, Pass, Payload, Queue, QueueName,
    State, Task, TaskError, TaskResult, Worker,
    core::{ClaimRequest, Guard, Held, JobPatch, JobStoreExt, Queues, Transition, When},
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Fault, Scene};

crate::on_every_store!(
    jobs_that_are_cancelled_while_they_run_end_once_and_stay_ended,
    a_cancel_outlives_a_heartbeat_a_retry_and_a_lost_lease,
    a_retry_that_a_cancel_withdrew_is_reported_so_although_its_answer_was_lost,
    cancelling_by_queue_leaves_the_other_queues_alone,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "retried", retries = 3)]
struct Retried(u32);

/// Every second one fails once.
async fn retried(Retried(n): Retried, State(docs): State<Docs>) -> TaskResult<()> {
    let doc = n.to_string();
    docs.write(doc.as_str());
    tokio::task::yield_now().await;
    match n.is_multiple_of(2) && docs.count(&doc) == 1 {
        true => Err(TaskError::new("once")),
        false => Ok(()),
    }
}

async fn jobs_that_are_cancelled_while_they_run_end_once_and_stay_ended(scene: Scene) {
    const JOBS: u32 = 60;
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone()).state(docs.clone()).task(retried);
    let worker = worker.build().unwrap();
    let handles = scene.queue.enqueue_many((0..JOBS).map(Retried)).await.unwrap();
    let other = scene.sibling().await;
    let cancelling = async {
        let mut outcomes = Vec::new();
        for handle in &handles {
            outcomes.push(other.cancel(handle.id(), "enough").await.unwrap());
        }
        outcomes
    };
    let (_, outcomes) = tokio::join!(worker.drain(Pass::new()), cancelling);
    // The drain may have found nothing due while a retry was on its way.
    worker.drain(Pass::new()).await.unwrap();
    for (handle, outcome) in handles.iter().zip(outcomes) {
        let job = handle.job().await.unwrap().unwrap();
        match outcome {
            Outcome::Applied(_) => {
                assert!([JobState::Cancelled, JobState::Completed].contains(&job.state), "{job:?}");
                assert_eq!(job.cancel.as_ref().unwrap().reason, "enough");
            }
            Outcome::Illegal { from } => {
                assert_eq!((from, job.state), (JobState::Completed, JobState::Completed));
                assert!(job.cancel.is_none());
            }
            other => panic!("{other:?}"),
        }
        assert!(job.attempt <= 2 && job.finished_at.is_some(), "{job:?}");
        let later = scene.queue.cancel(job.id, "again").await.unwrap();
        assert_eq!(later, Outcome::Illegal { from: job.state });
    }
}

/// How a job comes back that somebody has asked to cancel.
#[derive(Clone, Copy, Debug)]
enum GivenBack {
    Retried,
    Released,
    Lost,
}

async fn a_cancel_outlives_a_heartbeat_a_retry_and_a_lost_lease(scene: Scene) {
    let store = scene.queue.store();
    for how in [GivenBack::Retried, GivenBack::Released, GivenBack::Lost] {
        let handle = scene.queue.enqueue(Retried(1)).await.unwrap();
        let lease = Duration::from_secs(60);
        let request = ClaimRequest::new(Queues::All, "holder", NonZeroU32::MIN, lease);
        let job = store.claim(&request).await.unwrap().jobs.remove(0);
        assert!(handle.cancel("enough").await.unwrap().is_saved());
        let beat = store.heartbeat(&[Held::new(job.id, job.fence)], lease).await.unwrap();
        assert_eq!(beat[0].applied().unwrap().cancel.as_ref().unwrap().reason, "enough");
        let transition = match how {
            GivenBack::Retried => {
                Some(Transition::Retry { when: When::Now, error: Payload::null() })
            }
            GivenBack::Released => Some(Transition::Release { when: When::Now }),
            GivenBack::Lost => None,
        };
        match transition {
            Some(transition) => {
                let patch = JobPatch::transition(transition);
                let outcome = store.update_one(job.id, Guard::Fence(job.fence), patch).await;
                assert!(outcome.unwrap().is_saved());
            }
            None => {
                let short = Duration::from_micros(1);
                let held = [Held::new(job.id, job.fence)];
                assert!(store.heartbeat(&held, short).await.unwrap()[0].is_saved());
                assert_eq!(store.reap(NonZeroU32::MIN).await.unwrap().len(), 1);
            }
        }
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!(job.state, JobState::Cancelled, "{how:?}");
        assert_eq!(job.cancel.unwrap().reason, "enough");
        assert!(store.claim(&request_anew(&request)).await.unwrap().jobs.is_empty());
    }
}

async fn a_retry_that_a_cancel_withdrew_is_reported_so_although_its_answer_was_lost(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), scene.sibling().await))
        .task(|_: Retried, ctx: JobCtx, State((_, other)): State<(Docs, Queue)>| async move {
            assert!(other.cancel(ctx.id(), "enough").await?.is_saved());
            Err::<(), _>(TaskError::new("no"))
        })
        .on_fail(|failed: Failure<Retried>, State((docs, _)): State<(Docs, Queue)>| async move {
            docs.write(failed.error.message);
            Ok(())
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Retried(1)).await.unwrap();
    scene.trips.next("update_jobs", Fault::LoseAnswer);
    let summary = worker.run(Pass::new()).await.unwrap();
    let result = &summary.jobs[0].result;
    assert!(matches!(result, JobResult::Cancelled { reason } if reason == "enough"), "{result:?}");
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(docs.all(), Vec::<String>::new());
    // A retry that nobody withdrew is one.
    let plain = Worker::new(scene.queue.clone())
        .task(|_: Retried| async { Err::<(), _>(TaskError::new("no")) })
        .build()
        .unwrap();
    scene.queue.enqueue(Retried(2)).await.unwrap();
    scene.trips.next("update_jobs", Fault::LoseAnswer);
    let result = &plain.run(Pass::new()).await.unwrap().jobs[0].result;
    assert!(matches!(result, JobResult::WillRetry { .. }), "{result:?}");
}

fn request_anew(request: &ClaimRequest) -> ClaimRequest {
    ClaimRequest::new(Queues::All, "other", request.limit, request.lease)
}

async fn cancelling_by_queue_leaves_the_other_queues_alone(scene: Scene) {
    let other = QueueName::new("other").unwrap();
    let mine = scene.queue.enqueue(Retried(1)).await.unwrap();
    let theirs = scene.queue.enqueue(Retried(1)).queue(other.clone()).await.unwrap();
    let mut filter = JobFilter::all();
    filter.queues = Some(vec![other]);
    let counts = scene.queue.cancel_where(filter.clone(), "enough").await.unwrap();
    assert_eq!((counts.changed, counts.signalled, counts.finished), (1, 0, 0));
    let again = scene.queue.cancel_where(filter, "enough").await.unwrap();
    assert_eq!((again.changed, again.signalled, again.finished), (0, 0, 1));
    assert_eq!(theirs.job().await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(mine.job().await.unwrap().unwrap().state, JobState::Waiting);
}
