use std::{future::IntoFuture, marker::PhantomData, panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use queue_core::{Clock, JobError, JobPatch, Payload, Timestamp};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    entry::{INLINE, StepEntry, StepState},
    gate::{Gate, Node},
    history::History,
};
use crate::{
    Backoff, JobCtx, Task, TaskError, TaskOptions, TaskResult,
    active::Written,
    catalog::{Catalog, Run},
    ctx::About,
    error::{Fault, panicked},
};

/// The context of a running workflow: it runs steps, and remembers them.
///
/// A step is known by its task and its id, which must be unique in a run and the same each time
/// the workflow runs: a step that completed returns its stored output without running. Every method takes `&self` and returns a
/// plain future, so `join!`, `try_join_all` and `FuturesUnordered` run steps in parallel.
///
/// # What is promised
///
/// - A step is finished only when the store has acknowledged its log entry.
/// - When a step fails and will be retried, the body does not see it: no further step starts, the
///   running ones settle and are logged, and the job is given back until the retry. Whatever the body awaits outside steps
///   is dropped then and runs again.
/// - When a step fails for good, the body gets the error after its running siblings have settled.
/// - When the job is cancelled, running steps are not killed; what they return is logged, and no
///   further step starts.
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

/// The settings of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    retries: Option<u32>,
    backoff: Option<Backoff>,
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
        self.call_with(id.into(), task, input, Settings { retries, backoff: None }).await
    }

    async fn call_with(
        &self,
        id: String,
        task: &str,
        input: Payload,
        settings: Settings,
    ) -> TaskResult<Payload> {
        let registered =
            self.0.catalog.get(task).map(|registered| (&registered.run, &registered.options));
        let Some((Run::Task(handler), options)) = registered else {
            let known = self.0.catalog.known();
            return Err(TaskError::fatal_named(
                "unknown-task",
                format!(
                    "the workflow calls the task {task:?}, which this worker does not have; it has {known}"
                ),
            ));
        };
        let retries = settings.retries.or(options.retries);
        let step = Step {
            key: (task.to_owned(), id),
            parent: None,
            budget: retries.or(self.0.options.retries).unwrap_or(0),
            backoff: settings.backoff.unwrap_or(options.backoff),
            input: Some(input.clone()),
        };
        let ctx = JobCtx::new(self.0.about.clone(), Some(step.key.1.clone()), None);
        let handler = handler.clone();
        self.execute(step, async move { handler.call(ctx, input).await }).await
    }

    async fn execute(
        &self,
        step: Step,
        run: impl Future<Output = TaskResult<Payload>> + Send,
    ) -> TaskResult<Payload> {
        let gate = &self.0.gate;
        let (task, id) = &step.key;
        if !gate.register(task, id) {
            return Err(TaskError::fatal_named(
                "step-used-twice",
                format!("the workflow uses the step {id:?} of task {task:?} twice in one run"),
            ));
        }
        let past = self.0.history.of(task, id);
        if let Some(output) = past.output {
            return Ok(output);
        }
        let about = &self.0.about;
        let parent = Node::current();
        let step = Step { parent: parent.as_ref().map(|node| node.id.clone()), ..step };
        let _child = gate.nest(parent);
        if let Some(error) = past.error
            && (past.failures > step.budget || error.is_final)
        {
            gate.lock().note_failure();
            gate.show_when_quiet().await;
            return Err(TaskError { fault: Fault::Step(Box::new(error)) });
        }
        let node = Node::new(&step.key.1);
        let running = gate.enter(node.clone(), || about.active.token.is_cancelled()).await;
        let started_at = Clock::system().now();
        let run = node.scope(run);
        let result = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(result) => result,
            Err(content) => Err(panicked(&*content)),
        };
        let attempt = past.failures + 1;
        let result = match result {
            Ok(output) => self.complete(&step, attempt, started_at, output).await,
            Err(error) => Some(Err(error)),
        };
        let shown = match result {
            Some(Ok(output)) => return Ok(output),
            Some(Err(error)) => self.fail(&step, attempt, started_at, error),
            None => None,
        };
        drop(running);
        match shown {
            Some(error) => {
                gate.show_when_quiet().await;
                Err(error)
            }
            None => gate.park().await,
        }
    }

    /// Logs a completed step. `None` if the job is lost.
    async fn complete(
        &self,
        step: &Step,
        attempt: u32,
        started_at: Timestamp,
        output: Payload,
    ) -> Option<TaskResult<Payload>> {
        let about = &self.0.about;
        let mut entry = step.entry(StepState::Completed, attempt, started_at);
        entry.output = Some(output.clone());
        let patch = JobPatch::append([entry.to_entry(about.max_bytes)]);
        match about.active.write(&about.committer, patch).await {
            Ok(Written::Saved) => Some(Ok(output)),
            Ok(Written::Lost) => None,
            Ok(Written::TooLarge(limit)) => Some(Err(too_large(output.len(), limit))),
            Err(error) => {
                // The result may or may not be stored. Whoever runs the job next will see.
                tracing::error!(job = %about.active.id, step = step.key.1, %error, "the result of a step was not stored; the job is given up");
                about.active.lose();
                None
            }
        }
    }

    /// Notes a failed step. The error is returned if the body is to see it.
    fn fail(
        &self,
        step: &Step,
        attempt: u32,
        started_at: Timestamp,
        error: TaskError,
    ) -> Option<TaskError> {
        let active = &self.0.about.active;
        // The step was told to stop with the worker, and did: that is no failure of its own.
        if active.stop.is_cancelled() && !matches!(error.fault, Fault::Cancel(_)) {
            return None;
        }
        let state = match error.fault {
            Fault::Cancel(_) => StepState::Cancelled,
            _ => StepState::Failed,
        };
        let mut failure = error.job_error();
        failure.step = Some(step.key.1.clone());
        failure.attempt = active.attempt;
        let ceiling = self.0.options.retries;
        let fatal = matches!(error.fault, Fault::Failed { fatal: true, .. } | Fault::Step(_));
        failure.is_final = fatal
            || failure.cancelled
            || attempt > step.budget && !broken!(RetriesForEver)
            || ceiling.is_some_and(|ceiling| active.attempt > ceiling);
        let mut entry = step.entry(state, attempt, started_at);
        entry.error = Some(failure.clone());
        // It rides with the write that ends the run: one write per failure.
        active.append_later(entry.to_entry(self.0.about.max_bytes));
        let mut inside = self.0.gate.lock();
        if let Fault::Cancel(reason) = error.fault {
            inside.cancelled.get_or_insert(reason);
            return None;
        }
        inside.note_failure();
        if failure.is_final {
            return Some(TaskError { fault: Fault::Step(Box::new(failure)) });
        }
        let wait = step.backoff.after(attempt).max(self.0.options.backoff.after(active.attempt));
        inside.retry_after(wait, failure);
        None
    }
}

