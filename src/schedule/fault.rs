use super::name::MAX_SCHEDULE_BYTES;

/// What is wrong with a schedule, and what would work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleFault {
    /// The cron expression cannot be read.
    #[error(
        "{expression:?} is not a cron expression: {why}; write minute, hour, day of month, month and day of week, \
         such as \"0 3 * * MON-FRI\", with a field for seconds before them if there is need"
    )]
    Cron {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        why: String,
    },
    /// No date matches the expression.
    #[error(
        "{expression:?} never fires: no date has that day and month; \
         for the last day of a month write L"
    )]
    NeverFires {
        /// The expression.
        expression: String,
    },
    /// The time zone is unknown.
    #[error(
        "there is no time zone {zone:?}; write a name of the IANA database, such as {near:?}, or \"UTC\""
    )]
    Zone {
        /// The zone that was asked for.
        zone: String,
        /// One that there is.
        near: &'static str,
    },
    /// No handler runs the job.
    #[error(
        "no handler is registered for {kind:?}; register one with .task(..) or .workflow(..). This worker has {known}"
    )]
    UnknownKind {
        /// The kind of job that the schedule enqueues.
        kind: String,
        /// The kinds that the worker runs.
        known: String,
    },
    /// The input is not one that the handler takes.
    #[error("its input does not fit {kind:?}: {why}")]
    Input {
        /// The kind of job that the schedule enqueues.
        kind: String,
        /// Why not.
        why: String,
    },
    /// Another schedule of the worker has the name.
    #[error(
        "another schedule has this name, by which slots and statistics are kept; \
         give one of them another with .named(..)"
    )]
    Duplicate,
    /// The name cannot be stored.
    #[error(
        "the name has {0} bytes; give it one of 1 to {MAX_SCHEDULE_BYTES} bytes without control characters with .named(..)"
    )]
    Name(usize),
    /// The job could not be stored.
    #[error("its job cannot be stored: {0}")]
    Job(queue_core::Error),
}
