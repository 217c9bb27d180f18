use queue::{JobState, Pass, Task, UnknownKinds, Wf, Worker};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    e8_an_unknown_kind_is_left_for_others,
    e8_an_unknown_kind_fails_alone_where_the_worker_says_so,
    e9_a_workflow_that_calls_an_unregistered_task_fails_with_its_name,
    a_step_used_twice_is_an_error_that_names_it,
    an_input_of_another_shape_fails_the_job_with_the_reason,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "known")]
struct Known;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "stranger")]
struct Stranger;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow")]
struct Flow;

fn worker(scene: &Scene) -> queue::WorkerBuilder {
    Worker::new(scene.queue.clone()).task(|_: Known| async { Ok(()) })
}

fn error(job: &queue::Job) -> queue::JobError {
    job.error.as_ref().unwrap().to().unwrap()
}

async fn e8_an_unknown_kind_is_left_for_others(scene: Scene) {
    let stranger = scene.queue.enqueue(Stranger).await.unwrap();
    let known = scene.queue.enqueue(Known).await.unwrap();
    worker(&scene).build().unwrap().drain(Pass::new()).await.unwrap();
    assert_eq!(stranger.job().await.unwrap().unwrap().state, JobState::Waiting);
    assert_eq!(known.job().await.unwrap().unwrap().state, JobState::Completed);
}

async fn e8_an_unknown_kind_fails_alone_where_the_worker_says_so(scene: Scene) {
    let stranger = scene.queue.enqueue(Stranger).await.unwrap();
    let known = scene.queue.enqueue(Known).await.unwrap();
    let worker = worker(&scene).unknown_kinds(UnknownKinds::Fail).build().unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = stranger.job().await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(
        error(&job).message,
        "this worker has no task or workflow named \"stranger\"; it has known"
    );
    assert_eq!(known.job().await.unwrap().unwrap().state, JobState::Completed);
}

async fn e9_a_workflow_that_calls_an_unregistered_task_fails_with_its_name(scene: Scene) {
    let worker = worker(&scene)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("gone", Stranger).await })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    assert!(error(&job).message.contains("\"stranger\""), "{:?}", error(&job));
}

async fn a_step_used_twice_is_an_error_that_names_it(scene: Scene) {
    let worker = worker(&scene)
        .workflow(|_: Flow, wf: Wf| async move {
            wf.task("same", Known).await?;
            wf.task("same", Known).await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(
        error(&job).message.contains("step \"same\" of task \"known\" twice"),
        "{:?}",
        error(&job)
    );
}

async fn an_input_of_another_shape_fails_the_job_with_the_reason(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "strict", retries = 5)]
    struct Strict {
        count: u32,
    }
    let worker =
        worker(&scene).task(|Strict { count: _ }: Strict| async { Ok(()) }).build().unwrap();
    let input = queue::Payload::from_text(r#"{"count":"three"}"#).unwrap();
    let job = queue::core::NewJob::new("strict", input);
    let id = job.id;
    scene.queue.insert(vec![job]).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = scene.queue.job(id).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    let message = error(&job).message;
    assert!(message.contains("does not fit \"strict\"") && message.contains("u32"), "{message}");
}
