//! Stores that say the wrong thing when something goes wrong, or leave it half done.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::FutureExt;
use queue_core::{
    Effect, Error, ErrorKind, NewJob, Record, Version,
    spec::{Answer, Op},
};

use super::{Flaw, Mutant, SECRET, flt::erring};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "unreachable-is-the-database's",
        "a store that is out of reach answers with an error of the database",
        &["ERR-1"],
        || erring(|_, error| Error::new(ErrorKind::Backend, "io").with_effect(error.effect())),
    ),
    Mutant::new("unreachable-fires-blank", "a listing out of reach is empty", &["ERR-1"], || {
        Flaw::none().around(|way, op| {
            async move {
                match (op.run(&*way.broken).await, op) {
                    (Err(_), Op::Schedules) => Ok(Answer::Schedules(Vec::new())),
                    (answer, _) => answer,
                }
            }
            .boxed()
        })
    }),
    Mutant::new(
        "claim-repeated-takes-more",
        "a claim does not know its own token again",
        &["ERR-2"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    let Op::Claim(mut request) = op else { return op.run(&*way.broken).await };
                    request.token = queue_core::Uuid::now_v7();
                    Op::Claim(request).run(&*way.broken).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "put-repeated-anyway",
        "a record is put whatever version is expected, so that a repeat puts it again",
        &["ERR-2"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    let op = match op {
                        Op::PutRecord(record, _) => Op::PutRecord(record, None),
                        other => other,
                    };
                    op.run(&*way.broken).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "lost-request-is-half-made",
        "of a call that is lost the log is kept",
        &["ERR-3"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    let answer = op.run(&*way.broken).await;
                    if let (Err(_), Op::Update(mut updates)) = (&answer, op) {
                        updates.iter_mut().for_each(|update| update.patch.transition = None);
                        drop(Op::Update(updates).run(&*way.sound).await);
                    }
                    answer
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "update-in-two-halves",
        "the log of an update is written before its fields, with nothing to hold both together",
        &["ERR-4"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let mut log_only = updates.to_vec();
                    log_only.iter_mut().for_each(|update| {
                        let log = std::mem::take(&mut update.patch.log);
                        update.patch = queue_core::JobPatch::append(log);
                    });
                    store.step(|world, now| world.update(&log_only, now))?;
                    tokio::task::yield_now().await;
                    store.step(|world, now| world.update(updates, now))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "dropped-holds-the-lock",
        "a call that is dropped leaves the lock of all writers taken",
        &["ERR-4"],
        || {
            let taken = Arc::new(AtomicUsize::new(0));
            Flaw::none().around(move |way, op| {
                let taken = taken.clone();
                async move {
                    while taken.swap(1, Ordering::SeqCst) != 0 {
                        tokio::task::yield_now().await;
                    }
                    tokio::task::yield_now().await;
                    let answer = op.run(&*way.broken).await;
                    taken.store(0, Ordering::SeqCst);
                    answer
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "fire-in-two-halves",
        "a slot is marked as fired, and then its job inserted",
        &["ERR-4"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    let Op::Fire(fire) = op else { return op.run(&*way.broken).await };
                    let job: Option<NewJob> = fire.job.clone();
                    let fired = way.broken.fire(&fire).await?;
                    if let (Some(job), queue_core::Fired::Enqueued(_)) = (&job, &fired) {
                        let filter = queue_core::JobFilter::id(job.id);
                        let reason = queue_core::BulkChange::Cancel { reason: String::new() };
                        way.broken.update_where(&filter, &reason).await?;
                        way.broken.delete(&filter, std::num::NonZeroU32::MIN).await?;
                        tokio::task::yield_now().await;
                        way.broken.insert(std::slice::from_ref(job)).await?;
                    }
                    Ok(Answer::Fired(fired))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "heartbeat-unchecked",
        "a heartbeat for no time is a heartbeat",
        &["ERR-5"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let least = std::time::Duration::from_micros(1);
                world.heartbeat(held, (*lease).max(least), now)
            })
        },
    ),
    Mutant::new(
        "updates-before-the-claim-is-checked",
        "an update_and_claim whose claim is malformed has made its updates",
        &["ERR-5"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    if let Op::UpdateAndClaim(updates, request) = &op {
                        let outcomes = way.broken.update_jobs(updates).await?;
                        let claimed = way.broken.claim(request).await?;
                        return Ok(Answer::OutcomesAndClaimed(outcomes, claimed));
                    }
                    op.run(&*way.broken).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new("bad-names-are-kept", "a record is put whatever its key", &["ERR-5"], || {
        Flaw::none().put_record(|world, record, expect, now| {
            let key = if record.check().is_ok() { record.key.clone() } else { "?".to_owned() };
            let mut kept = Record::removal(key);
            kept.body.clone_from(&record.body);
            world.put_record(&kept, *expect, now)
        })
    }),
    Mutant::new(
        "url-in-the-error",
        "an error names the URL that cannot be reached",
        &["ERR-6"],
        || {
            erring(|_, error| {
                let message = format!("{} (db://ada:{SECRET}@db.example/)", error.message());
                Error::new(error.kind(), message).with_effect(error.effect())
            })
        },
    ),
    Mutant::new(
        "url-in-the-source",
        "the cause of an error names the URL that cannot be reached",
        &["ERR-6"],
        || {
            erring(|_, error| {
                let cause = std::io::Error::other(format!("db://ada:{SECRET}@db.example/"));
                let kind = error.kind();
                Error::new(kind, "no answer").with_effect(error.effect()).with_source(cause)
            })
        },
    ),
    Mutant::new(
        "contention-surfaces",
        "of two writes at once one is an error of the database",
        &["ERR-7"],
        || {
            let under_way = Arc::new(AtomicUsize::new(0));
            Flaw::none().around(move |way, op| {
                let under_way = under_way.clone();
                async move {
                    let others = under_way.fetch_add(1, Ordering::SeqCst);
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                    }
                    let answer = match others {
                        0 => op.run(&*way.broken).await,
                        _ if matches!(op, Op::Update(_) | Op::PutRecord(..)) => {
                            let message = "could not serialize access";
                            Err(Error::new(ErrorKind::Backend, message).with_effect(Effect::None))
                        }
                        _ => op.run(&*way.broken).await,
                    };
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    answer
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "contention-never-ends",
        "whoever meets another is told to try again, for ever",
        &["ERR-7"],
        || {
            Flaw::none().put_record(|world, record, expect, now| {
                let known = world.records("").into_iter().find(|known| known.key == record.key);
                match known.is_some_and(|known| known.version >= Version(2)) {
                    true => Err(Error::new(ErrorKind::Contention, "others were faster")),
                    false => world.put_record(record, *expect, now),
                }
            })
        },
    ),
];
