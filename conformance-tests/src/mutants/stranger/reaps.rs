//! Reaps, and holders whose lease is over.

use std::cmp::Reverse;

use queue_core::{
    JobId, Outcome, Payload, Reaped, State, Timestamp,
    spec::{Stored, World},
};

use super::super::{Flaw, Mutant, raw};

/// Spoils a job that was reaped.
fn reaped(spoil: fn(&Stored, &mut Stored, Timestamp)) -> Flaw {
    Flaw::none().changing(move |was, is, now| {
        if raw::crashed(was, is) {
            spoil(was, is, now);
        }
    })
}

/// Spoils the report on a reaped job, by the job as it was.
fn reporting(spoil: fn(&Stored, &mut Reaped)) -> Flaw {
    Flaw::none().reap(move |world, limit, now| {
        let before = world.clone();
        let mut reaped = world.reap(*limit, now);
        for report in &mut reaped {
            if let Some(was) = before.job(report.id) {
                spoil(was, report);
            }
        }
        Ok(reaped)
    })
}

/// A reap that takes the expired jobs in its own order, or only some of them.
fn choosing(choose: fn(&World, &mut Vec<JobId>, u32)) -> Flaw {
    Flaw::none().reap(move |world, limit, now| {
        let mut expired: Vec<JobId> = world
            .running()
            .filter(|id| raw::stored(world, *id).row.control.is_expired(now))
            .collect();
        expired.sort_by_key(|id| (raw::stored(world, *id).row.control.lease_until, *id));
        choose(world, &mut expired, limit.get());
        expired.truncate(limit.get() as usize);
        Ok(expired.into_iter().filter_map(|id| world.reap_one(id, now)).collect())
    })
}

