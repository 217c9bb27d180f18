//! Lanes: at most so many jobs of a key running at once.

use std::collections::BTreeSet;

use queue_core::{
    ClaimRequest, Claimed, JobId, Judgement, Lane, Outcome, Result, Row, State, Timestamp,
    TransitionKind,
    spec::{Stored, World},
};

use super::{
    super::{Flaw, Mutant, raw},
    in_order, is_asked_for, is_due, is_paused, settled_by, withdrawn,
};

/// The jobs that run in the lane.
fn running<'a>(world: &'a World, lane: &'a Lane) -> impl Iterator<Item = &'a Row> {
    world
        .running()
        .filter_map(|id| world.job(id))
        .map(|job| &job.row)
        .filter(|row| row.control.lane.as_ref().is_some_and(|held| held.key == lane.key))
}

/// A claim that decides in its own way whether a job may start in its lane: by the job, its lane, the slots held
/// by the jobs of which `counts` holds, and those that this claim gave out.
fn starting(
    counts: fn(&Row, &Row, Timestamp) -> bool,
    may_start: fn(&World, &Lane, &BTreeSet<u32>) -> bool,
) -> Flaw {
    Flaw::none()
        .claim(move |world, request, now| claim_in_lanes(world, request, now, counts, may_start))
}

fn claim_in_lanes(
    world: &mut World,
    request: &ClaimRequest,
    now: Timestamp,
    counts: fn(&Row, &Row, Timestamp) -> bool,
    may_start: fn(&World, &Lane, &BTreeSet<u32>) -> bool,
) -> Result<Claimed> {
    request.check()?;
    if let Some(repeated) = world.repeated_claim(request, now) {
        return Ok(repeated);
    }
    let candidates = in_order(world, request.order, |row| {
        is_due(row, now) && is_asked_for(row, request) && !is_paused(world, row)
    });
    let mut picked: Vec<(JobId, Option<u32>)> = Vec::new();
    for id in candidates {
        if picked.len() == request.limit.get() as usize {
            break;
        }
        let row = raw::stored(world, id).row;
        let Some(lane) = &row.control.lane else {
            picked.push((id, None));
            continue;
        };
        let mut held: BTreeSet<u32> = running(world, lane)
            .filter(|other| counts(&row, other, now))
            .filter_map(|other| other.control.slot)
            .collect();
        for (other, slot) in &picked {
            let other = raw::stored(world, *other).row;
            let same = other.control.lane.as_ref().is_some_and(|held| held.key == lane.key);
            if same && counts(&row, &other, now) {
                held.extend(slot);
            }
        }
        if may_start(world, lane, &held) {
            let slot = (0..).find(|slot| !held.contains(slot));
            picked.push((id, slot));
        }
    }
    Ok(raw::take(world, &picked, request, now))
}

fn any(_: &Row, _: &Row, _: Timestamp) -> bool {
    true
}

fn below_limit(_: &World, lane: &Lane, held: &BTreeSet<u32>) -> bool {
    (0..lane.limit.get()).any(|slot| !held.contains(&slot))
}

/// The slot stays taken when this holds of what became of the job.
fn leaking(leaks: fn(&Stored, &Stored) -> bool) -> Flaw {
    Flaw::none().changing(move |was, is, _| {
        if was.row.control.slot.is_some() && is.row.control.slot.is_none() && leaks(was, is) {
            is.row.control.slot = was.row.control.slot;
        }
    })
}

