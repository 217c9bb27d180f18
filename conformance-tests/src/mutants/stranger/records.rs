//! Records and pauses.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{Ack, Outcome, Payload, Record, Timestamp, Version, check_prefix, spec::World};

use super::super::{Flaw, Mutant, raw};

/// A listing of records in its own way: of all records.
fn listing(list: fn(&str, Vec<Record>) -> Vec<Record>) -> Flaw {
    Flaw::none().records(move |world, prefix, _| {
        check_prefix(prefix)?;
        Ok(list(prefix, world.records("")))
    })
}

/// A put whose record is spoilt on its way in.
fn putting(spoil: fn(&World, &mut Record, &mut Option<Version>)) -> Flaw {
    Flaw::none().put_record(move |world, record, expect, now| {
        let (mut record, mut expect) = (record.clone(), *expect);
        spoil(world, &mut record, &mut expect);
        world.put_record(&record, expect, now)
    })
}

/// A claim for which more queues are paused: those of which this holds, given the keys of all records.
fn pausing(paused: fn(&[String], &str) -> bool) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        let keys: Vec<String> = world.records("").into_iter().map(|record| record.key).collect();
        raw::claim_by(world, request, now, |world, picked| {
            picked.retain(|(id, _)| !paused(&keys, raw::stored(world, *id).row.queue.as_str()));
        })
    })
}

/// A claim to which some pauses are none.
fn resuming(overlooked: fn(&Record) -> bool) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        let mut open = world.clone();
        for record in world.records(queue_core::PAUSED_QUEUE) {
            if overlooked(&record) {
                let _ = open.put_record(&Record::removal(record.key.clone()), None, now)?;
            }
        }
        let picked = match world.repeated_claim(request, now) {
            None => {
                request.check()?;
                open.pick(request, now)
            }
            Some(repeated) => return Ok(repeated),
        };
        Ok(raw::take(world, &picked, request, now))
    })
}

