use serde::{Deserialize, Serialize};

use crate::{
    Error, JobId, NewJob, Result, Timestamp, When,
    name::{check_name, clean_message},
};

/// One slot of a schedule, to be fired at most once ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fire {
    /// The schedule's name; statistics are kept by it.
    pub schedule: String,
    /// The slot. Slots only move forward: one that is not later than the last is not fired.
    pub slot: Timestamp,
    /// The job to enqueue; its id is [`JobId::for_slot`]. Without one, the slot is passed over and
    /// counted as skipped.
    pub job: Option<NewJob>,
    /// Why the schedule could not make its job; kept as the schedule's last error.
    pub error: Option<String>,
}

impl Fire {
    /// Fires a slot with a job, which is given the slot's id. A job due "now" stays so.
    pub fn new(schedule: impl Into<String>, slot: Timestamp, mut job: NewJob) -> Self {
        let schedule = schedule.into();
        job.id = JobId::for_slot(&schedule, slot);
        Fire { schedule, slot, job: Some(job), error: None }
    }

    /// Passes over a slot.
    pub fn skip(schedule: impl Into<String>, slot: Timestamp, error: Option<String>) -> Self {
        Fire { schedule: schedule.into(), slot, job: None, error }
    }

    /// Checks the call. Stores call it first.
    ///
    /// # Errors
    /// `Invalid`: a malformed name or job, or a job id that is not the slot's.
    pub fn check(&self) -> Result<()> {
        check_name("schedule", &self.schedule)?;
        let Some(job) = &self.job else { return Ok(()) };
        job.check()?;
        match job.id == JobId::for_slot(&self.schedule, self.slot) {
            true => Ok(()),
            false => Err(Error::invalid(
                "the id of a scheduled job must be JobId::for_slot of its schedule and slot",
            )),
        }
    }

    /// When the job falls due, if there is one.
    pub fn when(&self) -> Option<When> {
        self.job.as_ref().map(|job| job.when)
    }
}

/// What became of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Fired {
    /// Its job was enqueued.
    Enqueued(JobId),
    /// It was passed over: without a job, or (`Some`) because this job holds the unique key.
    Skipped(Option<JobId>),
    /// This slot, or a later one, was fired before; nothing was changed.
    Already {
        /// The last slot fired.
        last_slot: Timestamp,
    },
}

/// What is known of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleStat {
    /// Its name.
    pub schedule: String,
    /// The last slot fired or passed over.
    pub last_slot: Timestamp,
    /// The last job enqueued.
    pub last_job: Option<JobId>,
    /// How many slots enqueued a job.
    pub fired: u64,
    /// How many slots were passed over.
    pub skipped: u64,
    /// The last error, and it stays until a slot is fired.
    pub last_error: Option<String>,
}

impl ScheduleStat {
    /// A schedule whose first slot is about to be counted.
    pub const fn new(schedule: String, last_slot: Timestamp) -> Self {
        ScheduleStat { schedule, last_slot, last_job: None, fired: 0, skipped: 0, last_error: None }
    }

    /// Counts what became of a slot, and keeps its error in a form that every store can hold. The
    /// rule for every store.
    pub fn count(&mut self, slot: Timestamp, fired: &Fired, error: Option<String>) {
        let error = error.as_deref().map(clean_message);
        self.last_slot = slot;
        match fired {
            Fired::Enqueued(id) => {
                self.fired += 1;
                self.last_job = Some(*id);
                self.last_error = error;
            }
            Fired::Skipped(_) => {
                self.skipped += 1;
                self.last_error = error.or(self.last_error.take());
            }
            Fired::Already { .. } => {}
        }
    }
}
