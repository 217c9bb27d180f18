//! Bodies that leave steps alone: what stands in a `FuturesUnordered` gets no turn while the body awaits another step.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use queue::{JobResult, JobState, Pass, State, Summary, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene, eventually, patience};

crate::on_every_store!(
    a_run_ends_although_the_body_leaves_a_running_step_alone,
    a_final_failure_is_shown_although_the_body_leaves_a_running_step_alone,
    a_step_starts_although_the_body_leaves_a_failed_one_alone,
    a_job_is_cancelled_although_the_body_leaves_a_running_step_alone,
    a_step_that_runs_and_was_not_woken_is_waited_for,
);

/// What the three steps do: the first of a set, the one beside it, and the one that the body awaits when the first has ended.
#[derive(Clone, Serialize, Deserialize, Task)]
#[task(name = "aside", output = u32)]
struct Aside {
    first: First,
    beside_fails: bool,
    after: After,
}

/// When the first one ends.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum First {
    AtOnce,
    WhenTold,
    WhenCancelled,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum After {
    FailsOnce,
    FailsForGood,
    Succeeds,
}

#[derive(Clone, Default)]
struct Stage {
    docs: Docs,
    first: Arc<Notify>,
    beside: Arc<Notify>,
}

/// Awaits the steps of a set as they end, and another step after the first of them.
async fn aside(job: Aside, wf: Wf, State(stage): State<Stage>) -> TaskResult<u32> {
    let Aside { first, beside_fails, after } = job;
    let first = wf.run("first", || async {
        match first {
            First::AtOnce => {}
            First::WhenTold => stage.first.notified().await,
            First::WhenCancelled => wf.ctx().cancelled().cancelled().await,
        }
        Ok::<_, TaskError>(1)
    });
    let beside = wf.run("beside", || async {
        stage.docs.write("beside begins");
        stage.beside.notified().await;
        stage.docs.write("beside ends");
        match beside_fails {
            true => Err(TaskError::new("beside")),
            false => Ok(2),
        }
    });
    let mut steps: FuturesUnordered<_> =
        [first.into_future(), beside.into_future()].into_iter().collect();
    let mut sum = 0;
    while let Some(step) = steps.next().await {
        sum += step?;
        let after = wf.run(format!("after-{sum}"), || async {
            stage.docs.write("after");
            match after {
                After::FailsOnce if stage.docs.count("after") == 1 => Err(TaskError::new("once")),
                After::FailsForGood => Err(TaskError::new("for good")),
                _ => Ok(0),
            }
        });
        let after = if job.after == After::FailsOnce { after.retries(1) } else { after };
        sum += after.await?;
    }
    Ok(sum)
}

/// Runs one pass, beside what the test does. Nothing here takes long; a run that does not end fails.
async fn pass(scene: &Scene, stage: &Stage, meanwhile: impl Future<Output = ()>) -> Summary {
    let worker = Worker::new(scene.queue.clone())
        .state(stage.clone())
        .workflow(aside)
        .lease(Duration::from_millis(600))
        .build()
        .unwrap();
    let run = tokio::time::timeout(patience(), worker.run(Pass::new()));
    let (summary, ()) = tokio::join!(run, meanwhile);
    summary.expect("the run ends").unwrap()
}

async fn enqueue(scene: &Scene, first: First, after: After) -> queue::JobHandle<Aside> {
    let beside_fails = first == First::WhenTold;
    scene.queue.enqueue(Aside { first, beside_fails, after }).await.unwrap()
}

async fn until_after(stage: &Stage) {
    eventually("the step after the first", || async { stage.docs.count("after") == 1 }).await;
}

