use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use queue_core::{Job, MemoryStore, NewJob};
use serde_json::json;

use super::*;
use crate::{JobState, Pass, Queue, StepEntry, Worker, flow::Step};

/// Fails so often before it returns its input.
struct Flaky {
    name: &'static str,
    failures: AtomicU32,
}

impl DynTask for Flaky {
    fn name(&self) -> &str {
        self.name
    }

    fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let left = self.failures.load(Ordering::SeqCst);
        self.failures.store(left.saturating_sub(1), Ordering::SeqCst);
        async move { if left > 0 { Err(TaskError::new("flaky")) } else { Ok(input) } }.boxed()
    }
}

/// Runs one job of the flow to its end; the tasks are `echo` and `flaky`.
async fn run(flow: Flow, failures: u32, input: &str) -> Job {
    let store: Arc<dyn queue_core::JobStore> = Arc::new(MemoryStore::new());
    let queue = Queue::new(store).unwrap();
    let workflow = FlowWorkflow::new("w", &flow, ["echo", "flaky"]).unwrap();
    let worker = Worker::new(queue.clone())
        .dyn_task(EchoTask::new("echo"))
        .dyn_task(Flaky { name: "flaky", failures: failures.into() })
        .dyn_workflow(workflow)
        .build()
        .unwrap();
    let job = NewJob::new("w", Payload::from_text(input).unwrap());
    let id = job.id;
    queue.insert(vec![job]).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    queue.job(id).await.unwrap().unwrap()
}

fn entries(job: &Job) -> Vec<(String, u32, bool)> {
    let steps = job.log.iter().filter_map(StepEntry::from_entry);
    steps.map(|step| (step.step, step.attempt, step.error.is_none())).collect()
}

#[tokio::test]
async fn each_step_is_a_step_of_the_job_under_its_id_and_task() {
    let flow = Flow::new([
        Step::new("a", "echo").input(json!({"n": "{{ input.n }}"})),
        Step::new("b", "flaky").input(json!("{{ steps.a.output.n }}")),
    ]);
    let job = run(flow, 0, r#"{"n": 7}"#).await;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(job.output.as_ref().unwrap().as_str(), "7");
    let steps: Vec<StepEntry> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    assert_eq!(steps.len(), 2);
    assert_eq!((steps[1].step.as_str(), steps[1].task.as_str()), ("b", "flaky"));
    assert_eq!(steps[1].input.as_ref().unwrap().as_str(), "7");
}

#[tokio::test]
async fn a_failed_step_is_retried_within_its_budget_and_finished_ones_are_restored() {
    let flow =
        || Flow::new([Step::new("a", "echo"), Step::new("b", "flaky").needs(["a"]).retries(2)]);
    let step = |id: &str, attempt, well| (id.to_owned(), attempt, well);
    let job = run(flow(), 2, "1").await;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(
        entries(&job),
        [step("a", 1, true), step("b", 1, false), step("b", 2, false), step("b", 3, true)]
    );
    let job = run(flow(), 3, "1").await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(entries(&job).len(), 4);
}

#[tokio::test]
async fn the_flow_s_retries_are_a_ceiling_and_the_budget_of_steps_that_say_nothing() {
    let with = |retries, step: Step| Flow { retries, ..Flow::new([step]) };
    let job = run(with(Some(1), Step::new("b", "flaky")), 1, "1").await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
    let job = run(with(Some(0), Step::new("b", "flaky").retries(5)), 1, "1").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    let job = run(with(None, Step::new("b", "flaky")), 1, "1").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
}

#[tokio::test]
async fn a_step_that_completes_the_job_ends_it_although_a_sibling_waits_for_a_retry() {
    let flow = Flow::new([
        Step::new("b", "flaky").retries(3),
        Step::new("a", "echo").completing_the_job(),
    ]);
    let job = run(flow, u32::MAX, "1").await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    assert_eq!(job.output.as_ref().unwrap().as_str(), "1");
    let mut entries = entries(&job);
    entries.sort();
    assert_eq!(entries, [("a".to_owned(), 1, true), ("b".to_owned(), 1, false)]);
}

#[tokio::test]
async fn a_fault_of_the_flow_itself_is_final() {
    let flow = Flow {
        retries: Some(5),
        ..Flow::new([Step::new("a", "echo").input(json!("{{ input.x }}"))])
    };
    let job = run(flow.clone(), 0, "{}").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    let error: queue_core::JobError = job.error.unwrap().to().unwrap();
    assert_eq!(error.name, "flow");
    assert!(error.message.contains("`input.x` leads nowhere"), "{error}");
    // Valid JSON, but no text that a template could put anywhere.
    let job = run(flow, 0, r#"{"x": "\ud800"}"#).await;
    let error: queue_core::JobError = job.error.unwrap().to().unwrap();
    assert!(error.message.starts_with("the job's input cannot be used in a flow"), "{error}");
}

#[tokio::test]
async fn two_hundred_steps_run_at_once_and_each_is_logged_once() {
    let ids: Vec<String> = (0..200).map(|n| format!("s{n}")).collect();
    let mut steps: Vec<Step> =
        (0..200).map(|n| Step::new(&ids[n], "echo").input(json!(n))).collect();
    let outputs: Vec<String> =
        ids.iter().map(|id| format!("{{{{ steps.{id}.output }}}}")).collect();
    steps.push(Step::new("all", "echo").input(json!(outputs)));
    let job = run(Flow::new(steps), 0, "null").await;
    let output: Vec<u32> = job.output.as_ref().unwrap().to().unwrap();
    assert_eq!(output, (0..200).collect::<Vec<_>>());
    let steps: std::collections::BTreeSet<String> =
        entries(&job).into_iter().map(|(step, ..)| step).collect();
    assert_eq!((job.log.len(), steps.len()), (201, 201));
}
