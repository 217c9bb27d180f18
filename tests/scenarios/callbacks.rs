//! Who is told how a task or workflow ended, when, and what that cannot break.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use queue::{
    DynCallback, Failure, Job, JobCtx, JobError, JobState, Pass, Payload, State, StepEntry,
    Success, Task, TaskError, TaskResult, Wf, Worker, WorkerBuilder, core::EntryKind,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Fault, Scene};

crate::on_every_store!(
    a_success_is_told_after_it_is_recorded,
    each_failed_attempt_is_told_and_whether_it_was_the_last,
    steps_that_are_tasks_tell_of_themselves_and_their_workflow_of_itself,
    a_step_is_told_of_when_it_is_logged,
    a_caught_failure_of_a_step_is_told_once_it_is_recorded,
    what_goes_wrong_in_a_callback_is_logged_and_changes_nothing,
    a_callback_that_fails_of_a_deleted_job_changes_nothing,
    of_a_run_that_ends_in_a_cancellation_nothing_is_told,
    a_callback_that_was_cut_short_is_not_called_again,
    a_callback_of_a_job_whose_end_was_acknowledged_late_is_not_cut_short,
    a_dynamic_callback_is_told_of_both_ends_as_json,
    a_callback_that_cannot_be_called_is_refused_when_the_worker_is_built,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "mail", output = usize, retries = 2)]
struct Mail {
    to: String,
    fails: usize,
}

fn mail(to: &str, fails: usize) -> Mail {
    Mail { to: to.to_owned(), fails }
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = usize)]
struct Flow;

/// Fails as often as it is told to, and returns how often it ran.
async fn send(mail: Mail, State(docs): State<Docs>) -> TaskResult<usize> {
    let doc = format!("send {}", mail.to);
    docs.write(doc.as_str());
    match docs.count(&doc) {
        n if n <= mail.fails => Err(TaskError::new(format!("no {n}"))),
        n => Ok(n),
    }
}

/// The job as it is stored while a callback runs.
async fn stored(ctx: &JobCtx) -> Job {
    ctx.queue().job(ctx.id()).await.unwrap().unwrap()
}

async fn sent(done: Success<Mail>, State(docs): State<Docs>, ctx: JobCtx) -> TaskResult<()> {
    let state = stored(&ctx).await.state;
    docs.write(format!("sent {} {} {state}", done.input.to, done.output));
    Ok(())
}

async fn not_sent(failed: Failure<Mail>, State(docs): State<Docs>, ctx: JobCtx) -> TaskResult<()> {
    let Failure { input, error, .. } = failed;
    let state = stored(&ctx).await.state;
    let last = if error.is_final { "last" } else { "not the last" };
    docs.write(format!("not sent {} {:?} {last} {state}", input.to, error.message));
    Ok(())
}

fn worker(scene: &Scene, docs: &Docs) -> WorkerBuilder {
    let worker = Worker::new(scene.queue.clone()).state(docs.clone()).task(send);
    worker.on_success(sent).on_fail(not_sent)
}

/// Runs a job to its end.
async fn ran<T: Task>(worker: WorkerBuilder, job: T) -> Job {
    let worker = worker.build().unwrap();
    let handle = worker.queue().enqueue(job).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    handle.job().await.unwrap().unwrap()
}

async fn a_success_is_told_after_it_is_recorded(scene: Scene) {
    let docs = Docs::default();
    ran(worker(&scene, &docs), mail("Ada", 0)).await;
    assert_eq!(docs.all(), ["send Ada", "sent Ada 1 completed"]);
}

async fn each_failed_attempt_is_told_and_whether_it_was_the_last(scene: Scene) {
    let docs = Docs::default();
    ran(worker(&scene, &docs), mail("Ada", 9)).await;
    let told = [
        "send Ada",
        "not sent Ada \"no 1\" not the last waiting",
        "send Ada",
        "not sent Ada \"no 2\" not the last waiting",
        "send Ada",
        "not sent Ada \"no 3\" last failed",
    ];
    assert_eq!(docs.all(), told);
}

