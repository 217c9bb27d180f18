use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures::FutureExt;
use queue_core::{
    Clock, Fence, Guard, JobId, Outcome, Reaped, State, Timestamp, Uuid, Version, spec::World,
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "heartbeat-takes-any-progress",
        "the progress that a heartbeat carries is cut to 100 percent instead of refused",
        &["UPD-6"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let mut held = held.to_vec();
                for held in &mut held {
                    if let Some(progress) = &mut held.progress {
                        progress.percent = progress.percent.min(100);
                    }
                }
                world.heartbeat(&held, *lease, now)
            })
        },
    ),
    Mutant::new(
        "heartbeat-adds-to-the-lease",
        "a heartbeat adds to the old end of the lease",
        &["LSE-1"],
        || {
            Flaw::none().changing(|was, is, now| {
                let (old, new) = (was.row.control.lease_until, is.row.control.lease_until);
                if let (Some(old), Some(new)) = (old, new)
                    && old != new
                {
                    is.row.control.lease_until = Some(old.plus(now.until(new)));
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-does-nothing",
        "a heartbeat is acknowledged and not stored",
        &["LSE-1"],
        || {
            Flaw::none().changing(|was, is, _| {
                if was.row.control.lease_until.is_some() && is.row.control.lease_until.is_some() {
                    is.row.control.lease_until = was.row.control.lease_until;
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-of-a-fixed-length",
        "a heartbeat renews for 15 s whatever it says",
        &["LSE-1"],
        || {
            Flaw::none().heartbeat(|world, held, _, now| {
                world.heartbeat(held, Duration::from_secs(15), now)
            })
        },
    ),
    Mutant::new("heartbeat-revives", "a heartbeat takes a lost job back", &["LSE-2"], || {
        Flaw::none().heartbeat(|world, held, lease, now| {
            for held in held {
                world.edit(held.id, |stored| {
                    let control = &mut stored.row.control;
                    if control.state == State::Waiting && control.fence == held.fence {
                        control.state = State::Running;
                        control.holder = Some(Arc::from("revived"));
                    }
                });
            }
            world.heartbeat(held, *lease, now)
        })
    }),
    Mutant::new("heartbeat-of-anybody", "a heartbeat is never fenced", &["LSE-2"], || {
        Flaw::none().heartbeat(|world, held, lease, now| {
            let outcomes = world.heartbeat(held, *lease, now)?;
            let lie = |outcome| match outcome {
                Outcome::Fenced => raw::applied(),
                outcome => outcome,
            };
            Ok(outcomes.into_iter().map(lie).collect())
        })
    }),
    Mutant::new("expired-is-fenced", "a holder whose lease ran out is refused", &["LSE-3"], || {
        Flaw::none().update(|world, updates, now| {
            raw::update_by(world, updates, now, |world, update| {
                let expired = world.job(update.id)?.row.control.is_expired(now);
                (expired && matches!(update.guard, Guard::Fence(_))).then_some(Outcome::Fenced)
            })
        })
    }),
    Mutant::new(
        "reap-by-start-time",
        "jobs are reaped by their start, not by their lease",
        &["LSE-4"],
        || {
            reaping(|world, now| {
                select(world, |control| control.started_at.is_some_and(|started| started < now))
            })
        },
    ),
    Mutant::new("reap-takes-all", "every running job is reaped", &["LSE-4", "MOD-1"], || {
        reaping(|world, _| select(world, |_| true))
    }),
    Mutant::new(
        "reap-end-exclusive",
        "a lease that ends this instant is not over",
        &["LSE-4"],
        || {
            reaping(|world, now| {
                select(world, |control| control.lease_until.is_some_and(|until| until < now))
            })
        },
    ),
    Mutant::new(
        "reap-a-microsecond-early",
        "a lease is over a microsecond early",
        &["LSE-4"],
        || {
            reaping(|world, now| {
                let soon = now.plus(Duration::from_micros(1));
                select(world, |control| control.is_expired(soon))
            })
        },
    ),
    Mutant::new("reap-ignores-limit", "a reap takes more than its limit", &["LSE-4"], || {
        Flaw::none().reap(|world, _, now| Ok(world.reap(NonZeroU32::MAX, now)))
    }),
    Mutant::new("reap-newest-first", "a reap takes the latest expiry first", &["LSE-4"], || {
        Flaw::none().reap(|world, limit, now| {
            let mut expired = select(world, |control| control.is_expired(now));
            expired.reverse();
            expired.truncate(limit.get() as usize);
            Ok(expired.into_iter().filter_map(|id| world.reap_one(id, now)).collect())
        })
    }),
    Mutant::new(
        "guard-by-holder-name",
        "a write is checked by the holder's name alone",
        &["LSE-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let held = world.job(update.id)?.row.control.holder.is_some();
                    (held && matches!(update.guard, Guard::Fence(_)))
                        .then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "reapers-select-then-update",
        "two reapers count one crash twice",
        &["LSE-6"],
        || racing_reap(|state| state != State::Running),
    ),
    Mutant::new(
        "reap-overwrites-the-end",
        "a reaper writes over the completion that came between",
        &["LSE-7"],
        || racing_reap(State::is_final),
    ),
    Mutant::new("crashes-without-limit", "a poison job comes back for ever", &["LSE-8"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::crashed(was, is) && is.row.control.state == State::Failed {
                is.row.control.state = State::Waiting;
                is.row.control.finished_at = None;
                is.row.error = None;
            }
        })
    }),
    Mutant::new(
        "one-crash-too-few",
        "a job fails at max_crashes instead of past it",
        &["LSE-8"],
        || {
            Flaw::none().changing(|was, is, now| {
                let crashed = raw::crashed(was, is);
                let control = &mut is.row.control;
                if crashed
                    && control.crashes >= control.max_crashes
                    && control.state == State::Waiting
                {
                    control.state = State::Failed;
                    control.finished_at = Some(now);
                }
            })
        },
    ),
    Mutant::new(
        "crash-leaves-no-error",
        "a job that crashed too often does not say so",
        &["LSE-8"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) {
                    is.row.error = None;
                }
            })
        },
    ),
    Mutant::new("crash-uses-an-attempt", "a lost lease uses up the attempt", &["LSE-8"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::crashed(was, is) {
                is.row.control.attempt = was.row.control.attempt;
            }
        })
    }),
    Mutant::new("heartbeat-bumps-version", "a heartbeat is an edit", &["LSE-9"], || {
        Flaw::none().heartbeat(|world, held, lease, now| {
            let outcomes = world.heartbeat(held, *lease, now)?;
            for held in held {
                world.edit(held.id, |stored| {
                    let version = &mut stored.row.control.version;
                    *version = Version(version.0 + 1);
                });
            }
            Ok(outcomes)
        })
    }),
    Mutant::new(
        "lease-by-the-callers-clock",
        "the end of a lease is computed by the caller",
        &["LSE-10"],
        || {
            Flaw::none().changing(|was, is, now| {
                let (old, new) = (was.row.control.lease_until, is.row.control.lease_until);
                if let Some(until) = new
                    && old != new
                {
                    is.row.control.lease_until = Some(Clock::system().now().plus(now.until(until)));
                }
            })
        },
    ),
    Mutant::new(
        "reap-by-the-callers-clock",
        "whether a lease is over is judged by the caller",
        &["LSE-10"],
        || Flaw::none().reap(|world, limit, _| Ok(world.reap(*limit, Clock::system().now()))),
    ),
    Mutant::new(
        "fence-is-the-attempt",
        "the fence is the number of the attempt",
        &["LSE-11"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.control.fence = Fence::new(is.row.control.attempt.into(), Uuid::nil());
                }
            })
        },
    ),
    Mutant::new(
        "release-resets-the-fence",
        "a released job forgets its fence",
        &["LSE-11"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::released(was, is) {
                    is.row.control.fence = Fence::default();
                } else if raw::claimed(was, is) {
                    is.row.control.fence.nonce = Uuid::nil();
                }
            })
        },
    ),
];

