use std::sync::atomic::{AtomicU32, Ordering};

use queue::{
    Backoff, JobState, Pass, Queue, State, StepEntry, StepState, Task, TaskError, TaskOptions,
    TaskResult, Wf, Worker,
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    e1_a_later_step_uses_the_stored_output_of_an_earlier_one,
    e2_only_the_failing_step_is_repeated_as_often_as_its_task_says,
    e3_without_retries_there_is_one_execution,
    e4_a_task_with_zero_retries_fails_the_job_whatever_the_workflow_allows,
    e10_an_error_of_the_body_is_repeated_as_often_as_the_workflow_says,
    a_workflow_ceiling_of_zero_makes_the_first_failure_final,
    a_workflow_ceiling_bounds_tasks_that_ask_for_more,
    a_workflow_ceiling_is_one_for_all_tasks_of_the_job,
    the_budget_of_a_call_goes_before_that_of_its_task,
    the_workflow_is_the_default_budget_of_tasks_that_say_nothing,
    a_body_error_is_final_at_once_without_workflow_retries,
    a_panic_fails_the_job_with_its_message,
    a_fatal_error_is_not_retried,
    every_error_names_its_step_and_attempt,
    a_caught_final_failure_does_not_fail_the_job,
    a_failure_that_a_lower_budget_makes_the_last_is_final,
);

crate::on_every_store_by_the_clock!(
    a_retry_waits_for_its_backoff,
    a_backoff_without_a_number_of_retries_is_no_retry,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "first", output = u32)]
struct First;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "always-fails", output = u32, retries = 3)]
struct AlwaysFails;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "fails-once-said", output = u32)]
struct SaysNothing;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "no-retries", output = u32, retries = 0)]
struct NoRetries;

async fn first(_: First, State(docs): State<Docs>) -> TaskResult<u32> {
    docs.write("first");
    Ok(20)
}

async fn always_fails(_: AlwaysFails, State(docs): State<Docs>) -> TaskResult<u32> {
    docs.write("always-fails");
    Err(TaskError::new("no luck"))
}

async fn says_nothing(_: SaysNothing, State(docs): State<Docs>) -> TaskResult<u32> {
    docs.write("says-nothing");
    Err(TaskError::new("no luck"))
}

async fn no_retries(_: NoRetries, State(docs): State<Docs>) -> TaskResult<u32> {
    docs.write("no-retries");
    Err(TaskError::new("no luck"))
}

/// Declares a workflow type with or without `retries`.
macro_rules! workflow {
    ($name:ident, $slug:literal $(, $retries:literal)?) => {
        #[derive(Serialize, Deserialize, Task)]
        #[task(name = $slug, output = u32 $(, retries = $retries)?)]
        struct $name;
    };
}

fn worker(queue: &Queue, docs: &Docs) -> queue::WorkerBuilder {
    Worker::new(queue.clone())
        .state(docs.clone())
        .task(first)
        .task(always_fails)
        .task(says_nothing)
        .task(no_retries)
}

/// Enqueues a job, drains, and returns the job.
async fn drained<T: Task>(worker: queue::WorkerBuilder, job: T) -> queue::Job {
    let worker = worker.build().unwrap();
    let handle = worker.queue().enqueue(job).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    handle.job().await.unwrap().unwrap()
}

fn steps(job: &queue::Job) -> Vec<(String, StepState)> {
    job.log
        .iter()
        .filter_map(StepEntry::from_entry)
        .map(|entry| (entry.step, entry.state))
        .collect()
}

async fn e1_a_later_step_uses_the_stored_output_of_an_earlier_one(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "double", output = u32)]
    struct Double(u32);
    workflow!(Both, "both");

    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .task(|Double(n): Double, State(docs): State<Docs>| async move {
            docs.write("double");
            Ok(2 * n)
        })
        .workflow(|_: Both, wf: Wf| async move {
            let n = wf.task("one", First).await?;
            wf.task("two", Double(n)).await
        });
    let job = drained(worker, Both).await;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(job.output.as_ref().unwrap().as_str(), "40");
    assert_eq!(docs.all(), ["first", "double"]);
    assert_eq!(
        steps(&job),
        [("one".into(), StepState::Completed), ("two".into(), StepState::Completed)]
    );
}