pub(crate) fn too_large(bytes: usize, limit: u64) -> TaskError {
    TaskError::fatal_named(
        "too-large",
        format!("the output has {bytes} bytes, and the store takes at most {limit}"),
    )
}

/// A step about to run.
struct Step {
    /// Task and id.
    key: (String, String),
    /// The step around it.
    parent: Option<String>,
    budget: u32,
    backoff: Backoff,
    input: Option<Payload>,
}

impl Step {
    fn entry(&self, state: StepState, attempt: u32, started_at: Timestamp) -> StepEntry {
        StepEntry {
            step: self.key.1.clone(),
            task: self.key.0.clone(),
            parent: self.parent.clone(),
            state,
            attempt,
            input: self.input.clone(),
            output: None,
            error: None,
            started_at,
            finished_at: Clock::system().now(),
        }
    }
}

macro_rules! settings {
    () => {
        /// Repeats the step up to so many times after a failure.
        pub const fn retries(mut self, retries: u32) -> Self {
            self.settings.retries = Some(retries);
            self
        }

        /// Runs the step at most so many times: `attempts - 1` retries.
        pub const fn attempts(self, attempts: u32) -> Self {
            self.retries(attempts.saturating_sub(1))
        }

        /// Waits before each retry.
        pub const fn backoff(mut self, backoff: Backoff) -> Self {
            self.settings.backoff = Some(backoff);
            self
        }
    };
}

/// A call of a closure as a step; await it.
#[must_use = "a step does nothing until it is awaited"]
pub struct InlineStep<'a, T> {
    wf: &'a Wf,
    id: String,
    settings: Settings,
    run: BoxFuture<'a, TaskResult<Payload>>,
    output: PhantomData<fn() -> T>,
}

impl<T> InlineStep<'_, T> {
    settings!();
}

impl<'a, T: DeserializeOwned + Send + 'a> IntoFuture for InlineStep<'a, T> {
    type Output = TaskResult<T>;
    type IntoFuture = Pin<Box<dyn Future<Output = TaskResult<T>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let step = Step {
                key: (INLINE.to_owned(), self.id),
                parent: None,
                budget: self.settings.retries.or(self.wf.0.options.retries).unwrap_or(0),
                backoff: self.settings.backoff.unwrap_or_default(),
                input: None,
            };
            restore(&self.wf.execute(step, self.run).await?)
        })
    }
}

/// A call of a task as a step; await it.
#[must_use = "a step does nothing until it is awaited"]
pub struct TaskStep<'a, T> {
    wf: &'a Wf,
    id: String,
    input: T,
    settings: Settings,
}

impl<T> TaskStep<'_, T> {
    settings!();
}

impl<'a, T: Task> IntoFuture for TaskStep<'a, T> {
    type Output = TaskResult<T::Output>;
    type IntoFuture = Pin<Box<dyn Future<Output = TaskResult<T::Output>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let input = Payload::from_value(&self.input).map_err(TaskError::fatal)?;
            restore(&self.wf.call_with(self.id, T::NAME, input, self.settings).await?)
        })
    }
}

fn restore<T: DeserializeOwned>(output: &Payload) -> TaskResult<T> {
    output.to().map_err(|error| {
        let error: JobError = JobError::new(
            "restore",
            format!("the stored output of the step does not fit its type: {}", error.message()),
        );
        TaskError { fault: Fault::Failed { error: Box::new(error), fatal: true } }
    })
}
