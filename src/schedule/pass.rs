//! Handling: which slots are due, and firing them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream};
use queue_core::{
    Effect, ErrorKind, Fire, Fired, JobFilter, NewJob, QueueName, Result, States, Timestamp,
    Version,
};
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    Handled, Missed, Overlap, SlotFate, SlotReport,
    hooks::{Trouble, Verdict, call},
    known::{About, Known, ScheduleInfo, Seen, keep_error, put_known},
    planned::Planned,
};
use crate::{Queue, io::answering, jitter::repeated};

/// How many schedules call the store at once, and how many are handled at once by hand. A worker that serves handles each by
/// itself, so that one whose hook is slow does not keep the others waiting.
const AT_ONCE: usize = 16;
/// How many slots of one schedule are handled before the others have their turn again.
const IN_TURN: usize = 8;

/// The schedules of a worker.
#[derive(Debug)]
pub(crate) struct Scheduler {
    queue: Queue,
    planned: Vec<Planned>,
    /// How long it waits for one call of the store.
    patience: Duration,
    /// Who may call the store for a schedule.
    turns: Semaphore,
}

/// What came of one look at all schedules.
pub(super) struct Round {
    pub(super) handled: Handled,
    /// Whether the store failed with a slot, which is still to be fired.
    pub(super) again: bool,
    /// Whether a schedule has more slots due than its turn allows.
    pub(super) more: bool,
}

/// What came of one schedule.
#[derive(Default)]
pub(super) struct Course {
    reports: Vec<SlotReport>,
    /// As in [`Round`].
    pub(super) again: bool,
    pub(super) more: bool,
}

/// What became of a slot.
enum Met {
    Decided(SlotFate),
    /// Others had decided it, and all slots up to this one.
    Others(Timestamp),
}

impl Scheduler {
    pub(crate) fn new(queue: Queue, planned: Vec<Planned>, patience: Duration) -> Self {
        Scheduler { queue, planned, patience, turns: Semaphore::new(AT_ONCE) }
    }

    pub(super) async fn look(&self) -> Result<Seen> {
        Seen::read_within(self.patience, &self.queue).await
    }

    /// Calls the store for a schedule, in its turn and for at most as long as the worker has patience.
    async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        // They are never closed.
        let _turn = self.turns.acquire().await;
        answering(self.patience, call).await
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn planned(&self) -> &[Planned] {
        &self.planned
    }

    /// Whether there is nothing to handle for these queues.
    pub(super) fn is_idle(&self, queues: Option<&[QueueName]>) -> bool {
        !self.planned.iter().any(|planned| planned.is_of(queues))
    }

    pub(crate) async fn infos(&self) -> Result<Vec<ScheduleInfo>> {
        let seen = Seen::read(&self.queue).await?;
        let info = |planned: &Planned| seen.info(&planned.name, Some(About::of(planned)));
        Ok(self.planned.iter().map(info).collect())
    }

    /// Handles the slots that are due, of all schedules or of those that enqueue into these queues.
    pub(super) async fn round(
        &self,
        queues: Option<&[QueueName]>,
        seen: Seen,
        hooks: &Handle,
    ) -> Round {
        let chosen: Vec<&Planned> =
            self.planned.iter().filter(|planned| planned.is_of(queues)).collect();
        let mut round = Round { handled: Handled::default(), again: false, more: false };
        let at_once = if broken!(AFailingScheduleStopsTheOthers) { 1 } else { AT_ONCE };
        let mut courses = Vec::new();
        for (place, planned) in chosen.iter().enumerate() {
            courses.push(
                self.handle(planned, &seen, hooks).map(move |course| (place, course)).boxed(),
            );
        }
        let mut courses = stream::iter(courses).buffer_unordered(at_once);
        let mut ended = Vec::new();
        while let Some((place, course)) = courses.next().await {
            let failed =
                course.reports.iter().any(|report| matches!(report.fate, SlotFate::Failed(_)));
            ended.push((place, course));
            if failed && broken!(AFailingScheduleStopsTheOthers) {
                break;
            }
        }
        ended.sort_by_key(|(place, _)| *place);
        for (_, course) in ended {
            round.again |= course.again;
            round.more |= course.more;
            course.reports.into_iter().for_each(|report| round.handled.note(report));
        }
        for planned in &chosen {
            if !seen.is_paused(&planned.name) {
                let next = planned.calendar.next(seen.now);
                round.handled.next = earlier(round.handled.next, next);
            }
        }
        round
    }