async fn steps_that_are_tasks_tell_of_themselves_and_their_workflow_of_itself(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(&scene, &docs)
        .workflow(|_: Flow, wf: Wf| async move {
            wf.task("first", mail("Ada", 0)).await?;
            wf.task("second", mail("Bob", 1)).await
        })
        .on_success(|done: Success<Flow>, State(docs): State<Docs>, ctx: JobCtx| async move {
            let step = ctx.step().map(ToOwned::to_owned);
            docs.write(format!("flow {} {step:?} {}", done.output, stored(&ctx).await.state));
            Ok(())
        })
        .on_fail(|failed: Failure<Flow>, State(docs): State<Docs>| async move {
            docs.write(format!("flow failed in {:?}", failed.error.step));
            Ok(())
        });
    ran(worker, Flow).await;
    let told = [
        "send Ada",
        "sent Ada 1 running",
        "send Bob",
        "not sent Bob \"no 1\" not the last waiting",
        "flow failed in Some(\"second\")",
        "send Bob",
        "sent Bob 2 running",
        "flow 2 None completed",
    ];
    assert_eq!(docs.all(), told, "a restored step is not told of again");
}

async fn a_step_is_told_of_when_it_is_logged(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(send)
        .on_success(|done: Success<Mail>, State(docs): State<Docs>, ctx: JobCtx| async move {
            let log = stored(&ctx).await.log;
            let logged: Vec<_> =
                log.iter().filter_map(StepEntry::from_entry).map(|entry| entry.step).collect();
            docs.write(format!("sent {}, logged {}", done.input.to, logged.join(" ")));
            Ok(())
        })
        .workflow(|_: Flow, wf: Wf| async move {
            wf.task("first", mail("Ada", 0)).await?;
            wf.task("second", mail("Bob", 0)).await
        });
    ran(worker, Flow).await;
    let told = ["send Ada", "sent Ada, logged first", "send Bob", "sent Bob, logged first second"];
    assert_eq!(docs.all(), told);
}

async fn a_caught_failure_of_a_step_is_told_once_it_is_recorded(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(&scene, &docs).workflow(|_: Flow, wf: Wf| async move {
        assert!(wf.task("caught", mail("Ada", 9)).retries(0).await.is_err());
        Ok(7)
    });
    assert_eq!(ran(worker, Flow).await.state, JobState::Completed);
    assert_eq!(docs.all(), ["send Ada", "not sent Ada \"no 1\" last completed"]);
}

fn lines(job: &Job) -> Vec<String> {
    let lines = job.log.iter().filter(|entry| entry.kind == EntryKind::Line);
    lines.map(|entry| entry.body.to::<String>().unwrap()).collect()
}

/// Callbacks of which the first fails, the second panics, and the third says that it was called.
fn troubled(worker: WorkerBuilder) -> WorkerBuilder {
    worker
        .on_success(|_: Success<Mail>| async { Err(TaskError::new("no ink")) })
        .on_success(|done: Success<Mail>| async move {
            assert!(done.output == 0, "no paper");
            Ok(())
        })
        .on_success(|_: Success<Mail>, ctx: JobCtx| async move { Ok(ctx.log("told").await?) })
        .on_fail(|_: Failure<Mail>| async { Err(TaskError::cancel("enough")) })
        .on_fail(|_: Failure<Mail>| async { panic!("no hope") })
}

async fn what_goes_wrong_in_a_callback_is_logged_and_changes_nothing(scene: Scene) {
    let docs = Docs::default();
    let plain = Worker::new(scene.queue.clone()).state(docs.clone()).task(send);
    let worker = troubled(plain)
        .workflow(|_: Flow, wf: Wf| async move { wf.task("step", mail("Bob", 1)).await })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(mail("Ada", 1)).await.unwrap();
    let flow = scene.queue.enqueue(Flow).await.unwrap();
    let summary = worker.drain(Pass::new()).await.unwrap();
    assert_eq!((summary.succeeded(), summary.jobs.len()), (2, 4), "{summary:?}");
    for id in [task.id(), flow.id()] {
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Completed, 2), "{:?}", job.error);
        let lines = lines(&job);
        let begins = [
            "on_fail of \"mail\" failed: enough",
            "on_fail of \"mail\" failed: panicked: no hope",
            "on_success of \"mail\" failed: no ink",
            "on_success of \"mail\" failed: panicked: no paper",
            "told",
        ];
        assert_eq!(lines, begins);
    }
}

async fn a_callback_that_fails_of_a_deleted_job_changes_nothing(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone()).state(docs.clone()).task(send);
    let worker = troubled(worker).build().unwrap();
    let handle = scene.queue.enqueue(mail("Ada", 0)).delete_on_complete().await.unwrap();
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert!(handle.job().await.unwrap().is_none());
}

