use queue_core::{Inserted, Job, JobId, LogRead, NewJob, OnConflict, Result, State, Unique};
use serde::{Deserialize, Serialize};

use crate::{Queue, jitter::repeated};

/// The label of a job that [`Queue::retry`] made: the id of the job that it retries.
///
/// A label is indexed and goes with its job, so `JobFilter::label(RETRY_OF, id)` finds the retry of a job, for as long as it is
/// kept.
pub const RETRY_OF: &str = "retry-of";

/// What became of [`Queue::retry`]. Only `New` changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[must_use]
pub enum Retried {
    /// A new job was made.
    New(JobId),
    /// The job was retried before: this is the job that was made then.
    Existing(JobId),
    /// Another job holds the unique key by now, and does what the retry would have done.
    KeyHeld {
        /// That job.
        by: JobId,
    },
    /// The job has neither failed nor been cancelled.
    Illegal {
        /// Its state.
        from: State,
    },
    /// There is no such job (any more).
    Missing,
}

impl Retried {
    /// The job that retries the old one, made by this call or by an earlier one.
    pub const fn id(self) -> Option<JobId> {
        match self {
            Retried::New(id) | Retried::Existing(id) => Some(id),
            Retried::KeyHeld { .. } | Retried::Illegal { .. } | Retried::Missing => None,
        }
    }
}

impl Queue {
    /// Retries a failed or cancelled job by hand: as a *new* job, due now, with the kind, input, queue, priority, labels, lane and
    /// number of crashes allowed of the old one, and the label [`RETRY_OF`]. The old job stays as it is. Two trips.
    ///
    /// Its id follows from the old one, so any number of calls make one job, whoever makes them and whenever: the job is kept when
    /// it completes, even if the old one was not to be. Once it has been deleted, by [retention](crate::Retention) or by hand, a
    /// further call makes it anew.
    ///
    /// Its unique key is that of the old job, and where another job holds that by now, nothing is made. It has none where
    /// the old job still holds the key itself, having failed (the key is kept as before then); nor where the key is one that
    /// supersedes: a retry does not take the place of a job that was enqueued later, and later ones leave it alone, as they do
    /// any job that was started.
    ///
    /// # Errors
    /// Trouble with the store; the call can be repeated.
    pub async fn retry(&self, id: JobId) -> Result<Retried> {
        let Some(old) = self.jobs(vec![id], LogRead::None).await?.pop().flatten() else {
            return Ok(Retried::Missing);
        };
        let has_ended_badly = matches!(old.state, State::Failed | State::Cancelled)
            || broken!(CompletedCanBeRetried) && old.state == State::Completed;
        if !has_ended_badly {
            return Ok(Retried::Illegal { from: old.state });
        }
        let job = again(&old);
        let id = job.id;
        let inserted = repeated(|| self.insert(vec![job.clone()])).await?;
        Ok(match inserted.first() {
            Some(Inserted::Existing(there)) if *there == id => Retried::Existing(id),
            Some(Inserted::Existing(by)) => Retried::KeyHeld { by: *by },
            Some(Inserted::New(_)) | None => Retried::New(id),
        })
    }
}

/// The job that retries this one.
fn again(old: &Job) -> NewJob {
    let mut job = NewJob::new(old.kind.clone(), old.input.clone());
    if !broken!(RetryIdFresh) {
        job.id = JobId::for_retry(old.id, old.fence);
    }
    job.queue = old.queue.clone();
    job.priority = old.priority;
    if !broken!(RetryForgetsLabels) {
        job.labels = old.labels.clone();
    }
    job.labels.insert(RETRY_OF.to_owned(), old.id.to_string());
    job.max_crashes = old.max_crashes;
    job.lane = old.lane.clone();
    job.unique = old.unique.clone().filter(|unique| is_free(unique, old.state));
    job
}

/// Whether a job in this state has given up the key.
fn is_free(unique: &Unique, state: State) -> bool {
    unique.on_conflict == OnConflict::Return && !unique.within.contains(state)
}
