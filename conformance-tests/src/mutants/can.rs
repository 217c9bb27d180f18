use futures::FutureExt;
use queue_core::{
    Ack, BulkChange, CancelRequest, Guard, JobFilter, JobId, Outcome, State, TransitionKind,
    Version, spec::World,
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "cancel-marks-waiting-jobs",
        "a waiting job is marked and stays waiting",
        &["CAN-1"],
        || {
            Flaw::none().changing(|was, is, _| {
                let control = &mut is.row.control;
                if was.row.control.state == State::Waiting && control.state == State::Cancelled {
                    control.state = State::Waiting;
                    control.finished_at = None;
                }
            })
        },
    ),
    Mutant::new("cancel-misses-delayed-jobs", "only due jobs can be cancelled", &["CAN-1"], || {
        Flaw::none().changing(|was, is, now| {
            let control = &was.row.control;
            if control.state == State::Waiting
                && is.row.control.state == State::Cancelled
                && control.run_at > now
            {
                is.clone_from(was);
            }
        })
    }),
    Mutant::new(
        "cancel-misses-retrying-jobs",
        "a job between two attempts cannot be cancelled",
        &["CAN-1"],
        || {
            Flaw::none().changing(|was, is, _| {
                let control = &was.row.control;
                if control.state == State::Waiting
                    && is.row.control.state == State::Cancelled
                    && control.fence.count > 0
                {
                    is.clone_from(was);
                }
            })
        },
    ),
    Mutant::new(
        "cancel-seen-by-get-only",
        "no acknowledgement carries the request to cancel",
        &["CAN-2"],
        || {
            Flaw::none()
                .update(|world, updates, now| Ok(mute(world.update(updates, now)?)))
                .heartbeat(|world, held, lease, now| Ok(mute(world.heartbeat(held, *lease, now)?)))
        },
    ),
    Mutant::new(
        "cancel-unseen-by-heartbeat",
        "a heartbeat does not carry the request",
        &["CAN-2"],
        || {
            Flaw::none()
                .heartbeat(|world, held, lease, now| Ok(mute(world.heartbeat(held, *lease, now)?)))
        },
    ),
    Mutant::new(
        "cancel-unseen-by-append",
        "an append does not carry the request",
        &["CAN-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                let both = updates.iter().zip(outcomes);
                Ok(both
                    .map(|(update, outcome)| match update.patch.log.is_empty() {
                        true => outcome,
                        false => mute(vec![outcome]).remove(0),
                    })
                    .collect())
            })
        },
    ),
    Mutant::new(
        "cancel-unseen-by-progress",
        "a report of progress does not carry the request",
        &["CAN-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                let both = updates.iter().zip(outcomes);
                Ok(both
                    .map(|(update, outcome)| match update.patch.progress {
                        None => outcome,
                        Some(_) => mute(vec![outcome]).remove(0),
                    })
                    .collect())
            })
        },
    ),
    Mutant::new(
        "cancel-select-then-update",
        "a job claimed between the two steps of a cancel is neither ended nor marked",
        &["CAN-3"],
        || {
            Flaw::none().update_where_racing(|store, filter, change| {
                async move {
                    let BulkChange::Cancel { .. } = change else {
                        return store.step(|world, now| world.update_where(filter, change, now));
                    };
                    let (waiting, running) = store.step(|world, _| {
                        (
                            matching(world, filter, State::Waiting),
                            matching(world, filter, State::Running),
                        )
                    });
                    store.pause().await;
                    store.step(|world, now| {
                        let counted = waiting.len() as u64;
                        let (ids, states) = (JobFilter::ids, State::Waiting);
                        world.update_where(&ids(waiting).with_states(states), change, now)?;
                        let mut counts = world.update_where(
                            &ids(running).with_states(State::Running),
                            change,
                            now,
                        )?;
                        counts.changed = counted;
                        Ok(counts)
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "cancel-ends-running-jobs",
        "a cancel ends a running job at once, and its holder completes it afterwards",
        &["CAN-4"],
        || {
            Flaw::none()
                .changing(|was, is, now| {
                    let control = &mut is.row.control;
                    if control.state == State::Running
                        && was.row.control.cancel.is_none()
                        && control.cancel.is_some()
                    {
                        control.state = State::Cancelled;
                        control.finished_at = Some(now);
                    }
                })
                .update(|world, updates, now| {
                    raw::update_by(world, updates, now, |world, update| {
                        let control = &world.job(update.id)?.row.control;
                        let own = update.guard == Guard::Fence(control.fence);
                        let ended = control.state == State::Cancelled && control.settled.is_none();
                        (own && ended).then(|| raw::force(world, update, now))
                    })
                })
        },
    ),
    Mutant::new(
        "cancel-refuses-completion",
        "a running job that is to be cancelled cannot complete any more",
        &["CAN-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if was.row.control.cancel.is_some() && raw::ended(was, is, State::Completed) {
                    is.row.control.state = State::Cancelled;
                    is.row.output = None;
                }
            })
        },
    ),
    Mutant::new("retry-clears-cancel", "a retry forgets the request to cancel", &["CAN-5"], || {
        forgetting(TransitionKind::Retry)
    }),
    Mutant::new(
        "release-clears-cancel",
        "a release forgets the request to cancel",
        &["CAN-5"],
        || forgetting(TransitionKind::Release),
    ),
    Mutant::new(
        "heartbeat-clears-cancel",
        "a heartbeat clears the request to cancel",
        &["CAN-5"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let outcomes = world.heartbeat(held, *lease, now)?;
                for held in held {
                    world.edit(held.id, |stored| {
                        if stored.row.control.state == State::Running {
                            stored.row.control.cancel = None;
                        }
                    });
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "second-cancel-overwrites",
        "a second cancel replaces the reason of the first",
        &["CAN-6"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let marked: Vec<JobId> = matching(world, filter, State::Running);
                let counts = world.update_where(filter, change, now)?;
                if let BulkChange::Cancel { reason } = change {
                    for id in marked {
                        world.edit(id, |stored| {
                            stored.row.control.cancel = Some(CancelRequest::new(reason, now));
                        });
                    }
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new("second-cancel-bumps-version", "a second cancel is an edit", &["CAN-6"], || {
        Flaw::none().update_where(|world, filter, change, now| {
            let before = world.clone();
            let counts = world.update_where(filter, change, now)?;
            if matches!(change, BulkChange::Cancel { .. }) {
                for id in matching(&before, filter, State::Running) {
                    let version = raw::stored(&before, id).row.control.version;
                    world.edit(id, |stored| stored.row.control.version = Version(version.0 + 1));
                }
            }
            Ok(counts)
        })
    }),
    Mutant::new(
        "cancel-of-ended-is-an-end",
        "cancelling an ended job makes it cancelled",
        &["CAN-6"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                if let BulkChange::Cancel { reason } = change {
                    for state in [State::Completed, State::Failed, State::Cancelled] {
                        for id in matching(world, filter, state) {
                            world.edit(id, |stored| {
                                stored.row.control.state = State::Cancelled;
                                stored.row.control.cancel = Some(CancelRequest::new(reason, now));
                            });
                        }
                    }
                }
                world.update_where(filter, change, now)
            })
        },
    ),
    Mutant::new(
        "reap-forgets-cancel",
        "a reaped job that was to be cancelled waits again",
        &["CAN-7"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) && is.row.control.state == State::Cancelled {
                    is.row.control.state = State::Waiting;
                    is.row.control.finished_at = None;
                    is.row.control.cancel = None;
                }
            })
        },
    ),
    Mutant::new(
        "reap-fails-cancelled",
        "a reaped job that was to be cancelled fails",
        &["CAN-7"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) && is.row.control.state == State::Cancelled {
                    is.row.control.state = State::Failed;
                }
            })
        },
    ),
];

fn mute(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let mute = |outcome| match outcome {
        Outcome::Applied(ack) => {
            Outcome::Applied(ack.version.map_or(Ack::holder(None), Ack::editor))
        }
        outcome => outcome,
    };
    outcomes.into_iter().map(mute).collect()
}

/// A transition that turns a job which is to be cancelled into one that waits.
fn forgetting(kind: TransitionKind) -> Flaw {
    Flaw::none().changing(move |was, is, _| {
        let own = is.row.control.settled.is_some_and(|settled| settled.kind == kind);
        if own && raw::ended(was, is, State::Cancelled) {
            is.row.control.state = State::Waiting;
            is.row.control.finished_at = None;
            is.row.control.cancel = None;
        }
    })
}

fn matching(world: &World, filter: &JobFilter, state: State) -> Vec<JobId> {
    let rows = world.jobs().map(|stored| &stored.row);
    rows.filter(|row| row.matches(filter) && row.control.state == state).map(|row| row.id).collect()
}
