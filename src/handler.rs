use std::marker::PhantomData;

use futures::future::BoxFuture;
use queue_core::Payload;

use crate::{
    BuildError, FromJob, JobCtx, Registration, Task, TaskError, TaskOptions, TaskResult, Wf,
};

/// A function that handles a task or a workflow: `async fn(input, extractors..) -> TaskResult<Output>`.
///
/// Its output type must be that of the task; another one does not compile:
///
/// ```compile_fail,E0271
/// # use queue::{Task, TaskResult, Worker, Queue};
/// # #[derive(serde::Serialize, serde::Deserialize, Task)]
/// # #[task(name = "count", output = u32)]
/// # struct Count;
/// async fn count(_: Count) -> TaskResult<String> {
///     Ok("three".into())
/// }
/// # fn build(queue: Queue) { let _ =
/// Worker::new(queue).task(count)
/// # ; }
/// ```
#[diagnostic::on_unimplemented(
    message = "this function is not a handler of a task",
    note = "a handler is `async fn(input: T, ..) -> TaskResult<T::Output>` where `T: Task`",
    note = "after the input it takes up to six of `State<_>`, `JobCtx` and (workflows) `Wf`"
)]
pub trait Handler<Args>: Clone + Send + Sync + 'static {
    /// The task that it handles.
    type Task: Task;

    /// Checks that its arguments can be had.
    ///
    /// # Errors
    /// What is missing.
    fn check(registration: &Registration<'_>) -> Result<(), BuildError>;

    /// Calls it.
    fn call(
        self,
        input: Self::Task,
        ctx: JobCtx,
    ) -> BoxFuture<'static, TaskResult<<Self::Task as Task>::Output>>;
}

macro_rules! impl_handler {
    ($($arg:ident),*) => {
        impl<F, Fut, T, $($arg,)*> Handler<(T, $($arg,)*)> for F
        where
            F: FnOnce(T, $($arg),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = TaskResult<T::Output>> + Send + 'static,
            T: Task,
            $($arg: FromJob + 'static,)*
        {
            type Task = T;

            fn check(registration: &Registration<'_>) -> Result<(), BuildError> {
                let _ = registration;
                $($arg::check(registration)?;)*
                Ok(())
            }

            #[allow(non_snake_case)]
            fn call(self, input: T, ctx: JobCtx) -> BoxFuture<'static, TaskResult<T::Output>> {
                Box::pin(async move {
                    let _ = &ctx;
                    $(let $arg = argument::<$arg>(&ctx)?;)*
                    drop(ctx);
                    self(input, $($arg),*).await
                })
            }
        }
    };
}

impl_handler!();
impl_handler!(A1);
impl_handler!(A1, A2);
impl_handler!(A1, A2, A3);
impl_handler!(A1, A2, A3, A4);
impl_handler!(A1, A2, A3, A4, A5);
impl_handler!(A1, A2, A3, A4, A5, A6);

pub(crate) fn argument<A: FromJob>(ctx: &JobCtx) -> TaskResult<A> {
    A::from_job(ctx).ok_or_else(|| {
        TaskError::fatal_named(
            "missing-argument",
            format!("the handler's argument {} cannot be had here", std::any::type_name::<A>()),
        )
    })
}

/// A handler behind a name, with JSON for input and output: what a worker runs.
///
/// Implement it for tasks whose types are known only at run time, and register it with `.dyn_task(..)`.
pub trait DynTask: Send + Sync + 'static {
    /// The task's name.
    fn name(&self) -> &str;

    /// How its jobs run.
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// Checks that an input is one that [`call`](Self::call) can take. The answer of one that cannot tell is yes.
    ///
    /// # Errors
    /// `Invalid`, with what does not fit.
    fn check_input(&self, input: &Payload) -> Result<(), queue_core::Error> {
        let _ = input;
        Ok(())
    }

    /// Runs it once.
    fn call(&self, ctx: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>>;
}

/// A workflow behind a name, with JSON for input and output.
///
/// Implement it for workflows that are data, and register it with `.dyn_workflow(..)`.
pub trait DynWorkflow: Send + Sync + 'static {
    /// The workflow's name.
    fn name(&self) -> &str;

    /// How its jobs run.
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// Checks that an input is one that [`call`](Self::call) can take. The answer of one that cannot tell is yes.
    ///
    /// # Errors
    /// `Invalid`, with what does not fit.
    fn check_input(&self, input: &Payload) -> Result<(), queue_core::Error> {
        let _ = input;
        Ok(())
    }

    /// Runs it from the top; finished steps are restored by the steps themselves.
    fn call(&self, wf: Wf, input: Payload) -> BoxFuture<'static, TaskResult<Payload>>;
}

/// A typed handler as a dynamic one.
pub(crate) struct Typed<H, Args> {
    handler: H,
    args: PhantomData<fn(Args)>,
}

impl<H, Args> Typed<H, Args> {
    pub(crate) const fn new(handler: H) -> Self {
        Typed { handler, args: PhantomData }
    }
}

impl<H: Handler<Args>, Args: 'static> Typed<H, Args> {
    fn run(&self, ctx: JobCtx, input: &Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let input = input.to::<H::Task>().map_err(|error| {
            let name = H::Task::NAME;
            let message = format!("the input does not fit {name:?}: {}", error.message());
            if broken!(InputIsRetried) {
                return TaskError::new(message);
            }
            TaskError::fatal_named("input", message)
        });
        let handler = self.handler.clone();
        Box::pin(async move {
            let output = handler.call(input?, ctx).await?;
            Payload::from_value(&output).map_err(TaskError::fatal)
        })
    }
}

impl<H: Handler<Args>, Args: 'static> DynTask for Typed<H, Args> {
    fn name(&self) -> &str {
        H::Task::NAME
    }

    fn options(&self) -> TaskOptions {
        H::Task::options()
    }

    fn check_input(&self, input: &Payload) -> Result<(), queue_core::Error> {
        input.to::<H::Task>().map(drop)
    }

    fn call(&self, ctx: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        self.run(ctx, &input)
    }
}

impl<H: Handler<Args>, Args: 'static> DynWorkflow for Typed<H, Args> {
    fn name(&self) -> &str {
        H::Task::NAME
    }

    fn options(&self) -> TaskOptions {
        H::Task::options()
    }

    fn check_input(&self, input: &Payload) -> Result<(), queue_core::Error> {
        input.to::<H::Task>().map(drop)
    }

    fn call(&self, wf: Wf, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        self.run(wf.body_ctx(), &input)
    }
}
