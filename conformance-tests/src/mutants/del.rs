use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use queue_core::{Inserted, JobFilter, JobId, State, Timestamp, spec::World};

use super::{Flaw, Mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("delete-takes-running", "a running job can be deleted", &["DEL-1"], || {
        Flaw::none().delete(|world, filter, limit, _| {
            filter.check()?;
            let doomed = oldest(world, filter, |_| true);
            Ok(remove(world, doomed.into_iter().take(limit.get() as usize)))
        })
    }),
    Mutant::new(
        "delete-counts-running",
        "a running job is left and counted as deleted",
        &["DEL-1"],
        || {
            Flaw::none().delete(|world, filter, limit, _| {
                let running = oldest(world, filter, |state| state == State::Running).len();
                Ok(world.delete(filter, *limit)? + running as u64)
            })
        },
    ),
    Mutant::new("delete-ignores-limit", "a delete takes all matching jobs", &["DEL-2"], || {
        Flaw::none().delete(|world, filter, _, _| world.delete(filter, NonZeroU32::MAX))
    }),
    Mutant::new("delete-newest-first", "a delete takes the newest jobs first", &["DEL-2"], || {
        Flaw::none().delete(|world, filter, limit, _| {
            filter.check()?;
            let doomed = oldest(world, filter, |state| state != State::Running);
            Ok(remove(world, doomed.into_iter().rev().take(limit.get() as usize)))
        })
    }),
    Mutant::new(
        "delete-limit-before-filter",
        "the limit counts running jobs that are then left",
        &["DEL-2"],
        || {
            Flaw::none().delete(|world, filter, limit, _| {
                filter.check()?;
                let first = oldest(world, filter, |_| true);
                let ids = JobFilter::ids(first.into_iter().take(limit.get() as usize));
                world.delete(&ids, *limit)
            })
        },
    ),
    Mutant::new(
        "delete-horizon-inclusive",
        "a delete takes the job at its very horizon",
        &["DEL-3"],
        || {
            Flaw::none().delete(|world, filter, limit, _| {
                let mut wide = filter.clone();
                for range in [&mut wide.created, &mut wide.finished] {
                    range.before = range.before.map(|before| before.plus(Duration::from_micros(1)));
                }
                world.delete(&wide, *limit)
            })
        },
    ),
    Mutant::new("delete-ignores-horizon", "a delete looks at the state alone", &["DEL-3"], || {
        Flaw::none().delete(|world, filter, limit, _| {
            let mut wide = filter.clone();
            wide.finished = queue_core::TimeRange::default();
            world.delete(&wide, *limit)
        })
    }),
    Mutant::new("delete-leaves-the-key", "a deleted job keeps its unique key", &["DEL-4"], || {
        let kept: Arc<Mutex<HashMap<String, JobId>>> = Arc::default();
        let left = kept.clone();
        Flaw::none()
            .delete(move |world, filter, limit, _| {
                let held: Vec<(String, JobId)> = world
                    .jobs()
                    .filter(|stored| stored.row.control.holds_key())
                    .filter_map(|stored| {
                        Some((stored.row.control.unique.as_ref()?.key.clone(), stored.row.id))
                    })
                    .collect();
                let deleted = world.delete(filter, *limit)?;
                let gone = held.into_iter().filter(|(_, id)| world.job(*id).is_none());
                left.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
                Ok(deleted)
            })
            .insert(move |world, jobs, now| {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                jobs.iter()
                    .map(|job| {
                        let holder = job.unique.as_ref().and_then(|unique| kept.get(&unique.key));
                        match holder {
                            Some(holder) => Ok(Inserted::Existing(*holder)),
                            None => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                        }
                    })
                    .collect()
            })
    }),
];

/// The matching jobs, the oldest first.
fn oldest(world: &World, filter: &JobFilter, state: impl Fn(State) -> bool) -> Vec<JobId> {
    let rows = world.jobs().map(|stored| &stored.row);
    let mut found: Vec<(Timestamp, JobId)> = rows
        .filter(|row| row.matches(filter) && state(row.control.state))
        .map(|row| (row.created_at, row.id))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id).collect()
}

fn remove(world: &mut World, doomed: impl Iterator<Item = JobId>) -> u64 {
    doomed.filter_map(|id| world.take(id)).count() as u64
}
