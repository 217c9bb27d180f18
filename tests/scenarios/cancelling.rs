use std::{sync::Arc, time::Duration};

use queue::{
    Failure, JobFilter, JobResult, JobState, Pass, State, StepEntry, StepState, Task, TaskError,
    Wf, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene, eventually, patience};

crate::on_every_store!(
    e15_a_job_cancelled_by_id_stops_after_the_running_step,
    e15_jobs_cancelled_by_filter_stop_or_never_start,
    a_handler_sees_its_token_with_the_next_heartbeat,
    a_step_that_runs_when_its_job_is_cancelled_is_not_killed,
    a_cancelled_job_stays_cancelled_whatever_its_handler_returns,
    a_task_cancels_its_job_from_inside,
    a_body_cancels_its_job_from_inside,
    cancelling_a_finished_job_says_so_and_changes_nothing,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "four-steps", retries = 5)]
struct FourSteps;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "step", retries = 5)]
struct Step(u32);

/// Lets the test hold a step while it runs.
#[derive(Clone, Default)]
struct Gate {
    docs: Docs,
    go_on: Arc<Notify>,
}

async fn step(Step(n): Step, State(gate): State<Gate>) -> queue::TaskResult<()> {
    gate.docs.write(n.to_string());
    if n == 1 {
        gate.go_on.notified().await;
    }
    Ok(())
}

async fn four_steps(_: FourSteps, wf: Wf) -> queue::TaskResult<()> {
    for n in 0..4 {
        wf.task(format!("step-{n}"), Step(n)).await?;
    }
    Ok(())
}

fn worker(scene: &Scene, gate: &Gate) -> Worker {
    Worker::new(scene.queue.clone())
        .state(gate.clone())
        .task(step)
        .workflow(four_steps)
        // No heartbeat comes before the next write.
        .lease(Duration::from_secs(3_600))
        .build()
        .unwrap()
}

async fn e15_a_job_cancelled_by_id_stops_after_the_running_step(scene: Scene) {
    let gate = Gate::default();
    let handle = scene.queue.enqueue(FourSteps).await.unwrap();
    let worker = worker(&scene, &gate);
    let cancelling = async {
        eventually("the second step runs", || async { gate.docs.len() == 2 }).await;
        assert!(handle.cancel("enough").await.unwrap().is_saved());
        gate.go_on.notify_one();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), cancelling);
    let result = &summary.unwrap().jobs[0].result;
    assert!(matches!(result, JobResult::Cancelled { reason } if reason == "enough"), "{result:?}");
    assert_stopped_after_two(&handle.job().await.unwrap().unwrap());
    assert_eq!(gate.docs.all(), ["0", "1"]);
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty(), "never claimed again");
}

fn assert_stopped_after_two(job: &queue::Job) {
    assert_eq!((job.state, job.attempt), (JobState::Cancelled, 1));
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    let steps: Vec<_> = entries.iter().map(|entry| (entry.step.as_str(), entry.state)).collect();
    assert_eq!(steps, [("step-0", StepState::Completed), ("step-1", StepState::Completed)]);
}

async fn e15_jobs_cancelled_by_filter_stop_or_never_start(scene: Scene) {
    let gate = Gate::default();
    let running = scene.queue.enqueue(FourSteps).label("tenant", "a").await.unwrap();
    let worker = worker(&scene, &gate);
    let cancelling = async {
        eventually("the second step runs", || async { gate.docs.len() == 2 }).await;
        let waiting = scene.queue.enqueue(FourSteps).label("tenant", "a").await.unwrap();
        let other = scene.queue.enqueue(FourSteps).label("tenant", "b").await.unwrap();
        let counts =
            scene.queue.cancel_where(JobFilter::label("tenant", "a"), "enough").await.unwrap();
        assert_eq!((counts.changed, counts.signalled, counts.finished), (1, 1, 0));
        gate.go_on.notify_one();
        (waiting, other)
    };
    let (_, (waiting, other)) = tokio::join!(worker.run(Pass::new()), cancelling);
    assert_stopped_after_two(&running.job().await.unwrap().unwrap());
    let waiting = waiting.job().await.unwrap().unwrap();
    assert_eq!((waiting.state, waiting.fence.count), (JobState::Cancelled, 0));
    assert_eq!(other.job().await.unwrap().unwrap().state, JobState::Waiting);
}

async fn a_handler_sees_its_token_with_the_next_heartbeat(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "heeds")]
    struct Heeds;
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state(begun.clone())
        .task(|_: Heeds, ctx: queue::JobCtx, State(begun): State<Arc<Notify>>| async move {
            begun.notify_one();
            ctx.cancelled().cancelled().await;
            Ok(())
        })
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Heeds).await.unwrap();
    let cancelling = async {
        begun.notified().await;
        handle.cancel("enough").await.unwrap()
    };
    let running = tokio::time::timeout(patience(), worker.run(Pass::new()));
    let (summary, outcome) = tokio::join!(running, cancelling);
    assert!(outcome.is_saved());
    let summary = summary.expect("the handler is told").unwrap();
    assert!(matches!(summary.jobs[0].result, JobResult::Cancelled { .. }));
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Cancelled);
}

