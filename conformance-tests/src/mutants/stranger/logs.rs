//! Logs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{
    EntryId, EntryKind, JobId, JobUpdate, LogEntry, LogRead, NewEntry, Outcome, Seq, Timestamp,
    spec::Stored,
};

use super::super::{Flaw, Mutant, raw};

/// Spoils the entries that a write appended: the log as it was, the job, and the first new place in its log.
fn appending(spoil: fn(&mut Stored, usize, Timestamp)) -> Flaw {
    Flaw::none().changing(move |was, is, now| {
        if is.log.len() > was.log.len() {
            spoil(is, was.log.len(), now);
        }
    })
}

/// Spoils the entries of an update before they are appended.
fn bringing(spoil: fn(&mut Vec<NewEntry>)) -> Flaw {
    Flaw::none().patching(move |update: &mut JobUpdate| spoil(&mut update.patch.log))
}

/// A store that keeps the logs of jobs that are gone, and gives them to new jobs with the same id.
fn keeping_logs() -> Flaw {
    let logs: Arc<Mutex<HashMap<JobId, Vec<LogEntry>>>> = Arc::default();
    let (kept, dropped) = (logs.clone(), logs.clone());
    let keep = |logs: &Mutex<HashMap<JobId, Vec<LogEntry>>>,
                before: &queue_core::spec::World,
                after: &queue_core::spec::World| {
        let mut logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = before.jobs().filter(|job| after.job(job.row.id).is_none());
        logs.extend(gone.map(|job| (job.row.id, job.log.clone())));
    };
    Flaw::none()
        .delete(move |world, filter, limit, _| {
            let before = world.clone();
            let count = world.delete(filter, *limit)?;
            keep(&kept, &before, world);
            Ok(count)
        })
        .update(move |world, updates, now| {
            let before = world.clone();
            let outcomes = world.update(updates, now)?;
            keep(&dropped, &before, world);
            Ok(outcomes)
        })
        .insert(move |world, jobs, now| {
            let inserted = world.insert(jobs, now)?;
            let mut logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
            for (job, inserted) in jobs.iter().zip(&inserted) {
                if let (true, Some(log)) = (inserted.is_new(), logs.remove(&job.id)) {
                    world.edit(job.id, |job| {
                        job.row.control.log_len = log.len() as u64;
                        job.log = log;
                    });
                }
            }
            Ok(inserted)
        })
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "Names a log entry within its job."
    Mutant::new(
        "entry-ids-are-shared-by-jobs",
        "an entry whose id stands in another job's log is passed over",
        &["LOG-14"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let known: HashSet<EntryId> = world
                        .jobs()
                        .filter(|job| job.row.id != update.id)
                        .flat_map(|job| job.log.iter().map(|entry| entry.id))
                        .collect();
                    let mut update = update.clone();
                    update.patch.log.retain(|entry| !known.contains(&entry.id));
                    Some(world.update(&[update], now).ok()?.remove(0))
                })
            })
        },
    ),
    Mutant::new(
        "same-body-is-same-entry",
        "an entry whose body the log already has is passed over",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let mut bodies: HashSet<_> =
                        world.job(update.id)?.log.iter().map(|entry| entry.body.clone()).collect();
                    let mut update = update.clone();
                    update.patch.log.retain(|entry| bodies.insert(entry.body.clone()));
                    Some(world.update(&[update], now).ok()?.remove(0))
                })
            })
        },
    ),
    Mutant::new(
        "only-the-latest-entry-is-recognised",
        "an entry is passed over only when the last entry of the log has its id",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let last = world.job(update.id)?.log.last().map(|entry| entry.id);
                    let renamed: HashMap<EntryId, EntryId> = world
                        .job(update.id)?
                        .log
                        .iter()
                        .filter(|entry| Some(entry.id) != last)
                        .map(|entry| (entry.id, EntryId::new()))
                        .collect();
                    let mut update = update.clone();
                    for entry in &mut update.patch.log {
                        entry.id = renamed.get(&entry.id).copied().unwrap_or(entry.id);
                    }
                    Some(world.update(&[update], now).ok()?.remove(0))
                })
            })
        },
    ),
    // "Its position: 1, 2, 3 and so on in each job" without gaps
    Mutant::new(
        "entry-passed-over-leaves-a-gap",
        "an entry that is passed over uses up a position",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let known: HashSet<EntryId> =
                        world.job(update.id)?.log.iter().map(|entry| entry.id).collect();
                    let outcome = world.update(std::slice::from_ref(update), now).ok()?.remove(0);
                    let first = known.len();
                    let passed =
                        update.patch.log.iter().take_while(|entry| known.contains(&entry.id));
                    let gap = passed.count() as u64;
                    if matches!(outcome, Outcome::Applied(_)) {
                        world.edit(update.id, |job| {
                            for entry in job.log.iter_mut().skip(first) {
                                entry.seq = Seq(entry.seq.0 + gap);
                            }
                        });
                    }
                    Some(outcome)
                })
            })
        },
    ),
    Mutant::new(
        "entry-twice-in-an-append-leaves-a-gap",
        "an entry that stands twice in one append uses up two positions",
        &["LOG-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let first = world.job(update.id)?.log.len();
                    let outcome = world.update(std::slice::from_ref(update), now).ok()?.remove(0);
                    let places: HashMap<EntryId, usize> = update
                        .patch
                        .log
                        .iter()
                        .enumerate()
                        .map(|(place, entry)| (entry.id, place))
                        .collect();
                    if matches!(outcome, Outcome::Applied(_))
                        && places.len() < update.patch.log.len()
                    {
                        world.edit(update.id, |job| {
                            for entry in job.log.iter_mut().skip(first) {
                                if let Some(place) = places.get(&entry.id) {
                                    entry.seq = Seq((first + place + 1) as u64);
                                }
                            }
                        });
                    }
                    Some(outcome)
                })
            })
        },
    ),
    // "Entries to append, in this order"
    Mutant::new(
        "append-sorts-by-id",
        "the entries of one append are stored in the order of their ids",
        &["LOG-11"],
        || bringing(|log| log.sort_by_key(|entry| entry.id)),
    ),
    Mutant::new(
        "append-sorts-by-kind",
        "the entries of one append are stored kind by kind",
        &["LOG-15"],
        || bringing(|log| log.sort_by_key(|entry| entry.kind.code())),
    ),
    Mutant::new(
        "append-of-at-most-100",
        "an append stores its first hundred entries",
        &["LOG-12"],
        || bringing(|log| log.truncate(100)),
    ),
    Mutant::new(
        "entries-are-all-lines",
        "an entry about an attempt is stored as a line",
        &["LOG-15"],
        || {
            bringing(|log| {
                for entry in log.iter_mut().filter(|entry| entry.kind == EntryKind::Attempt) {
                    entry.kind = EntryKind::Line;
                }
            })
        },
    ),
    // "When the store appended it."
    Mutant::new(
        "entry-at-the-start-of-its-attempt",
        "an entry is dated when the attempt that wrote it began",
        &["LOG-15"],
        || {
            appending(|is, first, _| {
                let start = is.row.control.started_at;
                for entry in is.log.iter_mut().skip(first) {
                    entry.at = start.unwrap_or(entry.at);
                }
            })
        },
    ),
    Mutant::new(
        "entry-at-in-milliseconds",
        "an entry is dated by whole milliseconds",
        &["FID-6"],
        || {
            appending(|is, first, _| {
                for entry in is.log.iter_mut().skip(first) {
                    entry.at = super::millis(entry.at);
                }
            })
        },
    ),
    Mutant::new(
        "entry-at-of-its-id",
        "an entry is dated by the time in its id, which is the writer's",
        &["FID-6"],
        || {
            appending(|is, first, _| {
                for entry in is.log.iter_mut().skip(first) {
                    let millis = (entry.id.as_uuid().as_u128() >> 80) as i64;
                    entry.at = Timestamp::from_micros_saturating(millis.saturating_mul(1_000));
                }
            })
        },
    ),
    // "nothing removes or changes an entry but the deletion of its job"
    Mutant::new("log-keeps-256-entries", "a log keeps its last 256 entries", &["LOG-1"], || {
        appending(|is, _, _| {
            let surplus = is.log.len().saturating_sub(256);
            is.log.drain(..surplus);
        })
    }),
    Mutant::new(
        "completed-job-drops-its-lines",
        "a job that completes loses the lines in its log",
        &["LOG-11"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::ended(was, is, queue_core::State::Completed) {
                    is.log.retain(|entry| entry.kind != EntryKind::Line);
                }
            })
        },
    ),
    // "Deletes ... jobs with their logs"
    Mutant::new(
        "new-job-finds-the-log-of-the-old",
        "a job inserted under the id of a deleted one has that one's log",
        &["DEL-4"],
        keeping_logs,
    ),
    // "How many entries its log has."
    Mutant::new(
        "log-len-of-what-was-read",
        "a job says as many entries as were read",
        &["CLM-14"],
        || Flaw::none().reading(|job| job.log_len = job.log.len() as u64),
    ),
    Mutant::new(
        "log-len-counts-doubled-entries",
        "an entry that stands twice in one append counts twice in the length of the log",
        &["LOG-2"],
        || {
            let surplus: Arc<Mutex<HashMap<JobId, u64>>> = Arc::default();
            let counted = surplus.clone();
            Flaw::none()
                .update(move |world, updates, now| {
                    let mut surplus = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    let outcomes = world.update(updates, now)?;
                    for (update, outcome) in updates.iter().zip(&outcomes) {
                        let ids: HashSet<EntryId> =
                            update.patch.log.iter().map(|entry| entry.id).collect();
                        if outcome.applied().is_some() {
                            *surplus.entry(update.id).or_default() +=
                                (update.patch.log.len() - ids.len()) as u64;
                        }
                    }
                    Ok(outcomes)
                })
                .reading(move |job| {
                    let surplus = surplus.lock().unwrap_or_else(PoisonError::into_inner);
                    job.log_len += surplus.get(&job.id).copied().unwrap_or(0);
                })
        },
    ),
    // "The entries after this position."
    Mutant::new(
        "log-after-in-63-bits",
        "a read after a position that a signed number cannot hold answers the whole log",
        &["LOG-15"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                Ok(world.get(
                    ids,
                    match log {
                        LogRead::After(seq) if i64::try_from(seq.0).is_err() => LogRead::All,
                        log => *log,
                    },
                ))
            })
        },
    ),
    Mutant::new(
        "log-after-the-end-is-the-last",
        "a read after the last position answers the last entry",
        &["LOG-8"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                if let LogRead::After(_) = log {
                    for job in jobs.iter_mut().flatten().filter(|job| job.log.is_empty()) {
                        let known = world.job(job.id).and_then(|job| job.log.last().cloned());
                        job.log.extend(known);
                    }
                }
                Ok(jobs)
            })
        },
    ),
    Mutant::new(
        "log-after-zero-is-none",
        "a read after the position 0 answers no entry",
        &["LOG-8"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                Ok(world.get(
                    ids,
                    match log {
                        LogRead::After(Seq(0)) => LogRead::None,
                        log => *log,
                    },
                ))
            })
        },
    ),
    Mutant::new(
        "log-of-the-first-job-only",
        "a read of several jobs answers the log of the first one only",
        &["FID-1"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                jobs.iter_mut().skip(1).flatten().for_each(|job| job.log.clear());
                Ok(jobs)
            })
        },
    ),
    // "Reads a page of jobs, without their logs."
    Mutant::new("pages-have-logs", "a page shows its jobs with their logs", &["REA-6"], || {
        Flaw::none().find(|world, query, _| {
            let mut page = world.find(query)?;
            for job in &mut page.items {
                job.log = world.job(job.id).map(|job| job.log.clone()).unwrap_or_default();
            }
            Ok(page)
        })
    }),
];
