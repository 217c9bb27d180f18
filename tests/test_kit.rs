//! The test kit for applications, used as they would use it.
#![cfg(feature = "testing")]

use std::time::Duration;

use queue::{
    Backoff, JobCtx, JobFilter, Lane, State, Task, TaskError, TaskResult, Wf, Worker,
    testing::{Failure, TestKit},
};
use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Serialize, Deserialize, Task)]
#[task(name = "mail", output = String, retries = 2)]
struct Mail {
    to: String,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "onboard", output = u32)]
struct Onboard {
    user: String,
}

/// What ran, in order.
type Ran = std::sync::Arc<std::sync::Mutex<Vec<&'static str>>>;

async fn mail(job: Mail, State(ran): State<Ran>) -> TaskResult<String> {
    ran.lock().unwrap().push("mail");
    Ok(format!("mailed {}", job.to))
}

async fn onboard(input: Onboard, wf: Wf, ctx: JobCtx, State(ran): State<Ran>) -> TaskResult<u32> {
    let account: u32 = wf
        .run("account", || async {
            ran.lock().unwrap().push("account");
            Ok::<_, TaskError>(7)
        })
        .attempts(2)
        .await?;
    wf.task("welcome", Mail { to: input.user.clone() }).backoff(Backoff::fixed(MINUTE)).await?;
    wf.sleep("trial", 30 * 24 * 60 * MINUTE).await?;
    ctx.queue().enqueue(Mail { to: format!("{} again", input.user) }).await?;
    Ok(account)
}

fn kit() -> (TestKit, Worker, Ran) {
    let (kit, ran) = (TestKit::new().unwrap(), Ran::default());
    let worker = kit.worker().state(ran.clone()).task(mail).workflow(onboard).lease(LEASE);
    let worker = worker.build().unwrap();
    (kit, worker, ran)
}

fn ada() -> Onboard {
    Onboard { user: "ada".into() }
}

#[tokio::test]
async fn a_month_passes_in_no_time() {
    let (kit, worker, ran) = kit();
    let (job, begin) = (kit.queue().enqueue(ada()).await.unwrap(), kit.now());
    kit.drain_all(&worker).await.unwrap();
    kit.assert_completed(job.id()).await;
    assert_eq!(job.output().await.unwrap(), 7);
    assert!(begin.until(kit.now()) >= 30 * 24 * 60 * MINUTE);
    assert_eq!(*ran.lock().unwrap(), ["account", "mail", "mail"]);
}

