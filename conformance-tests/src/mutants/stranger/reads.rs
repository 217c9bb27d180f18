//! Reads by id, counts, deletions, and empty calls.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use queue_core::{JobFilter, JobId, QueueName, Result, State, Tally, spec::World};

use super::super::{Flaw, Mutant};

/// A count that is spoilt on its way out.
fn tallying(spoil: fn(&mut Vec<Tally>)) -> Flaw {
    Flaw::none().tally(move |world, filter, _| {
        let mut tallies = world.tally(filter)?;
        spoil(&mut tallies);
        Ok(tallies)
    })
}

/// A deletion of the jobs that `pick` leaves of the matching ones, the oldest first, up to the limit.
fn deleting(pick: fn(&World, &mut Vec<JobId>, usize)) -> Flaw {
    Flaw::none().delete(move |world, filter, limit, _| {
        filter.check()?;
        let mut rows: Vec<_> =
            world.jobs().map(|job| &job.row).filter(|row| row.matches(filter)).collect();
        rows.sort_by_key(|row| (row.created_at, row.id));
        let mut ids: Vec<JobId> = rows.into_iter().map(|row| row.id).collect();
        pick(world, &mut ids, limit.get() as usize);
        ids.retain(|id| state(world, *id) != Some(State::Running));
        ids.truncate(limit.get() as usize);
        ids.iter().for_each(|id| drop(world.take(*id)));
        Ok(ids.len() as u64)
    })
}

fn state(world: &World, id: JobId) -> Option<State> {
    world.job(id).map(|job| job.row.control.state)
}

fn folded(name: &QueueName) -> String {
    name.as_str().to_lowercase()
}

fn many_ids(filter: &JobFilter) -> bool {
    filter.ids.as_ref().is_some_and(|ids| ids.len() > 1_000)
}

fn refuse<T>() -> Result<T> {
    Err(queue_core::Error::new(queue_core::ErrorKind::Backend, "syntax error"))
}

