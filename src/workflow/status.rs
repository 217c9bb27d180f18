use queue_core::{JobError, LogEntry, Payload, Timestamp};
use serde::{Deserialize, Serialize};

use super::entry::{StepEntry, StepState};

/// What the log says of a step, all its attempts taken together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepStatus {
    /// The step's id.
    pub step: String,
    /// The task it ran, [`INLINE`](crate::INLINE) or [`SLEEP`](crate::SLEEP).
    pub task: String,
    /// The step within which it ran last, if any.
    pub parent: Option<String>,
    /// Whether an attempt completed. A later failure never takes that back.
    pub complete: bool,
    /// How often it was tried: attempts that ended, well or badly.
    pub attempts: u32,
    /// How often it failed.
    pub failures: u32,
    /// What it was given last.
    pub input: Option<Payload>,
    /// What the latest completed attempt returned; JSON `null` is `None` or the text `null`. There is
    /// more than one only where the step is not [restored](crate::Restore).
    pub output: Option<Payload>,
    /// Its last error.
    pub error: Option<JobError>,
    /// When a sleep is over.
    pub until: Option<Timestamp>,
    /// When the latest attempt began, or the sleep.
    pub started_at: Timestamp,
    /// When the latest attempt ended; `None` for a sleep that is not known to be over.
    pub finished_at: Option<Timestamp>,
}

impl StepStatus {
    /// The status of a step that has not been tried; its first entry follows.
    pub(super) fn untried(entry: &StepEntry) -> Self {
        StepStatus {
            step: entry.step.clone(),
            task: entry.task.clone(),
            parent: None,
            complete: false,
            attempts: 0,
            failures: 0,
            input: None,
            output: None,
            error: None,
            until: None,
            started_at: entry.started_at,
            finished_at: None,
        }
    }

    /// Takes in the step's next entry.
    pub(super) fn take_in(&mut self, entry: StepEntry) {
        self.parent = entry.parent;
        self.input = entry.input.or(self.input.take());
        self.started_at = entry.started_at;
        if entry.state == StepState::Sleeping {
            // Should two have been recorded, the first stands.
            self.until = self.until.or(entry.until);
            return;
        }
        self.finished_at = Some(entry.finished_at);
        self.attempts += 1;
        match entry.state {
            StepState::Completed => {
                self.complete = true;
                self.output = entry.output;
            }
            StepState::Failed => {
                self.failures += 1;
                self.complete &= !broken!(LaterFailureUncompletes);
                self.error = entry.error;
            }
            StepState::Cancelled | StepState::Sleeping => self.error = entry.error,
        }
    }

    /// What it returned, once it has completed.
    pub(super) fn stored_output(&self) -> Option<Payload> {
        // JSON null reads as no output.
        self.complete.then(|| self.output.clone().unwrap_or_default())
    }
}

/// Derives the status of each step from a log, in the order in which the steps first appear.
pub fn step_statuses(log: &[LogEntry]) -> Vec<StepStatus> {
    let mut statuses: Vec<StepStatus> = Vec::new();
    for entry in log.iter().filter_map(StepEntry::from_entry) {
        let known = statuses
            .iter()
            .position(|status| status.step == entry.step && status.task == entry.task);
        let place = known.unwrap_or_else(|| {
            statuses.push(StepStatus::untried(&entry));
            statuses.len() - 1
        });
        statuses[place].take_in(entry);
    }
    statuses
}