/// The slot is given back when this holds of what became of the running job.
fn freeing(frees: fn(&Stored, &Stored) -> bool) -> Flaw {
    Flaw::none().changing(move |was, is, _| {
        let running = was.row.control.state == State::Running && !raw::claimed(was, is);
        if running && is.row.control.state == State::Running && frees(was, is) {
            is.row.control.slot = None;
        }
    })
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "a job may start while a slot below *its own* limit is free"
    Mutant::new(
        "lane-counts-running-jobs",
        "a job starts only while fewer jobs of its lane run than its limit, whatever slots are free",
        &["LAN-7"],
        || starting(any, |_, lane, held| held.len() < lane.limit.get() as usize),
    ),
    Mutant::new(
        "lane-limit-of-the-first-job",
        "the limit of a lane is that of the oldest job in it",
        &["LAN-7"],
        || {
            starting(any, |world, lane, held| {
                let rows = world.jobs().map(|job| &job.row);
                let of_lane = rows.filter_map(|row| {
                    let known = row.control.lane.as_ref().filter(|known| known.key == lane.key)?;
                    Some((row.created_at, row.id, known.limit))
                });
                let limit = of_lane.min().map_or(lane.limit, |first| first.2);
                (0..limit.get()).any(|slot| !held.contains(&slot))
            })
        },
    ),
    Mutant::new(
        "lane-limit-is-the-largest",
        "the limit of a lane is the largest that a job in it has",
        &["LAN-7"],
        || {
            starting(any, |world, lane, held| {
                let lanes = world.jobs().filter_map(|job| job.row.control.lane.as_ref());
                let of_lane = lanes.filter(|known| known.key == lane.key);
                let limit = of_lane.map(|known| known.limit).max().unwrap_or(lane.limit);
                (0..limit.get()).any(|slot| !held.contains(&slot))
            })
        },
    ),
    Mutant::new(
        "lane-limit-in-16-bits",
        "a lane whose limit exceeds a signed number of 16 bits starts nothing",
        &["LAN-7"],
        || {
            starting(any, |world, lane, held| {
                i16::try_from(lane.limit.get()).is_ok() && below_limit(world, lane, held)
            })
        },
    ),
    Mutant::new(
        "lane-limit-in-31-bits",
        "a lane whose limit exceeds a signed number of 32 bits starts nothing",
        &["LAN-7"],
        || {
            starting(any, |world, lane, held| {
                i32::try_from(lane.limit.get()).is_ok() && below_limit(world, lane, held)
            })
        },
    ),
    Mutant::new("lane-ends-at-16-slots", "a lane has at most 16 slots", &["LAN-7"], || {
        starting(any, |world, lane, held| held.len() < 16 && below_limit(world, lane, held))
    }),
    // "At most `limit` jobs of a key running at once, across all workers and queues", "Shared by all queues and kinds"
    Mutant::new("lanes-by-kind", "a lane holds among jobs of one kind only", &["LAN-3"], || {
        starting(|job, other, _| job.kind == other.kind, below_limit)
    }),
    Mutant::new(
        "lanes-by-priority",
        "a lane holds among jobs of one priority only",
        &["LAN-5"],
        || starting(|job, other, _| job.priority == other.priority, below_limit),
    ),
    Mutant::new(
        "expired-job-frees-its-lane",
        "a job whose lease is over and which nobody has reaped does not count in its lane",
        &["LAN-4"],
        || starting(|_, other, now| !other.control.is_expired(now), below_limit),
    ),
    Mutant::new(
        "cancelled-job-frees-its-lane-early",
        "a running job that is to be cancelled does not count in its lane",
        &["LAN-8"],
        || starting(|_, other, _| other.control.cancel.is_none(), below_limit),
    ),
    Mutant::new(
        "lane-counts-in-its-own-filter",
        "a running job counts in its lane only for jobs of the same labels",
        &["LAN-8"],
        || starting(|job, other, _| job.labels == other.labels, below_limit),
    ),
    Mutant::new(
        "lanes-ignore-case",
        "lanes whose keys differ in upper and lower case are one",
        &["FID-10"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    let mut busy: Vec<(JobId, String)> = world
                        .running()
                        .filter_map(|id| Some((id, raw::stored(world, id).row.control.lane?.key)))
                        .collect();
                    picked.retain(|(id, _)| {
                        let Some(lane) = raw::stored(world, *id).row.control.lane else {
                            return true;
                        };
                        let clash = busy.iter().any(|(_, key)| {
                            *key != lane.key && key.eq_ignore_ascii_case(&lane.key)
                        });
                        busy.push((*id, lane.key));
                        !clash
                    });
                })
            })
        },
    ),
    // "Without concurrent writes exactly the first `limit` are taken"
    Mutant::new(
        "one-job-of-a-lane-a-claim",
        "a claim takes at most one job of a lane, whatever the lane's limit",
        &["LAN-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    let mut seen = BTreeSet::new();
                    picked.retain(|(id, _)| {
                        let lane = raw::stored(world, *id).row.control.lane;
                        lane.is_none_or(|lane| seen.insert(lane.key))
                    });
                })
            })
        },
    ),
    Mutant::new(
        "jobs-with-lanes-go-last",
        "a claim takes jobs with a lane only when those without are not enough",
        &["CLM-13"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |_, picked| {
                    picked.sort_by_key(|(_, slot)| slot.is_some());
                })
            })
        },
    ),
    // "The jobs, in the order in which they should run."
    Mutant::new(
        "jobs-with-lanes-are-answered-last",
        "a claim takes the right jobs and answers those with a lane after the others",
        &["CLM-13"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                claimed.jobs.sort_by_key(|job| job.lane.is_some());
                Ok(claimed)
            })
        },
    ),
    // The table of effects: whatever ends a run clears the lane's slot.
    Mutant::new(
        "withdrawn-job-keeps-its-lane",
        "a retry or release that ends a job which was to be cancelled does not free its lane",
        &["LAN-3"],
        || leaking(withdrawn),
    ),
    Mutant::new(
        "retried-job-keeps-its-lane",
        "a job that waits for its retry holds its lane",
        &["LAN-3"],
        || leaking(raw::retried),
    ),
    Mutant::new(
        "woken-job-keeps-its-lane",
        "the release of a job that was woken does not free its lane",
        &["LAN-8"],
        || leaking(|was, is| was.row.control.wake && raw::released(was, is)),
    ),
    Mutant::new(
        "self-cancelled-job-keeps-its-lane",
        "a job that its holder cancels does not free its lane",
        &["LAN-3"],
        || leaking(|was, is| settled_by(was, is, TransitionKind::Cancel)),
    ),
    Mutant::new(
        "reaped-cancelled-job-keeps-its-lane",
        "the reap of a job that was to be cancelled does not free its lane",
        &["LAN-3"],
        || leaking(|was, is| raw::crashed(was, is) && is.row.control.state == State::Cancelled),
    ),
    Mutant::new(
        "crashed-out-job-keeps-its-lane",
        "a job that crashed too often does not free its lane",
        &["LAN-3"],
        || leaking(|was, is| raw::crashed(was, is) && is.row.control.state == State::Failed),
    ),
    Mutant::new(
        "expired-settle-keeps-the-lane",
        "a settle after the end of the lease does not free the lane",
        &["LAN-4"],
        || {
            Flaw::none().changing(|was, is, now| {
                if was.row.control.is_expired(now)
                    && !raw::crashed(was, is)
                    && is.row.control.state != State::Running
                {
                    is.row.control.slot = was.row.control.slot;
                }
            })
        },
    ),
    // "held while running"
    Mutant::new(
        "moved-job-leaves-its-lane",
        "a running job that is moved to another queue does not count in its lane any more",
        &["LAN-8"],
        || freeing(|was, is| was.row.queue != is.row.queue),
    ),
    Mutant::new(
        "cancel-mark-frees-the-slot",
        "the request to cancel a running job frees its slot",
        &["LAN-8"],
        || freeing(|was, is| was.row.control.cancel != is.row.control.cancel),
    ),
    Mutant::new(
        "wake-frees-the-slot",
        "the wake of a running job frees its slot",
        &["LAN-8"],
        || freeing(|was, is| was.row.control.wake != is.row.control.wake),
    ),
    Mutant::new(
        "heartbeat-frees-the-slot",
        "a heartbeat frees the slot of its job",
        &["LAN-8"],
        || freeing(|was, is| was.row.control.lease_until != is.row.control.lease_until),
    ),
    Mutant::new(
        "edit-frees-the-slot",
        "an edit of a running job's labels frees its slot",
        &["LAN-8"],
        || freeing(|was, is| was.row.labels != is.row.labels),
    ),
    // "All but `Applied` changed nothing."
    Mutant::new(
        "fenced-settle-frees-the-lane",
        "a settle that is refused as fenced frees the lane of the present holder",
        &["LAN-8"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    if let (Judgement::Refuse(Outcome::Fenced), Some(_)) =
                        (raw::judgement(world, update)?, &update.patch.transition)
                    {
                        world.edit(update.id, |job| job.row.control.slot = None);
                    }
                    None
                })
            })
        },
    ),
    Mutant::new(
        "repeated-settle-frees-the-lane",
        "the repeat of a settle frees the lane that the next holder of the job has",
        &["LAN-8"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    if let Judgement::Refuse(Outcome::Repeated(_)) = raw::judgement(world, update)?
                    {
                        world.edit(update.id, |job| job.row.control.slot = None);
                    }
                    None
                })
            })
        },
    ),
];
