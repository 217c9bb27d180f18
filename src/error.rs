use std::{error::Error as StdError, fmt};

use queue_core::JobError;

use crate::supervise::discard;

/// What a handler returns.
pub type TaskResult<T> = Result<T, TaskError>;

/// Why a handler failed.
///
/// Every error type converts into it, so `?` works on anything. It is not an `Error` itself: that is
/// what makes the conversion possible.
#[derive(Debug)]
pub struct TaskError {
    pub(crate) fault: Fault,
}

#[derive(Debug)]
pub(crate) enum Fault {
    /// A handler's own error.
    Failed { error: Box<JobError>, fatal: bool },
    /// A step failed for good.
    Step(Box<JobError>),
    /// The job cancels itself.
    Cancel(String),
}

impl TaskError {
    /// A failure with this message. It is retried if the budget allows.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::named("task-failed", message)
    }

    /// A failure with a name for programs and a message for people.
    pub fn named(name: impl Into<String>, message: impl fmt::Display) -> Self {
        let error = Box::new(JobError::new(name, message.to_string()));
        TaskError { fault: Fault::Failed { error, fatal: false } }
    }

    /// A failure that no retry can mend: final, whatever the budget.
    pub fn fatal(error: impl Into<TaskError>) -> Self {
        let mut error = error.into();
        if let Fault::Failed { fatal, .. } = &mut error.fault {
            *fatal = true;
        }
        error
    }

    /// Cancels the job from inside. Final, and not counted as a failed attempt.
    pub fn cancel(reason: impl Into<String>) -> Self {
        TaskError { fault: Fault::Cancel(reasoned(reason.into())) }
    }

    /// A failure as it was stored.
    #[cfg(feature = "testing")]
    pub(crate) fn from_stored(error: JobError, fatal: bool) -> Self {
        TaskError { fault: Fault::Failed { error: Box::new(error), fatal } }
    }

    /// Whether no retry can mend it: a [fatal](TaskError::fatal) error, a cancellation, or a step that failed for good.
    pub const fn is_fatal(&self) -> bool {
        !matches!(self.fault, Fault::Failed { fatal: false, .. })
    }

    /// A named failure that is final.
    pub(crate) fn fatal_named(name: &str, message: impl fmt::Display) -> Self {
        Self::fatal(Self::named(name, message))
    }

    /// What is stored of it.
    pub fn job_error(&self) -> JobError {
        match &self.fault {
            Fault::Failed { error, .. } | Fault::Step(error) => worded(error.cleaned()),
            Fault::Cancel(reason) => cancelled(reason).cleaned(),
        }
    }
}

/// The error with a name and a message, whatever its maker left out.
fn worded(mut error: JobError) -> JobError {
    if broken!(EmptyNames) {
        return error;
    }
    if error.name.trim().is_empty() {
        "task-failed".clone_into(&mut error.name);
    }
    if error.message.trim().is_empty() {
        "it failed without a message".clone_into(&mut error.message);
    }
    error
}

/// The reason for a cancellation, whatever its maker left out.
fn reasoned(reason: String) -> String {
    match reason.trim().is_empty() {
        true => "cancelled without a reason".to_owned(),
        false => reason,
    }
}

pub(crate) fn cancelled(reason: &str) -> JobError {
    let mut error = JobError::new("cancelled", reason);
    error.is_final = true;
    error.cancelled = true;
    error
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.job_error(), f)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut failure = JobError::new("task-failed", error.to_string());
        let mut cause = error.source();
        while let Some(error) = cause {
            failure.chain.push(error.to_string());
            cause = error.source();
        }
        TaskError { fault: Fault::Failed { error: Box::new(failure), fatal: false } }
    }
}

/// The failure that a panic with this content stands for.
pub(crate) fn panicked(content: Box<dyn std::any::Any + Send>) -> TaskError {
    let message = content
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| content.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    discard(content);
    TaskError::named("panic", format!("panicked: {message}"))
}

/// Why a worker cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two handlers for one name.
    #[error("two handlers are registered for {name:?}; a name has one handler")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A handler asks for a state that the worker was not given.
    #[error("the handler of {name:?} needs State<{state}>; give it to the worker with .state(..)")]
    MissingState {
        /// The name of the task or workflow.
        name: String,
        /// The type of the state.
        state: &'static str,
    },
    /// The handler of a task asks for a workflow context.
    #[error("the handler of {name:?} takes a Wf and must be registered with .workflow(..)")]
    NotAWorkflow {
        /// The name of the task.
        name: String,
    },
    /// A callback for a task or workflow that the worker does not run.
    #[error("a callback is registered for {name:?}, which has no handler in this worker")]
    CallbackWithoutHandler {
        /// The name of the task or workflow.
        name: String,
    },
    /// A callback asks for a workflow context.
    #[error("a callback of {name:?} takes a Wf; a job that has ended runs no steps")]
    WorkflowInCallback {
        /// The name of the task or workflow.
        name: String,
    },
    /// The lease cannot be kept.
    #[error(
        "a lease of {lease:?} cannot be kept by renewing it every {renew_every:?}; \
         renew at least twice in a lease"
    )]
    Lease {
        /// The lease.
        lease: std::time::Duration,
        /// The interval.
        renew_every: std::time::Duration,
    },
    /// The jobs of a worker that has vanished would not come back.
    #[error("a lease of {lease:?} is too long; it may be at most {} days", longest.as_secs() / 86_400)]
    LeaseTooLong {
        /// The lease.
        lease: std::time::Duration,
        /// The longest that is taken.
        longest: std::time::Duration,
    },
    /// Nothing can run.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// An order for a queue that the worker does not name.
    #[error(
        "an order was given for queue {queue:?}, which is not among the worker's queues; \
         name it with .queues(..)"
    )]
    OrderOfUnknownQueue {
        /// The queue.
        queue: queue_core::QueueName,
    },
    /// A schedule that cannot be kept.
    #[error("schedule {schedule:?}: {fault}")]
    Schedule {
        /// The schedule's name, or its expression and kind.
        schedule: String,
        /// What is wrong with it.
        fault: crate::ScheduleFault,
    },
    /// A malformed name or option.
    #[error(transparent)]
    Invalid(#[from] queue_core::Error),
}
