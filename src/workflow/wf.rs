use std::{marker::PhantomData, sync::Arc};

use queue_core::{Payload, name::check_name};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    call::{InlineStep, Settings, TaskStep},
    gate::Gate,
    history::History,
    step::Step,
};
use crate::{
    JobCtx, Task, TaskError, TaskOptions, TaskResult,
    catalog::{Catalog, Run},
    ctx::About,
};

/// The context of a running workflow: it runs steps, and remembers them.
///
/// A step is known by its task and its id, which must be unique in a run and the same each time
/// the workflow runs: a step that completed returns its stored output without running, unless its [`Restore`](crate::Restore) says
/// otherwise. Every method takes `&self`. [`run`](Self::run) and [`task`](Self::task) return builders: await them, or turn them into
/// plain futures with `.into_future()`, so that `join!`, `try_join_all` and `FuturesUnordered` run steps in parallel.
///
/// # What is promised
///
/// - A step is finished only when the store has acknowledged its log entry. (A [sleep](Self::sleep) is finished when the
///   store's clock says so.)
/// - When a step fails and will be retried, the body does not see it: no further step starts, the
///   running ones settle and are logged, and the job is given back until the retry. Whatever the body awaits outside steps
///   is dropped then and runs again.
/// - When a step fails for good, the body gets the error after its running siblings have settled.
/// - When the job is cancelled, running steps are not killed; what they return is logged, and no
///   further step starts.
///
/// # What a run from the top restores
///
/// After a retry, a sleep, a crash or a stop of the worker, the body runs from its beginning. A step that is in the log
/// returns what it returned then, at once, in whichever order the body comes by; one that is not runs. So the body must come
/// by the same steps each time, by the same ids: what it decides by, it takes from its input, from outputs of steps and
/// from [`sleep`](Self::sleep), not from the clock, from chance or from the world, which belong into steps. For the combinators that means:
///
/// - `join!`, `join_all`: every branch is seen through, also when another one fails and is retried: what completed is not run
///   again. Outputs stand in their places, whichever step was done first.
/// - `try_join!`, `try_join_all`: the same, because a failure is shown to the body only when it is final and the running
///   siblings have settled. After a final failure, branches that wait for a further step do not start it: they are dropped.
/// - `FuturesUnordered`, `buffer_unordered`: each output comes once. In which order is *not* the same in each run: those that
///   are restored come first. A body must not let it decide what it does next.
/// - `select!`, `race`: the branches that lose are dropped; a step among them is not logged unless its write was under way,
///   and it may have done its work. Which branch wins is *not* remembered: it is decided anew in each run, among those that are
///   ready by then. With `biased` it is the first of them as they stand, so a branch that won stays the winner if it stands first.
///   To keep any choice, make it inside a step ([`run`](Self::run)) that returns it. A sleep that was a time limit and is
///   over stays over.
///
/// Steps must be polled by the workflow's own task: a step that is called inside another one from a
/// task of its own (`tokio::spawn`) is not known to be nested, and if it has to be retried, the
/// outer one waits for it until the worker stops.
#[derive(Clone, Debug)]
pub struct Wf(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) about: Arc<About>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) options: TaskOptions,
    pub(crate) history: History,
    pub(crate) gate: Gate,
    pub(crate) ctx: std::sync::OnceLock<JobCtx>,
}

impl Wf {
    pub(crate) fn new(
        about: Arc<About>,
        catalog: Arc<Catalog>,
        options: TaskOptions,
        history: History,
    ) -> Self {
        Wf(Arc::new(Inner {
            about,
            catalog,
            options,
            history,
            gate: Gate::default(),
            ctx: std::sync::OnceLock::new(),
        }))
    }

    /// The job that the workflow runs in.
    pub fn ctx(&self) -> &JobCtx {
        self.0.ctx.get_or_init(|| JobCtx::new(self.0.about.clone(), None, None))
    }

    /// The context of the workflow's own function, which can take the `Wf` as an argument.
    pub(crate) fn body_ctx(&self) -> JobCtx {
        JobCtx::new(self.0.about.clone(), None, Some(self.clone()))
    }

    /// Runs a closure as a step. Await it, or join it with others.
    ///
    /// The closure's error may be of any type that converts into [`TaskError`].
    pub fn run<'a, T, E, F, Fut>(&'a self, id: impl Into<String>, closure: F) -> InlineStep<'a, T>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
        E: Into<TaskError> + 'a,
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T, E>> + Send + 'a,
    {
        let run = async move {
            let output = closure().await.map_err(Into::into)?;
            Payload::from_value(&output).map_err(TaskError::fatal)
        };
        InlineStep {
            wf: self,
            id: id.into(),
            settings: Settings::default(),
            run: Box::pin(run),
            output: PhantomData,
        }
    }

    /// Runs a registered task as a step. Await it, or join it with others.
    pub fn task<T: Task>(&self, id: impl Into<String>, input: T) -> TaskStep<'_, T> {
        TaskStep { wf: self, id: id.into(), input, settings: Settings::default() }
    }

    /// Runs a registered task, by its name, as a step.
    ///
    /// # Errors
    /// Those of the step, once it has failed for good.
    pub async fn call(
        &self,
        id: impl Into<String>,
        task: &str,
        input: Payload,
        retries: Option<u32>,
    ) -> TaskResult<Payload> {
        let mute = broken!(FlowStepsTellNobody);
        let settings = Settings { retries, mute, ..Settings::default() };
        self.call_with(id.into(), task, input, settings).await
    }

    pub(super) async fn call_with(
        &self,
        id: String,
        task: &str,
        input: Payload,
        settings: Settings,
    ) -> TaskResult<Payload> {
        let Some((registered, Run::Task(handler))) =
            self.0.catalog.get(task).map(|registered| (registered, &registered.run))
        else {
            let known = self.0.catalog.known();
            let task = if broken!(UnknownTasksAreNotNamed) { "" } else { task };
            return Err(TaskError::fatal_named(
                "unknown-task",
                format!(
                    "the workflow calls the task {task:?}, which this worker does not have; it has {known}"
                ),
            ));
        };
        let mute = settings.mute;
        let mut step = Step::new(self, task, id, settings, &registered.options);
        step.input = Some(input.clone());
        if !mute {
            step.callbacks = registered.callbacks.clone();
        }
        let ctx = self.step_ctx(&step);
        let handler = handler.clone();
        self.execute(step, async move { handler.call(ctx, input).await }).await
    }

    /// The context of a step.
    pub(super) fn step_ctx(&self, step: &Step) -> JobCtx {
        JobCtx::new(self.0.about.clone(), Some(step.id.clone()), None)
    }

    /// Takes a step's key.
    ///
    /// # Errors
    /// It is malformed, or was used before in this run.
    pub(super) fn open(&self, task: &str, id: &str) -> TaskResult<()> {
        if let Err(error) = check_name("step id", id)
            && !broken!(StepIdsAreNotChecked)
        {
            return Err(TaskError::fatal_named("step-id", error.message()));
        }
        match self.0.gate.register(task, id) {
            true => Ok(()),
            false => Err(TaskError::fatal_named(
                "step-used-twice",
                format!("the workflow uses the step {id:?} of task {task:?} twice in one run"),
            )),
        }
    }
}
