//! Which completed steps are restored, and what the log says of a step.

use queue::{
    Job, JobState, Pass, Restore, State, StepStatus, Task, TaskError, TaskResult, Wf, Worker,
    WorkerBuilder, step_statuses,
};
use serde::{Deserialize, Serialize};

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    a_step_whose_restoring_is_off_runs_in_each_run,
    a_function_of_the_input_and_the_status_decides,
    a_task_says_by_itself_whether_it_is_restored,
    the_setting_of_the_call_is_over_that_of_the_task_and_that_over_the_workflows,
    a_step_whose_restoring_is_off_is_bounded_by_its_retries,
    failures_after_a_success_count_and_do_not_uncomplete,
    a_status_says_when_the_latest_attempt_ran_and_within_which_step,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow;

fn worker(scene: &Scene, docs: &Docs) -> WorkerBuilder {
    Worker::new(scene.queue.clone()).state(docs.clone())
}

/// A step that writes its name and returns how often it ran.
async fn count(docs: &Docs, id: &str) -> TaskResult<usize> {
    docs.write(id);
    Ok(docs.count(id))
}

/// A step that fails the first `failures` times.
async fn flaky(wf: &Wf, docs: &Docs, failures: usize) -> TaskResult<usize> {
    let step = wf.run("flaky", || async {
        match count(docs, "flaky").await? {
            n if n <= failures => Err(TaskError::new("not yet")),
            n => Ok(n),
        }
    });
    step.retries(9).await
}

/// Runs the job until nothing is left, or for twenty runs: an engine without bounds must not hang this.
async fn ran<T: Task>(worker: WorkerBuilder, job: T) -> Job {
    let worker = worker.build().unwrap();
    let handle = worker.queue().enqueue(job).await.unwrap();
    for _ in 0..20 {
        worker.run(Pass::new()).await.unwrap();
    }
    handle.job().await.unwrap().unwrap()
}

fn status(job: &Job, step: &str) -> StepStatus {
    step_statuses(&job.log).into_iter().find(|status| status.step == step).unwrap()
}

async fn a_step_whose_restoring_is_off_runs_in_each_run(scene: Scene) {
    let docs = Docs::default();
    let worker =
        worker(&scene, &docs).workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let step = wf.run("log-in", || count(&docs, "log-in"));
            let seen = step.restore(Restore::Never).await?;
            wf.run("once", || count(&docs, "once")).await?;
            flaky(&wf, &docs, 2).await?;
            Ok(u32::try_from(seen).unwrap())
        });
    let job = ran(worker, Flow).await;
    assert_eq!((docs.count("log-in"), docs.count("once"), docs.count("flaky")), (3, 1, 3));
    assert_eq!(job.output.as_ref().unwrap().as_str(), "3", "the body gets what the last run gave");
    let log_in = status(&job, "log-in");
    assert_eq!((log_in.attempts, log_in.output.unwrap().as_str()), (3, "3"));
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "look-up", output = usize, retries = 4, restore = LookUp::is_same)]
struct LookUp {
    city: String,
}

impl LookUp {
    fn is_same(&self, past: &StepStatus) -> bool {
        let before = past.input.as_ref().and_then(|input| input.to::<LookUp>().ok());
        before.is_some_and(|before| before.city == self.city)
    }
}

async fn look_up(input: LookUp, State(docs): State<Docs>) -> TaskResult<usize> {
    count(&docs, &input.city).await
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "forgotten", output = usize, restore = false)]
struct Forgotten;

async fn forgotten(_: Forgotten, State(docs): State<Docs>) -> TaskResult<usize> {
    count(&docs, "forgotten").await
}

async fn a_function_of_the_input_and_the_status_decides(scene: Scene) {
    let docs = Docs::default();
    let worker =
        worker(&scene, &docs).workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            // Twice what is stored is odd; then it is even, and good enough.
            let even = |_: &(), past: &StepStatus| {
                past.output.as_ref().is_some_and(|output| output.to::<u32>().unwrap() % 2 == 0)
            };
            let step = wf.run("even", || count(&docs, "even"));
            let n = step.restore(Restore::when(even)).await?;
            flaky(&wf, &docs, 4).await?;
            Ok(u32::try_from(n).unwrap())
        });
    let job = ran(worker, Flow).await;
    assert_eq!((docs.count("even"), docs.count("flaky")), (2, 5));
    assert_eq!(job.output.unwrap().as_str(), "2");
}

