//! What a claim takes, in which order, and what it makes of it.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use queue_core::{ClaimRequest, Claimed, JobId, Kinds, Order, Queues, Row, Timestamp, spec::World};

use super::{
    super::{Flaw, Mutant, raw},
    fresh_claim, in_order, is_asked_for, is_due, is_paused, millis,
};

/// A claim whose request is spoilt on its way in.
fn asking(spoil: fn(&mut ClaimRequest)) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        let mut request = request.clone();
        spoil(&mut request);
        world.claim(&request, now)
    })
}

/// A claim that brings the due jobs into another order before it takes the first ones.
fn sorting<K: Ord + 'static>(key: fn(&Row, &ClaimRequest) -> K) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        raw::claim_by(world, request, now, |world, picked| {
            picked.sort_by_key(|(id, _)| key(&raw::stored(world, *id).row, request));
        })
    })
}

/// How many candidates a claim with a window looks at.
const WINDOW: usize = 100;

/// A claim that looks at the first candidates only; which jobs are candidates, the window says.
fn looking_at(candidate: fn(&World, &Row, &ClaimRequest) -> bool) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        raw::claim_by(world, request, now, |world, picked| {
            let candidates = in_order(world, request.order, |row| {
                is_due(row, now) && candidate(world, row, request)
            });
            let window: HashSet<JobId> = candidates.into_iter().take(WINDOW).collect();
            picked.retain(|(id, _)| window.contains(id));
        })
    })
}

/// A claim whose answer is spoilt on its way out.
fn answering(spoil: fn(&ClaimRequest, &mut Claimed)) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        let mut claimed = world.claim(request, now)?;
        spoil(request, &mut claimed);
        Ok(claimed)
    })
}

