use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use queue_core::Payload;

use super::{Endpoint, EndpointError};
use crate::{DynTask, JobCtx, TaskError, TaskOptions, TaskResult, error::Fault};

/// A task that an HTTP endpoint handles. Register it with `.dyn_task(..)`.
///
/// When the job is cancelled or lost, or the worker stops, the call is broken off: the connection is closed, and what the endpoint
/// makes of that is its own affair. A failure that another call cannot mend (a 4xx, a redirect, too long an answer) is final.
#[derive(Clone, Debug)]
pub struct EndpointTask {
    name: String,
    endpoint: Arc<Endpoint>,
    options: TaskOptions,
}

impl EndpointTask {
    /// The task with this name.
    pub fn new(name: impl Into<String>, endpoint: Endpoint) -> Self {
        EndpointTask {
            name: name.into(),
            endpoint: Arc::new(endpoint),
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

impl DynTask for EndpointTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }

    fn call(&self, ctx: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let endpoint = self.endpoint.clone();
        let mut about = vec![
            ("queue-job-id", ctx.id().to_string()),
            ("queue-task", self.name.clone()),
            ("queue-attempt", ctx.attempt().to_string()),
        ];
        about.extend(ctx.step().map(|step| ("queue-step", step.to_owned())));
        async move {
            let call = ctx.cancelled().run_until_cancelled(endpoint.call(&input, &about)).await;
            call.unwrap_or_else(|| {
                Err(EndpointError::BrokenOff { endpoint: endpoint.origin.clone() })
            })
            .map_err(failure)
        }
        .boxed()
    }
}

fn failure(error: EndpointError) -> TaskError {
    let (name, transient) = (error.name(), error.is_transient());
    let mut error = TaskError::from(error);
    if let Fault::Failed { error, fatal } = &mut error.fault {
        error.name = name.to_owned();
        *fatal =
            !transient && !broken!(EndpointRefusalsAreRetried) || broken!(EndpointTroubleIsFinal);
    }
    error
}
