//! What a claim says about when to come again.
//!
//! "Never later than the earliest instant at which the request could return a job that this answer did not
//! (waiting jobs that match and are not behind a full lane or a pause), and never later than the earliest end
//! of a lease. Not later than now exactly when there is something to be had now."

use std::time::Duration;

use queue_core::{ClaimRequest, Order, Row, State, Timestamp, spec::World};

use super::{
    super::{Flaw, Mutant, raw},
    in_order, is_asked_for, is_paused, millis,
};

/// A claim that says something else whenever it took fewer jobs than it could.
fn saying(
    next: fn(&World, &ClaimRequest, Timestamp, Option<Timestamp>) -> Option<Timestamp>,
) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        let mut claimed = world.claim(request, now)?;
        if claimed.jobs.len() < request.limit.get() as usize {
            claimed.next_due = next(world, request, now, claimed.next_due);
        }
        Ok(claimed)
    })
}

/// The earliest due time of the waiting jobs of which this holds.
fn waiting(world: &World, holds: impl Fn(&Row) -> bool) -> Option<Timestamp> {
    let rows = world.jobs().map(|job| &job.row).filter(|row| holds(row));
    rows.filter(|row| row.control.state == State::Waiting).map(|row| row.control.run_at).min()
}

/// The earliest end of the leases of the running jobs of which this holds.
fn leases(world: &World, holds: impl Fn(&Row) -> bool) -> Option<Timestamp> {
    let rows = world.jobs().map(|job| &job.row).filter(|row| holds(row));
    rows.filter_map(|row| row.control.lease_until).min()
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
}

/// Waiting jobs that the request could take but for lanes.
fn open(world: &World, request: &ClaimRequest, row: &Row) -> bool {
    is_asked_for(row, request) && !is_paused(world, row)
}

