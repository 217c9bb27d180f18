//! What users hang into the firing of a slot, called so that no failure of theirs reaches the scheduler.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use queue_core::{NewJob, Payload, Result, ScheduleStat, Timestamp, When};
use tokio::{runtime::Handle, time::timeout};

use super::{Overlap, SlotReport, definition::Made, planned::unique_key};
use crate::{Queue, Task, TaskResult, error::panicked};

/// How long a hook may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) type Before =
    Arc<dyn Fn(DueSlot) -> BoxFuture<'static, TaskResult<Decision>> + Send + Sync>;
pub(super) type After = Arc<dyn Fn(SlotReport) -> BoxFuture<'static, TaskResult<()>> + Send + Sync>;

/// A slot that is about to be fired, as a `before` hook sees it.
#[derive(Debug)]
pub struct DueSlot {
    pub(super) schedule: Arc<str>,
    pub(super) slot: Timestamp,
    pub(super) stat: Option<ScheduleStat>,
    pub(super) queue: Queue,
    pub(super) job: NewJob,
    pub(super) overlap: Overlap,
}

/// What a `before` hook decided: made by [`DueSlot::enqueue`] or [`DueSlot::skip`].
#[derive(Debug)]
#[must_use]
pub struct Decision(pub(super) Verdict);

#[derive(Debug)]
pub(super) enum Verdict {
    Enqueue(Box<NewJob>),
    Skip(String),
}

impl DueSlot {
    /// The schedule's name.
    pub fn schedule(&self) -> &str {
        &self.schedule
    }

    /// The slot: the instant of the calendar, not of this call.
    pub const fn slot(&self) -> Timestamp {
        self.slot
    }

    /// What the schedule did up to now; `None` before its first slot.
    pub const fn statistics(&self) -> Option<&ScheduleStat> {
        self.stat.as_ref()
    }

    /// The queue, to look around in it.
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The job as it would be enqueued.
    pub const fn job(&self) -> &NewJob {
        &self.job
    }

    /// Gives the job another input, with the lane and the unique key that the task has for it. Where it has no key, the
    /// job has that of the schedule's [`Overlap`].
    ///
    /// # Errors
    /// `Invalid` for a task of another name, and when it cannot be written as JSON.
    pub fn input<T: Task>(mut self, task: &T) -> Result<Self> {
        if self.job.kind != T::NAME {
            return Err(queue_core::Error::invalid(format!(
                "the schedule enqueues {:?}; its input cannot be that of {:?}",
                self.job.kind,
                T::NAME
            )));
        }
        let made = Made::of(task)?;
        self.job.input = made.input;
        self.job.lane = made.lane;
        self.job.unique = unique_key(&self.job, made.unique, self.overlap);
        Ok(self)
    }

    /// Gives the job another input, for kinds whose types are known only at run time.
    #[must_use]
    pub fn payload(mut self, input: Payload) -> Self {
        self.job.input = input;
        self
    }

    /// Makes the job due at this instant instead of the slot's.
    #[must_use]
    pub const fn run_at(mut self, at: Timestamp) -> Self {
        self.job.when = When::At(at);
        self
    }

    /// Fires the slot.
    pub fn enqueue(self) -> Decision {
        Decision(Verdict::Enqueue(Box::new(self.job)))
    }

    /// Passes over the slot, which is counted as skipped.
    pub fn skip(self, reason: impl Into<String>) -> Decision {
        Decision(Verdict::Skip(reason.into()))
    }
}

/// Why a hook gave nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It failed, panicked or took too long.
    Failed(String),
    /// The program ends: nothing is known of the hook.
    BrokenOff,
}

/// Runs a user's code on the runtime of handlers, away from whoever waits for it.
pub(super) async fn call<T: Send + 'static>(
    runtime: &Handle,
    what: &str,
    code: impl Future<Output = TaskResult<T>> + Send + 'static,
) -> Result<T, Trouble> {
    call_within(LIMIT, runtime, what, code).await
}

async fn call_within<T: Send + 'static>(
    limit: Duration,
    runtime: &Handle,
    what: &str,
    code: impl Future<Output = TaskResult<T>> + Send + 'static,
) -> Result<T, Trouble> {
    let task = runtime.spawn(timeout(limit, code));
    let failed = |why: String| Trouble::Failed(format!("{what}: {why}"));
    match task.await {
        Ok(Ok(answer)) => answer.map_err(|error| failed(error.to_string())),
        Ok(Err(_)) => Err(failed(format!("it took longer than {limit:?}"))),
        Err(error) => match error.try_into_panic() {
            Ok(content) => Err(failed(panicked(content).to_string())),
            Err(_) => Err(Trouble::BrokenOff),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskError;

    #[tokio::test]
    async fn a_hook_that_hangs_fails_panics_or_is_broken_off_holds_up_nobody() {
        let runtime = Handle::current();
        let limit = Duration::from_millis(1);
        let hung = call_within::<()>(limit, &runtime, "it", std::future::pending()).await;
        assert!(matches!(&hung, Err(Trouble::Failed(why)) if why.contains("longer")), "{hung:?}");
        let failed = call::<()>(&runtime, "it", async { Err(TaskError::new("oh")) }).await;
        assert!(matches!(&failed, Err(Trouble::Failed(why)) if why == "it: oh"), "{failed:?}");
        let panicked = call::<()>(&runtime, "it", async { panic!("oh") }).await;
        assert!(matches!(&panicked, Err(Trouble::Failed(why)) if why == "it: panicked: oh"));
        let other = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let handle = other.handle().clone();
        other.shutdown_background();
        // What the end of the program breaks off has not decided anything.
        let broken_off = call::<()>(&handle, "it", async { Ok(()) }).await;
        assert!(matches!(broken_off, Err(Trouble::BrokenOff)), "{broken_off:?}");
    }
}
