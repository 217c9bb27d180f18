//! Workflows that are data, against the same workflow as code.
#![cfg(feature = "flow")]

use queue::{
    JobState, Pass, Payload, State, StepEntry, Task, TaskError, TaskResult, Wf, Worker,
    core::NewJob,
    flow::{Flow, FlowWorkflow},
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    e1_a_workflow_gives_the_same_as_code_and_as_data,
    e2_a_failing_step_of_a_data_workflow_is_repeated_as_often_as_its_task_says,
    a_step_that_completes_the_job_ends_it,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "add", output = Sum)]
struct Add {
    left: u32,
    right: u32,
}

#[derive(Serialize, Deserialize)]
struct Sum {
    sum: u32,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "breaks", retries = 3)]
struct Breaks {}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "as-code", output = Sum)]
struct AsCode {
    start: u32,
}

async fn add(Add { left, right }: Add, State(docs): State<Docs>) -> TaskResult<Sum> {
    docs.write("add");
    Ok(Sum { sum: left + right })
}

async fn breaks(_: Breaks, State(docs): State<Docs>) -> TaskResult<()> {
    docs.write("breaks");
    Err(TaskError::new("broken"))
}

async fn as_code(AsCode { start }: AsCode, wf: Wf) -> TaskResult<Sum> {
    let one = wf.task("one", Add { left: start, right: 1 }).await?;
    match one.sum > 10 {
        true => wf.task("two", Add { left: one.sum, right: 100 }).await,
        false => wf.task("small", Add { left: 0, right: 0 }).await,
    }
}

/// The same as `as_code`. The last step must not run: the one before completes the job.
const AS_DATA: &str = r#"{
    "steps": [
        {"id": "one", "task": "add", "input": {"left": "{{ input.start }}", "right": 1}},
        {"id": "two", "task": "add", "input": {"left": "{{ steps.one.output.sum }}", "right": 100},
         "condition": "steps.one.output.sum == 42", "completes_job": true},
        {"id": "small", "task": "add", "needs": ["two"], "input": {"left": 0, "right": 0}}
    ]
}"#;

const FAILING: &str = r#"{
    "steps": [
        {"id": "one", "task": "add", "input": {"left": 1, "right": 1}},
        {"id": "two", "task": "breaks", "needs": ["one"], "input": {}}
    ]
}"#;

fn worker(scene: &Scene, docs: &Docs) -> Worker {
    let data = |name: &str, text| {
        let flow: Flow = serde_json::from_str(text).unwrap();
        FlowWorkflow::new(name, &flow, ["add", "breaks"]).unwrap()
    };
    Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(add)
        .task(breaks)
        .workflow(as_code)
        .dyn_workflow(data("as-data", AS_DATA))
        .dyn_workflow(data("failing", FAILING))
        .build()
        .unwrap()
}

async fn drained(scene: &Scene, docs: &Docs, kind: &'static str, input: &str) -> queue::Job {
    let job = NewJob::new(kind, Payload::from_text(input).unwrap());
    let id = job.id;
    scene.queue.insert(vec![job]).await.unwrap();
    worker(scene, docs).drain(Pass::new()).await.unwrap();
    scene.queue.job(id).await.unwrap().unwrap()
}

fn steps(job: &queue::Job) -> Vec<(String, String)> {
    let entries = job.log.iter().filter_map(StepEntry::from_entry);
    entries
        .map(|entry| (entry.step, entry.output.map_or_else(String::new, |o| o.to_string())))
        .collect()
}

async fn e1_a_workflow_gives_the_same_as_code_and_as_data(scene: Scene) {
    let docs = Docs::default();
    let code = drained(&scene, &docs, "as-code", r#"{"start":41}"#).await;
    let data = drained(&scene, &docs, "as-data", r#"{"start":41}"#).await;
    assert_eq!(
        (code.state, data.state),
        (JobState::Completed, JobState::Completed),
        "{:?}",
        data.error
    );
    assert_eq!(code.output.as_ref().unwrap().as_str(), r#"{"sum":142}"#);
    assert_eq!(code.output, data.output);
    assert_eq!(steps(&code), steps(&data));
    assert_eq!(docs.len(), 4, "each step ran once");
}

async fn e2_a_failing_step_of_a_data_workflow_is_repeated_as_often_as_its_task_says(scene: Scene) {
    let docs = Docs::default();
    let job = drained(&scene, &docs, "failing", "{}").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 4));
    assert_eq!((docs.count("add"), docs.count("breaks")), (1, 4));
}

async fn a_step_that_completes_the_job_ends_it(scene: Scene) {
    let docs = Docs::default();
    let job = drained(&scene, &docs, "as-data", r#"{"start":41}"#).await;
    assert_eq!(steps(&job).len(), 2, "the step after it did not run");
    // Where the condition does not hold, the step is skipped and the last one gives the output.
    let job = drained(&scene, &docs, "as-data", r#"{"start":1}"#).await;
    assert_eq!(job.output.unwrap().as_str(), r#"{"sum":0}"#);
}
