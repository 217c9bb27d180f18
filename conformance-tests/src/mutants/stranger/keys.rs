//! Unique keys, and what a conflict does.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{
    Inserted, JobId, NewJob, OnConflict, Result, State, Timestamp, Unique,
    spec::{Stored, World},
};

use super::super::{Flaw, Mutant, raw};

/// An insert that treats some jobs in another way than the contract's.
fn inserting(other: fn(&mut World, &NewJob, Timestamp) -> Option<Result<Inserted>>) -> Flaw {
    Flaw::none().insert(move |world, jobs, now| {
        world.clone().insert(jobs, now)?;
        let one = |job: &NewJob| match other(world, job, now) {
            Some(inserted) => inserted,
            None => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
        };
        jobs.iter().map(one).collect()
    })
}

/// The new job's key and the job that holds it, if the job is new and another holds its key.
fn conflict<'a>(world: &World, job: &'a NewJob) -> Option<(&'a Unique, Stored)> {
    let unique = job.unique.as_ref()?;
    let holder = world.key_holder(&unique.key).filter(|_| world.job(job.id).is_none())?;
    Some((unique, raw::stored(world, holder)))
}

/// An insert to which the holder of a key is no conflict when this holds of both.
fn overlooking(overlooked: fn(&NewJob, &Stored) -> bool) -> Flaw {
    Flaw::none().insert(move |world, jobs, now| {
        world.clone().insert(jobs, now)?;
        let one = |job: &NewJob| match conflict(world, job) {
            Some((_, holder)) if overlooked(job, &holder) => raw::insert_blindly(world, job, now),
            _ => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
        };
        jobs.iter().map(one).collect()
    })
}

/// An insert to which another job is a conflict as well when this holds of both.
fn colliding(collides: fn(&NewJob, &Unique, &Stored) -> bool) -> Flaw {
    Flaw::none().insert(move |world, jobs, now| {
        world.clone().insert(jobs, now)?;
        let one = |job: &NewJob| {
            if let (Some(unique), None) = (&job.unique, world.job(job.id))
                && let Some(other) = world.jobs().find(|other| collides(job, unique, other))
            {
                return Ok(Inserted::Existing(other.row.id));
            }
            Ok(world.insert(std::slice::from_ref(job), now)?.remove(0))
        };
        jobs.iter().map(one).collect()
    })
}

fn same_key(unique: &Unique, other: &Stored) -> bool {
    other.row.control.unique.as_ref().is_some_and(|known| known.key == unique.key)
}

