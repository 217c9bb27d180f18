//! Workflows that are data, against the same workflow as code.
#![cfg(feature = "flow")]

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use queue::{
    Backoff, DynCallback, DynTask, Failure, JobCtx, JobError, JobState, Pass, Payload, State,
    StepEntry, Success, Task, TaskError, TaskOptions, TaskResult, Wf, Worker, WorkerBuilder,
    core::NewJob,
    flow::{Flow, FlowWorkflow, Step},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Scene, eventually};

crate::on_every_store!(
    e1_a_workflow_gives_the_same_as_code_and_as_data,
    e2_a_failing_step_of_a_data_workflow_is_repeated_as_often_as_its_task_says,
    a_data_workflow_tells_callbacks_of_its_steps_and_of_itself,
    a_step_that_completes_the_job_ends_it,
    a_flow_whose_steps_need_each_other_is_refused_by_name,
    no_step_of_a_data_workflow_starts_after_a_final_failure,
    no_step_of_a_data_workflow_starts_after_the_one_that_completes_the_job,
);

crate::on_every_store_by_the_clock!(
    a_step_of_a_data_workflow_waits_for_the_backoff_of_its_task_and_logs_each_attempt,
    a_final_failure_ends_a_data_workflow_at_once_although_a_sibling_waits_for_a_retry,
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

fn worker(scene: &Scene, docs: &Docs) -> WorkerBuilder {
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
}

async fn drained(scene: &Scene, docs: &Docs, kind: &'static str, input: &str) -> queue::Job {
    drained_by(worker(scene, docs), scene, kind, input).await
}

async fn drained_by(
    worker: WorkerBuilder,
    scene: &Scene,
    kind: &'static str,
    input: &str,
) -> queue::Job {
    let job = NewJob::new(kind, Payload::from_text(input).unwrap());
    let id = job.id;
    scene.queue.insert(vec![job]).await.unwrap();
    worker.build().unwrap().drain(Pass::new()).await.unwrap();
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

async fn a_data_workflow_tells_callbacks_of_its_steps_and_of_itself(scene: Scene) {
    struct Audit(Docs);
    impl DynCallback for Audit {
        fn fail(
            &self,
            _: JobCtx,
            _: Payload,
            error: JobError,
        ) -> BoxFuture<'static, TaskResult<()>> {
            self.0.write(format!("failing failed, last: {}", error.is_final));
            Box::pin(std::future::ready(Ok(())))
        }
    }
    let docs = Docs::default();
    let worker = worker(&scene, &docs)
        .on_success(|done: Success<Add>, State(docs): State<Docs>, ctx: JobCtx| async move {
            docs.write(format!("{:?} gave {}", ctx.step(), done.output.sum));
            Ok(())
        })
        .on_fail(|failed: Failure<Breaks>, State(docs): State<Docs>, ctx: JobCtx| async move {
            docs.write(format!("{:?} failed, last: {}", ctx.step(), failed.error.is_final));
            Ok(())
        })
        .dyn_callback("failing", Audit(docs.clone()));
    let job = drained_by(worker, &scene, "failing", "{}").await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 4));
    let mut told = vec!["add".to_owned(), "Some(\"one\") gave 2".to_owned()];
    for last in [false, false, false, true] {
        told.push("breaks".to_owned());
        told.push(format!("Some(\"two\") failed, last: {last}"));
        told.push(format!("failing failed, last: {last}"));
    }
    assert_eq!(docs.all(), told);
}