async fn e2_only_the_failing_step_is_repeated_as_often_as_its_task_says(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let bodies = docs.clone();
    let worker = worker(&scene.queue, &docs).workflow(move |_: Flow, wf: Wf| {
        let bodies = bodies.clone();
        async move {
            bodies.write("body");
            wf.task("one", First).await?;
            wf.task("two", AlwaysFails).await
        }
    });
    let job = drained(worker, Flow).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!((docs.count("first"), docs.count("always-fails"), docs.count("body")), (1, 4, 4));
    assert_eq!(job.attempt, 4);
    let failed = steps(&job).iter().filter(|(_, state)| *state == StepState::Failed).count();
    assert_eq!((job.log.len(), failed), (5, 4), "one completed and four failed entries");
}

async fn e3_without_retries_there_is_one_execution(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("only", SaysNothing).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, job.attempt, docs.len()), (JobState::Failed, 1, 1));
}

async fn e4_a_task_with_zero_retries_fails_the_job_whatever_the_workflow_allows(scene: Scene) {
    workflow!(Flow, "flow", 2);
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("only", NoRetries).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, job.attempt, docs.len()), (JobState::Failed, 1, 1));
}

async fn e10_an_error_of_the_body_is_repeated_as_often_as_the_workflow_says(scene: Scene) {
    workflow!(Flow, "flow", 1);
    let docs = Docs::default();
    let bodies = docs.clone();
    let worker = worker(&scene.queue, &docs).workflow(move |_: Flow| {
        bodies.write("body");
        async move { Err::<u32, _>(TaskError::new("thrown by the body")) }
    });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, job.attempt, docs.count("body")), (JobState::Failed, 2, 2));
    let error: queue::JobError = job.error.unwrap().to().unwrap();
    assert_eq!(
        (error.message.as_str(), error.attempt, error.is_final),
        ("thrown by the body", 2, true)
    );
}

async fn a_workflow_ceiling_of_zero_makes_the_first_failure_final(scene: Scene) {
    workflow!(Flow, "flow", 0);
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("only", AlwaysFails).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, docs.len()), (JobState::Failed, 1));
}

async fn a_workflow_ceiling_bounds_tasks_that_ask_for_more(scene: Scene) {
    workflow!(Flow, "flow", 1);
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("only", AlwaysFails).retries(9).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, docs.len()), (JobState::Failed, 2));
}

async fn a_workflow_ceiling_is_one_for_all_tasks_of_the_job(scene: Scene) {
    workflow!(Flow, "flow", 1);
    let docs = Docs::default();
    let firsts = docs.clone();
    let worker = worker(&scene.queue, &docs).workflow(move |_: Flow, wf: Wf| {
        let firsts = firsts.clone();
        async move {
            let first = wf.run("fails once", || async {
                firsts.write("fails once");
                match firsts.count("fails once") {
                    1 => Err(TaskError::new("not yet")),
                    _ => Ok(1),
                }
            });
            let first: u32 = first.retries(9).await?;
            Ok(first + wf.task("second", AlwaysFails).retries(9).await?)
        }
    });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 2));
    assert_eq!((docs.count("fails once"), docs.count("always-fails")), (2, 1));
}

async fn the_budget_of_a_call_goes_before_that_of_its_task(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("more", NoRetries).retries(2).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, job.attempt, docs.len()), (JobState::Failed, 3, 3));
}

async fn the_workflow_is_the_default_budget_of_tasks_that_say_nothing(scene: Scene) {
    workflow!(Flow, "flow", 2);
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("only", SaysNothing).await });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, docs.len()), (JobState::Failed, 3));
}

async fn a_body_error_is_final_at_once_without_workflow_retries(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let bodies = docs.clone();
    let worker = worker(&scene.queue, &docs).workflow(move |_: Flow, wf: Wf| {
        let bodies = bodies.clone();
        async move {
            bodies.write("body");
            wf.task("one", First).await?;
            Err::<u32, _>(TaskError::new("no"))
        }
    });
    let job = drained(worker, Flow).await;
    assert_eq!((job.state, docs.count("body")), (JobState::Failed, 1));
}

