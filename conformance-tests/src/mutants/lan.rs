use futures::FutureExt;
use queue_core::{
    ClaimRequest, Inserted, Job, JobId, NewJob, OnConflict, Order, State, Timestamp,
    spec::{Stored, World, superseded_by},
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "lane-limit-per-batch",
        "the limit of a lane holds within one claim only",
        &["LAN-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                if let Some(repeated) = world.repeated_claim(request, now) {
                    return Ok(repeated);
                }
                let picked = without_slots(world).pick(request, now);
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    Mutant::new(
        "lane-count-then-claim",
        "the running jobs are counted, then others claimed",
        &["LAN-1"],
        || {
            Flaw::none().claim_racing(|store, request| {
                async move {
                    request.check()?;
                    let counted =
                        store.step(|world, now| match world.repeated_claim(request, now) {
                            Some(repeated) => Err(repeated),
                            None => Ok(full_lanes(world)),
                        });
                    let full = match counted {
                        Err(repeated) => return Ok(repeated),
                        Ok(full) => full,
                    };
                    store.pause().await;
                    Ok(store.step(|world, now| {
                        let mut picked = without_slots(world).pick(request, now);
                        picked.retain(|(id, _)| {
                            let lane = raw::stored(world, *id).row.control.lane;
                            lane.is_none_or(|lane| !full.contains(&lane.key))
                        });
                        raw::take(world, &picked, request, now)
                    }))
                }
                .boxed()
            })
        },
    ),
    Mutant::new("lanes-ignored", "lanes have no limit", &["LAN-1"], || {
        Flaw::none().writing(|job| job.lane = None)
    }),
    Mutant::new("lane-stops-the-claim", "a claim ends at the first full lane", &["LAN-2"], || {
        Flaw::none().claim(|world, request, now| {
            let all = everything(world, request, now);
            raw::claim_by(world, request, now, |_, picked| {
                let free: Vec<JobId> = picked.iter().map(|(id, _)| *id).collect();
                let stop = all.iter().position(|id| !free.contains(id)).unwrap_or(all.len());
                picked.retain(|(id, _)| all[..stop].contains(id));
            })
        })
    }),
    Mutant::new(
        "blocked-jobs-use-the-limit",
        "jobs behind a full lane are filtered out after the limit was applied",
        &["LAN-2"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut first = everything(world, request, now);
                first.truncate(request.limit.get() as usize);
                raw::claim_by(world, request, now, |_, picked| {
                    picked.retain(|(id, _)| first.contains(id));
                })
            })
        },
    ),
    Mutant::new("slot-leaked-by-complete", "a completed job keeps its slot", &["LAN-3"], || {
        leaking(|_, is| is.row.control.state == State::Completed)
    }),
    Mutant::new("slot-leaked-by-fail", "a failed job keeps its slot", &["LAN-3"], || {
        leaking(|was, is| is.row.control.state == State::Failed && !raw::crashed(was, is))
    }),
    Mutant::new("slot-leaked-by-cancel", "a cancelled job keeps its slot", &["LAN-3"], || {
        leaking(|was, is| is.row.control.state == State::Cancelled && !raw::crashed(was, is))
    }),
    Mutant::new("slot-leaked-by-release", "a released job keeps its slot", &["LAN-3"], || {
        leaking(raw::released)
    }),
    Mutant::new("slot-leaked-by-reap", "a reaped job keeps its slot", &["LAN-3"], || {
        leaking(raw::crashed)
    }),
    Mutant::new(
        "backoff-holds-the-slot",
        "a job that waits for its retry keeps its slot",
        &["LAN-4"],
        || leaking(raw::retried),
    ),
    Mutant::new("lane-is-lifo", "the newest job of a lane goes first", &["LAN-5"], || {
        Flaw::none().claim(|world, request, now| {
            let mut turned = request.clone();
            turned.order = match request.order {
                Order::Fifo => Order::Lifo,
                Order::Lifo => Order::Fifo,
            };
            let turned = raw::due(world, &turned, now);
            raw::claim_by(world, request, now, |world, picked| {
                let laned = |id: JobId| raw::stored(world, id).row.control.lane.is_some();
                picked.retain(|(id, _)| !laned(*id));
                picked.extend(turned.into_iter().filter(|(id, _)| laned(*id)));
            })
        })
    }),
    Mutant::new("lane-ignores-lifo", "LIFO does not hold within a lane", &["LAN-5"], || {
        Flaw::none().claim(|world, request, now| {
            let mut fifo = request.clone();
            fifo.order = Order::Fifo;
            let fifo = raw::due(world, &fifo, now);
            raw::claim_by(world, request, now, |world, picked| {
                let laned = |id: JobId| raw::stored(world, id).row.control.lane.is_some();
                picked.retain(|(id, _)| !laned(*id));
                picked.extend(fifo.into_iter().filter(|(id, _)| laned(*id)));
            })
        })
    }),
    Mutant::new(
        "supersede-cancels-retrying",
        "an insert that supersedes cancels waiting jobs of the key that have run before",
        &["LAN-6"],
        || {
            superseding(|world, job, now| {
                for old in of_key(world, job) {
                    world.edit(old, |old| old.row.control.cancel(&superseded_by(job.id), now));
                }
            })
        },
    ),
    Mutant::new(
        "supersede-deletes-finished",
        "superseding deletes ended jobs of the key",
        &["LAN-6"],
        || {
            superseding(|world, job, _| {
                for old in of_key(world, job) {
                    if raw::stored(world, old).row.control.state.is_final() {
                        world.take(old);
                    }
                }
            })
        },
    ),
    Mutant::new("supersede-keeps-the-old", "superseding cancels nothing", &["LAN-6"], || {
        superseding(|world, job, _| {
            for old in of_key(world, job) {
                world.edit(old, |old| old.row.control.unique = None);
            }
        })
    }),
    Mutant::new(
        "supersede-in-two-steps",
        "the earlier job is cancelled first, the new one inserted afterwards",
        &["LAN-6"],
        || {
            Flaw::none().insert_racing(|store, jobs| {
                async move {
                    let supersedes = jobs.iter().any(supersedes);
                    if supersedes {
                        store.step(|world, now| {
                            for job in jobs.iter().filter(|job| self::supersedes(job)) {
                                for old in of_key(world, job) {
                                    world.edit(old, |old| {
                                        if old.row.control.never_started() {
                                            let reason = superseded_by(job.id);
                                            old.row.control.cancel(&reason, now);
                                        }
                                    });
                                }
                            }
                        });
                        store.pause().await;
                    }
                    store.step(|world, now| {
                        let insert = |job: &NewJob| match self::supersedes(job) {
                            true => raw::insert_blindly(world, job, now),
                            false => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                        };
                        jobs.iter().map(insert).collect::<queue_core::Result<Vec<Inserted>>>()
                    })
                }
                .boxed()
            })
        },
    ),
];