async fn a_run_ends_although_the_body_leaves_a_running_step_alone(scene: Scene) {
    let stage = Stage::default();
    let handle = enqueue(&scene, First::AtOnce, After::FailsOnce).await;
    let summary = pass(&scene, &stage, async {
        until_after(&stage).await;
        stage.beside.notify_one();
    })
    .await;
    assert!(matches!(summary.jobs[0].result, JobResult::WillRetry { .. }), "{summary:?}");
    // It had no turn in which to end, and runs again.
    assert_eq!(stage.docs.all(), ["beside begins", "after"]);
    stage.beside.notify_one();
    assert_eq!(pass(&scene, &stage, async {}).await.succeeded(), 1);
    assert_eq!(handle.output().await.unwrap(), 3);
}

async fn a_final_failure_is_shown_although_the_body_leaves_a_running_step_alone(scene: Scene) {
    let stage = Stage::default();
    let handle = enqueue(&scene, First::AtOnce, After::FailsForGood).await;
    let summary = pass(&scene, &stage, async {
        until_after(&stage).await;
        stage.beside.notify_one();
    })
    .await;
    assert!(matches!(summary.jobs[0].result, JobResult::Failed { .. }), "{summary:?}");
    let error: queue::JobError = handle.job().await.unwrap().unwrap().error.unwrap().to().unwrap();
    assert_eq!(error.message, "for good");
}

async fn a_step_starts_although_the_body_leaves_a_failed_one_alone(scene: Scene) {
    let stage = Stage::default();
    let handle = enqueue(&scene, First::WhenTold, After::Succeeds).await;
    let summary = pass(&scene, &stage, async {
        eventually("it runs", || async { stage.docs.count("beside begins") == 1 }).await;
        stage.beside.notify_one();
        // Its failure is shown when the first step has settled, and by then the body awaits another one.
        eventually("it fails", || async { stage.docs.count("beside ends") == 1 }).await;
        stage.first.notify_one();
    })
    .await;
    assert!(matches!(summary.jobs[0].result, JobResult::Failed { .. }), "{summary:?}");
    let error: queue::JobError = handle.job().await.unwrap().unwrap().error.unwrap().to().unwrap();
    assert_eq!((error.message.as_str(), stage.docs.count("after")), ("beside", 1));
}

async fn a_job_is_cancelled_although_the_body_leaves_a_running_step_alone(scene: Scene) {
    let stage = Stage::default();
    let handle = enqueue(&scene, First::WhenCancelled, After::Succeeds).await;
    let summary = pass(&scene, &stage, async {
        eventually("it runs", || async { stage.docs.count("beside begins") == 1 }).await;
        assert!(handle.cancel("enough").await.unwrap().is_saved());
        // The first step ends now, the body awaits another one that will not start, and then this one could go on.
        eventually("the first is logged", || async {
            handle.job().await.unwrap().unwrap().log_len == 1
        })
        .await;
        stage.beside.notify_one();
    })
    .await;
    assert!(matches!(summary.jobs[0].result, JobResult::Cancelled { .. }), "{summary:?}");
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Cancelled);
}

async fn a_step_that_runs_and_was_not_woken_is_waited_for(scene: Scene) {
    let stage = Stage::default();
    let worker = Worker::new(scene.queue.clone())
        .state(stage.clone())
        .workflow(|_: Aside, wf: Wf, State(stage): State<Stage>| async move {
            let fails = wf.run("fails", || async {
                stage.docs.write("after");
                match stage.docs.count("after") {
                    1 => Err(TaskError::new("once")),
                    _ => Ok(1),
                }
            });
            let runs = wf.run("runs", || async {
                stage.docs.write("beside begins");
                stage.beside.notified().await;
                Ok::<_, TaskError>(2)
            });
            let (one, two) = tokio::join!(fails.retries(1).into_future(), runs.into_future());
            Ok(one? + two?)
        })
        .build()
        .unwrap();
    let handle = enqueue(&scene, First::AtOnce, After::FailsOnce).await;
    let go_on = async {
        until_after(&stage).await;
        // Longer than a step may be left alone: this one is not, it has nothing to do.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        stage.beside.notify_one();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), go_on);
    assert!(matches!(summary.unwrap().jobs[0].result, JobResult::WillRetry { .. }));
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert_eq!((handle.output().await.unwrap(), stage.docs.count("beside begins")), (3, 1));
}
