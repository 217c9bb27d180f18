use queue_core::{EntryKind, JobError, LogEntry, NewEntry, Payload, Timestamp};
use serde::{Deserialize, Serialize};

/// The task name of steps that are closures.
pub const INLINE: &str = "inline";
/// The task name of sleeps.
pub const SLEEP: &str = "sleep";

/// What the log records of a finished attempt of a step, or of a sleep that has begun: the body of an
/// entry of kind [`EntryKind::Step`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepEntry {
    /// The step's id within its job.
    pub step: String,
    /// The task it ran, [`INLINE`] or [`SLEEP`].
    pub task: String,
    /// The step within which it ran, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How it ended.
    pub state: StepState,
    /// Which attempt of the step it was: 1 for the first.
    pub attempt: u32,
    /// What it was given; inline steps have none, and it is left out where the store has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// When a sleep is over, by the store's clock. It stands from the moment at which the sleep begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it began, by the worker's reckoning of the store's clock.
    pub started_at: Timestamp,
    /// When it ended, by the same reckoning. For a sleep that has begun, when that was recorded.
    pub finished_at: Timestamp,
}

/// How an attempt of a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepState {
    /// It returned its output.
    Completed,
    /// It failed.
    Failed,
    /// It cancelled its job.
    Cancelled,
    /// It is a sleep, and has begun.
    Sleeping,
}

impl StepEntry {
    /// The entry to append. An input that would make it larger than the store takes is left out: it
    /// must not be the reason why a result cannot be logged.
    pub(crate) fn to_entry(&self, max_bytes: u64) -> NewEntry {
        // Strings, numbers and JSON always serialise.
        let body = |entry: &StepEntry| Payload::from_value(entry).unwrap_or_default();
        let mut whole = body(self);
        if whole.len() as u64 > max_bytes {
            whole = body(&StepEntry { input: None, ..self.clone() });
        }
        let mut entry = NewEntry::new(EntryKind::Step, whole);
        if broken!(EntryIdsHaveNoTime) {
            entry.id = queue_core::Uuid::new_v5(entry.id.as_uuid(), b"").into();
        }
        entry
    }

    /// The same entry without the input of its step. `None` if it has none.
    pub(crate) fn without_input(entry: &NewEntry) -> Option<NewEntry> {
        let step: StepEntry = match entry.kind {
            EntryKind::Step => entry.body.to().ok()?,
            _ => return None,
        };
        step.input.as_ref()?;
        let body = Payload::from_value(&StepEntry { input: None, ..step }).ok()?;
        Some(NewEntry::with_id(entry.id, entry.kind, body))
    }

    /// Reads an entry of the log. `None` if it records something else than a step.
    pub fn from_entry(entry: &LogEntry) -> Option<Self> {
        match entry.kind {
            EntryKind::Step => entry.body.to().ok(),
            _ => None,
        }
    }
}