/// The lanes in which no further job may start.
fn full_lanes(world: &World) -> Vec<String> {
    let running = world.running().filter_map(|id| world.job(id)?.row.control.lane.clone());
    let running: Vec<_> = running.collect();
    let full = |lane: &&queue_core::Lane| {
        running.iter().filter(|other| other.key == lane.key).count() >= lane.limit.get() as usize
    };
    running.iter().filter(full).map(|lane| lane.key.clone()).collect()
}

/// The world as if no running job held a slot.
fn without_slots(world: &World) -> World {
    let mut free = world.clone();
    let running: Vec<JobId> = world.running().collect();
    for id in running {
        free.edit(id, |stored| stored.row.control.slot = None);
    }
    free
}

/// All due jobs in order, as if there were no lanes.
fn everything(world: &World, request: &ClaimRequest, now: Timestamp) -> Vec<JobId> {
    let mut free = world.clone();
    let all: Vec<JobId> = world.jobs().map(|stored| stored.row.id).collect();
    for id in all {
        free.edit(id, |stored| (stored.row.control.slot, stored.row.control.lane) = (None, None));
    }
    raw::due(&free, request, now).into_iter().map(|(id, _)| id).collect()
}

/// A run that ends in this way keeps its slot.
fn leaking(leaks: fn(&Stored, &Stored) -> bool) -> Flaw {
    Flaw::none().changing(move |was, is, _| {
        if was.row.control.state == State::Running && leaks(was, is) {
            is.row.control.slot = was.row.control.slot;
        }
    })
}

fn supersedes(job: &NewJob) -> bool {
    job.unique.as_ref().is_some_and(|unique| unique.on_conflict == OnConflict::Supersede)
}

/// The jobs with the key of this new one.
fn of_key(world: &World, job: &NewJob) -> Vec<JobId> {
    let key = |job: &Job| job.unique.as_ref().map(|unique| unique.key.clone());
    let wanted = job.unique.as_ref().map(|unique| unique.key.clone());
    let jobs = world.jobs().map(|stored| stored.row.clone().into_job(Vec::new()));
    jobs.filter(|old| wanted.is_some() && key(old) == wanted).map(|old| old.id).collect()
}

/// An insert that does something to the jobs of a key before it supersedes.
fn superseding(first: impl Fn(&mut World, &NewJob, Timestamp) + Send + Sync + 'static) -> Flaw {
    Flaw::none().insert(move |world, jobs, now| {
        let insert = |job: &NewJob| {
            if supersedes(job) && world.job(job.id).is_none() {
                first(world, job, now);
            }
            Ok(world.insert(std::slice::from_ref(job), now)?.remove(0))
        };
        jobs.iter().map(insert).collect()
    })
}
