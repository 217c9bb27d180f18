use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Fence, JobId, LogEntry, Payload, QueueName, Result, State, States, Timestamp, Version,
    When, name::check_name, payload::present, state,
};

/// How many crashes a job survives unless it says otherwise.
pub const DEFAULT_MAX_CRASHES: u32 = 3;

/// A job to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewJob {
    /// Minted by the caller, so that an insert whose answer was lost can be repeated.
    pub id: JobId,
    /// The queue; `default` when none is said.
    pub queue: QueueName,
    /// The name of the task or workflow that the job runs.
    pub kind: Cow<'static, str>,
    /// What the handler is given.
    pub input: Payload,
    /// Higher runs first; 0 by default.
    pub priority: i16,
    /// When it falls due.
    pub when: When,
    /// How many lost leases it survives; one more fails it. 3 by default.
    pub max_crashes: u32,
    /// What becomes of it when it completes.
    pub keep: Keep,
    /// Indexed key and value pairs, for example a tenant.
    pub labels: BTreeMap<String, String>,
    /// At most one job of this key.
    pub unique: Option<Unique>,
    /// At most so many jobs of this key running at once.
    pub lane: Option<Lane>,
}

impl NewJob {
    /// A job with a fresh id, due now, in the queue `default`, kept, with neither key nor lane.
    pub fn new(kind: impl Into<Cow<'static, str>>, input: Payload) -> Self {
        NewJob {
            id: JobId::new(),
            queue: QueueName::default(),
            kind: kind.into(),
            input,
            priority: 0,
            when: When::Now,
            max_crashes: DEFAULT_MAX_CRASHES,
            keep: Keep::Always,
            labels: BTreeMap::new(),
            unique: None,
            lane: None,
        }
    }

    /// Checks everything but sizes. Stores call it first.
    ///
    /// # Errors
    /// `Invalid`, saying which field is wrong and what would work.
    pub fn check(&self) -> Result<()> {
        check_name("kind", &self.kind)?;
        check_labels(&self.labels)?;
        if let Some(unique) = &self.unique {
            check_name("unique key", &unique.key)?;
            if !unique.within.contains_all(States::LIVE) {
                return Err(Error::invalid(
                    "a unique key must hold while its job is waiting and while it is running \
                     (States::LIVE), or a retry could take it back from another job",
                ));
            }
        }
        if let Some(lane) = &self.lane {
            check_name("lane key", &lane.key)?;
        }
        Ok(())
    }
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        check_name("label key", key)?;
        check_name("label value", value)?;
    }
    Ok(())
}

/// What the finishing write does with a completed job. Failed and cancelled jobs stay in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// It stays until it is deleted.
    #[default]
    Always,
    /// It is deleted, with its log, by the write that completes it.
    UnlessCompleted,
}

/// At most one job of a key.
///
/// Holds under any number of racing inserts and within one batch: stores enforce it by a unique
/// index, not by looking first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unique {
    /// Shared by all queues and kinds; put them into the key to separate them.
    pub key: String,
    /// The states in which a job holds the key. Always at least [`States::LIVE`].
    pub within: States,
    /// What an insert does that finds the key held.
    pub on_conflict: OnConflict,
}

impl Unique {
    /// At most one waiting or running job of this key; a further insert returns the existing one.
    pub fn new(key: impl Into<String>) -> Self {
        Unique { key: key.into(), within: States::LIVE, on_conflict: OnConflict::Return }
    }

    /// The latest insert of this key replaces the earlier one, unless that has been started.
    pub fn supersede(key: impl Into<String>) -> Self {
        Unique { on_conflict: OnConflict::Supersede, ..Unique::new(key) }
    }
}

/// What an insert does that finds its unique key held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Nothing; it answers with the job that holds the key.
    Return,
    /// It cancels the job that holds the key if that has never been started, and takes its place.
    ///
    /// Such a job holds its key only until its first claim, whatever `within` says: running,
    /// retrying and finished jobs stay, and are no conflict.
    Supersede,
}

