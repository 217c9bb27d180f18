use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use queue_core::Payload;
use serde_json::Value;

use super::{
    Flow, FlowError, Plan,
    execute::{Failure, StepRunner},
    plan::PlannedStep,
};
use crate::{DynTask, DynWorkflow, JobCtx, TaskError, TaskOptions, TaskResult, Wf};

/// A flow behind a name: what a worker runs. Register it with `.dyn_workflow(..)`.
#[derive(Clone, Debug)]
pub struct FlowWorkflow {
    name: String,
    plan: Arc<Plan>,
    options: TaskOptions,
}

impl FlowWorkflow {
    /// Checks the flow; `tasks` are the names that the worker will know.
    ///
    /// # Errors
    /// As [`Flow::plan`].
    pub fn new<'a>(
        name: impl Into<String>,
        flow: &Flow,
        tasks: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, FlowError> {
        let plan = flow.plan(tasks)?;
        let options = TaskOptions { retries: plan.retries(), ..TaskOptions::default() };
        Ok(FlowWorkflow { name: name.into(), plan: Arc::new(plan), options })
    }

    /// Runs its jobs so; the flow's own retries, when said, stay.
    #[must_use]
    pub fn with_options(mut self, options: TaskOptions) -> Self {
        self.options = TaskOptions { retries: self.plan.retries().or(options.retries), ..options };
        self
    }
}

impl DynWorkflow for FlowWorkflow {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }

    fn call(&self, wf: Wf, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        let plan = self.plan.clone();
        async move {
            let input = value(&input, "the job's input")?;
            match plan.execute(input, &EngineSteps(wf)).await {
                Ok(output) => Payload::from_value(&output).map_err(TaskError::fatal),
                Err(Failure::Step(error)) => Err(error),
                Err(Failure::Flow(error)) => Err(TaskError::fatal(TaskError::named("flow", error))),
            }
        }
        .boxed()
    }
}

/// Runs the steps of a flow as steps of a workflow.
struct EngineSteps(Wf);

impl StepRunner for EngineSteps {
    type Error = TaskError;

    fn run<'a>(&'a self, step: &'a PlannedStep, input: Value) -> BoxFuture<'a, TaskResult<Value>> {
        async move {
            let input = Payload::from_value(&input).map_err(TaskError::fatal)?;
            let retries = if broken!(FlowStepsAreNotRetried) { Some(0) } else { step.retries };
            let output = self.0.call(&*step.id, &step.task, input, retries).await?;
            value(&output, &format!("the output of step {:?}", step.id))
        }
        .boxed()
    }

    fn is_idle(&self) -> bool {
        self.0.0.gate.is_idle()
    }

    fn is_failing(&self) -> bool {
        self.0.0.gate.is_failing()
    }
}

/// Reads a document for templates. Escapes of lone surrogates are valid JSON but no text.
fn value(payload: &Payload, what: &str) -> TaskResult<Value> {
    payload.to().map_err(|error| {
        TaskError::fatal(TaskError::named(
            "flow",
            format!("{what} cannot be used in a flow: {}", error.message()),
        ))
    })
}

/// A task whose output is its input: for steps of a [`Flow`] that only put data together.
#[derive(Clone, Debug)]
pub struct EchoTask {
    name: String,
    options: TaskOptions,
}

impl EchoTask {
    /// The task with this name.
    pub fn new(name: impl Into<String>) -> Self {
        EchoTask { name: name.into(), options: TaskOptions::default() }
    }

    /// Runs its jobs so.
    #[must_use]
    pub fn with_options(mut self, options: TaskOptions) -> Self {
        self.options = options;
        self
    }
}

impl DynTask for EchoTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> TaskOptions {
        self.options.clone()
    }

    fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
        async move { Ok(input) }.boxed()
    }
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