async fn of_a_run_that_ends_in_a_cancellation_nothing_is_told(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "gives-up", output = usize, retries = 3)]
    struct GivesUp;

    let docs = Docs::default();
    let worker = worker(&scene, &docs)
        .task(|_: GivesUp, ctx: JobCtx| async move {
            if ctx.kind() == "gives-up" {
                return Err(TaskError::cancel("from inside"));
            }
            // Somebody cancels the job of the workflow while its step fails.
            let outcome = ctx.queue().cancel(ctx.id(), "from outside").await?;
            assert!(outcome.is_saved());
            Err(TaskError::new("no"))
        })
        .workflow(|_: Flow, wf: Wf| async move { wf.task("step", GivesUp).await })
        .on_fail(|failed: Failure<GivesUp>, State(docs): State<Docs>| async move {
            docs.write(failed.error.message);
            Ok(())
        })
        .on_fail(|failed: Failure<Flow>, State(docs): State<Docs>| async move {
            docs.write(failed.error.message);
            Ok(())
        })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(GivesUp).await.unwrap();
    let flow = scene.queue.enqueue(Flow).await.unwrap();
    worker.drain(Pass::new()).await.unwrap();
    for id in [task.id(), flow.id()] {
        assert_eq!(scene.queue.job(id).await.unwrap().unwrap().state, JobState::Cancelled);
    }
    assert_eq!(docs.all(), Vec::<String>::new());
}

async fn a_callback_that_was_cut_short_is_not_called_again(scene: Scene) {
    let (docs, begun) = (Docs::default(), Arc::new(Notify::new()));
    let told = begun.clone();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(send)
        .on_success(move |_: Success<Mail>, State(docs): State<Docs>| {
            let told = told.clone();
            async move {
                docs.write("told");
                told.notify_one();
                std::future::pending().await
            }
        })
        .grace(Duration::ZERO)
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(mail("Ada", 0)).await.unwrap();
    worker.run_until(begun.notified()).await.unwrap();
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Completed);
    assert!(worker.drain(Pass::new()).await.unwrap().jobs.is_empty());
    assert_eq!(docs.count("told"), 1);
}

async fn a_callback_of_a_job_whose_end_was_acknowledged_late_is_not_cut_short(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(send)
        .on_success(|_: Success<Mail>, State(docs): State<Docs>| async move {
            // Longer than the handler of a lost job may go on.
            tokio::time::sleep(Duration::from_millis(100)).await;
            docs.write("told");
            Ok(())
        })
        .lease(Duration::from_millis(600))
        .lost_grace(Duration::ZERO)
        .build()
        .unwrap();
    // The end is written, and its lease is renewed in vain before that is known here.
    scene.trips.next("update_jobs", Fault::Silence);
    scene.queue.enqueue(mail("Ada", 0)).await.unwrap();
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert!(scene.trips.of("heartbeat") > 0);
    assert_eq!(docs.all(), ["send Ada", "told"]);
}

async fn a_dynamic_callback_is_told_of_both_ends_as_json(scene: Scene) {
    struct Audit(Docs);

    impl DynCallback for Audit {
        fn success(
            &self,
            ctx: JobCtx,
            input: Payload,
            output: Payload,
        ) -> BoxFuture<'static, TaskResult<()>> {
            let docs = self.0.clone();
            async move {
                docs.write(format!("{} {input} -> {output}", stored(&ctx).await.state));
                Ok(())
            }
            .boxed()
        }

        fn fail(
            &self,
            _: JobCtx,
            input: Payload,
            error: JobError,
        ) -> BoxFuture<'static, TaskResult<()>> {
            self.0.write(format!("{input} -> {error}"));
            std::future::ready(Ok(())).boxed()
        }
    }

    let (docs, told) = (Docs::default(), Docs::default());
    let worker = Worker::new(scene.queue.clone()).state(docs).task(send);
    let job = ran(worker.dyn_callback("mail", Audit(told.clone())), mail("Ada", 1)).await;
    assert_eq!(job.state, JobState::Completed);
    let input = r#"{"to":"Ada","fails":1}"#;
    let ends = [format!("{input} -> step \"mail\": no 1"), format!("completed {input} -> 2")];
    assert_eq!(told.all(), ends);
}

async fn a_callback_that_cannot_be_called_is_refused_when_the_worker_is_built(scene: Scene) {
    let build = |worker: WorkerBuilder| worker.build().unwrap_err().to_string();
    let plain = || Worker::new(scene.queue.clone());
    let error = build(plain().on_success(|_: Success<Mail>| async { Ok(()) }));
    assert!(error.contains("\"mail\"") && error.contains("no handler"), "{error}");
    let with_task = || plain().task(|_: Mail| async { Ok(1) });
    let error = build(with_task().on_fail(not_sent));
    assert!(error.contains("needs State<"), "{error}");
    let error = build(with_task().on_success(|_: Success<Mail>, _: Wf| async { Ok(()) }));
    assert!(error.contains("takes a Wf"), "{error}");
}
