use std::{fmt, sync::Arc, time::Duration};

use queue_core::{Error, Keep, Lane, NewJob, Payload, QueueName, Result, Timestamp, Unique};

use super::{
    Decision, DueSlot, Missed, Overlap, SlotReport,
    hooks::{After, Before},
};
use crate::{Task, TaskResult};

/// How late a slot may be handled and still be in its time.
const LATE_AFTER: Duration = Duration::from_secs(60);

/// A task or workflow that is enqueued by the calendar. Give it to
/// [`WorkerBuilder::scheduled`](crate::WorkerBuilder::scheduled); a kind may have several.
///
/// ```
/// # use queue::{Missed, Overlap, Schedule, Timestamp};
/// #[derive(serde::Serialize, serde::Deserialize, queue::Task)]
/// #[task(name = "report")]
/// struct Report {
///     day: Timestamp,
/// }
///
/// let nightly = Schedule::cron_with("0 3 * * MON-FRI", |slot| Report { day: slot })
///     .named("nightly report")
///     .zone("Europe/Berlin")
///     .overlap(Overlap::Allow)
///     .missed(Missed::up_to(7))
///     .before(|slot| async move { Ok(slot.enqueue()) });
/// ```
///
/// # Slots
///
/// A slot is an instant of the calendar, and is fired once ever, however many workers have the schedule. The expression
/// has minute, hour, day of month, month and day of week, and may have seconds before them; `@hourly`, `@daily`, `@weekly`,
/// `@monthly` and `@yearly` are known. Where day of month and day of week are both restricted, either is enough.
///
/// Where the clocks of the zone are changed, an expression that names one time of day (a single second, minute and hour) fires once
/// that day: in place of a time that is left out at the first instant after the gap, and of a time that comes twice at its first. Any
/// other expression goes by the clock on the wall: what is left out does not fire, and what comes twice fires twice.
pub struct Schedule {
    pub(super) expression: String,
    pub(super) zone: String,
    pub(super) name: Option<String>,
    /// `None`: that of the task.
    pub(super) queue: Option<QueueName>,
    pub(super) job: NewJob,
    pub(super) make: Make,
    pub(super) missed: Missed,
    pub(super) overlap: Overlap,
    pub(super) late_after: Duration,
    pub(super) before: Option<Before>,
    pub(super) after: Option<After>,
}

/// What depends on the input.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) input: Payload,
    pub(super) lane: Option<Lane>,
    pub(super) unique: Option<Unique>,
}

/// Where the input comes from.
#[derive(Clone)]
pub(super) enum Make {
    Value(Result<Made, Arc<Error>>),
    BySlot(Arc<dyn Fn(Timestamp) -> Result<Made> + Send + Sync>),
}

impl Made {
    pub(super) fn of<T: Task>(task: &T) -> Result<Self> {
        let input = Payload::from_value(task)?;
        Ok(Made { input, lane: task.lane(), unique: task.unique() })
    }
}

impl Schedule {
    /// Enqueues this task in each slot of a cron expression.
    #[must_use]
    pub fn cron<T: Task>(expression: impl Into<String>, task: T) -> Self {
        let make = Make::Value(Made::of(&task).map_err(Arc::new));
        Self::new::<T>(expression.into(), make)
    }

    /// Enqueues the task that this function makes of the slot. It may be called more than once for a slot, by
    /// several workers. If it panics, the slot is passed over and the panic is the schedule's last error.
    #[must_use]
    pub fn cron_with<T: Task>(
        expression: impl Into<String>,
        input: impl Fn(Timestamp) -> T + Send + Sync + 'static,
    ) -> Self {
        Self::new::<T>(
            expression.into(),
            Make::BySlot(Arc::new(move |slot| Made::of(&input(slot)))),
        )
    }

    /// Enqueues a kind whose types are known only at run time.
    #[must_use]
    pub fn cron_dyn(
        expression: impl Into<String>,
        kind: impl Into<String>,
        input: Payload,
    ) -> Self {
        let made = Made { input, lane: None, unique: None };
        let job = NewJob::new(kind.into(), Payload::null());
        Self::with(expression.into(), job, Make::Value(Ok(made)))
    }

    fn new<T: Task>(expression: String, make: Make) -> Self {
        let mut schedule = Self::with(expression, NewJob::new(T::NAME, Payload::null()), make);
        schedule.queue = T::options().queue;
        schedule
    }

    fn with(expression: String, job: NewJob, make: Make) -> Self {
        Schedule {
            expression,
            zone: "UTC".to_owned(),
            name: None,
            queue: None,
            job,
            make,
            missed: Missed::default(),
            overlap: Overlap::default(),
            late_after: LATE_AFTER,
            before: None,
            after: None,
        }
    }

    /// Its name, by which its slots and statistics are kept; at most 240 bytes. When it is not called: kind, queue, expression and zone
    /// together, so that a change of any of them makes a new schedule. A schedule with a name of its own stays the same one when
    /// its expression changes.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The time zone in which the expression is read, by its name in the IANA database; `UTC` when it is not called.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// The queue of its jobs; that of the task when it is not called.
    #[must_use]
    pub fn queue(mut self, queue: QueueName) -> Self {
        self.queue = Some(queue);
        self
    }

    /// The priority of its jobs.
    #[must_use]
    pub const fn priority(mut self, priority: i16) -> Self {
        self.job.priority = priority;
        self
    }

    /// Gives its jobs a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.job.labels.insert(key.into(), value.into());
        self
    }

    /// Its jobs are deleted by the write that completes them. Failed and cancelled ones stay.
    #[must_use]
    pub const fn delete_on_complete(mut self) -> Self {
        self.job.keep = Keep::UnlessCompleted;
        self
    }

    /// What becomes of slots that nobody handled in their time: [`Missed::CatchUpOnce`] when it is not called.
    #[must_use]
    pub const fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// With [`Missed::Skip`]: how late a slot may be handled and still be fired. A minute when it is not called.
    #[must_use]
    pub const fn late_after(mut self, late: Duration) -> Self {
        self.late_after = late;
        self
    }

    /// Whether a slot is fired while an earlier job is waiting or running: [`Overlap::SkipWhileScheduled`] when it is not called.
    #[must_use]
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Asks this function before a slot is fired: it may skip the slot, or change the job. [`overlap`](Self::overlap) holds
    /// all the same.
    ///
    /// Every worker that comes to the slot asks its own; one of them decides. If it fails, panics or takes longer than 30 s, the slot
    /// is passed over and that is the schedule's last error.
    #[must_use]
    pub fn before<Fut>(mut self, hook: impl Fn(DueSlot) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = TaskResult<Decision>> + Send + 'static,
    {
        self.before = Some(Arc::new(move |slot| Box::pin(hook(slot))));
        self
    }

    /// Tells this function what became of a slot, in the worker that decided it. A worker that dies in between tells nobody;
    /// where the store's answer was lost, two workers may tell. Its failure is the schedule's last error and changes nothing else.
    #[must_use]
    pub fn after<Fut>(mut self, hook: impl Fn(SlotReport) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = TaskResult<()>> + Send + 'static,
    {
        self.after = Some(Arc::new(move |report| Box::pin(hook(report))));
        self
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("expression", &self.expression)
            .field("zone", &self.zone)
            .field("name", &self.name)
            .field("kind", &self.job.kind)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