/// A store that remembers the keys of jobs that are gone, when this state was the job's last.
fn remembering(last: fn(State) -> bool) -> Flaw {
    let gone: Arc<Mutex<BTreeMap<String, JobId>>> = Arc::default();
    let remember = move |gone: &Mutex<BTreeMap<String, JobId>>, before: &World, after: &World| {
        let lost = before.jobs().filter(|job| after.job(job.row.id).is_none());
        for job in lost.filter(|job| last(job.row.control.state)) {
            if let Some(unique) = &job.row.control.unique {
                let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
                gone.insert(unique.key.clone(), job.row.id);
            }
        }
    };
    let (deleted, dropped) = (gone.clone(), gone.clone());
    Flaw::none()
        .delete(move |world, filter, limit, _| {
            let before = world.clone();
            let count = world.delete(filter, *limit)?;
            remember(&deleted, &before, world);
            Ok(count)
        })
        .update(move |world, updates, now| {
            let before = world.clone();
            let outcomes = world.update(updates, now)?;
            remember(&dropped, &before, world);
            Ok(outcomes)
        })
        .insert(move |world, jobs, now| {
            world.clone().insert(jobs, now)?;
            let gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
            let one =
                |job: &NewJob| match job.unique.as_ref().and_then(|unique| gone.get(&unique.key)) {
                    Some(id) => Ok(Inserted::Existing(*id)),
                    None => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                };
            jobs.iter().map(one).collect()
        })
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "within: The states in which a job holds the key."
    Mutant::new(
        "retry-frees-the-key",
        "a job that waits for its retry does not hold its key",
        &["INS-7"],
        || {
            overlooking(|_, holder| {
                holder.row.control.state == State::Waiting && holder.row.control.attempt > 0
            })
        },
    ),
    Mutant::new(
        "future-job-holds-no-key",
        "a job that is not due yet does not hold its key",
        &["LAN-6"],
        || {
            overlooking(|_, holder| {
                holder.row.control.state == State::Waiting
                    && holder.row.control.run_at > holder.row.created_at
                    && holder.row.control.fence.count == 0
            })
        },
    ),
    Mutant::new(
        "cancel-mark-frees-the-key",
        "a running job that is to be cancelled does not hold its key",
        &["INS-11"],
        || {
            overlooking(|_, holder| {
                holder.row.control.state == State::Running && holder.row.control.cancel.is_some()
            })
        },
    ),
    Mutant::new(
        "completed-job-holds-no-key",
        "a completed job does not hold its key, though it is in its scope",
        &["DEL-4"],
        || overlooking(|_, holder| holder.row.control.state == State::Completed),
    ),
    Mutant::new(
        "failed-job-holds-no-key",
        "a failed job does not hold its key, though it is in its scope",
        &["INS-7"],
        || overlooking(|_, holder| holder.row.control.state == State::Failed),
    ),
    Mutant::new(
        "crashed-out-job-holds-no-key",
        "a job that crashed too often does not hold its key, though failed jobs are in its scope",
        &["INS-7"],
        || {
            overlooking(|_, holder| {
                holder.row.control.state == State::Failed
                    && holder.row.control.crashes > holder.row.control.max_crashes
            })
        },
    ),
    Mutant::new(
        "cancelled-job-holds-no-key",
        "a cancelled job does not hold its key, though it is in its scope",
        &["INS-7"],
        || overlooking(|_, holder| holder.row.control.state == State::Cancelled),
    ),
    Mutant::new(
        "scope-of-the-newcomer",
        "whether a key is held is judged by the scope of the new job",
        &["INS-11"],
        || {
            colliding(|_, unique, other| {
                unique.on_conflict == OnConflict::Return
                    && same_key(unique, other)
                    && unique.within.contains(other.row.control.state)
            })
        },
    ),
    Mutant::new(
        "scope-of-both",
        "a key is held only in states that are in the scope of the new job as well",
        &["DEL-4"],
        || {
            overlooking(|job, holder| {
                job.unique
                    .as_ref()
                    .is_some_and(|unique| !unique.within.contains(holder.row.control.state))
            })
        },
    ),
    Mutant::new(
        "deleted-job-holds-its-key",
        "a key in whose scope a job was deleted is never free again",
        &["DEL-4"],
        || remembering(|state| state != State::Completed && state != State::Running),
    ),
    Mutant::new(
        "dropped-job-holds-its-key",
        "a key whose job was deleted by its completion is never free again",
        &["INS-11"],
        || remembering(|state| state == State::Running),
    ),
    // "Shared by all queues and kinds"
    Mutant::new(
        "keys-by-kind",
        "a unique key holds among jobs of one kind only",
        &["FID-7"],
        || overlooking(|job, holder| holder.row.kind != job.kind),
    ),
    Mutant::new(
        "keys-by-queue-of-now",
        "a unique key holds among the jobs that are in the new job's queue now",
        &["FID-7"],
        || overlooking(|job, holder| holder.row.queue != job.queue),
    ),
    Mutant::new(
        "keys-by-priority",
        "a unique key holds among jobs of one priority only",
        &["INS-11"],
        || overlooking(|job, holder| holder.row.priority != job.priority),
    ),
    // Names are compared byte by byte and have up to 256 bytes.
    Mutant::new(
        "keys-ignore-case",
        "unique keys that differ in upper and lower case are one",
        &["FID-10"],
        || {
            colliding(|_, unique, other| {
                other.row.control.holds_key()
                    && other.row.control.unique.as_ref().is_some_and(|known| {
                        known.key != unique.key && known.key.eq_ignore_ascii_case(&unique.key)
                    })
            })
        },
    ),
    Mutant::new(
        "keys-ignore-trailing-spaces",
        "unique keys that differ in spaces at their end are one",
        &["FID-10"],
        || {
            colliding(|_, unique, other| {
                other.row.control.holds_key()
                    && other.row.control.unique.as_ref().is_some_and(|known| {
                        known.key != unique.key && known.key.trim_end() == unique.key.trim_end()
                    })
            })
        },
    ),
    Mutant::new(
        "keys-in-255-bytes",
        "unique keys that agree in their first 255 bytes are one",
        &["FID-10"],
        || {
            colliding(|_, unique, other| {
                let start = |key: &str| key.as_bytes()[..key.len().min(255)].to_vec();
                other.row.control.holds_key()
                    && other.row.control.unique.as_ref().is_some_and(|known| {
                        known.key != unique.key && start(&known.key) == start(&unique.key)
                    })
            })
        },
    ),
    // "A job whose id is there changes nothing and is `Existing`"
    Mutant::new(
        "repeated-insert-answers-the-holder",
        "the repeat of an insert answers the job that holds the key now",
        &["LAN-6"],
        || {
            inserting(|world, job, _| {
                let unique = job.unique.as_ref().filter(|_| world.job(job.id).is_some())?;
                world.key_holder(&unique.key).map(|holder| Ok(Inserted::Existing(holder)))
            })
        },
    ),
    Mutant::new(
        "existing-id-takes-the-new-fields",
        "inserting an id that is there sets that job's priority and labels",
        &["INS-3"],
        || {
            inserting(|world, job, _| {
                world.edit(job.id, |old| {
                    old.row.priority = job.priority;
                    old.row.labels.clone_from(&job.labels);
                });
                None
            })
        },
    ),
    Mutant::new(
        "conflict-bumps-the-version",
        "an insert that finds its key held adds one to the version of the holder",
        &["INS-11"],
        || {
            inserting(|world, job, _| {
                let (unique, holder) = conflict(world, job)?;
                if !holder.row.control.yields_to(unique) {
                    world.edit(holder.row.id, |old| old.row.control.version.0 += 1);
                }
                None
            })
        },
    ),
    Mutant::new(
        "conflict-hurries-the-holder",
        "an insert that finds its key held makes the holder due when the new job would have been",
        &["INS-11"],
        || {
            inserting(|world, job, now| {
                let (unique, holder) = conflict(world, job)?;
                if !holder.row.control.yields_to(unique) {
                    let at = job.when.resolve(now).min(holder.row.control.run_at);
                    world.edit(holder.row.id, |old| old.row.control.run_at = at);
                }
                None
            })
        },
    ),
    Mutant::new(
        "deleted-id-stays-taken",
        "the id of a deleted job can never be inserted again",
        &["DEL-4"],
        || {
            let gone: Arc<Mutex<HashSet<JobId>>> = Arc::default();
            let deleted = gone.clone();
            Flaw::none()
                .delete(move |world, filter, limit, _| {
                    let before: Vec<JobId> = world.jobs().map(|job| job.row.id).collect();
                    let count = world.delete(filter, *limit)?;
                    let mut gone = deleted.lock().unwrap_or_else(PoisonError::into_inner);
                    gone.extend(before.into_iter().filter(|id| world.job(*id).is_none()));
                    Ok(count)
                })
                .insert(move |world, jobs, now| {
                    world.clone().insert(jobs, now)?;
                    let gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
                    let one = |job: &NewJob| match gone.contains(&job.id) {
                        true => Ok(Inserted::Existing(job.id)),
                        false => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                    };
                    jobs.iter().map(one).collect()
                })
        },
    ),
    Mutant::new(
        "batch-inserts-in-order-of-ids",
        "the jobs of one call are treated in the order of their ids",
        &["INS-11"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let mut places: Vec<usize> = (0..jobs.len()).collect();
                places.sort_by_key(|place| jobs[*place].id);
                let sorted: Vec<NewJob> = places.iter().map(|place| jobs[*place].clone()).collect();
                let inserted = world.insert(&sorted, now)?;
                let mut answers: Vec<(usize, Inserted)> =
                    places.into_iter().zip(inserted).collect();
                answers.sort_by_key(|(place, _)| *place);
                Ok(answers.into_iter().map(|(_, inserted)| inserted).collect())
            })
        },
    ),
];
