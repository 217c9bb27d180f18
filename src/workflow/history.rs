use std::collections::HashMap;

use queue_core::{JobError, LogEntry, Payload};

use super::entry::{StepEntry, StepState};

/// What earlier attempts of the job left in its log, by task and step.
#[derive(Debug, Default)]
pub(crate) struct History(HashMap<(String, String), Past>);

/// The past of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// What it returned, once it has completed.
    pub(crate) output: Option<Payload>,
    pub(crate) failures: u32,
    pub(crate) error: Option<JobError>,
}

impl History {
    pub(crate) fn read(log: &[LogEntry]) -> Self {
        let mut history = History::default();
        for entry in log.iter().filter_map(StepEntry::from_entry) {
            let past = history.0.entry((entry.task, entry.step)).or_default();
            match entry.state {
                // JSON null reads as no output.
                StepState::Completed => {
                    past.output.get_or_insert(entry.output.unwrap_or_default());
                }
                StepState::Failed => {
                    past.failures += 1;
                    past.error = entry.error;
                }
                StepState::Cancelled => {}
            }
        }
        history
    }

    pub(crate) fn of(&self, task: &str, step: &str) -> Past {
        self.0.get(&(task.to_owned(), step.to_owned())).cloned().unwrap_or_default()
    }
}
