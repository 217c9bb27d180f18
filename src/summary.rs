use std::time::Duration;

use queue_core::{JobError, JobId, Payload, Timestamp};

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Every job that was claimed, in claim order.
    pub jobs: Vec<JobReport>,
    /// How many jobs that the worker could run are waiting, due or not; `None` unless asked for.
    pub remaining: Option<u64>,
}

impl Summary {
    /// How many jobs ended so.
    pub fn count(&self, matching: impl Fn(&JobResult) -> bool) -> usize {
        self.jobs.iter().filter(|job| matching(&job.result)).count()
    }

    /// How many jobs succeeded.
    pub fn succeeded(&self) -> usize {
        self.count(|result| matches!(result, JobResult::Succeeded { .. }))
    }

    /// How many jobs failed for good.
    pub fn failed(&self) -> usize {
        self.count(|result| matches!(result, JobResult::Failed { .. }))
    }

    /// Adds another pass.
    pub fn extend(&mut self, later: Summary) {
        self.jobs.extend(later.jobs);
        self.remaining = later.remaining.or(self.remaining);
    }
}

/// What became of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobReport {
    /// The job.
    pub id: JobId,
    /// The name of its task or workflow.
    pub kind: String,
    /// How its attempt ended.
    pub result: JobResult,
}

impl JobReport {
    pub(crate) const fn new(id: JobId, kind: String, result: JobResult) -> Self {
        JobReport { id, kind, result }
    }

    /// Whether the job waits to be run again.
    pub(crate) const fn is_due_again(&self) -> bool {
        use JobResult::{Released, Sleeping, WillRetry};
        matches!(self.result, WillRetry { .. } | Sleeping { .. } | Released)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobResult {
    /// The job completed.
    Succeeded {
        /// What it returned.
        output: Payload,
    },
    /// The attempt failed and will be repeated.
    WillRetry {
        /// How long after its end.
        after: Duration,
        /// Why it failed.
        error: JobError,
    },
    /// The job failed for good.
    Failed {
        /// Why.
        error: JobError,
    },
    /// The job was cancelled.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// The workflow sleeps, and nothing else is to be done.
    Sleeping {
        /// When it goes on, by the store's clock; sooner if it is woken.
        until: Timestamp,
    },
    /// The worker stopped and gave the job back.
    Released,
    /// The job belongs to somebody else by now; nothing was written.
    Lost,
}
