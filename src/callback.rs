use std::{fmt, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use queue_core::{JobError, Payload};

use crate::{
    BuildError, FromJob, JobCtx, Registration, Task, TaskError, TaskResult, active::Written,
    error::panicked, handler::argument,
};

/// A task or workflow that completed: what an `on_success` callback is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Success<T: Task> {
    /// What it was given.
    pub input: T,
    /// What it returned.
    pub output: T::Output,
}

/// A failed attempt of a task or workflow: what an `on_fail` callback is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure<T: Task> {
    /// What it was given.
    pub input: T,
    /// Why it failed; [`is_final`](JobError::is_final) says whether no further attempt follows.
    pub error: JobError,
}

/// What a callback is told: [`Success`] or [`Failure`].
pub trait Told: sealed::Sealed + Sized + Send + 'static {
    /// The task or workflow that ended.
    type Task: Task;

    #[doc(hidden)]
    fn read(event: &Event) -> queue_core::Result<Self>;
}

/// How an attempt ended.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Event {
    input: Payload,
    outcome: Result<Payload, JobError>,
}

mod sealed {
    pub trait Sealed {}
    impl<T: crate::Task> Sealed for super::Success<T> {}
    impl<T: crate::Task> Sealed for super::Failure<T> {}
}

impl<T: Task> Told for Success<T> {
    type Task = T;

    fn read(event: &Event) -> queue_core::Result<Self> {
        let output = event.outcome.clone().unwrap_or_default();
        Ok(Success { input: event.input.to()?, output: output.to()? })
    }
}

impl<T: Task> Told for Failure<T> {
    type Task = T;

    fn read(event: &Event) -> queue_core::Result<Self> {
        let error = event.outcome.clone().err();
        let error = error.unwrap_or_else(|| JobError::new("none", "it has not failed"));
        Ok(Failure { input: event.input.to()?, error })
    }
}

/// A function that is told how a task or workflow ended: `async fn(Success<T> | Failure<T>, extractors..) -> TaskResult<()>`.
///
/// It takes what handlers take but [`Wf`](crate::Wf). Register it with
/// [`on_success`](crate::WorkerBuilder::on_success) or [`on_fail`](crate::WorkerBuilder::on_fail).
#[diagnostic::on_unimplemented(
    message = "this function is not a callback",
    note = "a callback is `async fn(ended: Success<T>, ..) -> TaskResult<()>` or takes a `Failure<T>`, where `T: Task`",
    note = "after that it takes up to four of `State<_>` and `JobCtx`"
)]
pub trait Callback<Args>: Clone + Send + Sync + 'static {
    /// What it is told.
    type Told: Told;

    /// Checks that its arguments can be had.
    ///
    /// # Errors
    /// What is missing.
    fn check(registration: &Registration<'_>) -> Result<(), BuildError>;

    /// Calls it.
    fn call(self, told: Self::Told, ctx: JobCtx) -> BoxFuture<'static, TaskResult<()>>;
}

macro_rules! impl_callback {
    ($($arg:ident),*) => {
        impl<F, Fut, V, $($arg,)*> Callback<(V, $($arg,)*)> for F
        where
            F: FnOnce(V, $($arg),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = TaskResult<()>> + Send + 'static,
            V: Told,
            $($arg: FromJob + 'static,)*
        {
            type Told = V;

            fn check(registration: &Registration<'_>) -> Result<(), BuildError> {
                let _ = registration;
                $($arg::check(registration)?;)*
                Ok(())
            }

            #[allow(non_snake_case)]
            fn call(self, told: V, ctx: JobCtx) -> BoxFuture<'static, TaskResult<()>> {
                Box::pin(async move {
                    let _ = &ctx;
                    $(let $arg = argument::<$arg>(&ctx)?;)*
                    drop(ctx);
                    self(told, $($arg),*).await
                })
            }
        }
    };
}

impl_callback!();
impl_callback!(A1);
impl_callback!(A1, A2);
impl_callback!(A1, A2, A3);
impl_callback!(A1, A2, A3, A4);

/// Callbacks behind a name, with JSON for input and output.
///
/// Implement it for tasks and workflows whose types are known only at run time, and register it with
/// [`dyn_callback`](crate::WorkerBuilder::dyn_callback).
pub trait DynCallback: Send + Sync + 'static {
    /// Told of each completion. Does nothing unless implemented.
    fn success(
        &self,
        ctx: JobCtx,
        input: Payload,
        output: Payload,
    ) -> BoxFuture<'static, TaskResult<()>> {
        let _ = (ctx, input, output);
        std::future::ready(Ok(())).boxed()
    }

    /// Told of each failed attempt. Does nothing unless implemented.
    fn fail(
        &self,
        ctx: JobCtx,
        input: Payload,
        error: JobError,
    ) -> BoxFuture<'static, TaskResult<()>> {
        let _ = (ctx, input, error);
        std::future::ready(Ok(())).boxed()
    }
}