/// The running jobs that this condition picks, the earliest end of a lease first.
fn select(world: &World, over: impl Fn(&queue_core::Control) -> bool) -> Vec<JobId> {
    let mut picked: Vec<(Option<Timestamp>, JobId)> = world
        .running()
        .filter_map(|id| world.job(id))
        .map(|stored| &stored.row)
        .filter(|row| over(&row.control))
        .map(|row| (row.control.lease_until, row.id))
        .collect();
    picked.sort_unstable();
    picked.into_iter().map(|(_, id)| id).collect()
}

/// A reap that has its own idea of which leases are over.
fn reaping(expired: fn(&World, Timestamp) -> Vec<JobId>) -> Flaw {
    Flaw::none().reap(move |world, limit, now| {
        let mut expired = expired(world, now);
        expired.truncate(limit.get() as usize);
        Ok(expired.into_iter().filter_map(|id| world.reap_one(id, now)).collect())
    })
}

/// A reap that selects, then writes; also over jobs that are in such a state by then.
fn racing_reap(overwrites: fn(State) -> bool) -> Flaw {
    Flaw::none().reap_racing(move |store, limit| {
        async move {
            let mut expired =
                store.step(|world, now| select(world, |control| control.is_expired(now)));
            expired.truncate(limit.get() as usize);
            if !expired.is_empty() {
                store.pause().await;
            }
            Ok(store.step(|world, now| {
                let reap = |id| {
                    let state = world.job(id)?.row.control.state;
                    if state != State::Running && !overwrites(state) {
                        return None;
                    }
                    world.edit(id, |stored| {
                        stored.row.control.state = State::Running;
                        stored.row.control.finished_at = None;
                    });
                    world.reap_one(id, now)
                };
                expired.into_iter().filter_map(reap).collect::<Vec<Reaped>>()
            }))
        }
        .boxed()
    })
}
