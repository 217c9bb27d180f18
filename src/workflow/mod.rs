//! Workflows: ordinary async functions whose steps are remembered.

mod call;
mod drive;
mod entry;
mod gate;
mod history;
mod polls;
mod restore;
mod sleep;
mod status;
mod step;
mod wf;

pub use call::{InlineStep, TaskStep};
pub(crate) use drive::{Ended, Ending, drive_task, drive_workflow};
pub use entry::{INLINE, SLEEP, StepEntry, StepState};
pub(crate) use history::History;
pub use restore::{Restore, RestoreRule};
pub use status::{StepStatus, step_statuses};
pub use wf::Wf;