/// What a callback is called with.
pub(crate) trait AnyCallback: Send + Sync {
    fn call(&self, ctx: JobCtx, event: &Event) -> BoxFuture<'static, TaskResult<()>>;
}

/// A dynamic callback, told of both ends.
pub(crate) struct Untyped<C>(pub(crate) C);

impl<C: DynCallback> AnyCallback for Untyped<C> {
    fn call(&self, ctx: JobCtx, event: &Event) -> BoxFuture<'static, TaskResult<()>> {
        let Event { input, outcome } = event.clone();
        match outcome {
            Ok(output) => self.0.success(ctx, input, output),
            Err(error) => self.0.fail(ctx, input, error),
        }
    }
}

/// A typed callback as a dynamic one.
pub(crate) struct Typed<C, Args> {
    callback: C,
    args: PhantomData<fn(Args)>,
}

impl<C, Args> Typed<C, Args> {
    pub(crate) const fn new(callback: C) -> Self {
        Typed { callback, args: PhantomData }
    }
}

impl<C: Callback<Args>, Args: 'static> AnyCallback for Typed<C, Args> {
    fn call(&self, ctx: JobCtx, event: &Event) -> BoxFuture<'static, TaskResult<()>> {
        match C::Told::read(event) {
            Ok(told) => self.callback.clone().call(told, ctx),
            Err(error) => {
                let unreadable = format!("it cannot be told: {}", error.message());
                std::future::ready(Err(TaskError::new(unreadable))).boxed()
            }
        }
    }
}

/// Which end of an attempt a callback is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Success,
    Fail,
    Both,
}

impl On {
    const fn of(outcome: &Result<Payload, JobError>) -> Self {
        if outcome.is_ok() { On::Success } else { On::Fail }
    }

    fn covers(self, other: On) -> bool {
        self == On::Both || self == other
    }
}

/// The callbacks of a task or workflow, in the order in which they were registered.
#[derive(Clone, Default)]
pub(crate) struct Callbacks(Vec<(On, Arc<dyn AnyCallback>)>);

impl Callbacks {
    pub(crate) fn add(&mut self, on: On, callback: Arc<dyn AnyCallback>) {
        self.0.push((on, callback));
    }
}

/// Somebody is to be told how an attempt ended, once that is recorded.
pub(crate) struct Call {
    callbacks: Arc<Callbacks>,
    /// The name of the task or workflow.
    task: String,
    ctx: JobCtx,
    event: Event,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("event", &self.event).finish_non_exhaustive()
    }
}

impl Call {
    /// `None` when nobody is to be told.
    pub(crate) fn new(
        callbacks: &Arc<Callbacks>,
        task: &str,
        input: &Payload,
        outcome: Result<Payload, JobError>,
        ctx: impl FnOnce() -> JobCtx,
    ) -> Option<Self> {
        let on = On::of(&outcome);
        callbacks.0.iter().any(|(there, _)| there.covers(on)).then(|| Call {
            callbacks: callbacks.clone(),
            task: task.to_owned(),
            ctx: ctx(),
            event: Event { input: input.clone(), outcome },
        })
    }

    /// Tells everybody, one after the other. What goes wrong is logged, and changes nothing.
    pub(crate) async fn make(self) {
        let on = On::of(&self.event.outcome);
        for (_, callback) in self.callbacks.0.iter().filter(|(there, _)| there.covers(on)) {
            // In a block of its own, so that a panic before the first await is caught as well.
            let call = async { callback.call(self.ctx.clone(), &self.event).await };
            let told = AssertUnwindSafe(call).catch_unwind().await;
            if let Err(error) = told.unwrap_or_else(|content| Err(panicked(content))) {
                self.report(on, &error).await;
            }
        }
    }

    async fn report(&self, on: On, error: &TaskError) {
        let which = match on {
            On::Success => "on_success",
            On::Fail | On::Both => "on_fail",
        };
        let (job, task) = (self.ctx.id(), &self.task);
        assert!(!broken!(CallbackErrorLosesTheRun), "{error}");
        tracing::warn!(%job, task, callback = which, %error, "a callback failed");
        let line = format!("{which} of {task:?} failed: {error}");
        match self.ctx.append_line(&line).await {
            Ok(Written::Saved | Written::Lost) => {}
            Ok(Written::TooLarge(_)) => tracing::warn!(%job, "the log has no room for a line"),
            Err(error) => tracing::warn!(%job, %error, "a line was not appended"),
        }
    }
}