fn by(world: &World, id: JobId) -> Stored {
    raw::stored(world, id)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "`Applied`, `Fenced` or `Missing`"
    Mutant::new(
        "heartbeat-of-a-reaped-job-is-illegal",
        "a heartbeat of a holder whose job was reaped is illegal",
        &["LSE-2"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let before = world.clone();
                let mut outcomes = world.heartbeat(held, *lease, now)?;
                for (held, outcome) in held.iter().zip(&mut outcomes) {
                    let Some(was) = before.job(held.id) else { continue };
                    if *outcome == Outcome::Fenced && was.row.control.fence == held.fence {
                        *outcome = Outcome::Illegal { from: was.row.control.state };
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    // "oldest expiry first, then id"
    Mutant::new(
        "reap-by-insertion",
        "a reap takes the jobs first that were inserted first",
        &["LSE-4"],
        || choosing(|world, ids, _| ids.sort_by_key(|id| (by(world, *id).row.created_at, *id))),
    ),
    Mutant::new(
        "reap-by-start",
        "a reap takes the jobs first that were started first",
        &["LSE-4"],
        || {
            choosing(|world, ids, _| {
                ids.sort_by_key(|id| (by(world, *id).row.control.started_at, *id));
            })
        },
    ),
    Mutant::new(
        "reap-breaks-ties-backwards",
        "of jobs whose leases ended at one instant a reap takes the largest id first",
        &["LSE-4"],
        || {
            choosing(|world, ids, _| {
                ids.sort_by_key(|id| (by(world, *id).row.control.lease_until, Reverse(*id)));
            })
        },
    ),
    Mutant::new(
        "reap-answers-in-order-of-ids",
        "a reap takes the right jobs and reports them in the order of their ids",
        &["LSE-13"],
        || {
            Flaw::none().reap(|world, limit, now| {
                let mut reaped = world.reap(*limit, now);
                reaped.sort_by_key(|report| report.id);
                Ok(reaped)
            })
        },
    ),
    Mutant::new(
        "reap-by-the-millisecond",
        "a reap takes jobs whose leases ended in one millisecond in the order of their ids",
        &["LSE-13"],
        || {
            choosing(|world, ids, _| {
                ids.sort_by_key(|id| {
                    (by(world, *id).row.control.lease_until.map(super::millis), *id)
                });
            })
        },
    ),
    Mutant::new(
        "reap-limit-in-31-bits",
        "a reap of more jobs than a signed number of 32 bits can count takes none",
        &["LSE-13"],
        || {
            choosing(|_, ids, limit| {
                if i32::try_from(limit).is_err() {
                    ids.clear();
                }
            })
        },
    ),
    Mutant::new(
        "reap-spares-paused-queues",
        "a reap leaves expired jobs of paused queues with their holders",
        &["LSE-13"],
        || choosing(|world, ids, _| ids.retain(|id| !super::is_paused(world, &by(world, *id).row))),
    ),
    Mutant::new(
        "reap-at-the-next-millisecond",
        "a reap finds a lease over in the millisecond after its end",
        &["CAN-7"],
        || {
            Flaw::none().reap(|world, limit, now| {
                let over = |id: &JobId| by(world, *id).row.control.is_expired(super::millis(now));
                let mut expired: Vec<JobId> = world.running().filter(over).collect();
                expired.sort_by_key(|id| (by(world, *id).row.control.lease_until, *id));
                expired.truncate(limit.get() as usize);
                Ok(expired.into_iter().filter_map(|id| world.reap_one(id, now)).collect())
            })
        },
    ),
    // "The fence under which it was held.", "How often its lease was lost, this time included."
    Mutant::new(
        "reap-reports-the-crashes-before",
        "the report on a reaped job leaves this crash out",
        &["CAN-7"],
        || reporting(|_, report| report.crashes -= 1),
    ),
    Mutant::new(
        "reap-reports-all-as-waiting",
        "the report on a job that was to be cancelled says that it waits",
        &["CAN-7"],
        || {
            reporting(|_, report| {
                if report.state == State::Cancelled {
                    report.state = State::Waiting;
                }
            })
        },
    ),
    Mutant::new(
        "reap-reports-no-fence",
        "the report on a reaped job names no fence",
        &["CAN-7"],
        || reporting(|_, report| report.fence = queue_core::Fence::default()),
    ),
    Mutant::new(
        "reap-leaves-out-ended-jobs",
        "a reap does not report the jobs that it ended",
        &["CAN-7"],
        || {
            Flaw::none().reap(|world, limit, now| {
                let mut reaped = world.reap(*limit, now);
                reaped.retain(|report| report.state == State::Waiting);
                Ok(reaped)
            })
        },
    ),
    // The table of effects: Reap, ReapExhausted, ReapCancelled.
    Mutant::new("reap-makes-due-now", "a reaped job is due when it was reaped", &["LSE-4"], || {
        reaped(|_, is, now| is.row.control.run_at = now)
    }),
    Mutant::new("reap-raises-the-fence", "a reap adds one to the fence", &["CLM-10"], || {
        reaped(|was, is, _| {
            let fence = was.row.control.fence;
            is.row.control.fence = queue_core::Fence::new(fence.count + 1, fence.nonce);
        })
    }),
    Mutant::new("reap-clears-the-progress", "a reap removes the progress", &["LSE-14"], || {
        reaped(|_, is, _| is.row.progress = None)
    }),
    Mutant::new(
        "reap-clears-the-error",
        "a reap removes the error of an earlier attempt",
        &["LSE-14"],
        || {
            reaped(|_, is, _| {
                if is.row.control.state == State::Waiting {
                    is.row.error = None;
                }
            })
        },
    ),
    Mutant::new("reap-clears-the-start", "a reaped job has no start any more", &["LSE-14"], || {
        reaped(|_, is, _| is.row.control.started_at = None)
    }),
    Mutant::new(
        "reap-writes-an-error",
        "a reaped job that is given back shows a crash as its error",
        &["LSE-8"],
        || {
            reaped(|_, is, _| {
                if is.row.control.state == State::Waiting {
                    is.row.error = Some(Payload::null());
                }
            })
        },
    ),
    Mutant::new(
        "crashed-out-job-keeps-its-old-error",
        "a job that crashed too often keeps the error of an earlier attempt",
        &["LSE-14"],
        || {
            reaped(|was, is, _| {
                if was.row.error.is_some() {
                    is.row.error.clone_from(&was.row.error);
                }
            })
        },
    ),
    Mutant::new(
        "reaped-cancel-shows-an-error",
        "a job that was to be cancelled and is reaped loses the error of an earlier attempt",
        &["LSE-14"],
        || {
            reaped(|_, is, _| {
                if is.row.control.state == State::Cancelled {
                    is.row.error = None;
                }
            })
        },
    ),
    Mutant::new(
        "reaped-cancel-is-no-crash",
        "a job that was to be cancelled and is reaped counts no crash",
        &["CAN-7"],
        || {
            Flaw::none().reap(|world, limit, now| {
                let mut reaped = world.reap(*limit, now);
                for report in reaped.iter_mut().filter(|report| report.state == State::Cancelled) {
                    report.crashes -= 1;
                    world.edit(report.id, |job| job.row.control.crashes -= 1);
                }
                Ok(reaped)
            })
        },
    ),
    Mutant::new(
        "reaped-cancel-keeps-its-attempt",
        "a job that was to be cancelled and is reaped keeps its attempt",
        &["CAN-7"],
        || {
            reaped(|was, is, _| {
                if is.row.control.state == State::Cancelled {
                    is.row.control.attempt = was.row.control.attempt;
                }
            })
        },
    ),
    Mutant::new(
        "crashed-out-job-keeps-its-attempt",
        "a job that crashed too often keeps its attempt",
        &["LSE-8"],
        || {
            reaped(|was, is, _| {
                if is.row.control.state == State::Failed {
                    is.row.control.attempt = was.row.control.attempt;
                }
            })
        },
    ),
    Mutant::new(
        "reaped-cancel-has-no-end",
        "a job that was to be cancelled and is reaped has no time at which it ended",
        &["CAN-7"],
        || {
            reaped(|_, is, _| {
                if is.row.control.state == State::Cancelled {
                    is.row.control.finished_at = None;
                }
            })
        },
    ),
    Mutant::new(
        "reaped-job-ends-with-its-lease",
        "a job that a reap ends is said to have ended when its lease did",
        &["LSE-14"],
        || {
            reaped(|was, is, _| {
                if is.row.control.finished_at.is_some() {
                    is.row.control.finished_at = was.row.control.lease_until;
                }
            })
        },
    ),
    Mutant::new(
        "reaped-job-keeps-its-holder",
        "a reaped job still names its holder",
        &["LSE-4"],
        || reaped(|was, is, _| is.row.control.holder.clone_from(&was.row.control.holder)),
    ),
    Mutant::new(
        "crash-out-beats-a-cancel",
        "a job that was to be cancelled and crashed too often is failed",
        &["CAN-7"],
        || {
            Flaw::none().reap(|world, limit, now| {
                let mut reaped = world.reap(*limit, now);
                for report in &mut reaped {
                    let over =
                        raw::stored(world, report.id).row.control.max_crashes < report.crashes;
                    if over && report.state == State::Cancelled {
                        report.state = State::Failed;
                        world.edit(report.id, |job| job.row.control.state = State::Failed);
                    }
                }
                Ok(reaped)
            })
        },
    ),
    // "How many lost leases it survives; one more fails it."
    Mutant::new(
        "no-crash-allowed-is-the-default",
        "a job that survives no crash survives three",
        &["INS-7"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is)
                    && was.row.control.max_crashes == 0
                    && is.row.control.crashes <= 3
                    && is.row.control.state == State::Failed
                {
                    is.row.control.state = State::Waiting;
                    is.row.control.finished_at = None;
                    is.row.error.clone_from(&was.row.error);
                }
            })
        },
    ),
    Mutant::new(
        "max-crashes-in-31-bits",
        "a job that survives more crashes than a signed number of 32 bits can count survives none",
        &["LSE-11"],
        || {
            Flaw::none().changing(|was, is, now| {
                if raw::crashed(was, is) && i32::try_from(was.row.control.max_crashes).is_err() {
                    is.row.control.state = State::Failed;
                    is.row.control.finished_at = Some(now);
                }
            })
        },
    ),
    Mutant::new(
        "release-forgives-crashes",
        "a release sets the number of crashes back to 0",
        &["LSE-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::released(was, is) {
                    is.row.control.crashes = 0;
                }
            })
        },
    ),
    Mutant::new(
        "retry-forgives-crashes",
        "a retry sets the number of crashes back to 0",
        &["LSE-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::retried(was, is) {
                    is.row.control.crashes = 0;
                }
            })
        },
    ),
    // "Until then an expired job still belongs to its holder, whose writes are accepted."
    Mutant::new(
        "expired-holder-cannot-append",
        "an append after the end of the lease is fenced",
        &["LSE-3"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let control = &world.job(update.id)?.row.control;
                    let held = update.guard == queue_core::Guard::Fence(control.fence);
                    (held && control.is_expired(now) && update.patch.transition.is_none())
                        .then_some(Outcome::Fenced)
                })
            })
        },
    ),
    Mutant::new(
        "expired-holder-cannot-release",
        "a release after the end of the lease is fenced",
        &["LAN-4"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let control = &world.job(update.id)?.row.control;
                    let held = update.guard == queue_core::Guard::Fence(control.fence);
                    let release = matches!(
                        update.patch.transition,
                        Some(queue_core::Transition::Release { .. })
                    );
                    (held && control.is_expired(now) && release).then_some(Outcome::Fenced)
                })
            })
        },
    ),
];