pub(super) const MUTANTS: &[Mutant] = &[
    // get: "Reads jobs by id; `None` where there is none. Positional."
    Mutant::new(
        "get-answers-each-id-once",
        "an id that is asked for twice is answered the first time only",
        &["REA-1"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut seen = HashSet::new();
                let jobs = world.get(ids, *log).into_iter();
                Ok(jobs.map(|job| job.filter(|job| seen.insert(job.id))).collect())
            })
        },
    ),
    Mutant::new(
        "get-leaves-gaps-out",
        "ids that are not there are left out of the answer when others are",
        &["REA-1"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                if jobs.iter().any(Option::is_some) {
                    jobs.retain(Option::is_some);
                }
                Ok(jobs)
            })
        },
    ),
    Mutant::new(
        "get-in-order-of-ids",
        "jobs are read in the order of their ids",
        &["DEL-2"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut ids = ids.to_vec();
                ids.sort_unstable();
                Ok(world.get(&ids, *log))
            })
        },
    ),
    Mutant::new(
        "get-of-a-thousand",
        "a read by id finds at most a thousand jobs",
        &["REA-10"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                jobs.iter_mut().skip(1_000).for_each(|job| *job = None);
                Ok(jobs)
            })
        },
    ),
    // "Empty input costs no trip and answers empty."
    Mutant::new("get-of-nothing-fails", "a read of no ids is an error", &["INS-4"], || {
        Flaw::none().get(|world, ids, log, _| match ids {
            [] => refuse(),
            ids => Ok(world.get(ids, *log)),
        })
    }),
    Mutant::new("insert-of-nothing-fails", "an insert of no jobs is an error", &["INS-4"], || {
        Flaw::none().insert(|world, jobs, now| match jobs {
            [] => refuse(),
            jobs => world.insert(jobs, now),
        })
    }),
    Mutant::new(
        "update-of-nothing-fails",
        "a call with no updates is an error",
        &["INS-4"],
        || {
            Flaw::none().update(|world, updates, now| match updates {
                [] => refuse(),
                updates => world.update(updates, now),
            })
        },
    ),
    Mutant::new(
        "heartbeat-of-nothing-fails",
        "a heartbeat for no jobs is an error",
        &["INS-4"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| match held {
                [] => refuse(),
                held => world.heartbeat(held, *lease, now),
            })
        },
    ),
    Mutant::new(
        "filter-with-no-ids-fails",
        "a page, a count or a deletion for an empty list of ids is an error",
        &["REA-9"],
        || {
            let none = |filter: &JobFilter| filter.ids.as_ref().is_some_and(Vec::is_empty);
            Flaw::none()
                .find(
                    move |world, query, _| {
                        if none(&query.filter) { refuse() } else { world.find(query) }
                    },
                )
                .tally(
                    move |world, filter, _| {
                        if none(filter) { refuse() } else { world.tally(filter) }
                    },
                )
                .delete(
                    move |world, filter, limit, _| {
                        if none(filter) { refuse() } else { world.delete(filter, *limit) }
                    },
                )
        },
    ),
    Mutant::new(
        "filter-with-a-thousand-ids-fails",
        "a filter with more than a thousand ids is an error",
        &["REA-10"],
        || {
            Flaw::none()
                .find(
                    |world, query, _| {
                        if many_ids(&query.filter) { refuse() } else { world.find(query) }
                    },
                )
                .tally(
                    |world, filter, _| {
                        if many_ids(filter) { refuse() } else { world.tally(filter) }
                    },
                )
                .delete(
                    |world, filter, limit, _| {
                        if many_ids(filter) { refuse() } else { world.delete(filter, *limit) }
                    },
                )
        },
    ),
    Mutant::new(
        "doubled-queue-counts-twice",
        "jobs of a queue that stands twice in a filter are counted twice",
        &["REA-9"],
        || {
            Flaw::none().tally(|world, filter, _| {
                let mut tallies = world.tally(filter)?;
                for tally in &mut tallies {
                    let queues = filter.queues.iter().flatten();
                    tally.count *=
                        queues.filter(|queue| **queue == tally.queue).count().max(1) as u64;
                }
                Ok(tallies)
            })
        },
    ),
    Mutant::new(
        "doubled-id-deletes-less",
        "an id that stands twice in a filter uses up the limit of a deletion twice",
        &["REA-10"],
        || {
            Flaw::none().delete(|world, filter, limit, _| {
                let doubled = filter
                    .ids
                    .as_ref()
                    .map_or(0, |ids| ids.len() - ids.iter().collect::<HashSet<_>>().len());
                let limit = limit.get().saturating_sub(doubled as u32);
                match std::num::NonZeroU32::new(limit) {
                    Some(limit) => world.delete(filter, limit),
                    None => Ok(0),
                }
            })
        },
    ),
    // tally: "Counts matching jobs by queue and state, in that order."
    Mutant::new(
        "tally-sorts-states-by-name",
        "a count lists the states of a queue by their names",
        &["REA-2"],
        || {
            tallying(|tallies| {
                tallies.sort_by_key(|tally| (tally.queue.clone(), tally.state.as_str()));
            })
        },
    ),
    Mutant::new(
        "tally-by-state-first",
        "a count lists the states first and the queues of each",
        &["REA-2"],
        || tallying(|tallies| tallies.sort_by_key(|tally| (tally.state, tally.queue.clone()))),
    ),
    Mutant::new(
        "tally-sorts-queues-without-case",
        "a count lists queues as a dictionary would, B after a",
        &["FID-10"],
        || tallying(|tallies| tallies.sort_by_key(|tally| (folded(&tally.queue), tally.state))),
    ),
    Mutant::new(
        "tally-merges-queues-without-case",
        "a count takes queues that differ in upper and lower case for one",
        &["FID-10"],
        || {
            tallying(|tallies| {
                let mut merged: BTreeMap<(String, State), Tally> = BTreeMap::new();
                for tally in tallies.drain(..) {
                    let key = (folded(&tally.queue), tally.state);
                    merged
                        .entry(key)
                        .and_modify(|known| known.count += tally.count)
                        .or_insert(tally);
                }
                tallies.extend(merged.into_values());
                tallies.sort();
            })
        },
    ),
    Mutant::new(
        "tally-lists-states-without-jobs",
        "a count lists a state without jobs of a queue that has others",
        &["REA-2"],
        || {
            tallying(|tallies| {
                let queues: HashSet<QueueName> =
                    tallies.iter().map(|tally| tally.queue.clone()).collect();
                for queue in queues {
                    if tallies.iter().all(|t| t.queue != queue || t.state != State::Failed) {
                        tallies.push(Tally::new(queue, State::Failed, 0));
                    }
                }
                tallies.sort();
            })
        },
    ),
    // delete: "Deletes up to `limit` matching jobs ..., the oldest first; never a running one."
    Mutant::new(
        "running-jobs-use-up-the-limit-of-a-deletion",
        "running jobs count in the limit of a deletion, though they stay",
        &["DEL-2"],
        || deleting(|_, ids, limit| ids.truncate(limit)),
    ),
    Mutant::new(
        "deletion-by-end",
        "a deletion takes the jobs first that ended first",
        &["REA-12"],
        || {
            deleting(|world, ids, _| {
                ids.sort_by_key(|id| {
                    let end = world.job(*id).and_then(|job| job.row.control.finished_at);
                    end.unwrap_or(queue_core::Timestamp::MAX)
                });
            })
        },
    ),
    Mutant::new(
        "deletion-by-id",
        "a deletion takes jobs in the order of their ids",
        &["DEL-2"],
        || deleting(|_, ids, _| ids.sort_unstable()),
    ),
    Mutant::new(
        "deletion-breaks-ties-backwards",
        "of jobs inserted at one instant a deletion takes the largest id first",
        &["DEL-2"],
        || {
            deleting(|world, ids, _| {
                ids.sort_by_key(|id| (world.job(*id).map(|job| job.row.created_at), Reverse(*id)));
            })
        },
    ),
    Mutant::new(
        "deletion-spares-waiting-jobs",
        "a deletion takes finished jobs only",
        &["DEL-1"],
        || {
            deleting(|world, ids, _| {
                ids.retain(|id| state(world, *id).is_some_and(State::is_final));
            })
        },
    ),
    Mutant::new(
        "deletion-spares-retrying-jobs",
        "a deletion does not take jobs that wait for a retry",
        &["REA-12"],
        || {
            deleting(|world, ids, _| {
                ids.retain(|id| {
                    world.job(*id).is_some_and(|job| {
                        job.row.control.state != State::Waiting || job.row.control.attempt == 0
                    })
                });
            })
        },
    ),
    Mutant::new(
        "deletion-limit-in-31-bits",
        "a deletion of more jobs than a signed number of 32 bits can count takes none",
        &["REA-9"],
        || {
            deleting(|_, ids, limit| {
                if i32::try_from(limit).is_err() {
                    ids.clear();
                }
            })
        },
    ),
];
