//! Schedules.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{
    Fire, Fired, Inserted, NewJob, OnConflict, Result, ScheduleStat, Timestamp, spec::World,
};

use super::super::{Flaw, Mutant};

/// A fire after which the statistics of its schedule are spoilt, by what they were.
fn counting(spoil: fn(&Fire, &Fired, Option<&ScheduleStat>, &mut ScheduleStat)) -> Flaw {
    Flaw::none().fire(move |world, fire, now| {
        let before = stat(world, &fire.schedule);
        let fired = world.fire(fire, now)?;
        if let Some(mut after) = stat(world, &fire.schedule) {
            spoil(fire, &fired, before.as_ref(), &mut after);
            world.place_schedule(after);
        }
        Ok(fired)
    })
}

/// A fire that finds a slot passed by its own rule: of the slot and the last one.
fn passing(passed: fn(Timestamp, Option<Timestamp>) -> bool) -> Flaw {
    Flaw::none().fire(move |world, fire, now| {
        fire.check()?;
        let last = stat(world, &fire.schedule).map(|stat| stat.last_slot);
        match passed(fire.slot, last) {
            true => Ok(Fired::Already { last_slot: last.unwrap_or(Timestamp::EPOCH) }),
            false => world.fire(fire, now),
        }
    })
}

/// A fire whose job is spoilt on its way in.
fn firing(spoil: fn(&World, &Fire, &mut NewJob)) -> Flaw {
    Flaw::none().fire(move |world, fire, now| {
        let mut fire = fire.clone();
        if let Some(mut job) = fire.job.take() {
            spoil(world, &fire, &mut job);
            fire.job = Some(job);
        }
        world.fire(&fire, now)
    })
}

