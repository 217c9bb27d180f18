//! Failed steps that the store takes one by one, and not together.

use futures::future::{join_all, try_join_all};
use queue::{
    Job, JobError, JobState, Pass, State, StepEntry, StepState, Task, TaskError, Wf, Worker,
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    steps_whose_failures_are_large_fail_their_job_at_once,
    steps_whose_failures_are_large_do_not_keep_their_job_from_being_cancelled,
    a_step_after_others_whose_failures_are_large_is_logged,
    more_failures_than_a_job_can_log_fail_it_at_once,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "large", output = u32, retries = 0)]
struct Large(String);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow(Then);

/// What the workflow does with four steps that fail.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Then {
    Fail,
    Cancel,
    GoOn,
}

/// Runs four steps with inputs of almost the size that one payload may have.
async fn ran(scene: &Scene, then: Then) -> (Job, Docs) {
    // The most that MongoDB takes, the only one of these stores that limits a whole job.
    let limit = scene.queue.store().info().capabilities.max_payload_bytes.min(4 * 1024 * 1024);
    let limit = usize::try_from(limit).unwrap();
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(|_: Large, State(docs): State<Docs>| async move {
            docs.write("large");
            Err::<u32, _>(TaskError::new("no"))
        })
        .workflow(move |Flow(then): Flow, wf: Wf, State(docs): State<Docs>| async move {
            let large = |number: usize| {
                wf.task(format!("large-{number}"), Large("x".repeat(limit - 4096))).into_future()
            };
            match then {
                Then::Fail => try_join_all((0..4).map(large)).await.map(|_| 0),
                Then::Cancel => {
                    let cancel = wf.run("cancel", || async {
                        Err::<u32, _>(TaskError::cancel("not needed any more"))
                    });
                    futures::join!(join_all((0..4).map(large)), cancel.into_future()).1
                }
                Then::GoOn => {
                    join_all((0..4).map(large)).await;
                    let after = wf.run("after", || async {
                        docs.write("after");
                        Ok::<_, TaskError>(7)
                    });
                    after.await
                }
            }
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow(then)).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    (handle.job().await.unwrap().unwrap(), docs)
}

fn failed_steps(job: &Job) -> usize {
    let steps = job.log.iter().filter_map(StepEntry::from_entry);
    steps.filter(|step| step.state == StepState::Failed).count()
}

async fn steps_whose_failures_are_large_fail_their_job_at_once(scene: Scene) {
    let (job, docs) = ran(&scene, Then::Fail).await;
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Failed, 1, 0), "{:?}", job.error);
    let error: JobError = job.error.as_ref().unwrap().to().unwrap();
    assert_eq!((error.message.as_str(), error.is_final), ("no", true));
    assert_eq!((docs.count("large"), failed_steps(&job)), (4, 4));
}

async fn steps_whose_failures_are_large_do_not_keep_their_job_from_being_cancelled(scene: Scene) {
    let (job, docs) = ran(&scene, Then::Cancel).await;
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Cancelled, 1, 0));
    assert_eq!((docs.count("large"), failed_steps(&job)), (4, 4));
}

async fn a_step_after_others_whose_failures_are_large_is_logged(scene: Scene) {
    let (job, docs) = ran(&scene, Then::GoOn).await;
    assert_eq!(
        (job.state, job.attempt, job.crashes),
        (JobState::Completed, 1, 0),
        "{:?}",
        job.error
    );
    assert_eq!((docs.count("large"), docs.count("after"), failed_steps(&job)), (4, 1, 4));
}

async fn more_failures_than_a_job_can_log_fail_it_at_once(scene: Scene) {
    const STEPS: usize = 1_000;
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let fails = |number: usize| {
                let step = wf.run(format!("fails-{number}"), || async {
                    docs.write("fails");
                    // As JSON each of these has two bytes: the longest message that is kept has 16 KiB.
                    Err::<u32, _>(TaskError::new("\"".repeat(8 * 1024)))
                });
                step.into_future()
            };
            try_join_all((0..STEPS).map(fails)).await.map(|_| 0)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow(Then::Fail)).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Failed, 1, 0));
    assert_eq!(docs.count("fails"), STEPS);
    let error: JobError = job.error.as_ref().unwrap().to().unwrap();
    assert!(error.step.as_deref().is_some_and(|step| step.starts_with("fails-")), "{}", error.name);
    // A store either keeps all of them, or the error says how many it has no room for.
    let told = error.message.contains(&format!("{STEPS} log entries"));
    assert_eq!((failed_steps(&job), told), if told { (0, true) } else { (STEPS, false) });
}
