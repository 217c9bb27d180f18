use std::collections::HashMap;

use queue_core::LogEntry;

use super::{entry::StepEntry, status::StepStatus};

/// What earlier runs of the job left in its log, by task and step.
#[derive(Debug, Default)]
pub(crate) struct History(HashMap<(String, String), StepStatus>);

impl History {
    pub(crate) fn read(log: &[LogEntry]) -> Self {
        let mut history = History::default();
        for entry in log.iter().filter_map(StepEntry::from_entry) {
            let key = (entry.task.clone(), entry.step.clone());
            history.0.entry(key).or_insert_with(|| StepStatus::untried(&entry)).take_in(entry);
        }
        history
    }

    pub(crate) fn of(&self, task: &str, step: &str) -> Option<&StepStatus> {
        self.0.get(&(task.to_owned(), step.to_owned()))
    }
}