/// The answer without the leases of which this does not hold.
fn without_leases(
    world: &World,
    request: &ClaimRequest,
    now: Timestamp,
    holds: impl Fn(&Row) -> bool,
) -> Option<Timestamp> {
    let mut leaseless = world.clone();
    let running: Vec<_> = world.running().collect();
    for id in running {
        leaseless.edit(id, |job| job.row.control.lease_until = None);
    }
    earliest(leaseless.next_due(request, now), leases(world, holds))
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "next-due-now-for-a-paused-job",
        "a job in a paused queue makes the next due time now",
        &["REC-3"],
        || {
            saying(|world, request, _, exact| {
                earliest(
                    exact,
                    waiting(world, |row| is_asked_for(row, request) && is_paused(world, row)),
                )
            })
        },
    ),
    Mutant::new(
        "next-due-now-for-a-full-lane",
        "a due job behind a full lane makes the next due time now",
        &["CLM-9"],
        || {
            saying(|world, request, _, exact| {
                earliest(exact, waiting(world, |row| open(world, request, row)))
            })
        },
    ),
    Mutant::new(
        "next-due-ignores-the-filter",
        "a due job that the filter of the claim leaves out makes the next due time now",
        &["CLM-22"],
        || {
            saying(|world, request, _, exact| {
                let mut request = request.clone();
                request.filter = None;
                earliest(
                    exact,
                    waiting(world, |row| open(world, &request, row) && row.control.lane.is_none()),
                )
            })
        },
    ),
    Mutant::new(
        "next-due-ignores-the-kinds",
        "a due job of another kind makes the next due time now",
        &["CLM-22"],
        || {
            saying(|world, request, _, exact| {
                let mut request = request.clone();
                request.kinds = queue_core::Kinds::All;
                earliest(
                    exact,
                    waiting(world, |row| open(world, &request, row) && row.control.lane.is_none()),
                )
            })
        },
    ),
    Mutant::new(
        "next-due-of-own-queues-leases",
        "only leases in the queues that were asked for count for the next due time",
        &["CLM-23"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| request.queues.contains(&row.queue))
            })
        },
    ),
    Mutant::new(
        "next-due-of-own-kinds-leases",
        "only leases of the kinds that were asked for count for the next due time",
        &["CLM-23"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| request.kinds.contains(&row.kind))
            })
        },
    ),
    Mutant::new(
        "next-due-of-own-filter-leases",
        "only leases of jobs that match the filter count for the next due time",
        &["CLM-23"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| {
                    request.filter.as_ref().is_none_or(|filter| row.matches(filter))
                })
            })
        },
    ),
    Mutant::new(
        "next-due-forgets-its-own-leases",
        "the leases that the claim has just given do not count for the next due time",
        &["LSE-10"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| row.control.fence.nonce != request.token)
            })
        },
    ),
    Mutant::new(
        "next-due-forgets-expired-leases",
        "a lease that is over does not count for the next due time",
        &["CLM-9"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| {
                    row.control.lease_until.is_some_and(|end| end > now)
                })
            })
        },
    ),
    Mutant::new(
        "next-due-forgets-a-lease-that-ends-now",
        "a lease that ends this very instant does not count for the next due time",
        &["CLM-9"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |row| row.control.lease_until != Some(now))
            })
        },
    ),
    Mutant::new(
        "next-due-of-jobs-before-leases",
        "leases count for the next due time only when no job waits",
        &["LSE-10"],
        || {
            saying(|world, request, now, _| {
                without_leases(world, request, now, |_| false).or_else(|| leases(world, |_| true))
            })
        },
    ),
    Mutant::new(
        "next-due-of-leases-before-jobs",
        "waiting jobs count for the next due time only when no job runs",
        &["CLM-9"],
        || saying(|world, _, _, exact| leases(world, |_| true).or(exact)),
    ),
    Mutant::new(
        "next-due-in-whole-seconds",
        "the next due time is rounded up to a full second",
        &["CLM-9"],
        || {
            saying(|_, _, _, exact| {
                exact.map(|at| {
                    let second = 1_000_000;
                    let micros = at.as_micros().saturating_add(second - 1).div_euclid(second);
                    Timestamp::from_micros_saturating(micros.saturating_mul(second))
                })
            })
        },
    ),
    Mutant::new(
        "next-due-in-whole-milliseconds",
        "the next due time is rounded down to a full millisecond, which may have passed",
        &["LSE-10"],
        || saying(|_, _, _, exact| exact.map(millis)),
    ),
    Mutant::new(
        "next-due-one-microsecond-late",
        "the next due time is the first instant after the one at which a job is due",
        &["CLM-9"],
        || saying(|_, _, _, exact| exact.map(super::next_micro)),
    ),
    Mutant::new(
        "next-due-only-of-an-empty-answer",
        "a claim that took some jobs says no next due time",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                if !claimed.jobs.is_empty() {
                    claimed.next_due = None;
                }
                Ok(claimed)
            })
        },
    ),
    Mutant::new(
        "next-due-is-now-in-a-lane-that-goes-round",
        "a claim that takes a job again in its lane says that there is more to be had now",
        &["CLM-22"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                if claimed.jobs.iter().any(|job| job.attempt > 1 && job.lane.is_some()) {
                    claimed.next_due = Some(now);
                }
                Ok(claimed)
            })
        },
    ),
    Mutant::new(
        "next-due-within-an-hour",
        "a job due in more than an hour is nothing to wait for",
        &["CLM-22"],
        || {
            saying(|_, _, now, exact| {
                exact.filter(|at| *at <= now.plus(Duration::from_secs(3_600)))
            })
        },
    ),
    Mutant::new(
        "next-due-of-the-highest-priority",
        "the next due time is that of the first job in the order of the claim",
        &["CLM-22"],
        || {
            saying(|world, request, now, exact| {
                let first = in_order(world, Order::Fifo, |row| {
                    row.control.state == State::Waiting
                        && open(world, request, row)
                        && row.control.lane.is_none()
                });
                match (first.first().and_then(|id| world.job(*id)), exact) {
                    (Some(job), Some(at)) if at > now => {
                        earliest(Some(job.row.control.run_at), leases(world, |_| true))
                    }
                    _ => exact,
                }
            })
        },
    ),
    Mutant::new(
        "next-due-of-the-latest-for-lifo",
        "a LIFO claim says the due time of the job that is due last",
        &["CLM-22"],
        || {
            saying(|world, request, now, exact| match (request.order, exact) {
                (Order::Lifo, Some(at)) if at > now => {
                    let rows = world.jobs().map(|job| &job.row);
                    let waiting = rows.filter(|row| {
                        row.control.state == State::Waiting && open(world, request, row)
                    });
                    waiting.map(|row| row.control.run_at).max().or(exact)
                }
                _ => exact,
            })
        },
    ),
    Mutant::new(
        "next-due-without-lanes",
        "jobs with a lane do not count for the next due time, though their lane is free",
        &["CLM-22"],
        || {
            saying(|world, request, _, exact| {
                let without =
                    waiting(world, |row| open(world, request, row) && row.control.lane.is_none());
                exact.and(earliest(without, leases(world, |_| true)))
            })
        },
    ),
    Mutant::new(
        "next-due-counts-any-use-of-a-lane",
        "a job does not count for the next due time while any job of its lane runs",
        &["CLM-23"],
        || {
            saying(|world, request, now, exact| {
                let busy = |row: &Row| {
                    row.control.lane.as_ref().is_some_and(|lane| {
                        world.running().filter_map(|id| world.job(id)).any(|job| {
                            job.row.control.lane.as_ref().is_some_and(|held| held.key == lane.key)
                        })
                    })
                };
                let free = waiting(world, |row| open(world, request, row) && !busy(row));
                exact.and(earliest(free.map(|at| at.max(now)), leases(world, |_| true)))
            })
        },
    ),
    // "`None` when `limit` jobs came back"
    Mutant::new(
        "next-due-with-a-full-answer-when-more-is-due",
        "a claim that took its limit says now when more is due",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                if claimed.jobs.len() == request.limit.get() as usize
                    && !raw::due(world, request, now).is_empty()
                {
                    claimed.next_due = Some(now);
                }
                Ok(claimed)
            })
        },
    ),
];
