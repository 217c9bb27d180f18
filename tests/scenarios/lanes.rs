//! Concurrency keys and uniqueness, as a task says them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use queue::{
    Backoff, Job, JobFilter, JobHandle, JobId, JobResult, JobState, JobStates, Lane, Pass,
    QueueName, State, Task, TaskError, TaskResult, Unique, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Scene, eventually};

crate::on_every_store!(
    e18_two_keys_run_in_one_pass,
    e18_a_newcomer_waits_for_the_running_job_of_its_key,
    e18_a_key_that_contains_the_queue_separates_the_queues,
    a_lane_of_two_runs_two_at_once,
    a_failed_and_a_cancelled_job_free_their_lane,
    supersede_cancels_only_what_has_never_been_started,
    supersede_in_one_batch_leaves_the_last_job,
    of_racing_enqueues_that_supersede_exactly_one_job_waits,
    of_racing_enqueues_of_one_key_exactly_one_makes_a_job,
    a_key_is_free_once_its_job_has_ended_or_held_as_long_as_it_says,
);

crate::on_every_store_by_the_clock!(a_job_that_waits_for_its_backoff_does_not_hold_its_lane);

/// In a lane of its own key; holds it until it is told to end, unless its text says otherwise.
#[derive(Clone, Serialize, Deserialize)]
struct Laned {
    key: String,
    limit: u32,
    ends: Ends,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Ends {
    Well,
    WhenTold,
    Badly,
    Cancelled,
    Later,
}

impl Task for Laned {
    const NAME: &'static str = "laned";
    type Output = ();

    fn options() -> queue::TaskOptions {
        queue::TaskOptions::new().retries(9).backoff(Backoff::fixed(Duration::from_secs(60)))
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::with_limit(&self.key, self.limit.try_into().unwrap()))
    }
}

/// Which jobs run, and the word to end.
#[derive(Clone, Default)]
struct Stage {
    running: Arc<Mutex<Vec<JobId>>>,
    end: Arc<Notify>,
}

impl Stage {
    fn count(&self) -> usize {
        self.running.lock().unwrap().len()
    }
}

async fn laned(job: Laned, ctx: queue::JobCtx, State(stage): State<Stage>) -> TaskResult<()> {
    match job.ends {
        Ends::Well => Ok(()),
        Ends::Badly => Err(TaskError::fatal(TaskError::new("no"))),
        Ends::Cancelled => Err(TaskError::cancel("no")),
        Ends::Later if ctx.attempt() == 1 => Err(TaskError::new("later")),
        Ends::Later => Ok(()),
        Ends::WhenTold => {
            stage.running.lock().unwrap().push(ctx.id());
            stage.end.notified().await;
            stage.running.lock().unwrap().retain(|id| *id != ctx.id());
            Ok(())
        }
    }
}

fn worker(scene: &Scene, stage: &Stage) -> WorkerBuilder {
    Worker::new(scene.queue.clone()).state(stage.clone()).task(laned).all_queues()
}

fn job(key: &str, ends: Ends) -> Laned {
    Laned { key: key.to_owned(), limit: 1, ends }
}

async fn enqueue(scene: &Scene, job: Laned) -> JobHandle<Laned> {
    scene.queue.enqueue(job).await.unwrap()
}

async fn read(handle: &JobHandle<Laned>) -> Job {
    handle.job().await.unwrap().unwrap()
}

async fn e18_two_keys_run_in_one_pass(scene: Scene) {
    let stage = Stage::default();
    for key in ["a", "b"] {
        enqueue(&scene, job(key, Ends::WhenTold)).await;
    }
    let worker = worker(&scene, &stage).build().unwrap();
    let both = async {
        eventually("both run at once", || async { stage.count() == 2 }).await;
        stage.end.notify_waiters();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), both);
    assert_eq!(summary.unwrap().succeeded(), 2);
}

