use std::time::Duration;

use futures::FutureExt;
use queue_core::{
    BulkChange, Fire, Fired, Inserted, JobId, ScheduleStat, State, Timestamp, spec::World,
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("schedule-error-raw", "the error of a slot is kept as it is", &["SCH-3"], || {
        Flaw::none().fire(|world, fire, now| {
            let fired = world.fire(fire, now)?;
            if let (Some(error), Some(mut stat)) = (&fire.error, stat(world, fire)) {
                stat.last_error = Some(error.clone());
                world.place_schedule(stat);
            }
            Ok(fired)
        })
    }),
    Mutant::new(
        "fire-count-then-insert",
        "the last slot is looked up, then the job inserted",
        &["SCH-1"],
        || {
            Flaw::none().fire_racing(|store, fire| {
                async move {
                    fire.check()?;
                    let last = store.step(|world, _| last_slot(world, fire));
                    if let Some(last_slot) = last.filter(|last| fire.slot <= *last) {
                        return Ok(Fired::Already { last_slot });
                    }
                    store.pause().await;
                    store.step(|world, now| {
                        let Some(mut job) = fire.job.clone() else { return world.fire(fire, now) };
                        job.id = JobId::new();
                        let inserted = world.insert(&[job], now)?.remove(0);
                        let fired = match inserted {
                            Inserted::New(id) => Fired::Enqueued(id),
                            Inserted::Existing(id) => Fired::Skipped(Some(id)),
                        };
                        let mut stat = stat(world, fire)
                            .unwrap_or_else(|| ScheduleStat::new(fire.schedule.clone(), fire.slot));
                        stat.count(fire.slot, &fired, fire.error.clone());
                        world.place_schedule(stat);
                        Ok(fired)
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "fire-counts-what-it-did-not",
        "a slot fired by another is counted again",
        &["SCH-1", "SCH-3"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let fired = world.fire(fire, now)?;
                if let (Fired::Already { .. }, Some(mut stat)) = (&fired, stat(world, fire)) {
                    stat.fired += 1;
                    world.place_schedule(stat);
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new("slots-move-back", "a slot older than the last is fired", &["SCH-2"], || {
        Flaw::none().fire(|world, fire, now| {
            if let Some(mut stat) = stat(world, fire)
                && fire.slot < stat.last_slot
            {
                stat.last_slot = just_before(fire);
                world.place_schedule(stat);
            }
            world.fire(fire, now)
        })
    }),
    Mutant::new(
        "already-echoes-the-slot",
        "Already carries the slot asked for",
        &["SCH-2"],
        || {
            Flaw::none().fire(|world, fire, now| {
                Ok(match world.fire(fire, now)? {
                    Fired::Already { .. } => Fired::Already { last_slot: fire.slot },
                    fired => fired,
                })
            })
        },
    ),
    Mutant::new(
        "skips-are-not-counted",
        "a slot that was passed over leaves no trace",
        &["SCH-3"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let before = stat(world, fire);
                let fired = world.fire(fire, now)?;
                if let (Fired::Skipped(_), Some(before)) = (&fired, before) {
                    world.place_schedule(before);
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new(
        "schedule-error-stays",
        "the last error outlives the next firing",
        &["SCH-3"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let before = stat(world, fire);
                let fired = world.fire(fire, now)?;
                if let (Some(before), Some(mut after)) = (before, stat(world, fire)) {
                    after.last_error = after.last_error.or(before.last_error);
                    world.place_schedule(after);
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new(
        "schedule-last-job-missing",
        "the last job of a schedule is the first",
        &["SCH-3"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let before = stat(world, fire);
                let fired = world.fire(fire, now)?;
                if let (Some(before), Some(mut after)) = (before, stat(world, fire)) {
                    after.last_job = before.last_job.or(after.last_job);
                    world.place_schedule(after);
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new(
        "fire-again-is-a-skip",
        "a repeated firing is counted as passed over",
        &["SCH-4"],
        || {
            Flaw::none().fire(|world, fire, now| {
                if let Some(mut stat) = stat(world, fire)
                    && fire.slot == stat.last_slot
                {
                    stat.last_slot = just_before(fire);
                    world.place_schedule(stat);
                }
                world.fire(fire, now)
            })
        },
    ),
    Mutant::new(
        "job-before-slot",
        "the job is enqueued under an id of its own, the slot noted by the next call",
        &["SCH-4"],
        || {
            let noted: std::sync::Mutex<Option<(String, Timestamp)>> = std::sync::Mutex::default();
            Flaw::none().fire(move |world, fire, now| {
                let mut noted = noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let fired = world.fire(fire, now)?;
                let this = (fire.schedule.clone(), fire.slot);
                if let (Fired::Already { .. }, Some(job)) = (&fired, &fire.job)
                    && noted.as_ref() == Some(&this)
                {
                    let mut again = job.clone();
                    again.id = JobId::new();
                    *noted = None;
                    let id = again.id;
                    let inserted = raw::insert_blindly(world, &again, now)?;
                    return Ok(if inserted.is_new() { Fired::Enqueued(id) } else { fired });
                }
                if matches!(fired, Fired::Enqueued(_)) {
                    *noted = Some(this);
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new(
        "schedules-share-statistics",
        "one schedule overwrites another's numbers",
        &["SCH-5"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let fired = world.fire(fire, now)?;
                if let (false, Some(this)) =
                    (matches!(fired, Fired::Already { .. }), stat(world, fire))
                {
                    for other in world.schedules() {
                        let mut same = this.clone();
                        same.schedule = other.schedule;
                        world.place_schedule(same);
                    }
                }
                Ok(fired)
            })
        },
    ),
    Mutant::new(
        "slots-shared-by-kind",
        "two schedules of one kind of job share their last slot",
        &["SCH-5"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let others = world.schedules().into_iter();
                let last = others.filter(|stat| stat.schedule != fire.schedule);
                match last.map(|stat| stat.last_slot).max() {
                    Some(last_slot) if fire.slot <= last_slot => Ok(Fired::Already { last_slot }),
                    _ => world.fire(fire, now),
                }
            })
        },
    ),
    Mutant::new(
        "slot-known-by-its-job",
        "whether a slot was fired is told by its job, which may be gone",
        &["SCH-6"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let gone = world.job(JobId::for_slot(&fire.schedule, fire.slot)).is_none();
                if let Some(mut stat) = stat(world, fire)
                    && gone
                    && fire.slot <= stat.last_slot
                {
                    stat.last_slot = just_before(fire);
                    world.place_schedule(stat);
                }
                world.fire(fire, now)
            })
        },
    ),
    Mutant::new(
        "wake-misses-running-jobs",
        "a wake leaves no mark on a running job",
        &["SIG-1"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let before = world.clone();
                let counts = world.update_where(filter, change, now)?;
                if matches!(change, BulkChange::Wake) {
                    for id in before.running() {
                        world.place(raw::stored(&before, id));
                    }
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new(
        "heartbeat-clears-wake",
        "a heartbeat clears the mark of a wake",
        &["SIG-1"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let outcomes = world.heartbeat(held, *lease, now)?;
                for held in held {
                    world.edit(held.id, |stored| stored.row.control.wake = false);
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new("append-clears-wake", "an append clears the mark of a wake", &["SIG-1"], || {
        Flaw::none().changing(|was, is, _| {
            if is.log.len() > was.log.len() && is.row.control.state == State::Running {
                is.row.control.wake = false;
            }
        })
    }),
    Mutant::new(
        "wake-misses-waiting-jobs",
        "a wake leaves a waiting job where it is",
        &["SIG-1"],
        || {
            Flaw::none().changing(|was, is, _| {
                let waited = was.row.control.state == State::Waiting;
                if waited && is.row.control.state == State::Waiting {
                    is.row.control.run_at = was.row.control.run_at;
                }
            })
        },
    ),
    Mutant::new(
        "wake-outlives-the-run",
        "the mark of a wake survives the release it served",
        &["SIG-1"],
        || {
            Flaw::none().changing(|was, is, _| {
                is.row.control.wake |= was.row.control.wake;
            })
        },
    ),
];

fn stat(world: &World, fire: &Fire) -> Option<ScheduleStat> {
    world.schedules().into_iter().find(|stat| stat.schedule == fire.schedule)
}

fn last_slot(world: &World, fire: &Fire) -> Option<Timestamp> {
    stat(world, fire).map(|stat| stat.last_slot)
}

fn just_before(fire: &Fire) -> Timestamp {
    fire.slot.minus(Duration::from_micros(1))
}
