use queue_core::{JobId, Timestamp};
use serde::Serialize;

/// What came of handling schedules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Handled {
    /// The slots whose job was enqueued.
    pub queued: Vec<SlotReport>,
    /// The slots that were passed over.
    pub skipped: Vec<SlotReport>,
    /// The slots that failed, by a hook, the input or the store.
    pub failed: Vec<SlotReport>,
    /// When the first slot is that was not due when the handling began; paused schedules have none.
    pub next: Option<Timestamp>,
}

/// One slot of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlotReport {
    /// The schedule's name.
    pub schedule: String,
    /// The slot; `None` when the trouble came before it was known.
    pub slot: Option<Timestamp>,
    /// What became of it.
    pub fate: SlotFate,
}

/// What became of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SlotFate {
    /// This job was enqueued.
    Queued(JobId),
    /// Passed over: this job is waiting or running and holds the key; `None` for jobs that were counted.
    Overlap(Option<JobId>),
    /// Passed over: it was missed, and the schedule skips missed slots.
    Missed,
    /// Passed over by the `before` hook, for this reason.
    Skipped(String),
    /// A hook, the input or the store failed. The slot was passed over unless it was the store or the `after` hook.
    Failed(String),
}

impl Handled {
    /// Takes in what came of a later round.
    pub(super) fn extend(&mut self, later: Handled) {
        self.queued.extend(later.queued);
        self.skipped.extend(later.skipped);
        self.failed.extend(later.failed);
        self.next = later.next;
    }

    pub(super) fn note(&mut self, report: SlotReport) {
        match report.fate {
            SlotFate::Queued(_) => self.queued.push(report),
            SlotFate::Failed(_) => self.failed.push(report),
            SlotFate::Overlap(_) | SlotFate::Missed | SlotFate::Skipped(_) => {
                self.skipped.push(report);
            }
        }
    }
}