fn stat(world: &World, schedule: &str) -> Option<ScheduleStat> {
    world.schedules().into_iter().find(|stat| stat.schedule == schedule)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "Slots only move forward: one that is not later than the last is not fired."
    Mutant::new(
        "slots-in-whole-seconds",
        "a slot in the same second as the last one was fired before",
        &["SCH-1"],
        || {
            passing(|slot, last| {
                let second = |at: Timestamp| at.as_micros().div_euclid(1_000_000);
                last.is_some_and(|last| second(slot) <= second(last))
            })
        },
    ),
    Mutant::new(
        "slots-in-milliseconds",
        "a slot in the same millisecond as the last one was fired before",
        &["SCH-1"],
        || {
            passing(|slot, last| {
                last.is_some_and(|last| super::millis(slot) <= super::millis(last))
            })
        },
    ),
    Mutant::new(
        "slots-begin-in-1970",
        "the first slot of a schedule is passed when it lies before 1970",
        &["FID-6"],
        || passing(|slot, last| last.is_none() && slot <= Timestamp::EPOCH),
    ),
    Mutant::new(
        "skipped-slot-can-be-fired",
        "a slot that was passed over can be fired later",
        &["SCH-2"],
        || {
            let skipped: Arc<Mutex<BTreeSet<(String, Timestamp)>>> = Arc::default();
            Flaw::none().fire(move |world, fire, now| {
                let mut skipped = skipped.lock().unwrap_or_else(PoisonError::into_inner);
                let slot = (fire.schedule.clone(), fire.slot);
                if fire.job.is_some()
                    && skipped.remove(&slot)
                    && let Some(mut known) = stat(world, &fire.schedule)
                    && known.last_slot == fire.slot
                {
                    known.last_slot = Timestamp::from_micros_saturating(fire.slot.as_micros() - 1);
                    world.place_schedule(known);
                }
                let fired = world.fire(fire, now)?;
                if fired == Fired::Skipped(None) {
                    skipped.insert(slot);
                }
                Ok(fired)
            })
        },
    ),
    // "This slot, or a later one, was fired before; nothing was changed."
    Mutant::new(
        "late-fire-records-its-error",
        "a slot that was fired before leaves its error with the schedule",
        &["SCH-8"],
        || {
            counting(|fire, fired, _, stat| {
                if let (Fired::Already { .. }, Some(error)) = (fired, &fire.error) {
                    stat.last_error = Some(error.clone());
                }
            })
        },
    ),
    Mutant::new(
        "late-fire-counts-as-skipped",
        "a slot that was fired before counts as passed over",
        &["SCH-2"],
        || {
            counting(|_, fired, _, stat| {
                if let Fired::Already { .. } = fired {
                    stat.skipped += 1;
                }
            })
        },
    ),
    Mutant::new(
        "late-fire-answers-its-own-slot",
        "a slot earlier than the last is answered with itself as the last",
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
    // "The last job enqueued.", "The last error, and it stays until a slot is fired."
    Mutant::new(
        "skip-forgets-the-last-job",
        "a slot that is passed over forgets the last job",
        &["SCH-3"],
        || {
            counting(|_, fired, _, stat| {
                if let Fired::Skipped(_) = fired {
                    stat.last_job = None;
                }
            })
        },
    ),
    Mutant::new(
        "skip-names-the-holder",
        "a slot passed over for a job that holds its key names that job as the last one enqueued",
        &["SCH-3"],
        || {
            counting(|_, fired, _, stat| {
                if let Fired::Skipped(Some(holder)) = fired {
                    stat.last_job = Some(*holder);
                }
            })
        },
    ),
    Mutant::new(
        "skip-forgets-the-error",
        "a slot that is passed over without an error forgets the last error",
        &["SCH-3"],
        || {
            counting(|fire, fired, _, stat| {
                if let (Fired::Skipped(_), None) = (fired, &fire.error) {
                    stat.last_error = None;
                }
            })
        },
    ),
    Mutant::new(
        "fire-keeps-the-old-error",
        "a slot that is fired leaves the last error",
        &["SCH-3"],
        || {
            counting(|_, fired, before, stat| {
                if let Fired::Enqueued(_) = fired {
                    let old = before.and_then(|before| before.last_error.clone());
                    stat.last_error = stat.last_error.take().or(old);
                }
            })
        },
    ),
    Mutant::new(
        "fire-drops-its-error",
        "a slot that is fired with an error does not keep the error",
        &["SCH-8"],
        || {
            counting(|_, fired, _, stat| {
                if let Fired::Enqueued(_) = fired {
                    stat.last_error = None;
                }
            })
        },
    ),
    Mutant::new(
        "held-key-does-not-move-the-slot",
        "a slot passed over because its key is held can be fired later",
        &["SCH-3"],
        || {
            counting(|_, fired, before, stat| {
                if let (Fired::Skipped(Some(_)), Some(before)) = (fired, before) {
                    stat.last_slot = before.last_slot;
                }
            })
        },
    ),
    Mutant::new(
        "held-key-is-not-counted",
        "a slot passed over because its key is held does not count as passed over",
        &["SCH-3"],
        || {
            counting(|_, fired, before, stat| {
                if let Fired::Skipped(Some(_)) = fired {
                    stat.skipped = before.map_or(0, |before| before.skipped);
                }
            })
        },
    ),
    // The job of a slot is inserted as any other.
    Mutant::new(
        "fire-does-not-supersede",
        "a fire whose job supersedes is passed over while the key is held",
        &["SCH-7"],
        || {
            firing(|_, _, job| {
                if let Some(unique) = &mut job.unique {
                    unique.on_conflict = OnConflict::Return;
                }
            })
        },
    ),
    Mutant::new("fire-drops-the-lane", "the job of a slot has no lane", &["SCH-7"], || {
        firing(|_, _, job| job.lane = None)
    }),
    Mutant::new("fire-drops-the-labels", "the job of a slot has no labels", &["SCH-4"], || {
        firing(|_, _, job| job.labels.clear())
    }),
    Mutant::new(
        "fire-drops-the-priority",
        "the job of a slot has the priority 0 and is kept, whatever it says",
        &["SCH-7"],
        || {
            firing(|_, _, job| {
                job.priority = 0;
                job.keep = queue_core::Keep::Always;
                job.max_crashes = queue_core::DEFAULT_MAX_CRASHES;
            })
        },
    ),
    // "A job due "now" stays so."
    Mutant::new(
        "fired-job-is-due-at-its-slot",
        "the job of a slot is due at the slot when it should be due now",
        &["SCH-6"],
        || {
            firing(|_, fire, job| {
                if job.when == queue_core::When::Now {
                    job.when = queue_core::When::At(fire.slot);
                }
            })
        },
    ),
    Mutant::new(
        "fired-delay-counts-from-the-slot",
        "the delay of a slot's job counts from the slot",
        &["SCH-4"],
        || {
            firing(|_, fire, job| {
                if let queue_core::When::After(delay) = job.when {
                    job.when = queue_core::When::At(fire.slot.plus(delay));
                }
            })
        },
    ),
    // "Malformed input is refused whole with `Invalid` before anything is changed"
    Mutant::new(
        "invalid-fire-moves-the-slot",
        "a fire whose job is refused moves the slot all the same",
        &["SCH-4"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let fired = world.fire(fire, now);
                if fired.is_err() && fire.job.is_some() {
                    let _ = world.fire(&Fire::skip(fire.schedule.clone(), fire.slot, None), now);
                }
                fired
            })
        },
    ),
    // schedules: "by name"
    Mutant::new(
        "schedules-sort-without-case",
        "schedules are listed as a dictionary would, B after a",
        &["SCH-8"],
        || {
            Flaw::none().schedules(|world, _| {
                let mut stats = world.schedules();
                stats.sort_by_key(|stat| stat.schedule.to_lowercase());
                Ok(stats)
            })
        },
    ),
    Mutant::new(
        "schedules-sort-by-slot",
        "schedules are listed by their last slots",
        &["SCH-8"],
        || {
            Flaw::none().schedules(|world, _| {
                let mut stats = world.schedules();
                stats.sort_by_key(|stat| stat.last_slot);
                Ok(stats)
            })
        },
    ),
    Mutant::new(
        "schedules-without-case",
        "schedules whose names differ in upper and lower case are one",
        &["SCH-5"],
        || {
            Flaw::none().fire(|world, fire, now| -> Result<Fired> {
                fire.check()?;
                let twin = world.schedules().into_iter().find(|stat| {
                    stat.schedule != fire.schedule
                        && stat.schedule.eq_ignore_ascii_case(&fire.schedule)
                });
                match twin {
                    Some(stat) if fire.slot <= stat.last_slot => {
                        Ok(Fired::Already { last_slot: stat.last_slot })
                    }
                    _ => world.fire(fire, now),
                }
            })
        },
    ),
    // "`Skipped`: passed over ... because this job holds the unique key."
    Mutant::new(
        "skip-answers-no-holder",
        "a slot passed over because its key is held does not say by which job",
        &["SCH-3"],
        || {
            Flaw::none().fire(|world, fire, now| {
                Ok(match world.fire(fire, now)? {
                    Fired::Skipped(Some(_)) => Fired::Skipped(None),
                    fired => fired,
                })
            })
        },
    ),
    // "at most one job per schedule and slot, ever"
    Mutant::new(
        "deleted-slot-fires-again",
        "a slot whose job was deleted can be fired again",
        &["SCH-6"],
        || {
            Flaw::none().fire(|world, fire, now| {
                let gone = fire.job.as_ref().is_some_and(|job| world.job(job.id).is_none());
                let known = stat(world, &fire.schedule);
                match (known, &fire.job) {
                    (Some(known), Some(job))
                        if gone
                            && known.last_slot == fire.slot
                            && known.last_job == Some(job.id) =>
                    {
                        match world.insert(std::slice::from_ref(job), now)?.remove(0) {
                            Inserted::New(id) => Ok(Fired::Enqueued(id)),
                            Inserted::Existing(id) => Ok(Fired::Skipped(Some(id))),
                        }
                    }
                    _ => world.fire(fire, now),
                }
            })
        },
    ),
];