async fn a_task_says_by_itself_whether_it_is_restored(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(&scene, &docs).task(look_up).task(forgotten).workflow(
        |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let city = if docs.count("flaky") < 2 { "Rome" } else { "Oslo" };
            wf.task("city", LookUp { city: city.to_owned() }).await?;
            wf.task("forgotten", Forgotten).await?;
            flaky(&wf, &docs, 3).await?;
            Ok(1)
        },
    );
    let job = ran(worker, Flow).await;
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    let counts = ["Rome", "Oslo", "forgotten", "flaky"].map(|doc| docs.count(doc));
    assert_eq!(counts, [1, 1, 4, 4], "once for each city, in two runs each");
}

async fn the_setting_of_the_call_is_over_that_of_the_task_and_that_over_the_workflows(
    scene: Scene,
) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "forgetful", output = u32, restore = false)]
    struct Forgetful;

    let docs = Docs::default();
    let worker = worker(&scene, &docs).task(look_up).task(forgotten).workflow(
        |_: Forgetful, wf: Wf, State(docs): State<Docs>| async move {
            wf.run("says nothing", || count(&docs, "says nothing")).await?;
            wf.run("says yes", || count(&docs, "says yes")).restore(Restore::Always).await?;
            wf.task("task says by city", LookUp { city: "Rome".to_owned() }).await?;
            wf.task("call says yes", Forgotten).restore(Restore::Always).await?;
            flaky(&wf, &docs, 1).await?;
            Ok(1)
        },
    );
    let job = ran(worker, Forgetful).await;
    assert_eq!(job.state, JobState::Completed, "{:?}", job.error);
    let counts = ["says nothing", "says yes", "Rome", "forgotten"].map(|doc| docs.count(doc));
    assert_eq!(counts, [2, 1, 1, 1]);
}

async fn a_step_whose_restoring_is_off_is_bounded_by_its_retries(scene: Scene) {
    let docs = Docs::default();
    let worker =
        worker(&scene, &docs).workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let fails = wf.run("fails", || async {
                docs.write("fails");
                Err::<u32, _>(TaskError::new("no luck"))
            });
            fails.retries(2).restore(Restore::Never).await
        });
    let job = ran(worker, Flow).await;
    assert_eq!((job.state, docs.len()), (JobState::Failed, 3));
}

async fn failures_after_a_success_count_and_do_not_uncomplete(scene: Scene) {
    let docs = Docs::default();
    let worker =
        worker(&scene, &docs).workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let moody = wf.run("moody", || async {
                match count(&docs, "moody").await? {
                    1 => Ok(1_u32),
                    _ => Err(TaskError::new("not again")),
                }
            });
            moody.retries(1).restore(Restore::Never).await?;
            flaky(&wf, &docs, 9).await?;
            Ok(1)
        });
    let job = ran(worker, Flow).await;
    assert_eq!((job.state, docs.count("moody"), docs.count("flaky")), (JobState::Failed, 3, 1));
    let moody = status(&job, "moody");
    assert_eq!((moody.complete, moody.attempts, moody.failures), (true, 3, 2));
    assert_eq!(moody.output.unwrap().as_str(), "1");
    assert_eq!(moody.error.unwrap().message, "not again");
}

async fn a_status_says_when_the_latest_attempt_ran_and_within_which_step(scene: Scene) {
    let docs = Docs::default();
    let worker =
        worker(&scene, &docs).workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            wf.run("around", || async {
                flaky(&wf, &docs, 1).await?;
                Ok::<u32, TaskError>(1)
            })
            .await
        });
    let before = scene.queue.store().ping().await.unwrap();
    let job = ran(worker, Flow).await;
    let (around, flaky) = (status(&job, "around"), status(&job, "flaky"));
    assert_eq!((around.parent, flaky.parent.as_deref()), (None, Some("around")));
    // The child's second attempt ran within the parent's only one that ended.
    let (began, ended) = (flaky.started_at, flaky.finished_at.unwrap());
    assert!(around.started_at <= began && began <= ended);
    assert!(ended <= around.finished_at.unwrap());
    let second = std::time::Duration::from_secs(1);
    assert!(before.minus(second) <= around.started_at, "by the store's clock");
    assert!(around.finished_at.unwrap() <= job.finished_at.unwrap().plus(second));
}