    /// Handles what is due of one schedule, as far as its turn allows.
    pub(super) async fn handle(&self, planned: &Planned, seen: &Seen, hooks: &Handle) -> Course {
        let mut course = Course::default();
        let mut slots = match self.due(planned, seen).await {
            Ok(slots) => slots,
            Err(error) => {
                course.fail(planned, None, &error);
                return course;
            }
        };
        course.more = slots.len() > IN_TURN;
        slots.truncate(IN_TURN);
        let mut decided = Timestamp::MIN;
        for slot in slots {
            if slot <= decided {
                continue;
            }
            match self.slot(planned, slot, seen, hooks).await {
                Ok(Met::Others(last_slot)) => decided = last_slot,
                Ok(Met::Decided(fate)) => self.tell(planned, slot, fate, hooks, &mut course).await,
                // Slots only move forward: a later one must wait for this one.
                Err(error) => {
                    course.fail(planned, Some(slot), &error);
                    break;
                }
            }
        }
        course
    }

    /// The slots to handle, in order. Makes a new schedule known.
    async fn due(&self, planned: &Planned, seen: &Seen) -> Result<Vec<Timestamp>> {
        let last_slot = seen.stat(&planned.name).map(|stat| stat.last_slot);
        let about = Some(About::of(planned));
        let since = match seen.known(&planned.name) {
            None => {
                // Its past is nobody's: it begins now, unless another scheduler was first.
                let since = last_slot.unwrap_or(seen.now);
                let known = Known { since, paused: false, about };
                let put = put_known(&self.queue, &planned.name, &known, Version(0));
                if !self.ask(put).await? {
                    return Ok(Vec::new());
                }
                since
            }
            Some((known, version)) => {
                if known.about != about {
                    let told = Known { about, ..known.clone() };
                    self.ask(put_known(&self.queue, &planned.name, &told, *version)).await?;
                }
                if known.paused {
                    return Ok(Vec::new());
                }
                known.since
            }
        };
        let floor = last_slot.map_or(since, |last| last.max(since));
        let slots = planned.calendar.newest(floor, seen.now, planned.missed.most());
        // The broken engine stamps with the time of its pass.
        Ok(match broken!(SlotsAreStampedWithThePass) && !slots.is_empty() {
            true => vec![seen.now],
            false => slots,
        })
    }

    /// Fires or passes over one slot, unless others did.
    async fn slot(
        &self,
        planned: &Planned,
        slot: Timestamp,
        seen: &Seen,
        hooks: &Handle,
    ) -> Result<Met> {
        let late = slot.until(seen.now) > planned.late_after;
        if planned.missed == Missed::Skip && late {
            return self.pass_over(planned, slot, SlotFate::Missed).await;
        }
        let stat = seen.stat(&planned.name).cloned();
        match planned.decide(slot, stat, &self.queue, hooks).await {
            Ok(Verdict::Enqueue(job)) => self.enqueue(planned, slot, *job).await,
            Ok(Verdict::Skip(reason)) => {
                self.pass_over(planned, slot, SlotFate::Skipped(reason)).await
            }
            Err(Trouble::Failed(why)) => self.pass_over(planned, slot, SlotFate::Failed(why)).await,
            Err(Trouble::BrokenOff) => Err(queue_core::Error::new(
                ErrorKind::Unavailable,
                "the program ends, and the slot was not decided",
            )),
        }
    }

