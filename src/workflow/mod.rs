//! Workflows: ordinary async functions whose steps are remembered.

mod drive;
mod entry;
mod gate;
mod history;
mod step;

pub(crate) use drive::{Ended, Ending, drive_task, drive_workflow};
pub use entry::{INLINE, StepEntry, StepState, StepStatus, step_statuses};
pub(crate) use history::History;
pub use step::{InlineStep, TaskStep, Wf};
