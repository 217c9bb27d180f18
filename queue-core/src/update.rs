use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU32,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    CancelRequest, Error, Fence, JobId, NewEntry, Payload, Progress, QueueName, Result, State,
    Version, When, name::check_name, payload::present,
};

/// A change of one job: who may make it, and what it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobUpdate {
    /// The job.
    pub id: JobId,
    /// What must hold for the change to be made.
    pub guard: Guard,
    /// The change.
    pub patch: JobPatch,
}

impl JobUpdate {
    /// A change under a guard.
    pub const fn new(id: JobId, guard: Guard, patch: JobPatch) -> Self {
        JobUpdate { id, guard, patch }
    }

    /// A change by the holder of the job.
    pub const fn held(id: JobId, fence: Fence, patch: JobPatch) -> Self {
        JobUpdate { id, guard: Guard::Fence(fence), patch }
    }
}

/// What must hold for an update to be made. It is checked in the same atomic step as the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The job is running and held under this fence. Needed for every transition.
    Fence(Fence),
    /// The job has this version.
    Version(Version),
    /// The job exists.
    None,
}

/// What an update changes; the whole of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobPatch {
    /// Ends the holder's run. Needs [`Guard::Fence`].
    pub transition: Option<Transition>,
    /// How far the job has come.
    pub progress: Option<Progress>,
    /// Labels to set, or to remove where the value is `None`; others stay.
    pub labels: BTreeMap<String, Option<String>>,
    /// Entries to append, in this order; those whose id the log already has are passed over.
    pub log: Vec<NewEntry>,
}

impl JobPatch {
    /// A patch that ends the run.
    pub fn transition(transition: Transition) -> Self {
        JobPatch { transition: Some(transition), ..JobPatch::default() }
    }

    /// A patch that appends.
    pub fn append(log: impl IntoIterator<Item = NewEntry>) -> Self {
        JobPatch { log: log.into_iter().collect(), ..JobPatch::default() }
    }

    /// A patch that reports progress.
    pub fn progress(progress: Progress) -> Self {
        JobPatch { progress: Some(progress), ..JobPatch::default() }
    }

    /// Appends these entries as well.
    #[must_use]
    pub fn with_log(mut self, log: impl IntoIterator<Item = NewEntry>) -> Self {
        self.log.extend(log);
        self
    }

    /// Sets this label as well.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), Some(value.into()));
        self
    }

    /// Removes this label as well.
    #[must_use]
    pub fn without_label(mut self, key: impl Into<String>) -> Self {
        self.labels.insert(key.into(), None);
        self
    }

    /// Sets progress as well.
    #[must_use]
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The size of the largest payload in the patch, in bytes.
    pub fn largest_payload(&self) -> usize {
        let settled = match &self.transition {
            Some(Transition::Complete { output }) => output.as_ref().map_or(0, Payload::len),
            Some(Transition::Retry { error, .. } | Transition::Fail { error }) => error.len(),
            Some(Transition::Release { .. } | Transition::Cancel { .. }) | None => 0,
        };
        self.log.iter().map(|entry| entry.body.len()).max().unwrap_or(0).max(settled)
    }
}

/// How a holder ends its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// The job ended well.
    Complete {
        /// What it returned.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        output: Option<Payload>,
    },
    /// The attempt failed; try again then. On a job that is to be cancelled, this cancels it; its
    /// error is kept in any case.
    Retry {
        /// When the next attempt is due.
        when: When,
        /// Why the attempt failed.
        error: Payload,
    },
    /// Give the job back without using an attempt. On a job that is to be cancelled, this cancels
    /// it; on one that was woken meanwhile, `when` becomes now.
    Release {
        /// When the job is due again.
        when: When,
    },
    /// The job ended badly.
    Fail {
        /// Why.
        error: Payload,
    },
    /// The job was cancelled, by itself or on request.
    Cancel {
        /// Why; a request made earlier keeps its own reason.
        reason: String,
    },
}

/// The name of a [`Transition`] without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransitionKind {
    /// [`Transition::Complete`]
    Complete,
    /// [`Transition::Retry`]
    Retry,
    /// [`Transition::Release`]
    Release,
    /// [`Transition::Fail`]
    Fail,
    /// [`Transition::Cancel`]
    Cancel,
}

impl TransitionKind {
    /// All kinds, in the order of their codes.
    pub const ALL: [TransitionKind; 5] =
        [Self::Complete, Self::Retry, Self::Release, Self::Fail, Self::Cancel];

    /// A small number for storage; it stays so.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl Transition {
    /// Its name.
    pub const fn kind(&self) -> TransitionKind {
        match self {
            Transition::Complete { .. } => TransitionKind::Complete,
            Transition::Retry { .. } => TransitionKind::Retry,
            Transition::Release { .. } => TransitionKind::Release,
            Transition::Fail { .. } => TransitionKind::Fail,
            Transition::Cancel { .. } => TransitionKind::Cancel,
        }
    }
}

