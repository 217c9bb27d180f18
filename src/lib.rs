#![doc = include_str!("lib.md")]

#[macro_use]
mod broken;

mod active;
mod backoff;
mod bulk;
mod callback;
mod catalog;
mod committer;
mod ctx;
mod edit;
mod enqueue;
mod error;
mod extract;
mod fresh;
mod handle;
mod handler;
mod hooked;
mod io;
mod jitter;
mod keeper;
mod queue;
mod retention;
mod retry;
mod run;
mod schedule;
mod summary;
mod supervise;
mod task;
mod time;
mod worker;
mod workflow;

#[cfg(feature = "broken")]
#[doc(hidden)]
pub use broken::{Broken, Switch};
#[cfg(feature = "endpoint")]
pub mod endpoint;
#[cfg(feature = "flow")]
pub mod flow;
#[cfg(feature = "program")]
pub mod program;
#[cfg(feature = "schema")]
pub mod schema;
#[cfg(feature = "testing")]
pub mod testing;

pub use backoff::{Backoff, Growth, Jitter};
pub use callback::{Callback, DynCallback, Failure, Success, Told};
pub use ctx::JobCtx;
pub use enqueue::{Enqueue, EnqueueMany};
pub use error::{BuildError, TaskError, TaskResult};
pub use extract::{FromJob, Registration, Role, State, States};
pub use handle::{JobHandle, OutputError};
pub use handler::{DynTask, DynWorkflow, Handler};
pub use hooked::{Change, Changed, Hooked, Hooks};
pub use queue::{Queue, connect, registry};
pub use retention::{Retain, Retention, Swept};
pub use retry::{RETRY_OF, Retried};
pub use schedule::{
    Decision, DueSlot, Handled, Missed, Overlap, Schedule, ScheduleFault, ScheduleInfo, Scheduling,
    SlotFate, SlotReport,
};
pub use summary::{JobReport, JobResult, Summary};
pub use task::{Task, TaskOptions};
pub use worker::{Pass, UnknownKinds, Worker, WorkerBuilder};
pub use workflow::{
    INLINE, InlineStep, Restore, RestoreRule, SLEEP, StepEntry, StepState, StepStatus, TaskStep,
    Wf, step_statuses,
};

/// Derives [`Task`] for the type of a task's input.
pub use queue_macros::Task;

pub use queue_core as core;
#[doc(no_inline)]
pub use queue_core::{
    Clock, Error, ErrorKind, Job, JobError, JobFilter, JobId, JobQuery, JobStore, Lane,
    MemoryStore, Order, Outcome, Payload, QueueName, Result, State as JobState,
    States as JobStates, StoreRegistry, Timestamp, Unique,
};

#[cfg(feature = "mongo")]
#[doc(no_inline)]
pub use queue_mongo as mongo;
#[cfg(feature = "postgres")]
#[doc(no_inline)]
pub use queue_postgres as postgres;
#[cfg(feature = "sqlite")]
#[doc(no_inline)]
pub use queue_sqlite as sqlite;

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
