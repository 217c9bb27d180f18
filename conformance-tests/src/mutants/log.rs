use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use queue_core::{
    EntryId, Error, ErrorKind, JobId, JobUpdate, Judgement, LogEntry, LogRead, Outcome, Payload,
    Seq, Version,
    spec::{Stored, World},
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "log-read-append-write",
        "the log is read, appended to in memory, and written back",
        &["LOG-1"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let read = store.step(|world, _| read(world, updates));
                    if updates.iter().any(|update| !update.patch.log.is_empty()) {
                        store.pause().await;
                    }
                    store.step(|world, now| {
                        for old in read.into_iter().flatten() {
                            world.edit(old.row.id, |stored| {
                                stored.row.control.log_len = old.row.control.log_len;
                                stored.log = old.log;
                            });
                        }
                        world.update(updates, now)
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "log-deleted-and-reinserted",
        "an update deletes the log's rows, and inserts them again in a second statement",
        &["LOG-1", "LOG-4", "LOG-9"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let read = store.step(|world, now| {
                        let read = read(world, updates);
                        let outcomes = world.update(updates, now);
                        let after = self::read(world, updates);
                        for stored in read.into_iter().flatten() {
                            world.edit(stored.row.id, |stored| {
                                stored.log.clear();
                                stored.row.control.log_len = 0;
                            });
                        }
                        outcomes.map(|outcomes| (outcomes, after))
                    });
                    let (outcomes, after) = read?;
                    store.pause().await;
                    store.step(|world, _| {
                        for new in after.into_iter().flatten() {
                            world.edit(new.row.id, |stored| {
                                stored.row.control.log_len = new.row.control.log_len;
                                stored.log = new.log;
                            });
                        }
                    });
                    Ok(outcomes)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "update-writes-the-whole-job",
        "an update writes all fields of the job that it read earlier",
        &["LOG-4", "UPD-2"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let read = store.step(|world, _| read(world, updates));
                    store.pause().await;
                    store.step(|world, now| {
                        for old in read.into_iter().flatten() {
                            world.place(old);
                        }
                        world.update(updates, now)
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "log-duplicate-is-an-error",
        "an entry appended twice is a violation",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                let twice = updates.iter().any(|update| {
                    let stored = world.job(update.id);
                    stored.is_some_and(|stored| {
                        update
                            .patch
                            .log
                            .iter()
                            .any(|new| stored.log.iter().any(|old| old.id == new.id))
                    })
                });
                match twice {
                    true => Err(Error::new(ErrorKind::Backend, "duplicate key value")),
                    false => world.update(updates, now),
                }
            })
        },
    ),
    Mutant::new("log-ids-by-the-store", "the store mints the ids of entries", &["LOG-2"], || {
        Flaw::none().patching(|update| {
            update.patch.log.iter_mut().for_each(|entry| entry.id = EntryId::new());
        })
    }),
    Mutant::new(
        "log-duplicate-hides-the-rest",
        "a known entry drops its whole call",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut updates = updates.to_vec();
                for update in &mut updates {
                    let known = world.job(update.id).is_some_and(|stored| {
                        let has = |id| stored.log.iter().any(|entry| entry.id == id);
                        update.patch.log.iter().any(|entry| has(entry.id))
                    });
                    if known {
                        update.patch.log.clear();
                    }
                }
                world.update(&updates, now)
            })
        },
    ),
    Mutant::new("log-upserts", "an entry appended again gets the new body", &["LOG-3"], || {
        Flaw::none().update(|world, updates, now| {
            let outcomes = world.update(updates, now)?;
            for (update, outcome) in updates.iter().zip(&outcomes) {
                if outcome.applied().is_some() {
                    world.edit(update.id, |stored| overwrite(stored, update));
                }
            }
            Ok(outcomes)
        })
    }),
    Mutant::new("label-edit-clears-log", "a change of labels empties the log", &["LOG-5"], || {
        Flaw::none().changing(|was, is, _| {
            if was.row.labels != is.row.labels && was.log.len() == is.log.len() {
                clear(is);
            }
        })
    }),
    Mutant::new(
        "progress-drops-last-entry",
        "reporting progress drops an entry",
        &["LOG-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if was.row.progress != is.row.progress && was.log.len() == is.log.len() {
                    is.row.control.log_len = is.row.control.log_len.saturating_sub(1);
                    is.log.pop();
                }
            })
        },
    ),
    Mutant::new(
        "fields-then-log",
        "the fields are written first, the log in a second statement",
        &["LOG-6"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let mut fields = updates.to_vec();
                    fields.iter_mut().for_each(|update| update.patch.log.clear());
                    let outcomes = store.step(|world, now| world.update(&fields, now))?;
                    store.pause().await;
                    store.step(|world, now| {
                        for (update, outcome) in updates.iter().zip(&outcomes) {
                            if outcome.applied().is_some() {
                                world.edit(update.id, |job| job.append(&update.patch.log, now));
                            }
                        }
                    });
                    Ok(outcomes)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "log-then-fields",
        "the log is written first, the fields in a second statement",
        &["LOG-6"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    store.step(|world, now| {
                        for update in updates {
                            let judged = raw::judgement(world, update);
                            if matches!(judged, Some(Judgement::Apply(_))) {
                                world.edit(update.id, |job| job.append(&update.patch.log, now));
                            }
                        }
                    });
                    store.pause().await;
                    store.step(|world, now| world.update(updates, now))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "append-outside-the-guard",
        "a refused update appends its entries all the same",
        &["LOG-7", "LSE-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for update in updates {
                    world.edit(update.id, |stored| stored.append(&update.patch.log, now));
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "conflict-appends",
        "a stale version keeps the fields and lets the log in",
        &["LOG-7"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&outcomes) {
                    if matches!(outcome, Outcome::Conflict { .. }) {
                        world.edit(update.id, |stored| stored.append(&update.patch.log, now));
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "after-is-inclusive",
        "After(seq) returns the entry at seq again",
        &["LOG-8"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let log = match *log {
                    LogRead::After(Seq(seq)) => LogRead::After(Seq(seq.saturating_sub(1))),
                    log => log,
                };
                Ok(world.get(ids, log))
            })
        },
    ),
    Mutant::new("seq-from-zero", "positions begin at 0", &["LOG-8"], || {
        Flaw::none().reading(|job| job.log.iter_mut().for_each(|entry| entry.seq.0 -= 1))
    }),
    Mutant::new("seq-per-call", "positions begin anew in every call", &["LOG-8"], || {
        Flaw::none().changing(|was, is, _| {
            for (entry, seq) in is.log.iter_mut().skip(was.log.len()).zip(1..) {
                entry.seq = Seq(seq);
            }
        })
    }),
    Mutant::new("seq-is-always-one", "every entry has position 1", &["LOG-8"], || {
        Flaw::none().changing(|_, is, _| is.log.iter_mut().for_each(|entry| entry.seq = Seq(1)))
    }),
    Mutant::new("seq-gap-on-duplicate", "a repeated entry uses up a position", &["LOG-8"], || {
        Flaw::none().update(|world, updates, now| {
            let before: Vec<Option<Stored>> = read(world, updates);
            let outcomes = world.update(updates, now)?;
            for (update, was) in updates.iter().zip(before) {
                let Some(was) = was else { continue };
                world.edit(update.id, |is| {
                    let known = update.patch.log.iter();
                    let known = known.filter(|new| was.log.iter().any(|old| old.id == new.id));
                    let gap = known.count() as u64;
                    is.log.iter_mut().skip(was.log.len()).for_each(|entry| entry.seq.0 += gap);
                });
            }
            Ok(outcomes)
        })
    }),
    Mutant::new("get-sorts-log-by-id", "the log is read by entry id", &["LOG-8"], || {
        Flaw::none().get(|world, ids, log, _| {
            let mut jobs = world.get(ids, *log);
            for job in jobs.iter_mut().flatten() {
                job.log.sort_by_key(|entry| entry.id);
            }
            Ok(jobs)
        })
    }),
    Mutant::new("get-reverses-log", "the log is read from its end", &["LOG-8"], || {
        Flaw::none().get(|world, ids, log, _| {
            let mut jobs = world.get(ids, *log);
            jobs.iter_mut().flatten().for_each(|job| job.log.reverse());
            Ok(jobs)
        })
    }),
    Mutant::new(
        "reads-alternate-with-a-replica",
        "every third read comes from a replica that has half of the log",
        &["LOG-9"],
        || {
            let reads = AtomicU64::new(0);
            Flaw::none().reading(move |job| {
                if reads.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
                    job.log.truncate(job.log.len() / 2);
                }
            })
        },
    ),
    Mutant::new("append-bumps-version", "an append is an edit", &["LOG-10"], || {
        Flaw::none().changing(|was, is, _| {
            if is.log.len() > was.log.len() && is.row.control.version == was.row.control.version {
                is.row.control.version = Version(was.row.control.version.0 + 1);
            }
        })
    }),
    Mutant::new("retry-clears-log", "a retry empties the log", &["LOG-11"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::retried(was, is) {
                clear(is);
            }
        })
    }),
    Mutant::new("reap-clears-log", "a lost lease empties the log", &["LOG-11"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::crashed(was, is) {
                clear(is);
            }
        })
    }),
    Mutant::new("reclaim-clears-log", "a further claim empties the log", &["LOG-11"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::claimed(was, is) && was.row.control.fence.count > 0 {
                clear(is);
            }
        })
    }),
    Mutant::new("log-capped-at-100", "the log keeps its last 100 entries", &["LOG-12"], || {
        Flaw::none().changing(|_, is, _| {
            let extra = is.log.len().saturating_sub(100);
            is.log.drain(..extra);
        })
    }),
    Mutant::new("log-body-cut-at-64k", "a large body becomes null", &["LOG-12"], || {
        Flaw::none().reading(|job| {
            let large = job.log.iter_mut().filter(|entry| entry.body.len() > 65_535);
            large.for_each(|entry| entry.body = Payload::null());
        })
    }),
    Mutant::new(
        "log-outlives-its-job",
        "the log's rows stay when the job is deleted",
        &["LOG-13"],
        || {
            let orphans: Arc<Mutex<HashMap<JobId, Vec<LogEntry>>>> = Arc::default();
            let found = orphans.clone();
            Flaw::none()
                .delete(move |world, filter, limit, _| {
                    let mut orphans = orphans.lock().unwrap_or_else(PoisonError::into_inner);
                    let logs: Vec<_> =
                        world.jobs().map(|stored| (stored.row.id, stored.log.clone())).collect();
                    let deleted = world.delete(filter, *limit)?;
                    orphans.extend(logs.into_iter().filter(|(id, _)| world.job(*id).is_none()));
                    Ok(deleted)
                })
                .insert(move |world, jobs, now| {
                    let answers = world.insert(jobs, now)?;
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    for answer in answers.iter().filter(|answer| answer.is_new()) {
                        let Some(log) = found.remove(&answer.id()) else { continue };
                        world.edit(answer.id(), |stored| {
                            stored.row.control.log_len = log.len() as u64;
                            stored.log = log;
                        });
                    }
                    Ok(answers)
                })
        },
    ),
    Mutant::new(
        "append-to-nothing-is-applied",
        "an append to no job is acknowledged",
        &["LOG-13"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&mut outcomes) {
                    if *outcome == Outcome::Missing && !update.patch.log.is_empty() {
                        *outcome = raw::applied();
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "entry-ids-are-global",
        "an entry id that any job has is passed over",
        &["LOG-14"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut updates = updates.to_vec();
                for update in &mut updates {
                    let id = update.id;
                    update.patch.log.retain(|new| {
                        let mut others = world.jobs().filter(|stored| stored.row.id != id);
                        !others.any(|stored| stored.log.iter().any(|entry| entry.id == new.id))
                    });
                }
                world.update(&updates, now)
            })
        },
    ),
];

fn read(world: &World, updates: &[JobUpdate]) -> Vec<Option<Stored>> {
    updates.iter().map(|update| world.job(update.id).cloned()).collect()
}

fn clear(stored: &mut Stored) {
    stored.log.clear();
    stored.row.control.log_len = 0;
}

fn overwrite(stored: &mut Stored, update: &JobUpdate) {
    for new in &update.patch.log {
        let known = stored.log.iter_mut().filter(|entry| entry.id == new.id);
        known.for_each(|entry| entry.body = new.body.clone());
    }
}
