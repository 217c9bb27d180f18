//! Schedules as a worker has them: checked, and ready to make jobs.

use std::{fmt, sync::Arc, time::Duration};

use queue_core::{
    Capabilities, JobId, NewJob, Payload, QueueName, Result, ScheduleStat, Timestamp, Unique, When,
    name::check_name,
};
use tokio::runtime::Handle;

use super::{
    Missed, Overlap, Schedule, ScheduleFault,
    cron::Calendar,
    definition::{Made, Make},
    hooks::{After, Before, Decision, DueSlot, Trouble, Verdict, call},
    name::{MAX_SCHEDULE_BYTES, default_name, overlap_key},
};
use crate::{
    BuildError, Queue, TaskError,
    catalog::{Catalog, Run},
};

/// A schedule that can be handled.
pub(crate) struct Planned {
    pub(super) name: Arc<str>,
    pub(super) calendar: Calendar,
    /// What all its jobs have in common.
    pub(super) job: NewJob,
    pub(super) missed: Missed,
    pub(super) overlap: Overlap,
    pub(super) late_after: Duration,
    pub(super) after: Option<After>,
    before: Option<Before>,
    make: Make,
    run: Run,
}

/// Checks the schedules of a worker.
pub(crate) fn plan(
    schedules: Vec<Schedule>,
    catalog: &Catalog,
    limits: &Capabilities,
) -> Result<Vec<Planned>, BuildError> {
    let mut planned: Vec<Planned> = Vec::new();
    for schedule in schedules {
        let called = schedule.called();
        let refused = |fault| BuildError::Schedule { schedule: called, fault };
        match Planned::check(schedule, catalog, limits) {
            Err(fault) => return Err(refused(fault)),
            Ok(new) if planned.iter().any(|there| there.name == new.name) => {
                return Err(refused(ScheduleFault::Duplicate));
            }
            Ok(new) => planned.push(new),
        }
    }
    Ok(planned)
}

impl Schedule {
    /// How a message calls it, before it is known whether it can have a name.
    fn called(&self) -> String {
        let of = || format!("{} of {}", self.expression, self.job.kind);
        self.name.clone().unwrap_or_else(of)
    }
}

impl Planned {
    /// Whether it enqueues into one of these queues; `None`: any.
    pub(super) fn is_of(&self, queues: Option<&[QueueName]>) -> bool {
        queues.is_none_or(|queues| queues.contains(&self.job.queue))
    }

    fn check(
        schedule: Schedule,
        catalog: &Catalog,
        limits: &Capabilities,
    ) -> Result<Self, ScheduleFault> {
        let Schedule { expression, zone, name, queue, mut job, make, missed, overlap, .. } =
            schedule;
        let calendar = Calendar::read(&expression, &zone)?;
        let kind = job.kind.to_string();
        let registered = catalog.get(&kind);
        let of_task = || registered.and_then(|registered| registered.options.queue.clone());
        job.queue = queue.or_else(of_task).unwrap_or_default();
        let named = name.unwrap_or_else(|| match broken!(SchedulesShareStatistics) {
            false => default_name(&kind, job.queue.as_str(), &calendar),
            true => default_name(&kind, "", &calendar),
        });
        if named.len() > MAX_SCHEDULE_BYTES || check_name("schedule", &named).is_err() {
            return Err(ScheduleFault::Name(named.len()));
        }
        let Some(registered) = registered else {
            return Err(ScheduleFault::UnknownKind { kind, known: catalog.known() });
        };
        let planned = Planned {
            name: named.into(),
            calendar,
            job,
            missed,
            overlap,
            late_after: schedule.late_after,
            after: schedule.after,
            before: schedule.before,
            make,
            run: registered.run.clone(),
        };
        planned.check_input(limits).map(|()| planned)
    }

    /// An input that is a value can be checked at once; one made of the slot only then.
    fn check_input(&self, limits: &Capabilities) -> Result<(), ScheduleFault> {
        let Make::Value(made) = &self.make else { return Ok(()) };
        let unfit = |error: &queue_core::Error| ScheduleFault::Input {
            kind: self.job.kind.to_string(),
            why: error.message().to_owned(),
        };
        let made = made.as_ref().map_err(|error| unfit(error))?;
        self.run.check_input(&made.input).map_err(|error| unfit(&error))?;
        let job = self.job_with(made.clone(), Timestamp::EPOCH);
        limits.check_new(&[job]).map_err(ScheduleFault::Job)
    }

    fn job_with(&self, made: Made, slot: Timestamp) -> NewJob {
        let mut job = self.job.clone();
        job.id = JobId::for_slot(&self.name, slot);
        job.input = made.input;
        job.lane = made.lane;
        // Not before the slot by any clock, and in the order of slots.
        job.when = When::At(slot);
        job.unique = unique_key(&job, made.unique, self.overlap);
        job
    }

    /// What is to become of a slot: makes its input and asks the hook.
    pub(super) async fn decide(
        &self,
        slot: Timestamp,
        stat: Option<ScheduleStat>,
        queue: &Queue,
        hooks: &Handle,
    ) -> Result<Verdict, Trouble> {
        let made = self.made(slot, hooks).await?;
        let job = self.job_with(made, slot);
        let Some(hook) = self.before.clone() else { return Ok(Verdict::Enqueue(Box::new(job))) };
        let schedule = self.name.clone();
        let overlap = self.overlap;
        let due = DueSlot { schedule, slot, stat, queue: queue.clone(), job, overlap };
        let asked = async move { hook(due).await };
        let Decision(verdict) = call(hooks, "the hook before the slot", asked).await?;
        if let Verdict::Enqueue(job) = &verdict {
            self.fits(&job.input)?;
        }
        Ok(verdict)
    }

    async fn made(&self, slot: Timestamp, hooks: &Handle) -> Result<Made, Trouble> {
        let make = match &self.make {
            Make::Value(made) => {
                return made.clone().map_err(|error| Trouble::Failed(error.to_string()));
            }
            Make::BySlot(make) => make.clone(),
        };
        call(hooks, "the input", async move { make(slot).map_err(TaskError::from) }).await
    }

    fn fits(&self, input: &Payload) -> Result<(), Trouble> {
        self.run.check_input(input).map_err(|error| {
            Trouble::Failed(format!(
                "the input does not fit {:?}: {}",
                self.job.kind,
                error.message()
            ))
        })
    }
}

/// The unique key of a slot's job: the task's own if it has one for this input, else what keeps slots from overlapping.
pub(super) fn unique_key(job: &NewJob, own: Option<Unique>, overlap: Overlap) -> Option<Unique> {
    match overlap {
        _ if broken!(SlotsOverlap) => own,
        Overlap::Allow => own,
        Overlap::SkipWhileScheduled | Overlap::SkipWhileAny => {
            own.or_else(|| Some(overlap_key(&job.kind, job.queue.as_str())))
        }
    }
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned")
            .field("name", &self.name)
            .field("calendar", &self.calendar)
            .field("kind", &self.job.kind)
            .field("queue", &self.job.queue)
            .finish_non_exhaustive()
    }
}
