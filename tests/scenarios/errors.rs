//! What is stored of an error, and how often it is written.

use std::fmt;

use queue::{
    Job, JobError, JobState, Pass, StepEntry, StepState, Task, TaskError, TaskResult, Wf, Worker,
    core::EntryKind,
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    an_error_says_what_where_when_and_whether_it_was_the_last,
    an_error_of_the_body_names_no_step,
    a_cancellation_says_that_it_is_one,
    no_name_or_message_is_ever_empty,
    a_step_id_that_cannot_be_stored_is_refused_with_the_reason,
    a_failed_step_is_logged_once_and_written_once,
    several_failed_steps_are_written_at_once,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "fails", output = u32, retries = 1)]
struct Fails(How);

#[derive(Clone, Copy, Serialize, Deserialize)]
enum How {
    Nested,
    Nameless,
    Speechless,
    PanicWithoutWords,
    PanicWithANumber,
    Cancelled,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow;

/// An error with a cause.
#[derive(Debug)]
struct Caused(&'static str, Option<Box<Caused>>);

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

fn nested() -> Caused {
    let deepest = Caused("no such host", None);
    Caused("not sent", Some(Box::new(Caused("no connection", Some(Box::new(deepest))))))
}

async fn fails(Fails(how): Fails) -> TaskResult<u32> {
    match how {
        How::Nested => Err(nested().into()),
        How::Nameless => Err(TaskError::named("", " ")),
        How::Speechless => Err(Caused("", None).into()),
        How::PanicWithoutWords => panic!(),
        How::PanicWithANumber => std::panic::panic_any(7),
        How::Cancelled => Err(TaskError::cancel("")),
    }
}

fn worker<F, Fut>(scene: &Scene, body: F) -> Worker
where
    F: FnOnce(Flow, Wf) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = TaskResult<u32>> + Send + 'static,
{
    Worker::new(scene.queue.clone()).task(fails).workflow(body).build().unwrap()
}

/// The errors that the log and the job have of a job, one for each attempt.
async fn errors<T: Task>(worker: &Worker, job: T) -> (Job, Vec<JobError>) {
    let handle = worker.queue().enqueue(job).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..5 {
        if worker.run(Pass::new()).await.unwrap().jobs.is_empty() {
            break;
        }
        let job = handle.job().await.unwrap().unwrap();
        errors.extend(job.error.map(|error| error.to::<JobError>().unwrap()));
    }
    (handle.job().await.unwrap().unwrap(), errors)
}

async fn an_error_says_what_where_when_and_whether_it_was_the_last(scene: Scene) {
    let worker = worker(&scene, |_, wf| async move { wf.task("step", Fails(How::Nested)).await });
    let (_, of_task) = errors(&worker, Fails(How::Nested)).await;
    let (_, of_flow) = errors(&worker, Flow).await;
    for (errors, step) in [(of_task, "fails"), (of_flow, "step")] {
        assert_eq!(errors.len(), 2);
        for (error, attempt) in errors.into_iter().zip(1..) {
            assert_eq!((error.name.as_str(), error.message.as_str()), ("task-failed", "not sent"));
            assert_eq!(error.chain, ["no connection", "no such host"]);
            assert_eq!((error.step.as_deref(), error.attempt), (Some(step), attempt));
            assert_eq!((error.is_final, error.cancelled), (attempt == 2, false));
        }
    }
}

async fn an_error_of_the_body_names_no_step(scene: Scene) {
    let worker = worker(&scene, |_, _| async { Err(nested().into()) });
    let (job, errors) = errors(&worker, Flow).await;
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((error.step.as_deref(), error.attempt, error.is_final), (None, 1, true));
    assert_eq!(error.chain, ["no connection", "no such host"]);
    let logged: Vec<_> = job.log.iter().filter(|entry| entry.kind == EntryKind::Attempt).collect();
    assert_eq!((logged.len(), job.log.len()), (1, 1));
    assert_eq!(logged[0].body.to::<JobError>().unwrap(), *error);
}

async fn a_cancellation_says_that_it_is_one(scene: Scene) {
    let worker = worker(&scene, |_, wf| async move {
        let step = wf.run("step", || async { Err::<u32, _>(TaskError::cancel("enough")) });
        step.retries(5).await
    });
    let (job, errors) = errors(&worker, Flow).await;
    assert_eq!((job.state, job.attempt, errors.len()), (JobState::Cancelled, 1, 0));
    let entry = StepEntry::from_entry(&job.log[0]).unwrap();
    let error = entry.error.unwrap();
    assert_eq!((entry.state, error.message.as_str()), (StepState::Cancelled, "enough"));
    assert!(error.cancelled && error.is_final);
}

async fn no_name_or_message_is_ever_empty(scene: Scene) {
    let worker = worker(&scene, |_, _| async { Err(TaskError::named("\t", "")) });
    let ways = [How::Nameless, How::Speechless, How::PanicWithoutWords, How::PanicWithANumber];
    let mut found = errors(&worker, Flow).await.1;
    for how in ways {
        found.extend(errors(&worker, Fails(how)).await.1);
    }
    assert_eq!(found.len(), 1 + 2 * ways.len());
    for error in found {
        let said = [&error.name, &error.message].map(|text| text.trim().to_owned());
        assert!(said.iter().all(|text| !text.is_empty()), "{error:?}");
        assert!(!error.to_string().contains("undefined"), "{error:?}");
    }
    let (job, _) = errors(&worker, Fails(How::Cancelled)).await;
    assert!(!job.cancel.unwrap().reason.is_empty());
}

async fn a_step_id_that_cannot_be_stored_is_refused_with_the_reason(scene: Scene) {
    for id in [String::new(), "a\nb".to_owned(), "x".repeat(257)] {
        let worker = worker(&scene, move |_, wf| async move {
            wf.run(id, || async { Ok::<u32, TaskError>(1) }).await
        });
        let (job, errors) = errors(&worker, Flow).await;
        assert_eq!((job.state, job.log.len()), (JobState::Failed, 1));
        assert_eq!(errors[0].name, "step-id");
        assert!(errors[0].message.contains("the step id"), "{:?}", errors[0]);
    }
}

async fn a_failed_step_is_logged_once_and_written_once(scene: Scene) {
    let worker = worker(&scene, |_, wf| async move { wf.task("step", Fails(How::Nested)).await });
    scene.trips.clear();
    let (job, _) = errors(&worker, Flow).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 2));
    assert_eq!(job.log.len(), 2, "one entry for each failure: {:?}", job.log);
    assert_eq!(scene.trips.of("update_jobs"), 2, "one write for each failure");
}

async fn several_failed_steps_are_written_at_once(scene: Scene) {
    let worker = worker(&scene, |_, wf| async move {
        let fails = |n| wf.task(format!("step-{n}"), Fails(How::Nested)).into_future();
        futures::future::join_all((0..10).map(fails)).await.remove(0)
    });
    scene.trips.clear();
    let (job, _) = errors(&worker, Flow).await;
    assert_eq!((job.state, job.log.len()), (JobState::Failed, 20));
    assert_eq!(scene.trips.of("update_jobs"), 2, "one write for each run");
}
