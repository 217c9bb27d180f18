//! Stores that begin again what another call was in the way of, and find what they did the first time.
//!
//! In each the commit is taken for failed when another call came between, and the work is done once more; but something of
//! the first run has stayed: a number that was given out, a counter beside the transaction, or all of it.

use futures::FutureExt;
use queue_core::{EntryId, JobUpdate, Outcome, Result};

use super::{Flaw, Mutant, Shared, raw};

/// Updates of this sort are made once more after they met others, and the second answer is told.
fn updates_again(
    concerned: fn(&JobUpdate) -> bool,
    again: impl Fn(&Shared, &[JobUpdate]) -> Result<Option<Vec<Outcome>>> + Copy + Send + Sync + 'static,
) -> Flaw {
    Flaw::none().update_racing(move |store, updates| {
        async move {
            let outcomes = store.step(|world, now| world.update(updates, now))?;
            let has_met = store.meets().await;
            match has_met && updates.iter().any(concerned) {
                true => Ok(again(store, updates)?.unwrap_or(outcomes)),
                false => Ok(outcomes),
            }
        }
        .boxed()
    })
}

const fn appends(update: &JobUpdate) -> bool {
    !update.patch.log.is_empty()
}

fn edits(update: &JobUpdate) -> bool {
    update.patch.transition.is_none() && !update.patch.labels.is_empty()
}

const fn ends(update: &JobUpdate) -> bool {
    update.patch.transition.is_some()
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "append-again-takes-new-positions",
        "an append that is run again takes positions anew, and those of the first run are lost",
        &["ERR-8"],
        || {
            updates_again(appends, |store, updates| {
                store.step(|world, _| {
                    for update in updates {
                        let positions = update.patch.log.len() as u64;
                        world.edit(update.id, |job| job.row.control.log_len += positions);
                    }
                });
                Ok(None)
            })
        },
    ),
    Mutant::new(
        "append-again-mints-ids",
        "an append that is run again gives its entries new ids, and stores them twice",
        &["ERR-8"],
        || {
            updates_again(appends, |store, updates| {
                let mut again = updates.to_vec();
                let entries = again.iter_mut().flat_map(|update| &mut update.patch.log);
                entries.for_each(|entry| entry.id = EntryId::new());
                store.step(|world, now| world.update(&again, now)).map(Some)
            })
        },
    ),
    Mutant::new(
        "edit-again-counts-twice",
        "an edit that is run again adds two to the version",
        &["ERR-8"],
        || updates_again(edits, |store, updates| again(store, updates).map(Some)),
    ),
    Mutant::new(
        "settle-again-is-repeated",
        "a settle that is run again finds its own first run, and is told as the repeat of another call",
        &["ERR-8"],
        || updates_again(ends, |store, updates| again(store, updates).map(Some)),
    ),
    Mutant::new(
        "insert-again-is-existing",
        "an insert that is run again finds its own jobs, and says that they were there",
        &["ERR-8"],
        || {
            Flaw::none().insert_racing(|store, jobs| {
                async move {
                    let answers = store.step(|world, now| world.insert(jobs, now))?;
                    match store.meets().await {
                        true => store.step(|world, now| world.insert(jobs, now)),
                        false => Ok(answers),
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "claim-again-forgets-the-first",
        "a claim that is run again takes other jobs, and those of the first run are held by nobody who knows",
        &["ERR-8"],
        || {
            Flaw::none().claim_racing(|store, request| {
                async move {
                    let claimed = store.step(|world, now| world.claim(request, now))?;
                    if claimed.jobs.is_empty() || !store.meets().await {
                        return Ok(claimed);
                    }
                    Ok(store.step(|world, now| {
                        let picked = world.pick(request, now);
                        raw::take(world, &picked, request, now)
                    }))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "reap-again-is-another-crash",
        "a reap that is run again counts a second crash of each job",
        &["ERR-8"],
        || {
            Flaw::none().reap_racing(|store, limit| {
                async move {
                    let reaped = store.step(|world, now| world.reap(*limit, now));
                    if store.meets().await {
                        store.step(|world, _| {
                            for one in &reaped {
                                world.edit(one.id, |job| job.row.control.crashes += 1);
                            }
                        });
                    }
                    Ok(reaped)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "change-again-finds-all-done",
        "a bulk change that is run again counts what is left for it after the first run",
        &["ERR-8"],
        || {
            Flaw::none().update_where_racing(|store, filter, change| {
                async move {
                    let met = store.step(|world, now| world.update_where(filter, change, now))?;
                    match store.meets().await {
                        true => store.step(|world, now| world.update_where(filter, change, now)),
                        false => Ok(met),
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "delete-again-finds-none",
        "a deletion that is run again finds nothing, and says that it deleted nothing",
        &["ERR-8"],
        || {
            Flaw::none().delete_racing(|store, filter, limit| {
                async move {
                    let deleted = store.step(|world, _| world.delete(filter, *limit))?;
                    match store.meets().await {
                        true => store.step(|world, _| world.delete(filter, *limit)),
                        false => Ok(deleted),
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "fire-again-is-already",
        "a slot that is fired again after others came between is told as fired by another",
        &["ERR-8"],
        || {
            Flaw::none().fire_racing(|store, fire| {
                async move {
                    let fired = store.step(|world, now| world.fire(fire, now))?;
                    match store.meets().await {
                        true => store.step(|world, now| world.fire(fire, now)),
                        false => Ok(fired),
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "put-again-counts-twice",
        "a put of a record that is run again adds two to its version",
        &["ERR-8"],
        || {
            Flaw::none().put_record_racing(|store, record, expect| {
                async move {
                    let put = store.step(|world, now| world.put_record(record, *expect, now))?;
                    match expect.is_none() && store.meets().await {
                        true => store.step(|world, now| world.put_record(record, None, now)),
                        false => Ok(put),
                    }
                }
                .boxed()
            })
        },
    ),
];

fn again(store: &Shared, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
    store.step(|world, now| world.update(updates, now))
}
