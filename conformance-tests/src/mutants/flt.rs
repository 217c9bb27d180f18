//! Stores that take a broken way to their jobs badly.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use queue_core::{
    Ack, Effect, EntryId, Error, ErrorKind, Inserted, JobId, Outcome, Result, Uuid,
    spec::{Answer, Op},
};

use super::{Flaw, Mutant, Way};

/// What a store makes of a call that failed.
fn failing(
    spoil: impl Fn(Way, Op, Error) -> BoxFuture<'static, Result<Answer>> + Send + Sync + 'static,
) -> Flaw {
    let spoil = Arc::new(spoil);
    Flaw::none().around(move |way, op| {
        let spoil = spoil.clone();
        async move {
            match op.run(&*way.broken).await {
                Ok(answer) => Ok(answer),
                Err(error) => spoil(way, op, error).await,
            }
        }
        .boxed()
    })
}

/// What a store makes of the error of a call that failed.
pub(super) fn erring(spoil: impl Fn(&Op, Error) -> Error + Send + Sync + 'static) -> Flaw {
    failing(move |_, op, error| {
        let spoiled = spoil(&op, error);
        async move { Err(spoiled) }.boxed()
    })
}

/// What it answers to a write that was never made.
fn lie(op: &Op) -> Option<Answer> {
    match op {
        Op::Insert(jobs) => {
            Some(Answer::Inserted(jobs.iter().map(|job| Inserted::New(job.id)).collect()))
        }
        Op::Update(updates) => {
            let applied = |_| Outcome::Applied(Ack::holder(None));
            Some(Answer::Outcomes(updates.iter().map(applied).collect()))
        }
        _ => None,
    }
}

/// The call with other ids.
fn with_fresh_ids(op: &Op) -> Op {
    let mut op = op.clone();
    match &mut op {
        Op::Insert(jobs) => jobs.iter_mut().for_each(|job| job.id = JobId::new()),
        Op::Update(updates) => {
            let entries = updates.iter_mut().flat_map(|update| &mut update.patch.log);
            entries.for_each(|entry| entry.id = EntryId::new());
        }
        Op::Claim(request) => request.token = Uuid::now_v7(),
        _ => {}
    }
    op
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "unreachable-acknowledged",
        "an insert that cannot be made now is promised for later, and forgotten",
        &["FLT-1", "ERR-1"],
        || {
            failing(|_, op, error| {
                let answer = match &op {
                    Op::Insert(_) => lie(&op),
                    _ => None,
                };
                async move { answer.ok_or(error) }.boxed()
            })
        },
    ),
    Mutant::new(
        "none-and-done",
        "a call that was made says that nothing was changed",
        &["FLT-3", "ERR-2"],
        || erring(|_, error| error.with_effect(Effect::None)),
    ),
    Mutant::new(
        "lost-is-applied",
        "an update whose answer does not come is taken for applied",
        &["FLT-2", "ERR-3"],
        || {
            failing(|_, op, error| {
                let answer = match &op {
                    Op::Update(_) => lie(&op),
                    _ => None,
                };
                async move { answer.ok_or(error) }.boxed()
            })
        },
    ),
    Mutant::new(
        "retry-with-fresh-ids",
        "a call whose answer is lost is repeated at once, with new ids",
        &["FLT-3", "FLT-4"],
        || {
            failing(|way, op, _| {
                async move {
                    drop(with_fresh_ids(&op).run(&*way.sound).await?);
                    op.run(&*way.sound).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "pool-stays-dead",
        "a connection that ended is handed out for ever",
        &["FLT-4", "FLT-5", "FLT-8"],
        || {
            let dead = Arc::new(AtomicBool::new(false));
            Flaw::none().around(move |way, op| {
                let dead = dead.clone();
                async move {
                    if dead.load(Ordering::SeqCst) {
                        let closed = Error::new(ErrorKind::Unavailable, "the connection is closed");
                        return Err(closed.with_effect(Effect::Unknown));
                    }
                    let answer = op.run(&*way.broken).await;
                    dead.fetch_or(answer.is_err(), Ordering::SeqCst);
                    answer
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "reset-forgets-the-log",
        "after an error an update is made again past the log",
        &["FLT-5"],
        || {
            failing(|way, op, error| {
                async move {
                    let Op::Update(mut updates) = op else { return Err(error) };
                    updates.iter_mut().for_each(|update| update.patch.log.clear());
                    Op::Update(updates).run(&*way.sound).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new("silence-hangs", "a call waits for its answer for ever", &["FLT-6"], || {
        failing(|_, _, error| match error.kind() {
            ErrorKind::Timeout => futures::future::pending().boxed(),
            _ => async move { Err(error) }.boxed(),
        })
    }),
    Mutant::new(
        "late-is-asked-twice",
        "a claim that takes long is made once more, with another token",
        &["FLT-7"],
        || {
            Flaw::none().around(|way, op| {
                async move {
                    let begun = Instant::now();
                    let answer = op.run(&*way.broken).await?;
                    if matches!(op, Op::Claim(_)) && begun.elapsed() > Duration::from_millis(3) {
                        drop(with_fresh_ids(&op).run(&*way.sound).await);
                    }
                    Ok(answer)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "ended-session-is-final",
        "the end of a session is taken for a matter of configuration",
        &["FLT-8"],
        || {
            erring(|_, error| {
                Error::new(ErrorKind::Config, "the login is gone").with_effect(error.effect())
            })
        },
    ),
    Mutant::new(
        "restarted-is-another-server",
        "a server that comes back is taken for another one, and what was begun before is made once more",
        &["CRA-3"],
        || {
            failing(|way, op, _| {
                async move {
                    drop(with_fresh_ids(&op).run(&*way.sound).await?);
                    op.run(&*way.sound).await
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "full-keeps-the-fields",
        "without room an update is made but for its log, and reported as not made",
        &["FLT-9"],
        || {
            failing(|way, op, error| {
                async move {
                    if let Op::Update(mut updates) = op {
                        updates.iter_mut().for_each(|update| update.patch.log.clear());
                        drop(Op::Update(updates).run(&*way.sound).await);
                    }
                    Err(error)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "locked-is-an-error-of-the-database",
        "a lock that is not to be had is an error like any other",
        &["FLT-10"],
        || {
            erring(|_, error| {
                Error::new(ErrorKind::Backend, "lock not available").with_effect(error.effect())
            })
        },
    ),
    Mutant::new(
        "locked-and-done",
        "a write that waited too long is reported as not made, and made all the same",
        &["FLT-10"],
        || {
            failing(|way, op, error| {
                async move {
                    drop(op.run(&*way.sound).await);
                    Err(error)
                }
                .boxed()
            })
        },
    ),
];