async fn a_retry_waits_for_its_backoff(scene: Scene) {
    const WAIT: std::time::Duration = std::time::Duration::from_secs(3_600);

    #[derive(Serialize, Deserialize)]
    struct Slow;
    impl Task for Slow {
        const NAME: &'static str = "slow-retry";
        type Output = ();
        fn options() -> TaskOptions {
            TaskOptions::new().retries(1).backoff(Backoff::exponential(WAIT))
        }
    }
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Slow| async { Err::<(), _>(TaskError::new("later")) })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Slow).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Waiting, 1));
    assert_eq!(job.run_at, scene.clock.now().plus(WAIT));
    scene.clock.advance(WAIT);
    assert_eq!(worker.run(Pass::new()).await.unwrap().failed(), 1);
}

async fn a_backoff_without_a_number_of_retries_is_no_retry(scene: Scene) {
    workflow!(Flow, "flow");
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "waits", output = u32, backoff(fixed = "1s"))]
    struct Waits;
    let build = || {
        let worker = Worker::new(scene.queue.clone());
        let worker = worker.task(|_: Waits| async { Err::<u32, _>(TaskError::new("no luck")) });
        worker.workflow(|_: Flow, wf: Wf| async move { wf.task("waits", Waits).await })
    };
    for job in [drained(build(), Waits).await, drained(build(), Flow).await] {
        assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    }
}

async fn a_panic_fails_the_job_with_its_message(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "panics")]
    struct Panics;
    let worker = Worker::new(scene.queue.clone()).task(|_: Panics| async {
        if true {
            panic!("the {} broke", "handle");
        }
        Ok(())
    });
    let job = drained(worker, Panics).await;
    let error: queue::JobError = job.error.unwrap().to().unwrap();
    assert_eq!((job.state, error.name.as_str()), (JobState::Failed, "panic"));
    assert_eq!(error.message, "panicked: the handle broke");
}

async fn a_fatal_error_is_not_retried(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "fatal", retries = 5)]
    struct Fatal;
    let worker = Worker::new(scene.queue.clone()).task(|_: Fatal| async {
        Err::<(), _>(TaskError::fatal(TaskError::new("broken for good")))
    });
    let job = drained(worker, Fatal).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
}

async fn every_error_names_its_step_and_attempt(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs).workflow(|_: Flow, wf: Wf| async move {
        let read = std::fs::read("/no/such/file");
        wf.run("read", || async { read.map(|bytes| bytes.len() as u32) }).attempts(2).await
    });
    let job = drained(worker, Flow).await;
    let error: queue::JobError = job.error.unwrap().to().unwrap();
    assert_eq!(error.step.as_deref(), Some("read"));
    assert_eq!((error.attempt, error.is_final, error.cancelled), (2, true, false));
    assert!(error.message.contains("No such file"), "{}", error.message);
}

async fn a_failure_that_a_lower_budget_makes_the_last_is_final(scene: Scene) {
    workflow!(Flow, "flow");
    let docs = Docs::default();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    for retries in [3, 0] {
        let worker = worker(&scene.queue, &docs).workflow(move |_: Flow, wf: Wf| async move {
            wf.task("only", AlwaysFails).retries(retries).await
        });
        worker.build().unwrap().run(Pass::new()).await.unwrap();
    }
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, docs.len()), (JobState::Failed, 1));
    let error: queue::JobError = job.error.unwrap().to().unwrap();
    assert_eq!(
        (error.step.as_deref(), error.message.as_str(), error.is_final),
        (Some("only"), "no luck", true)
    );
}

async fn a_caught_final_failure_does_not_fail_the_job(scene: Scene) {
    workflow!(Flow, "flow");
    static CAUGHT: AtomicU32 = AtomicU32::new(0);
    let docs = Docs::default();
    let worker = worker(&scene.queue, &docs).workflow(|_: Flow, wf: Wf| async move {
        if wf.task("shaky", NoRetries).await.is_err() {
            CAUGHT.fetch_add(1, Ordering::Relaxed);
        }
        wf.task("one", First).await
    });
    let job = drained(worker, Flow).await;
    assert_eq!(job.state, JobState::Completed);
    assert!(CAUGHT.load(Ordering::Relaxed) >= 1);
    assert_eq!(
        steps(&job),
        [("shaky".into(), StepState::Failed), ("one".into(), StepState::Completed)]
    );
}
