use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use queue_core::{Ack, ErrorKind, Outcome, PAUSED_QUEUE, Payload, Record, Version, spec::World};

use super::{Flaw, Mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "record-check-then-put",
        "the version is checked, then the record put",
        &["REC-1"],
        || {
            Flaw::none().put_record_racing(|store, record, expect| {
                async move {
                    record.check()?;
                    let checked = store.step(|world, now| {
                        let mut trial = world.clone();
                        trial.put_record(record, *expect, now)
                    })?;
                    store.pause().await;
                    match checked {
                        Outcome::Applied(_) => {
                            store.step(|world, now| world.put_record(record, None, now))
                        }
                        refused => Ok(refused),
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "record-prefix-unchecked",
        "any text is taken for a prefix of keys",
        &["REC-4"],
        || Flaw::none().records(|world, prefix, _| Ok(world.records(prefix))),
    ),
    Mutant::new("record-of-any-size", "the size of a record is not checked", &["REC-4"], || {
        Flaw::none().put_record(|world, record, expect, now| {
            // A world without limits would refuse nothing; the key is still checked.
            match world.put_record(record, *expect, now) {
                Err(error) if error.kind() == ErrorKind::TooLarge => {
                    let small = Record::new(record.key.clone(), Payload::null());
                    world.put_record(&small, *expect, now)
                }
                answer => answer,
            }
        })
    }),
    Mutant::new(
        "pause-ends-before-the-last-character",
        "queues whose name begins with U+10FFFF cannot be paused",
        &["REC-3"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let name = record.key.strip_prefix(PAUSED_QUEUE);
                match name.is_some_and(|name| name.starts_with('\u{10ffff}')) {
                    true => world.put_record(&Record::removal(record.key.clone()), *expect, now),
                    false => world.put_record(record, *expect, now),
                }
            })
        },
    ),
    Mutant::new("record-ignores-version", "a record is always put", &["REC-1"], || {
        Flaw::none().put_record(|world, record, _, now| world.put_record(record, None, now))
    }),
    Mutant::new(
        "record-version-restarts",
        "a removed record is forgotten, and its versions begin anew",
        &["REC-1"],
        || {
            let removed: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
            let base = removed.clone();
            Flaw::none()
                .put_record(move |world, record, expect, now| {
                    let mut removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
                    let base = removed.get(&record.key).copied().unwrap_or(0);
                    let expect = expect.map(|version| Version(version.0 + base));
                    let less = |version: Version| Version(version.0.saturating_sub(base));
                    Ok(match world.put_record(record, expect, now)? {
                        Outcome::Conflict { actual } => Outcome::Conflict { actual: less(actual) },
                        Outcome::Applied(Ack { version: Some(version), .. }) => {
                            if record.body.is_none() {
                                removed.insert(record.key.clone(), version.0);
                            }
                            Outcome::Applied(Ack::editor(less(version)))
                        }
                        other => other,
                    })
                })
                .records(move |world, prefix, _| {
                    let base = base.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut records = world.records(prefix);
                    for record in &mut records {
                        record.version.0 -= base.get(&record.key).copied().unwrap_or(0);
                    }
                    Ok(records)
                })
        },
    ),
    Mutant::new("records-by-substring", "a prefix matches anywhere in the key", &["REC-2"], || {
        Flaw::none().records(|world, prefix, _| {
            Ok(world.records("").into_iter().filter(|r| r.key.contains(prefix)).collect())
        })
    }),
    Mutant::new("records-by-pattern", "% and _ in a prefix match anything", &["REC-2"], || {
        Flaw::none().records(|world, prefix, _| {
            let like = |key: &str| {
                let mut key = key.chars();
                prefix.chars().all(|wanted| {
                    let next = key.next();
                    wanted == '%' || wanted == '_' && next.is_some() || next == Some(wanted)
                })
            };
            Ok(world.records("").into_iter().filter(|record| like(&record.key)).collect())
        })
    }),
    Mutant::new("records-ignore-case", "a prefix matches in any case", &["REC-2"], || {
        Flaw::none().records(|world, prefix, _| {
            let prefix = prefix.to_lowercase();
            let all = world.records("").into_iter();
            Ok(all.filter(|record| record.key.to_lowercase().starts_with(&prefix)).collect())
        })
    }),
    Mutant::new(
        "records-unsorted",
        "records come by the time of their last put",
        &["REC-2"],
        || {
            Flaw::none().records(|world, prefix, _| {
                let mut records = world.records(prefix);
                records.reverse();
                Ok(records)
            })
        },
    ),
    Mutant::new("record-removal-ignored", "a removed record is still listed", &["REC-2"], || {
        Flaw::none().put_record(|world, record, expect, now| match record.body {
            Some(_) => world.put_record(record, *expect, now),
            None => {
                let mut kept = record.clone();
                kept.body = Some(queue_core::Payload::null());
                world.put_record(&kept, *expect, now)
            }
        })
    }),
    Mutant::new("pause-ignored", "jobs of a paused queue are claimed", &["REC-3"], || {
        Flaw::none().claim(|world, request, now| {
            let mut resumed = world.clone();
            resume_all(&mut resumed, now);
            let claimed = resumed.claim(request, now)?;
            for job in &claimed.jobs {
                if let Some(stored) = resumed.job(job.id) {
                    world.place(stored.clone());
                }
            }
            Ok(claimed)
        })
    }),
    Mutant::new(
        "pause-is-for-ever",
        "a queue whose pause was removed stays paused",
        &["REC-3"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let resumes = record.body.is_none() && record.key.starts_with(PAUSED_QUEUE);
                if !resumes {
                    return world.put_record(record, *expect, now);
                }
                let mut kept = record.clone();
                kept.body = Some(queue_core::Payload::null());
                world.put_record(&kept, *expect, now)
            })
        },
    ),
];

fn resume_all(world: &mut World, now: queue_core::Timestamp) {
    for mut pause in world.records(PAUSED_QUEUE) {
        pause.body = None;
        let _ = world.put_record(&pause, None, now);
    }
}