async fn a_step_that_completes_the_job_ends_it(scene: Scene) {
    let docs = Docs::default();
    let job = drained(&scene, &docs, "as-data", r#"{"start":41}"#).await;
    assert_eq!(steps(&job).len(), 2, "the step after it did not run");
    // Where the condition does not hold, the step is skipped and the last one gives the output.
    let job = drained(&scene, &docs, "as-data", r#"{"start":1}"#).await;
    assert_eq!(job.output.unwrap().as_str(), r#"{"sum":0}"#);
}

async fn a_flow_whose_steps_need_each_other_is_refused_by_name(scene: Scene) {
    let circle = r#"{"steps": [
        {"id": "a", "task": "add", "input": {"left": 1, "right": "{{ steps.c.output.sum }}"}},
        {"id": "b", "task": "add", "needs": ["a"], "input": {"left": 1, "right": 1}},
        {"id": "c", "task": "add", "needs": ["b"], "input": {"left": 1, "right": 1}}
    ]}"#;
    let flow: Flow = serde_json::from_str(circle).unwrap();
    let error = FlowWorkflow::new("circle", &flow, ["add"]).unwrap_err().to_string();
    assert_eq!(error, "steps need each other in a circle: a needs c needs b needs a");
    assert!(scene.queue.tally(queue::JobFilter::all()).await.unwrap().is_empty());
}

async fn a_step_of_a_data_workflow_waits_for_the_backoff_of_its_task_and_logs_each_attempt(
    scene: Scene,
) {
    const MINUTE: Duration = Duration::from_secs(60);
    struct Flaky(Docs);
    impl DynTask for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }
        fn options(&self) -> TaskOptions {
            TaskOptions::new().retries(3).backoff(Backoff::exponential(MINUTE))
        }
        fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
            self.0.write("flaky");
            let failed = self.0.count("flaky") < 3;
            Box::pin(async move { if failed { Err(TaskError::new("not yet")) } else { Ok(input) } })
        }
    }
    let docs = Docs::default();
    let flow = r#"{"steps": [
        {"id": "one", "task": "add", "input": {"left": 1, "right": 1}},
        {"id": "two", "task": "flaky", "input": "{{ steps.one.output }}"}
    ]}"#;
    let flow: Flow = serde_json::from_str(flow).unwrap();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(add)
        .dyn_task(Flaky(docs.clone()))
        .dyn_workflow(FlowWorkflow::new("patient", &flow, ["add", "flaky"]).unwrap())
        .build()
        .unwrap();
    let job = NewJob::new("patient", Payload::null());
    let id = job.id;
    scene.queue.insert(vec![job]).await.unwrap();
    for wait in [MINUTE, 2 * MINUTE] {
        worker.drain(Pass::new()).await.unwrap();
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.run_at), (JobState::Waiting, scene.clock.now().plus(wait)));
        let error: queue::JobError = job.error.unwrap().to().unwrap();
        assert_eq!((error.step.as_deref(), error.message.as_str()), (Some("two"), "not yet"));
        scene.clock.advance(wait);
    }
    worker.drain(Pass::new()).await.unwrap();
    let job = scene.queue.job(id).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Completed, 3));
    let logged: Vec<_> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    let logged: Vec<_> = logged.iter().map(|step| (step.step.as_str(), step.attempt)).collect();
    assert_eq!(logged, [("one", 1), ("two", 1), ("two", 2), ("two", 3)]);
    assert_eq!(docs.count("add"), 1);
}

/// Fails for good at once.
#[derive(Serialize, Deserialize, Task)]
#[task(name = "refuses", retries = 0)]
struct Refuses {}

/// Fails, and may fail again an hour later.
#[derive(Serialize, Deserialize, Task)]
#[task(name = "patient", retries = 3, backoff(fixed = "1h"))]
struct Patient {}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "both-as-code")]
struct BothAsCode {}