async fn e18_a_newcomer_waits_for_the_running_job_of_its_key(scene: Scene) {
    let stage = Stage::default();
    let first = worker(&scene, &stage).build().unwrap();
    let holder = enqueue(&scene, job("a", Ends::WhenTold)).await;
    let newcomer = async {
        eventually("the first runs", || async { stage.count() == 1 }).await;
        let newcomer = enqueue(&scene, job("a", Ends::Well)).await;
        let other = enqueue(&scene, job("b", Ends::Well)).await;
        let second = Worker::new(scene.sibling().await).state(stage.clone()).task(laned);
        let summary = second.build().unwrap().drain(Pass::new()).await.unwrap();
        assert_eq!(summary.jobs.len(), 1, "another key fills the claim: {summary:?}");
        assert_eq!(summary.jobs[0].id, other.id());
        stage.end.notify_waiters();
        newcomer
    };
    let (_, newcomer) = tokio::join!(first.run(Pass::new()), newcomer);
    assert_eq!(read(&newcomer).await.state, JobState::Waiting);
    assert_eq!(first.run(Pass::new()).await.unwrap().succeeded(), 1);
    let (holder, newcomer) = (read(&holder).await, read(&newcomer).await);
    assert!(newcomer.started_at >= holder.finished_at);
}

async fn e18_a_key_that_contains_the_queue_separates_the_queues(scene: Scene) {
    let stage = Stage::default();
    for queue in ["a", "b"] {
        let key = format!("import/{queue}");
        let job = scene.queue.enqueue(job(&key, Ends::WhenTold));
        job.queue(QueueName::new(queue).unwrap()).await.unwrap();
    }
    let worker = worker(&scene, &stage).build().unwrap();
    let both = async {
        eventually("both queues run", || async { stage.count() == 2 }).await;
        stage.end.notify_waiters();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), both);
    assert_eq!(summary.unwrap().succeeded(), 2);
}

async fn a_lane_of_two_runs_two_at_once(scene: Scene) {
    let stage = Stage::default();
    for _ in 0..3 {
        enqueue(&scene, Laned { limit: 2, ..job("a", Ends::WhenTold) }).await;
    }
    let worker = worker(&scene, &stage).build().unwrap();
    let two = async {
        eventually("two run", || async { stage.count() == 2 }).await;
        stage.end.notify_waiters();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), two);
    assert_eq!(summary.unwrap().jobs.len(), 2);
}

async fn a_failed_and_a_cancelled_job_free_their_lane(scene: Scene) {
    let worker = worker(&scene, &Stage::default()).build().unwrap();
    for ends in [Ends::Badly, Ends::Cancelled, Ends::Well] {
        enqueue(&scene, job("a", ends)).await;
    }
    // One at a time, each with the pass that follows the end of the one before.
    for _ in 0..3 {
        assert_eq!(worker.run(Pass::new()).await.unwrap().jobs.len(), 1);
    }
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty());
}

async fn a_job_that_waits_for_its_backoff_does_not_hold_its_lane(scene: Scene) {
    let worker = worker(&scene, &Stage::default()).build().unwrap();
    let retrying = enqueue(&scene, job("a", Ends::Later)).await;
    let summary = worker.run(Pass::new()).await.unwrap();
    assert!(matches!(summary.jobs[0].result, JobResult::WillRetry { .. }), "{summary:?}");
    let other = enqueue(&scene, job("a", Ends::Well)).await;
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert_eq!(read(&other).await.state, JobState::Completed);
    assert_eq!(read(&retrying).await.state, JobState::Waiting);
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert_eq!(read(&retrying).await.attempt, 2);
}