fn put_at(record: &Record, version: Version, now: Timestamp) -> Record {
    {
        let mut put = record.clone();
        (put.version, put.updated_at) = (version, now);
        put
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "The records whose key begins with `prefix`, by key."
    Mutant::new(
        "prefix-with-wildcards",
        "an underscore in a prefix stands for any character",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| {
                    let mut key = record.key.chars();
                    prefix.chars().all(|wanted| {
                        key.next().is_some_and(|found| wanted == '_' || wanted == found)
                    })
                });
                records
            })
        },
    ),
    Mutant::new(
        "prefix-with-percent-signs",
        "a percent sign in a prefix stands for any text",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| {
                    let mut rest = record.key.as_str();
                    prefix.split('%').enumerate().all(|(index, part)| {
                        let place = if index == 0 {
                            rest.starts_with(part).then_some(0)
                        } else {
                            rest.find(part)
                        };
                        place.map(|place| rest = &rest[place + part.len()..]).is_some()
                    })
                });
                records
            })
        },
    ),
    Mutant::new(
        "prefix-without-case",
        "a prefix finds keys that differ from it in upper and lower case",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                let prefix = prefix.to_lowercase();
                records.retain(|record| record.key.to_lowercase().starts_with(&prefix));
                records
            })
        },
    ),
    Mutant::new(
        "prefix-is-a-pattern",
        "a dot in a prefix stands for any character",
        &["REC-5"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| {
                    let mut key = record.key.chars();
                    prefix.chars().all(|wanted| {
                        key.next().is_some_and(|found| wanted == '.' || wanted == found)
                    })
                });
                records
            })
        },
    ),
    Mutant::new(
        "prefix-anywhere",
        "a prefix finds keys that contain it anywhere",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| record.key.contains(prefix));
                records
            })
        },
    ),
    Mutant::new(
        "prefix-is-longer-than-no-key",
        "a prefix does not find the key that it is",
        &["FID-1"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| record.key.starts_with(prefix) && record.key != prefix);
                records
            })
        },
    ),
    Mutant::new(
        "prefix-up-to-a-tilde",
        "a prefix finds keys up to the prefix with a tilde, and none with letters beyond ASCII",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                let end = format!("{prefix}~");
                records.retain(|record| {
                    record.key.starts_with(prefix) && record.key.as_str() < end.as_str()
                });
                records
            })
        },
    ),
    Mutant::new(
        "prefix-up-to-u-ffff",
        "a prefix finds keys up to the prefix with U+FFFF, and none with characters beyond",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                let end = format!("{prefix}\u{ffff}");
                records.retain(|record| {
                    record.key.starts_with(prefix) && record.key.as_str() < end.as_str()
                });
                records
            })
        },
    ),
    Mutant::new(
        "records-sort-without-case",
        "records are listed as a dictionary would, B after a",
        &["REC-2"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| record.key.starts_with(prefix));
                records.sort_by_key(|record| record.key.to_lowercase());
                records
            })
        },
    ),
    Mutant::new(
        "records-sort-by-time",
        "records are listed by when they were put",
        &["REC-5"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| record.key.starts_with(prefix));
                records.sort_by_key(|record| record.updated_at);
                records
            })
        },
    ),
    Mutant::new(
        "records-of-at-most-100",
        "a listing has at most a hundred records",
        &["REC-5"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| record.key.starts_with(prefix));
                records.truncate(100);
                records
            })
        },
    ),
    // "`None` removes it": null is a body.
    Mutant::new(
        "record-of-null-is-not-listed",
        "a record whose body is null is not listed",
        &["FID-7"],
        || {
            listing(|prefix, mut records| {
                records.retain(|record| {
                    record.key.starts_with(prefix) && record.body != Some(Payload::null())
                });
                records
            })
        },
    ),
    // "0 means that it was never put", "A removed record is not listed, but its version goes on."
    Mutant::new(
        "removed-record-was-never-put",
        "a put that expects 0 replaces a removed record",
        &["REC-1"],
        || {
            putting(|world, record, expect| {
                let listed = world.records(&record.key).iter().any(|known| known.key == record.key);
                if *expect == Some(Version(0)) && !listed {
                    *expect = None;
                }
            })
        },
    ),
    Mutant::new(
        "expected-zero-is-anything",
        "a put that expects 0 is made whatever is there",
        &["REC-1"],
        || putting(|_, _, expect| *expect = expect.filter(|version| version.0 > 0)),
    ),
    Mutant::new(
        "put-over-a-removed-record-fails",
        "a put of a removed record with its version is a conflict",
        &["REC-1"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let listed = world.records(&record.key).iter().any(|known| known.key == record.key);
                if let (Some(version), false) = (expect, listed)
                    && version.0 > 0
                {
                    let mut probe = world.clone();
                    return match probe.put_record(record, *expect, now)? {
                        Outcome::Applied(_) => Ok(Outcome::Conflict { actual: Version(0) }),
                        refused => Ok(refused),
                    };
                }
                world.put_record(record, *expect, now)
            })
        },
    ),
    Mutant::new(
        "removal-of-nothing-is-nothing",
        "the removal of a record that was never put is answered with the version 0",
        &["REC-5"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let mut probe = world.clone();
                match probe.put_record(record, *expect, now)? {
                    Outcome::Applied(ack)
                        if record.body.is_none() && ack.version == Some(Version(1)) =>
                    {
                        Ok(Outcome::Applied(Ack::editor(Version(0))))
                    }
                    outcome => {
                        *world = probe;
                        Ok(outcome)
                    }
                }
            })
        },
    ),
    Mutant::new(
        "same-body-keeps-the-version",
        "a put of the body that is there changes nothing, the version neither",
        &["REC-5"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let known = world.records(&record.key).into_iter().find(|k| k.key == record.key);
                match known {
                    Some(known)
                        if known.body == record.body
                            && expect.is_none_or(|v| v == known.version) =>
                    {
                        Ok(Outcome::Applied(Ack::editor(known.version)))
                    }
                    _ => world.put_record(record, *expect, now),
                }
            })
        },
    ),
    Mutant::new(
        "conflict-about-no-record-is-missing",
        "a put that expects a version of a record that was never put answers that it is missing",
        &["REC-1"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                Ok(match world.put_record(record, *expect, now)? {
                    Outcome::Conflict { actual: Version(0) } => Outcome::Missing,
                    outcome => outcome,
                })
            })
        },
    ),
    // "When it was put; given by the store.", "How often it was put; given by the store."
    Mutant::new(
        "record-keeps-the-time-it-brings",
        "a record is dated by its writer",
        &["REC-5"],
        || {
            let times: Arc<Mutex<HashMap<String, Timestamp>>> = Arc::default();
            let brought = times.clone();
            Flaw::none()
                .put_record(move |world, record, expect, now| {
                    let outcome = world.put_record(record, *expect, now)?;
                    let mut times = brought.lock().unwrap_or_else(PoisonError::into_inner);
                    if outcome.is_saved() && record.updated_at != Timestamp::EPOCH {
                        times.insert(record.key.clone(), record.updated_at);
                    }
                    Ok(outcome)
                })
                .records(move |world, prefix, _| {
                    check_prefix(prefix)?;
                    let times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut records = world.records(prefix);
                    for record in &mut records {
                        record.updated_at =
                            times.get(&record.key).copied().unwrap_or(record.updated_at);
                    }
                    Ok(records)
                })
        },
    ),
    Mutant::new(
        "record-is-dated-once",
        "a record is dated when it was put for the first time",
        &["REC-5"],
        || {
            let times: Arc<Mutex<BTreeMap<String, Timestamp>>> = Arc::default();
            Flaw::none().records(move |world, prefix, _| {
                check_prefix(prefix)?;
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                let mut records = world.records(prefix);
                for record in &mut records {
                    let first = *times.entry(record.key.clone()).or_insert(record.updated_at);
                    *record = put_at(record, record.version, first);
                }
                Ok(records)
            })
        },
    ),
    // "A claim skips a queue ... a record with the key [`Record::pause_key`] and a body exists."
    Mutant::new(
        "pause-by-prefix",
        "a pause holds for queues whose name begins with the paused one's",
        &["REC-3"],
        || {
            pausing(|keys, queue| {
                keys.iter()
                    .filter_map(|key| key.strip_prefix(queue_core::PAUSED_QUEUE))
                    .any(|paused| queue.starts_with(paused))
            })
        },
    ),
    Mutant::new(
        "pause-up-to-a-slash",
        "a pause holds for all queues that agree with its name up to a slash",
        &["FID-11"],
        || {
            pausing(|keys, queue| {
                let start = |name: &str| name.split('/').next().map(str::to_owned);
                keys.iter()
                    .filter_map(|key| key.strip_prefix(queue_core::PAUSED_QUEUE))
                    .any(|paused| start(paused) == start(queue))
            })
        },
    ),
    Mutant::new(
        "pause-without-case",
        "a pause holds for queues whose name differs in upper and lower case",
        &["FID-11"],
        || {
            pausing(|keys, queue| {
                keys.iter()
                    .filter_map(|key| key.strip_prefix(queue_core::PAUSED_QUEUE))
                    .any(|paused| paused.eq_ignore_ascii_case(queue))
            })
        },
    ),
    Mutant::new(
        "pause-with-null-is-none",
        "a pause whose body is null does not hold",
        &["REC-3"],
        || resuming(|record| record.body == Some(Payload::null())),
    ),
    Mutant::new(
        "pause-with-false-is-none",
        "a pause whose body is false does not hold",
        &["FID-11"],
        || resuming(|record| record.body.as_ref().is_some_and(|body| body.as_str() == "false")),
    ),
    Mutant::new(
        "pause-spares-claims-of-all-queues",
        "a claim from all queues takes from paused ones",
        &["REC-3"],
        || {
            Flaw::none().claim(|world, request, now| {
                if request.queues != queue_core::Queues::All
                    || world.repeated_claim(request, now).is_some()
                {
                    return world.claim(request, now);
                }
                request.check()?;
                let mut open = world.clone();
                for record in world.records(queue_core::PAUSED_QUEUE) {
                    let _ = open.put_record(&Record::removal(record.key.clone()), None, now)?;
                }
                let picked = open.pick(request, now);
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
];
