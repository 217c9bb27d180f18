//! Schedules: tasks and workflows that are enqueued by the calendar.
//!
//! A slot's job has an id made of the schedule's name and the slot, and the store fires a slot once ever, so any number
//! of workers may have the same schedules without knowing of each other.

mod cron;
mod definition;
mod fault;
mod hooks;
mod known;
mod name;
mod pass;
mod planned;
mod policy;
mod report;
mod serve;

#[cfg(test)]
mod cron_tests;

pub use definition::Schedule;
pub use fault::ScheduleFault;
pub use hooks::{Decision, DueSlot};
pub use known::ScheduleInfo;
pub(crate) use pass::Scheduler;
pub(crate) use planned::plan;
pub use policy::{Missed, Overlap, Scheduling};
pub use report::{Handled, SlotFate, SlotReport};
