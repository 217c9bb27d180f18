use std::{future::IntoFuture, marker::PhantomData, pin::Pin};

use futures::future::BoxFuture;
use queue_core::{JobError, Payload};
use serde::de::DeserializeOwned;

use super::{entry::INLINE, step::Step, wf::Wf};
use crate::{Backoff, Restore, Task, TaskError, TaskOptions, TaskResult, error::Fault};

/// The settings of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) retries: Option<u32>,
    pub(super) backoff: Option<Backoff>,
    pub(super) restore: Option<Restore>,
    /// Nobody is told of it: a defect.
    pub(super) mute: bool,
}

macro_rules! settings {
    () => {
        /// Repeats the step up to so many times after a failure.
        pub fn retries(mut self, retries: u32) -> Self {
            self.settings.retries = Some(retries);
            self
        }

        /// Runs the step at most so many times: `attempts - 1` retries.
        pub fn attempts(self, attempts: u32) -> Self {
            self.retries(attempts.saturating_sub(1))
        }

        /// Waits before each retry.
        pub fn backoff(mut self, backoff: Backoff) -> Self {
            self.settings.backoff = Some(backoff);
            self
        }

        /// Says whether the step is restored once it has completed; see [`Restore`].
        pub fn restore(mut self, restore: Restore) -> Self {
            self.settings.restore = Some(restore);
            self
        }
    };
}

/// A call of a closure as a step; await it.
#[must_use = "a step does nothing until it is awaited"]
pub struct InlineStep<'a, T> {
    pub(super) wf: &'a Wf,
    pub(super) id: String,
    pub(super) settings: Settings,
    pub(super) run: BoxFuture<'a, TaskResult<Payload>>,
    pub(super) output: PhantomData<fn() -> T>,
}

impl<T> InlineStep<'_, T> {
    settings!();
}

impl<'a, T: DeserializeOwned + Send + 'a> IntoFuture for InlineStep<'a, T> {
    type Output = TaskResult<T>;
    type IntoFuture = Pin<Box<dyn Future<Output = TaskResult<T>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let unsaid = TaskOptions::default();
            let task = if broken!(InlineStepsAreNotMarked) { "step" } else { INLINE };
            let step = Step::new(self.wf, task, self.id, self.settings, &unsaid);
            read(&self.wf.execute(step, self.run).await?)
        })
    }
}

/// A call of a task as a step; await it.
#[must_use = "a step does nothing until it is awaited"]
pub struct TaskStep<'a, T> {
    pub(super) wf: &'a Wf,
    pub(super) id: String,
    pub(super) input: T,
    pub(super) settings: Settings,
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
            read(&self.wf.call_with(self.id, T::NAME, input, self.settings).await?)
        })
    }
}

fn read<T: DeserializeOwned>(output: &Payload) -> TaskResult<T> {
    output.to().map_err(|error| {
        let error: JobError = JobError::new(
            "restore",
            format!("the stored output of the step does not fit its type: {}", error.message()),
        );
        TaskError { fault: Fault::Failed { error: Box::new(error), fatal: true } }
    })
}
