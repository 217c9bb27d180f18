//! Handlers that are no Rust: programs and HTTP endpoints.
#![cfg(all(unix, feature = "program", feature = "endpoint"))]

use std::time::Duration;

use axum::{Json, Router, extract::State as Of, http::StatusCode, routing::post};
use futures::future::join_all;
use queue::{
    Job, JobError, JobResult, JobState, Pass, Payload, StepEntry, TaskOptions, UnknownKinds,
    Worker, WorkerBuilder,
    core::NewJob,
    endpoint::{Endpoint, EndpointTask},
    flow::{Flow, FlowWorkflow},
    program::{Program, ProgramTask},
};
use tokio::net::TcpListener;

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    programs_and_endpoints_handle_jobs_and_steps_as_code_does,
    a_program_gets_its_arguments_as_they_are_and_no_shell,
    a_program_that_fails_is_retried_and_what_it_said_is_kept,
    a_program_beyond_its_limits_is_ended_and_its_slot_is_free,
    trouble_of_an_endpoint_is_retried_and_its_refusal_is_final,
    nothing_outside_is_run_that_the_worker_was_not_given,
);

fn sh(script: &str) -> Program {
    Program::new(["sh", "-c", script]).unwrap()
}

fn program(name: &str, program: Program, retries: u32) -> ProgramTask {
    ProgramTask::new(name, program).with_options(TaskOptions::new().retries(retries))
}

