use std::{fmt, marker::PhantomData, time::Duration};

use queue_core::{Inserted, Job, JobError, JobId, LogRead, Outcome, Result, State};

use crate::{Queue, Task};

/// The waits between two looks at a job whose end is awaited.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// A job that was enqueued.
pub struct JobHandle<T> {
    queue: Queue,
    inserted: Inserted,
    task: PhantomData<fn() -> T>,
}

impl<T: Task> JobHandle<T> {
    pub(crate) const fn new(queue: Queue, inserted: Inserted) -> Self {
        JobHandle { queue, inserted, task: PhantomData }
    }

    /// Its id.
    pub const fn id(&self) -> JobId {
        self.inserted.id()
    }

    /// Whether the call that gave this handle made a new job. `false`: one with this id or this
    /// unique key was there.
    pub const fn is_new(&self) -> bool {
        self.inserted.is_new()
    }

    /// Reads the job with its log; `None` when it is not there any more. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn job(&self) -> Result<Option<Job>> {
        self.queue.job(self.id()).await
    }

    /// Cancels the job; see [`Queue::cancel`].
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<Outcome> {
        self.queue.cancel(self.id(), reason).await
    }

    /// Waits until the job has ended and reads its output. Looks at the job again and again, at
    /// first every 2 ms and later every 250 ms.
    ///
    /// # Errors
    /// The job failed, was cancelled, or is not there any more; its output has another type; trouble with
    /// the store.
    pub async fn output(&self) -> Result<T::Output, OutputError> {
        let mut wait = FIRST_LOOK;
        loop {
            let mut found = self.queue.jobs(vec![self.id()], LogRead::None).await?;
            let Some(job) = found.pop().flatten() else { return Err(OutputError::NotKept) };
            match job.state {
                State::Completed => {
                    let output = job.output.unwrap_or_default();
                    return output.to().map_err(OutputError::Decode);
                }
                State::Failed => {
                    let error = job.error.as_ref().map(queue_core::Payload::to::<JobError>);
                    return Err(OutputError::Failed(match error {
                        Some(Ok(error)) => Box::new(error),
                        _ => Box::new(JobError::new(
                            "failed",
                            "the job failed without an error that can be read",
                        )),
                    }));
                }
                State::Cancelled => {
                    let reason = job.cancel.map_or_else(String::new, |cancel| cancel.reason);
                    return Err(OutputError::Cancelled(reason));
                }
                State::Waiting | State::Running => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

impl<T> fmt::Debug for JobHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("inserted", &self.inserted).finish_non_exhaustive()
    }
}

/// Why a job has no output to read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The job failed for good.
    #[error("the job failed: {0}")]
    Failed(Box<JobError>),
    /// The job was cancelled.
    #[error("the job was cancelled: {0}")]
    Cancelled(String),
    /// The job is not there any more: it was deleted when it completed, or later.
    #[error("the job is not kept: it was deleted when it completed, or since")]
    NotKept,
    /// The output does not fit the task's type.
    #[error("the output of the job does not fit its type: {0}")]
    Decode(queue_core::Error),
    /// Trouble with the store.
    #[error(transparent)]
    Store(#[from] queue_core::Error),
}