fn by_run_at(row: &Row, at: Timestamp) -> (Reverse<i16>, Timestamp, JobId) {
    (Reverse(row.priority), at, row.id)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "in order: priority descending, then `run_at`, then id (with `Lifo` the last two reversed)"
    Mutant::new(
        "priorities-sort-as-text",
        "a claim compares priorities as texts, so that 9 goes before 10",
        &["CLM-6"],
        || sorting(|row, _| Reverse(row.priority.to_string())),
    ),
    Mutant::new(
        "priorities-sort-by-size",
        "a claim compares priorities without their sign",
        &["CLM-6"],
        || sorting(|row, _| Reverse(row.priority.unsigned_abs())),
    ),
    Mutant::new(
        "priorities-sort-as-bytes",
        "a claim compares only the low byte of a priority",
        &["CLM-6"],
        || sorting(|row, _| Reverse(row.priority.to_le_bytes()[0])),
    ),
    Mutant::new(
        "fifo-by-the-millisecond",
        "a FIFO claim orders jobs due in the same millisecond by their ids",
        &["CLM-3"],
        || {
            sorting(|row, request| match request.order {
                Order::Fifo => Some(by_run_at(row, millis(row.control.run_at))),
                Order::Lifo => None,
            })
        },
    ),
    Mutant::new(
        "lifo-breaks-ties-forwards",
        "a LIFO claim takes jobs due at the same instant in the order of their ids",
        &["CLM-5"],
        || {
            sorting(|row, request| match request.order {
                Order::Fifo => None,
                Order::Lifo => Some((Reverse(row.priority), Reverse(row.control.run_at), row.id)),
            })
        },
    ),
    Mutant::new(
        "lifo-turns-a-fifo-batch-round",
        "a LIFO claim picks its jobs in FIFO order and answers them the other way round",
        &["CLM-5"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut fifo = request.clone();
                fifo.order = Order::Fifo;
                let mut claimed = world.claim(&fifo, now)?;
                if request.order == Order::Lifo {
                    claimed.jobs.sort_by_key(|job| Reverse((job.priority, job.run_at, job.id)));
                }
                Ok(claimed)
            })
        },
    ),
    Mutant::new(
        "fifo-by-insertion",
        "a claim orders jobs of one priority by when they were inserted",
        &["CLM-3"],
        || {
            sorting(|row, request| match request.order {
                Order::Fifo => Some(by_run_at(row, row.created_at)),
                Order::Lifo => None,
            })
        },
    ),
    Mutant::new(
        "queues-drained-one-by-one",
        "a claim from several queues empties the first one named before it looks at the next",
        &["CLM-20"],
        || {
            sorting(|row, request| match &request.queues {
                Queues::Only(queues) => queues.iter().position(|queue| *queue == row.queue),
                Queues::All => None,
            })
        },
    ),
    Mutant::new(
        "kinds-drained-one-by-one",
        "a claim of several kinds takes all jobs of the first one named before the next",
        &["CLM-20"],
        || {
            sorting(|row, request| match &request.kinds {
                Kinds::Only(kinds) => kinds.iter().position(|kind| *kind == row.kind),
                Kinds::All => None,
            })
        },
    ),
    Mutant::new(
        "kinds-merge-by-turns",
        "a claim of several kinds takes the first job of each kind before the second of any",
        &["LAN-2"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    let mut turns = std::collections::HashMap::new();
                    picked.sort_by_cached_key(|(id, _)| {
                        let row = raw::stored(world, *id).row;
                        let turn = turns.entry((row.priority, row.kind)).or_insert(0);
                        *turn += 1;
                        (Reverse(row.priority), *turn)
                    });
                })
            })
        },
    ),
    Mutant::new(
        "ids-of-a-claim-sort-as-signed",
        "a claim compares ids as signed numbers, so that those that begin with f go first",
        &["REA-11"],
        || {
            sorting(|row, request| {
                let id = row.id.as_uuid().as_u128() as i128;
                match request.order {
                    Order::Fifo => Some((Reverse(row.priority), row.control.run_at, id)),
                    Order::Lifo => None,
                }
            })
        },
    ),
    // "Without concurrent writes exactly the first `limit` are taken"
    Mutant::new(
        "claim-looks-at-a-hundred-jobs-with-lanes",
        "a claim looks at the first hundred due jobs, those behind full lanes included",
        &["CLM-19"],
        || looking_at(|world, row, request| is_asked_for(row, request) && !is_paused(world, row)),
    ),
    Mutant::new(
        "claim-looks-at-a-hundred-jobs-with-pauses",
        "a claim looks at the first hundred due jobs, those of paused queues included",
        &["CLM-19"],
        || looking_at(|_, row, request| is_asked_for(row, request)),
    ),
    Mutant::new(
        "claim-looks-at-a-hundred-jobs-of-any-kind",
        "a claim looks at the first hundred due jobs of its queues, those of other kinds included",
        &["CLM-20"],
        || looking_at(|_, row, request| request.queues.contains(&row.queue)),
    ),
    Mutant::new(
        "claim-looks-at-a-hundred-jobs-with-others-filtered",
        "a claim looks at the first hundred due jobs, those that its filter leaves out included",
        &["CLM-19"],
        || {
            looking_at(|world, row, request| {
                request.queues.contains(&row.queue)
                    && request.kinds.contains(&row.kind)
                    && !is_paused(world, row)
            })
        },
    ),
    // "`limit`": "Take at most so many", any number above zero.
    Mutant::new(
        "claim-limit-in-31-bits",
        "a claim for more jobs than a signed number of 32 bits can count takes none",
        &["CLM-20"],
        || {
            Flaw::none().claim(|world, request, now| {
                if i32::try_from(request.limit.get()).is_ok() {
                    return world.claim(request, now);
                }
                request.check()?;
                Ok(Claimed::new(Vec::new(), world.next_due(request, now)))
            })
        },
    ),
    Mutant::new(
        "claim-stops-at-256",
        "a claim takes no more than 256 jobs, whatever its limit, and calls that all",
        &["CLM-20"],
        || {
            Flaw::none().claim(|world, request, now| {
                let limit = request.limit.get() as usize;
                let mut claimed = raw::claim_by(world, request, now, |_, picked| {
                    picked.truncate(256);
                })?;
                if claimed.jobs.len() == 256 && limit > 256 {
                    claimed.next_due = None;
                }
                Ok(claimed)
            })
        },
    ),
    // "Takes up to `limit` due jobs"
    Mutant::new(
        "due-within-the-millisecond",
        "a claim takes jobs that fall due later in the same millisecond",
        &["CLM-7"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                if let Some(repeated) = world.repeated_claim(request, now) {
                    return Ok(repeated);
                }
                let soon = millis(now).plus(Duration::from_micros(999));
                let picked = world.pick(request, soon);
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    // "run-at is inclusive: a job due now is runnable now"
    Mutant::new(
        "due-with-the-next-millisecond",
        "a claim sees the clock by whole milliseconds and takes a job up to one too late",
        &["CAN-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                if let Some(repeated) = world.repeated_claim(request, now) {
                    return Ok(repeated);
                }
                let picked = world.pick(request, millis(now));
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    // "The queues to take from", "The kinds of job that this worker can run"
    Mutant::new(
        "no-queue-is-every-queue",
        "a claim that names no queue takes from all",
        &["CLM-8"],
        || {
            asking(|request| {
                if request.queues == Queues::Only(Vec::new()) {
                    request.queues = Queues::All;
                }
            })
        },
    ),
    Mutant::new(
        "no-kind-is-every-kind",
        "a claim that names no kind takes all",
        &["CLM-8"],
        || {
            asking(|request| {
                if request.kinds == Kinds::Only(Vec::new()) {
                    request.kinds = Kinds::All;
                }
            })
        },
    ),
    Mutant::new(
        "only-the-first-sixteen-kinds",
        "a claim takes only the first sixteen kinds that it names",
        &["CLM-20"],
        || {
            asking(|request| {
                if let Kinds::Only(kinds) = &mut request.kinds {
                    kinds.truncate(16);
                }
            })
        },
    ),
    Mutant::new(
        "only-the-first-sixteen-queues",
        "a claim takes only from the first sixteen queues that it names",
        &["CLM-20"],
        || {
            asking(|request| {
                if let Queues::Only(queues) = &mut request.queues {
                    queues.truncate(16);
                }
            })
        },
    ),
    // "`filter`: Take only jobs that match this as well."
    Mutant::new(
        "filter-queues-replace-the-queues",
        "a claim whose filter names queues takes from those, whatever queues it asked for",
        &["CLM-21"],
        || {
            asking(|request| {
                if let Some(queues) = request.filter.as_ref().and_then(|f| f.queues.clone()) {
                    request.queues = Queues::Only(queues);
                }
            })
        },
    ),
    Mutant::new(
        "filter-kinds-replace-the-kinds",
        "a claim whose filter names kinds takes those, whatever kinds it asked for",
        &["CLM-21"],
        || {
            asking(|request| {
                if let Some(kinds) = request.filter.as_ref().and_then(|f| f.kinds.clone()) {
                    request.kinds = Kinds::Only(kinds);
                }
            })
        },
    ),
    Mutant::new(
        "filter-ids-need-no-queue",
        "a claim by ids takes those jobs from whatever queue",
        &["CLM-21"],
        || {
            asking(|request| {
                if request.filter.as_ref().is_some_and(|filter| filter.ids.is_some()) {
                    request.queues = Queues::All;
                }
            })
        },
    ),
    Mutant::new(
        "filter-ids-make-due",
        "a claim by ids takes those jobs before they are due",
        &["CLM-7"],
        || {
            Flaw::none().claim(|world, request, now| {
                let ids = request.filter.as_ref().and_then(|filter| filter.ids.as_ref());
                if ids.is_none() || world.repeated_claim(request, now).is_some() {
                    return world.claim(request, now);
                }
                request.check()?;
                let picked = world.pick(request, Timestamp::MAX);
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    Mutant::new(
        "filter-ids-skip-pauses",
        "a claim by ids takes those jobs from paused queues as well",
        &["CLM-21"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                let by_id = request.filter.as_ref().is_some_and(|filter| filter.ids.is_some());
                let mut claimed = world.claim(request, now)?;
                if by_id && claimed.jobs.is_empty() {
                    let picked: Vec<(JobId, Option<u32>)> = in_order(world, request.order, |row| {
                        is_due(row, now) && is_asked_for(row, request) && row.control.lane.is_none()
                    })
                    .into_iter()
                    .take(request.limit.get() as usize)
                    .map(|id| (id, None))
                    .collect();
                    claimed = raw::take(world, &picked, request, now);
                }
                Ok(claimed)
            })
        },
    ),
    // "Arithmetic saturates: a delay of a million years means "never", not an overflow."
    Mutant::new(
        "endless-lease-is-short",
        "a claim whose lease exceeds the calendar holds its jobs for a microsecond",
        &["CLM-20"],
        || {
            asking(|request| {
                if request.lease > Duration::from_secs(86_400 * 365 * 8_000) {
                    request.lease = Duration::from_micros(1);
                }
            })
        },
    ),
    // "An instant with microsecond precision": "Hold them for so long, from the store's now."
    Mutant::new(
        "claim-lease-in-milliseconds",
        "a claim drops the microseconds of its lease",
        &["LSE-12"],
        || {
            asking(|request| {
                let millis = u64::try_from(request.lease.as_millis()).unwrap_or(u64::MAX);
                if millis > 0 {
                    request.lease = Duration::from_millis(millis);
                }
            })
        },
    ),
    // "A name for the holder": 1 to 256 bytes.
    Mutant::new(
        "holder-in-64-characters",
        "a claim keeps the first 64 characters of its holder's name",
        &["FID-7"],
        || {
            asking(|request| {
                request.holder = request.holder.chars().take(64).collect::<String>().into()
            })
        },
    ),
    // The table of effects: Claim: started now, error and progress are not touched.
    Mutant::new(
        "started-at-of-the-first-attempt",
        "a claim keeps the start of the first attempt",
        &["CLM-10"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) && was.row.control.started_at.is_some() {
                    is.row.control.started_at = was.row.control.started_at;
                }
            })
        },
    ),
    // "The error of the latest failed attempt; gone once the job completes."
    Mutant::new(
        "claim-clears-the-error",
        "a claim removes the error of the attempt before",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.error = None;
                }
            })
        },
    ),
    Mutant::new(
        "claim-clears-the-progress",
        "a claim sets the job's progress back to none",
        &["LSE-12"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.progress = None;
                }
            })
        },
    ),
    // "Reply with what the claim made": the fields of a claimed job are those after the claim.
    Mutant::new(
        "claim-answers-the-old-version",
        "a claimed job is answered with the version that it had before",
        &["CAN-2"],
        || answering(|_, claimed| claimed.jobs.iter_mut().for_each(|job| job.version.0 -= 1)),
    ),
    Mutant::new(
        "claim-answers-the-old-attempt",
        "a claimed job is answered with the attempt that it had before",
        &["CAN-5"],
        || answering(|_, claimed| claimed.jobs.iter_mut().for_each(|job| job.attempt -= 1)),
    ),
    Mutant::new(
        "claim-answers-no-start",
        "a job claimed for the first time is answered without its start",
        &["CLM-10"],
        || {
            answering(|_, claimed| {
                claimed.jobs.iter_mut().filter(|job| job.fence.count == 1).for_each(|job| {
                    job.started_at = None;
                });
            })
        },
    ),
    Mutant::new(
        "claim-limits-the-log",
        "a claim answers at most the last 50 entries of a log",
        &["LOG-12"],
        || {
            answering(|_, claimed| {
                for job in &mut claimed.jobs {
                    let surplus = job.log.len().saturating_sub(50);
                    job.log.drain(..surplus);
                }
            })
        },
    ),
    Mutant::new(
        "claim-ignores-log-after",
        "a claim for the log after a position answers all of it",
        &["CLM-14"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut request = request.clone();
                if let queue_core::LogRead::After(_) = request.log {
                    request.log = queue_core::LogRead::All;
                }
                world.claim(&request, now)
            })
        },
    ),
    // "Only waiting jobs are taken; a job whose lease is over must be reaped first."
    Mutant::new(
        "empty-claim-reaps",
        "a claim that finds nothing takes over jobs whose lease is over",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let claimed = world.claim(request, now)?;
                if !claimed.jobs.is_empty() {
                    return Ok(claimed);
                }
                world.reap(request.limit, now);
                Ok(fresh_claim(world, request, now))
            })
        },
    ),
];