/// What became of one update. A lost race is told here, not as an error.
///
/// Where several would fit, the first of this order is answered: `Missing`, `Repeated`,
/// `Fenced` or `Conflict`, `Illegal`, `TooLarge`. All but `Applied` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Outcome {
    /// The change was made.
    Applied(Ack),
    /// This holder's run was already ended, by this kind of transition: a repeat after a lost answer.
    Repeated(Ack),
    /// The job is no longer held under this fence.
    Fenced,
    /// The version has moved on.
    Conflict {
        /// The version at the time of the call.
        actual: Version,
    },
    /// The holder lost the job and nobody has taken it since, or it was never held: no transition leads from its state.
    Illegal {
        /// The state of the job.
        from: State,
    },
    /// The job would exceed what the store takes.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// There is no such job (any more).
    Missing,
}

impl Outcome {
    /// Whether the change is in the store, now or since an earlier call.
    pub const fn is_saved(&self) -> bool {
        matches!(self, Outcome::Applied(_) | Outcome::Repeated(_))
    }

    /// The acknowledgement of a change that was made by this call.
    pub const fn applied(&self) -> Option<&Ack> {
        match self {
            Outcome::Applied(ack) => Some(ack),
            _ => None,
        }
    }
}

/// What a store tells a writer along with "done".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ack {
    /// To a holder: the request to cancel this job that stood when the write was made.
    pub cancel: Option<CancelRequest>,
    /// To an editor (guard `Version` or `None`): the version after the change.
    pub version: Option<Version>,
}

impl Ack {
    /// The answer to a holder.
    pub const fn holder(cancel: Option<CancelRequest>) -> Self {
        Ack { cancel, version: None }
    }

    /// The answer to an editor.
    pub const fn editor(version: Version) -> Self {
        Ack { cancel: None, version: Some(version) }
    }
}

/// A job that a worker holds, for a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Held {
    /// The job.
    pub id: JobId,
    /// The fence it was claimed under.
    pub fence: Fence,
    /// Progress that rides along.
    pub progress: Option<Progress>,
}

impl Held {
    /// A held job without progress.
    pub const fn new(id: JobId, fence: Fence) -> Self {
        Held { id, fence, progress: None }
    }
}

/// A change of many jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BulkChange {
    /// Ends waiting jobs at once and marks running ones; a mark that is there stays as it is.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Makes waiting jobs due now; on running ones, leaves a mark that turns their next `Release` into "due now".
    Wake,
    /// Sets the priority of waiting and running jobs.
    Priority(i16),
    /// Moves waiting and running jobs to another queue.
    Queue(QueueName),
}

/// How many jobs a bulk change met. Every matching job is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BulkOutcome {
    /// Jobs on which the change took effect at once: for a cancel, the waiting ones, which ended.
    pub changed: u64,
    /// Running jobs that carry a mark now (cancel, wake).
    pub signalled: u64,
    /// Jobs that had ended before, and were left alone.
    pub finished: u64,
}

/// Checks a call of `update_jobs`. Stores call it first; nothing is applied when it fails.
///
/// # Errors
/// `Invalid`: the same job twice, a transition without a fence, a malformed label, progress beyond
/// 100 percent.
pub fn check_updates(updates: &[JobUpdate]) -> Result<()> {
    let mut seen = HashSet::with_capacity(updates.len());
    for update in updates {
        if !seen.insert(update.id) {
            return Err(twice(update.id));
        }
        if update.patch.transition.is_some() && !matches!(update.guard, Guard::Fence(_)) {
            return Err(Error::invalid(format!(
                "a transition of job {} needs Guard::Fence; to cancel without holding it, use update_where",
                update.id
            )));
        }
        check_progress(update.patch.progress.as_ref())?;
        for (key, value) in &update.patch.labels {
            check_name("label key", key)?;
            if let Some(value) = value {
                check_name("label value", value)?;
            }
        }
    }
    Ok(())
}

/// Checks a call of `heartbeat`. Stores call it first; nothing is applied when it fails.
///
/// # Errors
/// `Invalid`: the same job twice, a lease of zero, progress beyond 100 percent.
pub fn check_held(held: &[Held], lease: Duration) -> Result<()> {
    check_lease(lease)?;
    held.iter().try_for_each(|held| check_progress(held.progress.as_ref()))?;
    let mut seen = HashSet::with_capacity(held.len());
    match held.iter().find(|held| !seen.insert(held.id)) {
        Some(held) => Err(twice(held.id)),
        None => Ok(()),
    }
}

/// Checks that a lease is longer than nothing.
///
/// # Errors
/// `Invalid` for a lease of zero.
pub fn check_lease(lease: Duration) -> Result<()> {
    match lease < Duration::from_micros(1) {
        true => Err(Error::invalid("a lease must be at least one microsecond long")),
        false => Ok(()),
    }
}

fn check_progress(progress: Option<&Progress>) -> Result<()> {
    match progress.is_some_and(|progress| progress.percent > 100) {
        true => Err(Error::invalid("progress is 0 to 100 percent")),
        false => Ok(()),
    }
}

fn twice(id: JobId) -> Error {
    Error::invalid(format!(
        "job {id} stands twice in one call; merge the changes or make two calls"
    ))
}

/// The largest `limit` of a read.
pub const MAX_PAGE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
