//! Jobs that supersede others.

use std::collections::HashSet;

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

/// Spoils the jobs that an insert superseded.
fn superseding(spoil: fn(&Stored, &mut Stored)) -> Flaw {
    Flaw::none().changing(move |was, is, _| {
        let reason = is.row.control.cancel.as_ref().map(|cancel| cancel.reason.clone());
        if was.row.control.state == State::Waiting
            && is.row.control.state == State::Cancelled
            && reason.is_some_and(|reason| reason.starts_with("superseded by job "))
        {
            spoil(was, is);
        }
    })
}

fn is_supersede(unique: &Unique) -> bool {
    unique.on_conflict == OnConflict::Supersede
}

fn same_key(unique: &Unique, other: &Stored) -> bool {
    other.row.control.unique.as_ref().is_some_and(|known| known.key == unique.key)
}

fn cancel(world: &mut World, id: JobId, now: Timestamp) {
    world.edit(id, |job| job.row.control.cancel("superseded", now));
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "It cancels the job that holds the key if that has never been started"
    Mutant::new(
        "supersede-by-attempt",
        "a job that was started and given back is superseded, because its attempt is 0",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let unique = job.unique.as_ref().filter(|unique| is_supersede(unique))?;
                let old = world.jobs().find(|old| {
                    same_key(unique, old)
                        && old.row.control.state == State::Waiting
                        && old.row.control.attempt == 0
                        && old.row.control.fence.count > 0
                        && old.row.control.unique.as_ref().is_some_and(is_supersede)
                });
                let old = old.map(|old| old.row.id).filter(|_| world.job(job.id).is_none())?;
                cancel(world, old, now);
                None
            })
        },
    ),
    Mutant::new(
        "supersede-cancels-retrying-jobs",
        "a job that waits for its retry is superseded",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let unique = job.unique.as_ref().filter(|unique| is_supersede(unique))?;
                let old = world.jobs().find(|old| {
                    same_key(unique, old)
                        && old.row.control.state == State::Waiting
                        && old.row.control.attempt > 0
                });
                let old = old.map(|old| old.row.id).filter(|_| world.job(job.id).is_none())?;
                cancel(world, old, now);
                None
            })
        },
    ),
    Mutant::new(
        "supersede-spares-edited-jobs",
        "a job that was edited since its insert is not superseded",
        &["INS-12"],
        || {
            inserting(|world, job, _| {
                let (unique, holder) = conflict(world, job)?;
                (is_supersede(unique) && holder.row.control.version.0 > 1)
                    .then_some(Ok(Inserted::Existing(holder.row.id)))
            })
        },
    ),
    Mutant::new(
        "supersede-spares-future-jobs",
        "a job that is not due yet is not superseded",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let (unique, holder) = conflict(world, job)?;
                (is_supersede(unique) && holder.row.control.run_at > now)
                    .then_some(Ok(Inserted::Existing(holder.row.id)))
            })
        },
    ),
    Mutant::new(
        "supersede-spares-jobs-of-other-queues",
        "a job in another queue is not superseded",
        &["INS-12"],
        || {
            inserting(|world, job, _| {
                let (unique, holder) = conflict(world, job)?;
                (is_supersede(unique) && holder.row.queue != job.queue)
                    .then_some(Ok(Inserted::Existing(holder.row.id)))
            })
        },
    ),
    Mutant::new(
        "supersede-spares-jobs-that-return",
        "a job whose own key says `Return` is never superseded",
        &["LAN-6"],
        || {
            inserting(|world, job, _| {
                let (unique, holder) = conflict(world, job)?;
                let returns = !holder.row.control.unique.as_ref().is_some_and(is_supersede);
                (is_supersede(unique) && returns).then_some(Ok(Inserted::Existing(holder.row.id)))
            })
        },
    ),
    // "Such a job holds its key only until its first claim, whatever `within` says: running, retrying and
    // finished jobs stay, and are no conflict."
    Mutant::new(
        "retrying-job-blocks-its-successor",
        "a superseding job that waits for its retry is a conflict again",
        &["LAN-6"],
        || {
            colliding(|_, unique, other| {
                same_key(unique, other)
                    && other.row.control.state == State::Waiting
                    && other.row.control.fence.count > 0
                    && other.row.control.unique.as_ref().is_some_and(is_supersede)
            })
        },
    ),
    Mutant::new(
        "return-meets-a-running-supersede",
        "an insert that returns the existing job returns a superseding one that runs",
        &["INS-12"],
        || {
            colliding(|_, unique, other| {
                !is_supersede(unique)
                    && same_key(unique, other)
                    && other.row.control.state == State::Running
                    && other.row.control.unique.as_ref().is_some_and(is_supersede)
            })
        },
    ),
    Mutant::new(
        "supersede-scope-counts",
        "a completed superseding job with completed jobs in its scope is a conflict",
        &["INS-12"],
        || {
            colliding(|_, unique, other| {
                same_key(unique, other)
                    && other.row.control.state.is_final()
                    && other.row.control.unique.as_ref().is_some_and(|known| {
                        is_supersede(known) && known.within.contains(other.row.control.state)
                    })
            })
        },
    ),
    Mutant::new(
        "supersede-by-the-rule-of-the-holder",
        "a waiting job whose own key says `Supersede` is superseded by any job of its key",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let (unique, holder) = conflict(world, job)?;
                let supersedes = holder.row.control.unique.as_ref().is_some_and(is_supersede);
                if !is_supersede(unique) && supersedes {
                    cancel(world, holder.row.id, now);
                }
                None
            })
        },
    ),
    Mutant::new(
        "supersede-takes-a-key-that-cancelled-jobs-keep",
        "a job whose scope has cancelled jobs in it is cancelled, and two hold its key",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let (unique, holder) = conflict(world, job)?;
                if !is_supersede(unique) || !holder.row.control.never_started() {
                    return None;
                }
                cancel(world, holder.row.id, now);
                Some(raw::insert_blindly(world, job, now))
            })
        },
    ),
    Mutant::new(
        "repeated-insert-supersedes-again",
        "the repeat of an insert cancels the job that has superseded its own",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let unique = job.unique.as_ref().filter(|unique| is_supersede(unique))?;
                let holder = world.key_holder(&unique.key).filter(|holder| *holder != job.id)?;
                if world.job(job.id).is_some()
                    && raw::stored(world, holder).row.control.yields_to(unique)
                {
                    cancel(world, holder, now);
                }
                None
            })
        },
    ),
    Mutant::new(
        "repeated-insert-supersedes-itself",
        "the repeat of an insert cancels the very job that it inserted",
        &["LAN-6"],
        || {
            inserting(|world, job, now| {
                let unique = job.unique.as_ref().filter(|unique| is_supersede(unique))?;
                if world.key_holder(&unique.key) == Some(job.id) {
                    cancel(world, job.id, now);
                }
                None
            })
        },
    ),
    // "Jobs of one call are treated one after the other"
    Mutant::new(
        "batch-supersedes-what-was-there-before",
        "two superseding jobs of one key in one call both stay",
        &["INS-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                world.clone().insert(jobs, now)?;
                let before: HashSet<JobId> = world.jobs().map(|job| job.row.id).collect();
                let one = |job: &NewJob| match conflict(world, job) {
                    Some((unique, holder))
                        if is_supersede(unique) && !before.contains(&holder.row.id) =>
                    {
                        raw::insert_blindly(world, job, now)
                    }
                    _ => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                };
                jobs.iter().map(one).collect()
            })
        },
    ),
    Mutant::new(
        "batch-stores-only-the-last-of-a-key",
        "of several superseding jobs of one key in one call only the last is stored",
        &["INS-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let inserted = world.insert(jobs, now)?;
                for (index, job) in jobs.iter().enumerate() {
                    let superseded = job.unique.as_ref().is_some_and(|unique| {
                        is_supersede(unique)
                            && jobs[index + 1..].iter().any(|later| {
                                later.unique.as_ref().is_some_and(|late| {
                                    late.key == unique.key && is_supersede(late)
                                })
                            })
                    });
                    if superseded && inserted[index].is_new() {
                        world.take(job.id);
                    }
                }
                Ok(inserted)
            })
        },
    ),
    // The table of effects: CancelWaiting: version +1, finished now, cancel set.
    Mutant::new(
        "superseded-job-has-no-end",
        "a superseded job has no time at which it ended",
        &["LAN-6"],
        || superseding(|_, is| is.row.control.finished_at = None),
    ),
    Mutant::new(
        "superseded-job-keeps-its-version",
        "a superseded job keeps its version",
        &["INS-12"],
        || superseding(|was, is| is.row.control.version = was.row.control.version),
    ),
    Mutant::new(
        "superseded-job-has-no-request",
        "a superseded job does not say that and why it was to be cancelled",
        &["LAN-6"],
        || superseding(|_, is| is.row.control.cancel = None),
    ),
    Mutant::new("superseded-job-failed", "a superseded job is failed", &["LAN-6"], || {
        superseding(|_, is| is.row.control.state = State::Failed)
    }),
    Mutant::new("superseded-job-is-deleted", "a superseded job is deleted", &["INS-8"], || {
        inserting(|world, job, _| {
            let (unique, holder) = conflict(world, job)?;
            if holder.row.control.yields_to(unique) {
                world.take(holder.row.id);
            }
            None
        })
    }),
];
