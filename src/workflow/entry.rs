use queue_core::{EntryKind, JobError, LogEntry, NewEntry, Payload, Timestamp};
use serde::{Deserialize, Serialize};

/// The task name of steps that are closures.
pub const INLINE: &str = "inline";

/// What the log records of a finished attempt of a step: the body of an entry of kind
/// [`EntryKind::Step`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepEntry {
    /// The step's id within its job.
    pub step: String,
    /// The task it ran, or `inline`.
    pub task: String,
    /// The step within which it ran, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How it ended.
    pub state: StepState,
    /// Which attempt of the step it was: 1 for the first.
    pub attempt: u32,
    /// What it was given; inline steps have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// When it began, by the worker's clock.
    pub started_at: Timestamp,
    /// When it ended, by the worker's clock.
    pub finished_at: Timestamp,
}

/// How an attempt of a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It returned its output.
    Completed,
    /// It failed.
    Failed,
    /// It cancelled its job.
    Cancelled,
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
        NewEntry::new(EntryKind::Step, whole)
    }

    /// Reads an entry of the log. `None` if it records something else than a step.
    pub fn from_entry(entry: &LogEntry) -> Option<Self> {
        match entry.kind {
            EntryKind::Step => entry.body.to().ok(),
            _ => None,
        }
    }
}

/// What the log says of a step, all its attempts taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepStatus {
    /// The step's id.
    pub step: String,
    /// The task it ran, or `inline`.
    pub task: String,
    /// Whether an attempt completed. A later failure never takes that back.
    pub complete: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// How often it failed.
    pub failures: u32,
    /// What it was given last.
    pub input: Option<Payload>,
    /// What the first completed attempt returned; JSON `null` is `None` or the text `null`.
    pub output: Option<Payload>,
    /// Its last error.
    pub error: Option<JobError>,
}

/// Derives the status of each step from a log, in the order in which the steps first appear.
pub fn step_statuses(log: &[LogEntry]) -> Vec<StepStatus> {
    let mut statuses: Vec<StepStatus> = Vec::new();
    for entry in log.iter().filter_map(StepEntry::from_entry) {
        let known = statuses
            .iter()
            .position(|status| status.step == entry.step && status.task == entry.task);
        let place = known.unwrap_or_else(|| {
            statuses.push(StepStatus {
                step: entry.step.clone(),
                task: entry.task.clone(),
                complete: false,
                attempts: 0,
                failures: 0,
                input: None,
                output: None,
                error: None,
            });
            statuses.len() - 1
        });
        let status = &mut statuses[place];
        status.attempts += 1;
        status.input = entry.input.or(status.input.take());
        match entry.state {
            StepState::Completed if !status.complete => {
                status.complete = true;
                status.output = entry.output;
            }
            StepState::Completed => {}
            StepState::Failed => {
                status.failures += 1;
                status.error = entry.error;
            }
            StepState::Cancelled => status.error = entry.error,
        }
    }
    statuses
}