async fn a_step_that_runs_when_its_job_is_cancelled_is_not_killed(scene: Scene) {
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state(begun.clone())
        .workflow(|_: FourSteps, wf: Wf, State(begun): State<Arc<Notify>>| async move {
            let goes_on = wf.run("goes-on", || async {
                begun.notify_one();
                wf.ctx().cancelled().cancelled().await;
                // Time enough to be dropped in.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                Ok::<_, TaskError>("done all the same".to_owned())
            });
            goes_on.await?;
            wf.run("later", || async { Ok::<_, TaskError>(()) }).await
        })
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FourSteps).await.unwrap();
    let cancelling = async {
        begun.notified().await;
        handle.cancel("enough").await.unwrap()
    };
    let (summary, outcome) = tokio::join!(worker.run(Pass::new()), cancelling);
    assert!(outcome.is_saved());
    assert!(matches!(summary.unwrap().jobs[0].result, JobResult::Cancelled { .. }));
    let job = handle.job().await.unwrap().unwrap();
    let entries: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    assert_eq!((job.state, entries.len()), (JobState::Cancelled, 1), "{entries:?}");
    let output = entries[0].output.as_ref().map(|output| output.to::<String>().unwrap());
    assert_eq!(
        (entries[0].state, output),
        (StepState::Completed, Some("done all the same".into()))
    );
}

async fn a_cancelled_job_stays_cancelled_whatever_its_handler_returns(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "verbose", output = String)]
    struct Verbose;
    let limit = usize::try_from(scene.queue.store().info().capabilities.max_payload_bytes).unwrap();
    let docs = Docs::default();
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), begun.clone()))
        .task(
            move |_: Verbose,
                  ctx: queue::JobCtx,
                  State((_, begun)): State<(Docs, Arc<Notify>)>| async move {
                begun.notify_one();
                ctx.cancelled().cancelled().await;
                Ok("x".repeat(limit + 1))
            },
        )
        .on_fail(
            |failed: Failure<Verbose>, State((docs, _)): State<(Docs, Arc<Notify>)>| async move {
                docs.write(failed.error.message);
                Ok(())
            },
        )
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Verbose).await.unwrap();
    let cancelling = async {
        begun.notified().await;
        handle.cancel("enough").await.unwrap()
    };
    let (summary, outcome) = tokio::join!(worker.run(Pass::new()), cancelling);
    assert!(outcome.is_saved());
    let result = &summary.unwrap().jobs[0].result;
    assert!(matches!(result, JobResult::Cancelled { reason } if reason == "enough"), "{result:?}");
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(docs.all(), Vec::<String>::new());
}

async fn a_task_cancels_its_job_from_inside(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "gives-up", retries = 5)]
    struct GivesUp;
    let worker = Worker::new(scene.queue.clone())
        .task(|_: GivesUp| async { Err::<(), _>(TaskError::cancel("nothing to do")) })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(GivesUp).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Cancelled, 1));
    assert_eq!(job.cancel.unwrap().reason, "nothing to do");
    let entry = StepEntry::from_entry(&job.log[0]).unwrap();
    assert_eq!((entry.state, job.log.len()), (StepState::Cancelled, 1));
}

async fn a_body_cancels_its_job_from_inside(scene: Scene) {
    let worker = Worker::new(scene.queue.clone())
        .workflow(|_: FourSteps, wf: Wf| async move {
            wf.run("look", || async { Ok::<_, TaskError>(1) }).await?;
            Err::<(), _>(TaskError::cancel("seen enough"))
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(FourSteps).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(
        (job.state, job.cancel.unwrap().reason.as_str()),
        (JobState::Cancelled, "seen enough")
    );
}

async fn cancelling_a_finished_job_says_so_and_changes_nothing(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "quick", output = u32)]
    struct Quick;
    let worker = Worker::new(scene.queue.clone()).task(|_: Quick| async { Ok(7) }).build().unwrap();
    let handle = scene.queue.enqueue(Quick).await.unwrap();
    worker.run(Pass::new()).await.unwrap();
    let before = handle.job().await.unwrap();
    let outcome = handle.cancel("too late").await.unwrap();
    assert_eq!(outcome, queue::Outcome::Illegal { from: JobState::Completed });
    assert_eq!(handle.job().await.unwrap(), before);
    let nobody = scene.queue.cancel(queue::JobId::new(), "who").await.unwrap();
    assert_eq!(nobody, queue::Outcome::Missing);
}