async fn supersede_cancels_only_what_has_never_been_started(scene: Scene) {
    let stage = Stage::default();
    let worker = worker(&scene, &stage).build().unwrap();
    let enqueue = async |ends| {
        let job = scene.queue.enqueue(job("lane", ends)).lane(Lane::new(JobId::new().to_string()));
        job.unique(Unique::supersede("key")).await.unwrap()
    };
    let mut stay = Vec::new();
    for (ends, state) in [
        (Ends::Well, JobState::Completed),
        (Ends::Badly, JobState::Failed),
        (Ends::Later, JobState::Waiting),
    ] {
        stay.push((enqueue(ends).await, state));
        worker.run(Pass::new()).await.unwrap();
    }
    let running = enqueue(Ends::WhenTold).await;
    let checks = async {
        eventually("it runs", || async { stage.count() == 1 }).await;
        let early = enqueue(Ends::Well).await;
        let late = enqueue(Ends::Well).await;
        assert!(early.is_new() && late.is_new());
        let superseded = read(&early).await;
        assert_eq!((superseded.state, superseded.fence.count), (JobState::Cancelled, 0));
        for (handle, state) in &stay {
            assert_eq!(read(handle).await.state, *state);
        }
        let held = read(&running).await;
        assert_eq!((held.state, held.cancel), (JobState::Running, None));
        stage.end.notify_waiters();
        late
    };
    let pass = Pass::new().ids([running.id()]);
    let (summary, late) = tokio::join!(worker.run(pass), checks);
    assert_eq!(summary.unwrap().succeeded(), 1);
    assert_eq!(worker.run(Pass::new().ids([late.id()])).await.unwrap().succeeded(), 1);
}

async fn supersede_in_one_batch_leaves_the_last_job(scene: Scene) {
    let jobs = (0..5).map(|_| job("lane", Ends::Well));
    let handles = scene.queue.enqueue_many(jobs).unique(Unique::supersede("key")).await.unwrap();
    let mut states = Vec::new();
    for handle in &handles {
        assert!(handle.is_new());
        states.push(read(handle).await.state);
    }
    assert_eq!(states[..4], [JobState::Cancelled; 4]);
    assert_eq!(states[4], JobState::Waiting);
}

/// Enqueues of one key, singly and in batches, from two handles of the store at once.
async fn race(scene: &Scene, unique: Unique) -> Vec<JobHandle<Laned>> {
    let sibling = scene.sibling().await;
    let enqueues = (0..16).map(|n| {
        let queue = if n % 2 == 0 { scene.queue.clone() } else { sibling.clone() };
        let unique = unique.clone();
        let jobs: Vec<Laned> = vec![job("lane", Ends::Well); 1 + n % 3];
        tokio::spawn(async move { queue.enqueue_many(jobs).unique(unique).await.unwrap() })
    });
    join_all(enqueues).await.into_iter().flat_map(Result::unwrap).collect()
}

async fn live(scene: &Scene) -> u64 {
    let live = JobFilter::all().with_states(JobStates::LIVE);
    scene.queue.tally(live).await.unwrap().iter().map(|tally| tally.count).sum()
}

async fn of_racing_enqueues_that_supersede_exactly_one_job_waits(scene: Scene) {
    let handles = race(&scene, Unique::supersede("key")).await;
    assert!(handles.iter().all(JobHandle::is_new));
    assert_eq!(live(&scene).await, 1);
}

async fn of_racing_enqueues_of_one_key_exactly_one_makes_a_job(scene: Scene) {
    let handles = race(&scene, Unique::new("key")).await;
    assert_eq!(handles.iter().filter(|handle| handle.is_new()).count(), 1);
    assert!(handles.iter().all(|handle| handle.id() == handles[0].id()));
    assert_eq!(live(&scene).await, 1);
}

async fn a_key_is_free_once_its_job_has_ended_or_held_as_long_as_it_says(scene: Scene) {
    let worker = worker(&scene, &Stage::default()).build().unwrap();
    let mut long = Unique::new("long");
    long.within = JobStates::LIVE | JobState::Completed.into();
    let enqueue = async |unique: &Unique| {
        scene.queue.enqueue(job("lane", Ends::Well)).unique(unique.clone()).await.unwrap()
    };
    let (short_one, long_one) = (enqueue(&Unique::new("short")).await, enqueue(&long).await);
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(read(&short_one).await.state, JobState::Completed);
    assert!(enqueue(&Unique::new("short")).await.is_new());
    let again = enqueue(&long).await;
    assert_eq!((again.is_new(), again.id()), (false, long_one.id()));
}