#[tokio::test]
async fn a_drain_leaves_what_is_not_due_and_says_what_is_enqueued() {
    let (kit, worker, _) = kit();
    let job = kit.queue().enqueue(ada()).await.unwrap();
    kit.drain(&worker).await.unwrap();
    kit.assert_waiting(job.id()).await;
    assert!(kit.enqueued::<Mail>().await.is_empty());
    kit.queue().enqueue(Mail { to: "alan".into() }).await.unwrap();
    assert_eq!(kit.enqueued::<Mail>().await, [Mail { to: "alan".into() }]);
    assert_eq!(kit.all(JobFilter::all()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_step_fails_as_often_as_it_is_told_and_waits_for_its_backoff() {
    let (kit, worker, ran) = kit();
    kit.failures().step("welcome", Failure::error(TaskError::new("no route")).times(1));
    let job = kit.queue().enqueue(ada()).await.unwrap();
    kit.drain(&worker).await.unwrap();
    assert_eq!(*ran.lock().unwrap(), ["account"], "the step itself did not run");
    kit.advance(MINUTE);
    kit.drain(&worker).await.unwrap();
    let steps = kit.steps(job.id()).await;
    let welcome = steps.iter().find(|step| step.step == "welcome").unwrap();
    assert_eq!((welcome.complete, welcome.attempts, welcome.failures), (true, 2, 1));
    assert_eq!(*ran.lock().unwrap(), ["account", "mail"], "what was finished was restored");
}

#[tokio::test]
async fn a_task_that_always_fails_uses_its_retries_and_fails_its_job() {
    let (kit, worker, ran) = kit();
    kit.failures().task("mail", Failure::error(TaskError::named("refused", "no mail today")));
    let job = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    let summary = kit.drain_all(&worker).await.unwrap();
    assert_eq!((summary.jobs.len(), summary.failed()), (3, 1));
    let error = kit.assert_failed(job.id()).await;
    assert_eq!((error.name.as_str(), error.is_final), ("refused", true));
    kit.failures().clear();
    let job = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    kit.drain(&worker).await.unwrap();
    kit.assert_completed(job.id()).await;
    assert_eq!(*ran.lock().unwrap(), ["mail"]);
}

#[tokio::test]
async fn a_fatal_error_and_a_panic_are_what_they_are_in_production() {
    let (kit, worker, _) = kit();
    kit.failures().task("mail", Failure::error(TaskError::fatal(TaskError::new("gone"))).times(1));
    kit.failures().task("mail", Failure::panic("out of cheese").times(3));
    let fatal = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    kit.drain_all(&worker).await.unwrap();
    assert_eq!(kit.assert_failed(fatal.id()).await.attempt, 1);
    let panics = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    kit.drain_all(&worker).await.unwrap();
    assert!(kit.assert_failed(panics.id()).await.message.contains("out of cheese"));
}

#[tokio::test]
async fn a_worker_that_dies_before_or_after_a_step_leaves_the_job_to_the_next() {
    for (failure, runs) in [(Failure::crash_before(), 1), (Failure::crash_after(), 2)] {
        let (kit, worker, ran) = kit();
        kit.failures().step("account", failure.times(1));
        let job = kit.queue().enqueue(ada()).await.unwrap();
        kit.drain(&worker).await.unwrap();
        let held = kit.queue().job(job.id()).await.unwrap().unwrap();
        assert_eq!((held.state, held.log.len()), (queue::JobState::Running, 0));
        kit.advance(LEASE);
        kit.drain_all(&worker).await.unwrap();
        assert_eq!(kit.assert_completed(job.id()).await.crashes, 1);
        let accounts = ran.lock().unwrap().iter().filter(|it| **it == "account").count();
        assert_eq!(accounts, runs);
    }
}

#[tokio::test]
async fn a_task_job_can_crash_too() {
    let (kit, worker, ran) = kit();
    kit.failures().task("mail", Failure::crash_after().times(1));
    let job = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    kit.drain_all(&worker).await.unwrap();
    assert_eq!(kit.assert_completed(job.id()).await.crashes, 1);
    assert_eq!(*ran.lock().unwrap(), ["mail", "mail"]);
}

#[tokio::test]
async fn jobs_that_no_handler_takes_are_an_error_that_names_them() {
    let kit = TestKit::new().unwrap();
    let worker = kit.worker().build().unwrap();
    kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    let error = kit.drain_all(&worker).await.unwrap_err().to_string();
    assert!(error.contains("does not take them") && error.contains("\"mail\""), "{error}");
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "laned", lane = Laned::lane)]
struct Laned {
    number: u32,
}

impl Laned {
    fn lane(&self) -> Lane {
        Lane::new(format!("lane {}", self.number % 2))
    }
}

#[tokio::test]
async fn the_clock_moves_to_the_end_of_a_lease_also_where_others_wait_for_its_lane() {
    let kit = TestKit::new().unwrap();
    let ran = Ran::default();
    let work = |_: Laned, State(ran): State<Ran>| async move {
        ran.lock().unwrap().push("laned");
        TaskResult::Ok(())
    };
    let worker = kit.worker().state(ran.clone()).task(work).lease(LEASE).build().unwrap();
    kit.failures().task("laned", Failure::crash_before().times(1));
    let (first, second) = (Laned { number: 1 }, Laned { number: 3 });
    let first = kit.queue().enqueue(first).await.unwrap();
    let second = kit.queue().enqueue(second).await.unwrap();
    kit.drain_all(&worker).await.unwrap();
    let crashes = async |id| kit.assert_completed(id).await.crashes;
    assert_eq!((crashes(first.id()).await, crashes(second.id()).await), (1, 0));
    assert_eq!(ran.lock().unwrap().len(), 2);
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "endless")]
struct Endless;

#[tokio::test]
async fn jobs_that_enqueue_others_for_ever_are_an_error() {
    let kit = TestKit::new().unwrap();
    let again = |_: Endless, ctx: JobCtx| async move {
        ctx.queue().enqueue(Endless).delete_on_complete().await?;
        TaskResult::Ok(())
    };
    let worker = kit.worker().task(again).build().unwrap();
    kit.queue().enqueue(Endless).delete_on_complete().await.unwrap();
    for drained in [kit.drain(&worker).await, kit.drain_all(&worker).await] {
        let error = drained.unwrap_err();
        assert_eq!(error.kind(), queue::ErrorKind::Timeout);
        assert!(error.to_string().contains("\"endless\""), "{error}");
    }
}

#[tokio::test]
async fn an_error_that_cancels_does_so() {
    let (kit, worker, ran) = kit();
    let cancel = || Failure::error(TaskError::cancel("not today")).times(1);
    kit.failures().task("mail", cancel());
    kit.failures().step("account", cancel());
    let task = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap().id();
    let workflow = kit.queue().enqueue(ada()).await.unwrap().id();
    kit.drain_all(&worker).await.unwrap();
    for job in [task, workflow] {
        assert_eq!(kit.assert_cancelled(job).await, "not today");
    }
    assert!(ran.lock().unwrap().is_empty());
}

#[tokio::test]
#[should_panic(expected = "is Waiting, not Completed")]
async fn an_assertion_says_what_the_job_does_instead() {
    let kit = TestKit::new().unwrap();
    let job = kit.queue().enqueue(Mail { to: "ada".into() }).await.unwrap();
    kit.assert_completed(job.id()).await;
}

#[tokio::test]
async fn a_cancelled_job_says_why() {
    let (kit, _, _) = kit();
    let job = kit.queue().enqueue(ada()).await.unwrap();
    let _ = job.cancel("changed my mind").await.unwrap();
    assert_eq!(kit.assert_cancelled(job.id()).await, "changed my mind");
}