/// At most `limit` jobs of a key running at once, across all workers and queues.
///
/// The limit is kept by slots, `0` to `limit - 1`, of which a running job holds one: a job may start while a
/// slot below *its own* limit is free. Jobs of one key should therefore agree on the limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lane {
    /// Shared by all queues and kinds; put them into the key to separate them.
    pub key: String,
    /// How many may run at once.
    pub limit: NonZeroU32,
}

impl Lane {
    /// One at a time.
    pub fn new(key: impl Into<String>) -> Self {
        Lane { key: key.into(), limit: NonZeroU32::MIN }
    }

    /// Up to `limit` at a time.
    pub fn with_limit(key: impl Into<String>, limit: NonZeroU32) -> Self {
        Lane { key: key.into(), limit }
    }
}

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What it is doing.
    pub message: Option<String>,
}

impl Progress {
    /// Progress without a message. More than 100 is 100.
    pub fn new(percent: u8) -> Self {
        Progress { percent: percent.min(100), message: None }
    }

    /// Progress with a message.
    pub fn with_message(percent: u8, message: impl Into<String>) -> Self {
        Progress { message: Some(message.into()), ..Progress::new(percent) }
    }
}

/// A request to cancel, as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CancelRequest {
    /// Why.
    pub reason: String,
    /// When, by the store's clock.
    pub at: Timestamp,
}

impl CancelRequest {
    /// A request made at this instant.
    pub fn new(reason: impl Into<String>, at: Timestamp) -> Self {
        CancelRequest { reason: reason.into(), at }
    }
}

/// A stored job, as it is read. No operation takes one for writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// The name of its task or workflow.
    pub kind: Cow<'static, str>,
    /// What its handler is given.
    pub input: Payload,
    /// Higher runs first.
    pub priority: i16,
    /// Indexed key and value pairs.
    pub labels: BTreeMap<String, String>,
    /// Its unique key.
    pub unique: Option<Unique>,
    /// Its lane.
    pub lane: Option<Lane>,
    /// What becomes of it when it completes.
    pub keep: Keep,
    /// Its state.
    pub state: State,
    /// How often it was started, crashes and releases not counted; the running attempt is included.
    pub attempt: u32,
    /// How often its lease was lost.
    pub crashes: u32,
    /// How many crashes it survives.
    pub max_crashes: u32,
    /// The fence of its latest claim.
    pub fence: Fence,
    /// For optimistic edits.
    pub version: Version,
    /// When it was inserted.
    pub created_at: Timestamp,
    /// From when on it may run.
    pub run_at: Timestamp,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended for good.
    pub finished_at: Option<Timestamp>,
    /// Who holds it.
    pub holder: Option<Arc<str>>,
    /// Until when it is held.
    pub lease_until: Option<Timestamp>,
    /// How far it has come.
    pub progress: Option<Progress>,
    /// What it returned; `None` is no output, `Some` of JSON `null` is one.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// The error of the latest failed attempt; gone once the job completes.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub error: Option<Payload>,
    /// The request to cancel it.
    pub cancel: Option<CancelRequest>,
    /// How many entries its log has.
    pub log_len: u64,
    /// The entries asked for, in the order of their `seq`.
    pub log: Vec<LogEntry>,
}

impl Job {
    /// What a job in this state, at this time, is called in listings.
    ///
    /// A waiting job is `scheduled` before its `run_at`, `retrying` before the `run_at` of a further attempt,
    /// and `ready` from then on; any other job is called by its state.
    pub fn phase(&self, now: Timestamp) -> &'static str {
        match self.state {
            state::State::Waiting if self.run_at <= now => "ready",
            state::State::Waiting if self.attempt > 0 => "retrying",
            state::State::Waiting => "scheduled",
            other => other.as_str(),
        }
    }
}
