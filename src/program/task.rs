use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use queue_core::Payload;

use super::{Program, ProgramError};
use crate::{DynTask, JobCtx, TaskError, TaskOptions, TaskResult, error::Fault};

/// A task that an external program handles. Register it with `.dyn_task(..)`.
///
/// A cancellation lets the program end, as it does any step; when the job is lost or the worker
/// stops, the program is killed. A failure that another run cannot mend (a missing program,
/// arguments that cannot be passed, too much output) is final.
#[derive(Clone, Debug)]
pub struct ProgramTask {
    name: String,
    program: Arc<Program>,
    options: TaskOptions,
}

impl ProgramTask {
    /// The task with this name.
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        ProgramTask {
            name: name.into(),
            program: Arc::new(program),
            options: TaskOptions::default(),
        }
    }

    /// Runs its jobs so.
    #[must_use]
    pub fn with_options(mut self, options: TaskOptions) -> Self {
        self.options = options;
        self
    }
}

impl DynTask for ProgramTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }

    fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let program = self.program.clone();
        // Not killed on a cancellation, as no step is; when the job is lost or the worker stops,
        // this future is dropped, and the program with it.
        async move { program.run(&input).await.map_err(failure) }.boxed()
    }
}

fn failure(error: ProgramError) -> TaskError {
    let name = error.name();
    let transient = error.is_transient();
    let mut error = TaskError::from(error);
    if let Fault::Failed { error, fatal } = &mut error.fault {
        error.name = name.to_owned();
        *fatal = !transient;
    }
    error
}