    async fn enqueue(&self, planned: &Planned, slot: Timestamp, job: NewJob) -> Result<Met> {
        let by_hand = planned.overlap == Overlap::SkipWhileAny && !broken!(ManualJobsAreNotCounted);
        if by_hand && self.is_live(&job).await? {
            return self.pass_over(planned, slot, SlotFate::Overlap(None)).await;
        }
        if broken!(ScheduledJobsHaveFreshIds) {
            let mut job = job;
            (job.id, job.unique) = (queue_core::JobId::new(), None);
            let id = job.id;
            let _ = self.queue.insert(vec![job]).await?;
            let _ = self.fire(Fire::skip(&*planned.name, slot, None)).await?;
            return Ok(Met::Decided(SlotFate::Queued(id)));
        }
        let id = job.id;
        match self.fire(Fire::new(&*planned.name, slot, job)).await {
            Ok(Fired::Enqueued(id)) => Ok(Met::Decided(SlotFate::Queued(id))),
            // Without the other's id: the answer was lost, and what became of the slot was read afterwards.
            Ok(Fired::Skipped(other)) => {
                Ok(Met::Decided(SlotFate::Overlap(other.filter(|other| *other != id))))
            }
            Ok(Fired::Already { last_slot }) => Ok(Met::Others(last_slot)),
            // No repeat would end otherwise.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge) => {
                self.pass_over(planned, slot, SlotFate::Failed(error.to_string())).await
            }
            Err(error) => Err(error),
        }
    }

    async fn pass_over(&self, planned: &Planned, slot: Timestamp, fate: SlotFate) -> Result<Met> {
        let error = match &fate {
            SlotFate::Failed(error) => Some(error.clone()),
            _ => None,
        };
        Ok(match self.fire(Fire::skip(&*planned.name, slot, error)).await? {
            Fired::Already { last_slot } => Met::Others(last_slot),
            Fired::Enqueued(_) | Fired::Skipped(_) => Met::Decided(fate),
        })
    }

    /// Fires surely: if the answer of a try was lost, a repeat finds the slot taken, perhaps by that try.
    async fn fire(&self, fire: Fire) -> Result<Fired> {
        let unheard = AtomicBool::new(false);
        let fired = repeated(|| async {
            let again = fire.clone();
            let call = self.queue.io().change(|store| async move { store.fire(&again).await });
            self.ask(call).await.inspect_err(|error| {
                unheard.fetch_or(error.effect() == Effect::Unknown, Ordering::SeqCst);
            })
        });
        match fired.await? {
            Fired::Already { last_slot } if unheard.into_inner() && last_slot == fire.slot => {
                self.what_was_fired(&fire).await
            }
            fired => Ok(fired),
        }
    }

    async fn what_was_fired(&self, fire: &Fire) -> Result<Fired> {
        let read = || self.queue.io().call(|store| async move { store.schedules().await });
        let stats = repeated(|| self.ask(read()));
        let last_job = stats
            .await?
            .into_iter()
            .find(|stat| stat.schedule == fire.schedule && stat.last_slot == fire.slot)
            .and_then(|stat| stat.last_job);
        let Some(job) = &fire.job else { return Ok(Fired::Skipped(None)) };
        Ok(match last_job == Some(job.id) {
            true => Fired::Enqueued(job.id),
            false => Fired::Skipped(None),
        })
    }

    /// Whether a job of this kind and queue is waiting or running.
    async fn is_live(&self, job: &NewJob) -> Result<bool> {
        let mut filter = JobFilter::kind(job.kind.clone()).with_states(States::LIVE);
        filter.queues = Some(vec![job.queue.clone()]);
        let tallies = repeated(|| self.ask(self.queue.tally(filter.clone()))).await?;
        Ok(tallies.iter().any(|tally| tally.count > 0))
    }

    /// Reports what became of a slot, to the hook first.
    async fn tell(
        &self,
        planned: &Planned,
        slot: Timestamp,
        fate: SlotFate,
        hooks: &Handle,
        course: &mut Course,
    ) {
        let report = SlotReport { schedule: planned.name.to_string(), slot: Some(slot), fate };
        if let SlotFate::Failed(error) = &report.fate {
            tracing::warn!(schedule = %planned.name, %slot, error, "a slot failed");
        }
        course.reports.push(report.clone());
        let Some(hook) = planned.after.clone() else { return };
        let told = call(hooks, "the hook after the slot", async move { hook(report).await }).await;
        let Err(Trouble::Failed(error)) = told else { return };
        tracing::warn!(schedule = %planned.name, %slot, error, "a hook failed");
        let kept = self.ask(keep_error(&self.queue, &planned.name, slot, &error)).await;
        if let Err(trouble) = kept {
            tracing::warn!(schedule = %planned.name, error = %trouble, "the failure of a hook was not kept");
        }
        let schedule = planned.name.to_string();
        course.reports.push(SlotReport {
            schedule,
            slot: Some(slot),
            fate: SlotFate::Failed(error),
        });
    }
}

impl Course {
    /// The store failed: the next round comes back to it.
    fn fail(&mut self, planned: &Planned, slot: Option<Timestamp>, error: &queue_core::Error) {
        tracing::warn!(schedule = %planned.name, %error, "a schedule could not be handled; trying again");
        self.again = true;
        let fate = SlotFate::Failed(error.to_string());
        self.reports.push(SlotReport { schedule: planned.name.to_string(), slot, fate });
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}