async fn a_final_failure_ends_a_data_workflow_at_once_although_a_sibling_waits_for_a_retry(
    scene: Scene,
) {
    let docs = Docs::default();
    let both = r#"{"steps": [{"id": "a", "task": "refuses"}, {"id": "b", "task": "patient"}]}"#;
    let both: Flow = serde_json::from_str(both).unwrap();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(|_: Refuses, State(docs): State<Docs>| async move {
            docs.write("a");
            Err::<(), _>(TaskError::new("never"))
        })
        .task(|_: Patient, State(docs): State<Docs>| async move {
            docs.write("b");
            Err::<(), _>(TaskError::new("not yet"))
        })
        .workflow(|_: BothAsCode, wf: Wf| async move {
            let (a, b) = (wf.task("a", Refuses {}), wf.task("b", Patient {}));
            futures::future::try_join(a.into_future(), b.into_future()).await?;
            Ok(())
        })
        .dyn_workflow(FlowWorkflow::new("both-as-data", &both, ["refuses", "patient"]).unwrap())
        .build()
        .unwrap();
    let mut logs = Vec::new();
    for kind in ["both-as-code", "both-as-data"] {
        let job = NewJob::new(kind, Payload::from_text("{}").unwrap());
        let id = job.id;
        scene.queue.insert(vec![job]).await.unwrap();
        worker.drain(Pass::new()).await.unwrap();
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1), "{kind}");
        let error: queue::JobError = job.error.as_ref().unwrap().to().unwrap();
        assert_eq!((error.step.as_deref(), error.is_final), (Some("a"), true), "{kind}");
        let logged = job.log.iter().filter_map(StepEntry::from_entry);
        logs.push(logged.map(|step| (step.step, step.state, step.attempt)).collect::<Vec<_>>());
    }
    assert_eq!(logs[0].len(), 2);
    assert_eq!(logs[0], logs[1]);
    assert_eq!((docs.count("a"), docs.count("b")), (2, 2));
}

/// Writes its doc; waits until it is let go on, or fails, where its name says so.
struct Noted {
    name: &'static str,
    docs: Docs,
    go_on: Arc<Notify>,
}

impl DynTask for Noted {
    fn name(&self) -> &str {
        self.name
    }
    fn options(&self) -> TaskOptions {
        TaskOptions::new().retries(0)
    }
    fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let (name, go_on) = (self.name, self.go_on.clone());
        self.docs.write(name);
        Box::pin(async move {
            match name {
                "fails" => return Err(TaskError::new("never")),
                "long" => go_on.notified().await,
                _ => {}
            }
            Ok(input)
        })
    }
}

/// Runs a flow whose first step fails, while another one runs and a third makes a fourth ready: that one waits, because the
/// failure is about to be shown, and must not start.
async fn ended_while_a_step_waits(scene: &Scene, long: Step) -> (queue::Job, Docs) {
    let (docs, go_on) = (Docs::default(), Arc::new(Notify::new()));
    let names = ["fails", "short", "long", "late"];
    let flow = Flow::new([
        Step::new("a", "fails"),
        Step::new("c", "short"),
        long,
        Step::new("b", "late").needs(["c"]),
    ]);
    let mut worker = Worker::new(scene.queue.clone())
        .dyn_workflow(FlowWorkflow::new("waiting", &flow, names).unwrap());
    for name in names {
        worker = worker.dyn_task(Noted { name, docs: docs.clone(), go_on: go_on.clone() });
    }
    let worker = worker.build().unwrap();
    let job = NewJob::new("waiting", Payload::null());
    let id = job.id;
    scene.queue.insert(vec![job]).await.unwrap();
    // What the long step returns is written later than the end of the short one was acknowledged: by then the late one waits.
    let end = async {
        eventually("the short step is logged", || async {
            let job = scene.queue.job(id).await.unwrap().unwrap();
            job.log.iter().filter_map(StepEntry::from_entry).any(|step| step.step == "c")
        })
        .await;
        go_on.notify_one();
    };
    let (summary, ()) = tokio::join!(worker.drain(Pass::new()), end);
    summary.unwrap();
    (scene.queue.job(id).await.unwrap().unwrap(), docs)
}

async fn no_step_of_a_data_workflow_starts_after_a_final_failure(scene: Scene) {
    let (job, docs) = ended_while_a_step_waits(&scene, Step::new("d", "long")).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    let error: queue::JobError = job.error.unwrap().to().unwrap();
    assert_eq!(error.step.as_deref(), Some("a"));
    assert_eq!(docs.all(), ["fails", "short", "long"]);
}

async fn no_step_of_a_data_workflow_starts_after_the_one_that_completes_the_job(scene: Scene) {
    let long = Step::new("d", "long").input("done".into()).completing_the_job();
    let (job, docs) = ended_while_a_step_waits(&scene, long).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1), "{:?}", job.error);
    assert_eq!(job.output.unwrap().as_str(), r#""done""#);
    assert_eq!(docs.all(), ["fails", "short", "long"]);
}