/// A server on a port of its own, until the test's runtime ends. It says what it was asked.
async fn server(docs: &Docs) -> String {
    let work = |Of(docs): Of<Docs>, Json(input): Json<serde_json::Value>| async move {
        docs.write(format!("work {input}"));
        Json(serde_json::json!({ "worked": input }))
    };
    let busy = |Of(docs): Of<Docs>| async move {
        docs.write("busy");
        match docs.count("busy") {
            1 => (StatusCode::SERVICE_UNAVAILABLE, "come again"),
            _ => (StatusCode::OK, r#""at last""#),
        }
    };
    let refuse = |Of(docs): Of<Docs>| async move {
        docs.write("refuse");
        (StatusCode::UNPROCESSABLE_ENTITY, "not like this")
    };
    let router = Router::new()
        .route("/work", post(work))
        .route("/busy", post(busy))
        .route("/refuse", post(refuse))
        .with_state(docs.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{place}")
}

fn endpoint(name: &str, url: &str, retries: u32) -> EndpointTask {
    let options = TaskOptions::new().retries(retries);
    EndpointTask::new(name, Endpoint::new(url).unwrap()).with_options(options)
}

/// Runs these jobs one after the other until nothing is left, and says why attempts failed that were made again.
async fn ran<const N: usize>(
    scene: &Scene,
    tasks: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    jobs: [(&'static str, &str); N],
) -> ([Job; N], Vec<JobError>) {
    let jobs = jobs.map(|(kind, input)| NewJob::new(kind, Payload::from_text(input).unwrap()));
    let ids = jobs.each_ref().map(|job| job.id);
    scene.queue.insert(jobs.into()).await.unwrap();
    let both: Flow = serde_json::from_str(BOTH).unwrap();
    let worker = Worker::new(scene.queue.clone())
        .unknown_kinds(UnknownKinds::Fail)
        .dyn_workflow(FlowWorkflow::new("both", &both, ["echo", "work"]).unwrap());
    let worker = tasks(worker).build().unwrap();
    let summary = worker.drain(Pass::new().sequential()).await.unwrap();
    let again = summary.jobs.into_iter().filter_map(|job| match job.result {
        JobResult::WillRetry { error, .. } => Some(error),
        _ => None,
    });
    let stored = join_all(ids.map(|id| scene.queue.job(id))).await;
    let stored: Vec<Job> = stored.into_iter().map(|job| job.unwrap().unwrap()).collect();
    (stored.try_into().unwrap(), again.collect())
}

/// What one hands to the other.
const BOTH: &str = r#"{"steps": [
    {"id": "inside", "task": "echo", "input": {"n": "{{ input.n }}"}},
    {"id": "far", "task": "work", "input": "{{ steps.inside.output }}", "completes_job": true}
]}"#;

fn error(job: &Job) -> JobError {
    job.error.as_ref().unwrap().to().unwrap()
}

fn output(job: &Job) -> &str {
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    job.output.as_ref().unwrap().as_str()
}

async fn programs_and_endpoints_handle_jobs_and_steps_as_code_does(scene: Scene) {
    let docs = Docs::default();
    let work = format!("{}/work", server(&docs).await);
    // Numbers as they were written, not as somebody read them.
    let input = r#"{"b":1e2,"a":[0.10]}"#;
    let tasks = |worker: WorkerBuilder| {
        worker.dyn_task(program("echo", sh("cat"), 0)).dyn_task(endpoint("work", &work, 0))
    };
    let jobs = [("echo", input), ("work", "7"), ("both", r#"{"n":8}"#)];
    let ([echo, far, both], _) = ran(&scene, tasks, jobs).await;
    assert_eq!(output(&echo), input);
    assert_eq!(output(&far), r#"{"worked":7}"#);
    assert_eq!(output(&both), r#"{"worked":{"n":8}}"#);
    let steps = both.log.iter().filter_map(StepEntry::from_entry);
    let steps: Vec<_> =
        steps.map(|step| (step.step, step.output.map(|output| output.to_string()))).collect();
    let logged = [("inside", r#"{"n":8}"#), ("far", r#"{"worked":{"n":8}}"#)]
        .map(|(step, output)| (step.to_owned(), Some(output.to_owned())));
    assert_eq!(steps, logged);
    assert_eq!(docs.all(), ["work 7", r#"work {"n":8}"#]);
}

async fn a_program_gets_its_arguments_as_they_are_and_no_shell(scene: Scene) {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let name = format!("'; touch {}; $(exit 1) *", made.display());
    let count = Program::new(["printf", "[\"%s\"]", "{{ input.name }}"]).unwrap();
    let input = serde_json::json!({ "name": name }).to_string();
    let tasks = |worker: WorkerBuilder| worker.dyn_task(program("count", count, 0));
    let ([job], _) = ran(&scene, tasks, [("count", &input)]).await;
    assert_eq!(output(&job), format!("[\"{name}\"]"));
    assert!(!made.exists());
}

async fn a_program_that_fails_is_retried_and_what_it_said_is_kept(scene: Scene) {
    let folder = tempfile::tempdir().unwrap();
    // It finds on the second try what the first one left.
    let script =
        r#"if [ -e tried ]; then echo '"done"'; else touch tried; echo no room >&2; exit 3; fi"#;
    let task = program("tries", sh(script).current_dir(folder.path()), 1);
    let ([job], failed) = ran(&scene, |worker| worker.dyn_task(task), [("tries", "null")]).await;
    assert_eq!((output(&job), job.attempt), (r#""done""#, 2));
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!(failed.name, "program-failed");
    assert!(failed.message.contains("no room") && failed.message.contains('3'), "{failed:?}");
}

async fn a_program_beyond_its_limits_is_ended_and_its_slot_is_free(scene: Scene) {
    let slow = sh("sleep 4; echo 1").timeout(Duration::from_millis(100));
    let loud = sh("echo '\"0123456789\"'").max_output(10);
    let tasks = |worker: WorkerBuilder| {
        worker
            .dyn_task(program("slow", slow, 0))
            .dyn_task(program("loud", loud, 3))
            .dyn_task(program("echo", sh("cat"), 0))
    };
    let jobs = [("slow", "null"), ("loud", "null"), ("echo", "1")];
    let ([slow, loud, echo], _) = ran(&scene, tasks, jobs).await;
    assert_eq!((slow.state, error(&slow).name.as_str()), (JobState::Failed, "program-timeout"));
    assert_eq!((loud.state, error(&loud).name.as_str()), (JobState::Failed, "program-output"));
    assert_eq!(loud.attempt, 1, "another try prints as much");
    assert_eq!(output(&echo), "1");
}

async fn trouble_of_an_endpoint_is_retried_and_its_refusal_is_final(scene: Scene) {
    let docs = Docs::default();
    let place = server(&docs).await;
    let tasks = |worker: WorkerBuilder| {
        worker.dyn_task(endpoint("busy", &format!("{place}/busy"), 1)).dyn_task(endpoint(
            "refuse",
            &format!("{place}/refuse"),
            3,
        ))
    };
    let ([busy, refuse], again) = ran(&scene, tasks, [("busy", "null"), ("refuse", "null")]).await;
    assert!(again.len() == 1 && again[0].message.contains("come again"), "{again:?}");
    assert_eq!((output(&busy), busy.attempt), (r#""at last""#, 2));
    assert_eq!((docs.count("busy"), docs.count("refuse")), (2, 1));
    let failed = error(&refuse);
    assert_eq!((refuse.state, failed.name.as_str()), (JobState::Failed, "endpoint-status"));
    assert!(
        failed.message.contains("422") && failed.message.contains("not like this"),
        "{failed:?}"
    );
}

async fn nothing_outside_is_run_that_the_worker_was_not_given(scene: Scene) {
    let docs = Docs::default();
    let place = server(&docs).await;
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let input =
        serde_json::json!({ "argv": ["touch", made], "url": format!("{place}/work"), "n": 1 });
    let input = input.to_string();
    // Jobs and workflows that are data name tasks; only a worker says what a task is.
    let jobs = [("program", &*input), ("both", &*input)];
    let ([program, both], _) = ran(&scene, |worker| worker, jobs).await;
    assert_eq!(error(&program).name, "unknown-task");
    assert_eq!((both.state, docs.len()), (JobState::Failed, 0));
    assert!(error(&both).message.contains("\"echo\""), "{:?}", both.error);
    assert!(!made.exists());
}
