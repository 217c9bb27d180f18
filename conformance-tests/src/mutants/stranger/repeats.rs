//! Claims whose answer was lost and that are asked again.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
};

use queue_core::{ClaimRequest, Claimed, Job, Order, State, Timestamp, Uuid, spec::World};

use super::{
    super::{Flaw, Mutant},
    fresh_claim, is_paused,
};

/// A claim whose answer to a repeat is spoilt; when nothing is left of it, jobs are taken afresh.
fn again(spoil: fn(&mut World, &ClaimRequest, Timestamp, &mut Vec<Job>)) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        request.check()?;
        if let Some(mut repeated) = world.repeated_claim(request, now) {
            spoil(world, request, now, &mut repeated.jobs);
            if !repeated.jobs.is_empty() {
                return Ok(repeated);
            }
        }
        Ok(fresh_claim(world, request, now))
    })
}

// Those that have no sentence of their own break: "A repeat with the same token answers the jobs of the first call that are
// still held under it, if any is."
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "repeat-misses-moved-jobs",
        "a repeated claim answers only jobs that are still in a queue it asked for",
        &["CLM-17"],
        || again(|_, request, _, jobs| jobs.retain(|job| request.queues.contains(&job.queue))),
    ),
    Mutant::new(
        "repeat-applies-the-filter-again",
        "a repeated claim answers only jobs that match its filter now that they run",
        &["CLM-17"],
        || {
            again(|world, request, _, jobs| {
                jobs.retain(|job| {
                    let row = world.job(job.id).map(|job| &job.row);
                    let filter = request.filter.as_ref();
                    filter.is_none_or(|filter| row.is_some_and(|row| row.matches(filter)))
                });
            })
        },
    ),
    Mutant::new(
        "repeat-forgets-expired-jobs",
        "a repeated claim leaves out jobs whose lease is over and which nobody has reaped",
        &["CLM-17"],
        || again(|_, _, now, jobs| jobs.retain(|job| job.lease_until.is_some_and(|end| end > now))),
    ),
    Mutant::new(
        "repeat-is-stopped-by-a-pause",
        "a repeated claim leaves out jobs whose queue has been paused since",
        &["CLM-17"],
        || {
            again(|world, _, _, jobs| {
                jobs.retain(|job| {
                    world.job(job.id).is_none_or(|stored| !is_paused(world, &stored.row))
                });
            })
        },
    ),
    Mutant::new(
        "repeat-renews-the-lease",
        "a repeated claim extends the leases of the jobs that it answers again",
        &["CLM-17"],
        || {
            again(|world, request, now, jobs| {
                for job in jobs {
                    let end = Some(now.plus(request.lease));
                    world.edit(job.id, |stored| stored.row.control.lease_until = end);
                    job.lease_until = end;
                }
            })
        },
    ),
    Mutant::new(
        "repeat-tops-up",
        "a repeated claim takes further jobs until its limit is reached",
        &["CLM-13"],
        || {
            again(|world, request, now, jobs| {
                let room = request.limit.get().saturating_sub(jobs.len() as u32);
                if let (Some(room), false) = (NonZeroU32::new(room), jobs.is_empty()) {
                    let more = {
                        let mut more = request.clone();
                        more.limit = room;
                        more
                    };
                    jobs.extend(fresh_claim(world, &more, now).jobs);
                }
            })
        },
    ),
    Mutant::new(
        "repeat-leaves-out-cancelled-jobs",
        "a repeated claim leaves out the jobs that are to be cancelled",
        &["CLM-17"],
        || again(|_, _, _, jobs| jobs.retain(|job| job.cancel.is_none())),
    ),
    Mutant::new(
        "repeat-by-holder-name",
        "a repeated claim also answers what the same holder took by other tokens",
        &["CLM-17"],
        || {
            again(|world, request, _, jobs| {
                let held: Vec<_> = world
                    .running()
                    .filter_map(|id| world.job(id))
                    .filter(|job| job.row.control.holder.as_ref() == Some(&request.holder))
                    .map(|job| job.row.id)
                    .filter(|id| jobs.iter().all(|job| job.id != *id))
                    .collect();
                jobs.extend(world.get(&held, request.log).into_iter().flatten());
            })
        },
    ),
    // "Takes up to `limit` due jobs for a lease, in order: priority descending, then `run_at`, then id"
    Mutant::new(
        "repeat-in-order-of-ids",
        "a repeated claim answers its jobs in the order of their ids",
        &["CLM-18"],
        || again(|_, _, _, jobs| jobs.sort_by_key(|job| job.id)),
    ),
    Mutant::new(
        "repeat-in-fifo-order",
        "a repeated LIFO claim answers its jobs in FIFO order",
        &["CLM-18"],
        || {
            again(|_, request, _, jobs| {
                if request.order == Order::Lifo {
                    jobs.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.run_at, job.id));
                }
            })
        },
    ),
    // "Which part of their log to return."
    Mutant::new(
        "repeat-without-logs",
        "a repeated claim answers its jobs without their logs",
        &["CLM-13"],
        || again(|_, _, _, jobs| jobs.iter_mut().for_each(|job| job.log.clear())),
    ),
    // "..., if any is": a token none of whose jobs is held takes jobs as any other.
    Mutant::new(
        "spent-token-finds-nothing",
        "a token whose jobs have all been given back claims nothing more",
        &["CLM-18"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                let spent = world.jobs().any(|job| {
                    job.row.control.fence.nonce == request.token
                        && job.row.control.state != State::Running
                });
                if spent && world.repeated_claim(request, now).is_none() {
                    return Ok(Claimed::new(Vec::new(), world.next_due(request, now)));
                }
                world.claim(request, now)
            })
        },
    ),
    // "Never later than the earliest instant at which the request could return a job that this answer did not, and never
    // later than the earliest end of a lease."
    Mutant::new(
        "repeat-says-that-there-is-no-more",
        "a repeated claim never says when there may be more",
        &["CLM-24"],
        || saying(|_, _| None),
    ),
    Mutant::new(
        "repeat-waits-for-its-own-leases",
        "a repeated claim says to come again when the first of its own leases is over",
        &["CLM-24"],
        || saying(|_, repeated| repeated.iter().filter_map(|job| job.lease_until).min()),
    ),
    Mutant::new(
        "repeat-waits-for-any-lease",
        "a repeated claim says to come again when the first lease is over, whatever waits",
        &["CLM-24"],
        || {
            saying(|world, _| {
                let leases = world.jobs().filter_map(|job| job.row.control.lease_until);
                leases.min()
            })
        },
    ),
    Mutant::new(
        "repeat-says-when-as-the-first-time",
        "a repeated claim says the instant that the first answer said",
        &["CLM-24"],
        || {
            let said: Mutex<HashMap<Uuid, Option<Timestamp>>> = Mutex::default();
            Flaw::none().claim(move |world, request, now| {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let is_repeat = world.repeated_claim(request, now).is_some();
                let mut claimed = world.claim(request, now)?;
                let first = said.get(&request.token).copied().filter(|_| is_repeat);
                claimed.next_due = first.unwrap_or(claimed.next_due);
                said.insert(request.token, claimed.next_due);
                Ok(claimed)
            })
        },
    ),
    // "`None` when `limit` jobs came back"
    Mutant::new(
        "full-repeat-says-now",
        "a repeated claim that holds all that it may says that there is more now",
        &["CLM-24"],
        || {
            Flaw::none().claim(|world, request, now| {
                let is_repeat = world.repeated_claim(request, now).is_some();
                let mut claimed = world.claim(request, now)?;
                claimed.next_due = if is_repeat { Some(now) } else { claimed.next_due };
                Ok(claimed)
            })
        },
    ),
];

/// A repeated claim that says another instant when it holds fewer jobs than it may.
fn saying(when: fn(&World, &[Job]) -> Option<Timestamp>) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        request.check()?;
        match world.repeated_claim(request, now) {
            Some(mut repeated) if repeated.jobs.len() < request.limit.get() as usize => {
                repeated.next_due = when(world, &repeated.jobs);
                Ok(repeated)
            }
            _ => world.claim(request, now),
        }
    })
}
