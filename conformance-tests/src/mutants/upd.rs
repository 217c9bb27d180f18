use futures::FutureExt;
use queue_core::{Error, ErrorKind, Guard, JobUpdate, Judgement, Outcome, State, Version};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("fence-ignored", "whoever writes is believed", &["UPD-1", "LSE-5"], || {
        Flaw::none().update(|world, updates, now| {
            raw::update_by(world, updates, now, |world, update| {
                let refused = matches!(
                    raw::judgement(world, update)?,
                    Judgement::Refuse(Outcome::Fenced | Outcome::Illegal { .. })
                );
                refused.then(|| raw::force(world, update, now))
            })
        })
    }),
    Mutant::new(
        "fence-without-nonce",
        "a fence is compared by its count alone",
        &["UPD-1"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Fence(fence) = update.guard else { return None };
                    let control = &world.job(update.id)?.row.control;
                    let held =
                        control.state == State::Running && control.fence.count == fence.count;
                    held.then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "fence-checked-for-transitions-only",
        "progress and labels are taken under any fence",
        &["UPD-1"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Fence(_) = update.guard else { return None };
                    world.job(update.id)?;
                    update.patch.transition.is_none().then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "version-check-then-write",
        "the version is checked in one statement and the job written in another",
        &["UPD-2"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    queue_core::check_updates(updates)?;
                    let judged: Vec<_> = store.step(|world, _| {
                        updates.iter().map(|update| raw::judgement(world, update)).collect()
                    });
                    store.pause().await;
                    store.step(|world, now| {
                        let both = updates.iter().zip(judged);
                        both.map(|(update, judged)| match (judged, update.guard) {
                            (Some(Judgement::Apply(_)), Guard::Version(_)) => {
                                Ok(raw::force(world, update, now))
                            }
                            _ => Ok(world.update(std::slice::from_ref(update), now)?.remove(0)),
                        })
                        .collect()
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "version-ignored",
        "an edit of a stale version is made",
        &["UPD-2", "MOD-1"],
        || {
            Flaw::none().patching(|update| {
                if matches!(update.guard, Guard::Version(_)) {
                    update.guard = Guard::None;
                }
            })
        },
    ),
    Mutant::new(
        "older-versions-pass",
        "only a version from the future is a conflict",
        &["UPD-2"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Version(version) = update.guard else { return None };
                    let current = world.job(update.id)?.row.control.version;
                    (version < current).then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "unguarded-needs-a-holder",
        "an edit without a guard is refused on jobs that do not run",
        &["UPD-3"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let control = &world.job(update.id)?.row.control;
                    let idle = update.guard == Guard::None && control.state != State::Running;
                    idle.then_some(Outcome::Fenced)
                })
            })
        },
    ),
    Mutant::new(
        "unguarded-keeps-version",
        "an edit without a guard bumps no version",
        &["UPD-3"],
        || {
            Flaw::none().update(|world, updates, now| {
                let before: Vec<Option<Version>> = updates
                    .iter()
                    .map(|update| Some(world.job(update.id)?.row.control.version))
                    .collect();
                let outcomes = world.update(updates, now)?;
                for (update, version) in updates.iter().zip(before) {
                    if let (Guard::None, Some(version)) = (update.guard, version) {
                        world.edit(update.id, |stored| stored.row.control.version = version);
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "unguarded-takes-the-job",
        "an edit without a guard ends the holder's run",
        &["UPD-3"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for update in updates.iter().filter(|update| update.guard == Guard::None) {
                    world.edit(update.id, |stored| {
                        let control = &mut stored.row.control;
                        if control.state == State::Running {
                            control.state = State::Waiting;
                            (control.holder, control.lease_until, control.slot) =
                                (None, None, None);
                        }
                    });
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "illegal-is-fenced",
        "an illegal transition is answered as fenced",
        &["UPD-4"],
        || {
            answering(|_, outcome| match outcome {
                Outcome::Illegal { .. } => Outcome::Fenced,
                outcome => outcome,
            })
        },
    ),
    Mutant::new("never-claimed-may-complete", "a waiting job may be completed", &["UPD-4"], || {
        Flaw::none().update(|world, updates, now| {
            raw::update_by(world, updates, now, |world, update| {
                let Guard::Fence(fence) = update.guard else { return None };
                let control = &world.job(update.id)?.row.control;
                let waiting = control.state == State::Waiting && control.fence == fence;
                (waiting && control.settled.is_none() && update.patch.transition.is_some())
                    .then(|| raw::force(world, update, now))
            })
        })
    }),
    Mutant::new("release-uses-the-attempt", "a release counts as an attempt", &["UPD-4"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::released(was, is) {
                is.row.control.attempt = was.row.control.attempt;
            }
        })
    }),
    Mutant::new(
        "retry-gives-the-attempt-back",
        "a retry does not use its attempt",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::retried(was, is) {
                    is.row.control.attempt -= 1;
                }
            })
        },
    ),
    Mutant::new("retry-is-due-at-once", "the delay of a retry is ignored", &["UPD-4"], || {
        Flaw::none().changing(|was, is, now| {
            if raw::retried(was, is) {
                is.row.control.run_at = now;
            }
        })
    }),
    Mutant::new("release-clears-the-error", "a release forgets the last error", &["UPD-4"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::released(was, is) {
                is.row.error = None;
            }
        })
    }),
    Mutant::new("retry-keeps-no-error", "a retry does not store its error", &["UPD-4"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::retried(was, is) {
                is.row.error.clone_from(&was.row.error);
            }
        })
    }),
    Mutant::new(
        "complete-keeps-the-error",
        "a completed job keeps its last error",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::ended(was, is, State::Completed) {
                    is.row.error.clone_from(&was.row.error);
                }
            })
        },
    ),
    Mutant::new(
        "fail-keeps-the-lease",
        "a failed job still has a holder and a lease",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::ended(was, is, State::Failed) {
                    is.row.control.holder.clone_from(&was.row.control.holder);
                    is.row.control.lease_until = was.row.control.lease_until;
                }
            })
        },
    ),
    Mutant::new("settle-keeps-version", "the end of a run bumps no version", &["UPD-4"], || {
        Flaw::none().changing(|was, is, _| {
            if was.row.control.state == State::Running && is.row.control.state != State::Running {
                is.row.control.version = was.row.control.version;
            }
        })
    }),
    Mutant::new("outcomes-in-database-order", "outcomes come by job id", &["UPD-5"], || {
        Flaw::none().update(|world, updates, now| {
            let outcomes = world.update(updates, now)?;
            let mut both: Vec<_> = updates.iter().map(|update| update.id).zip(outcomes).collect();
            both.sort_by_key(|(id, _)| *id);
            Ok(both.into_iter().map(|(_, outcome)| outcome).collect())
        })
    }),
    Mutant::new(
        "outcomes-applied-first",
        "outcomes of the changed rows come first",
        &["UPD-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut outcomes = world.update(updates, now)?;
                outcomes.sort_by_key(|outcome| outcome.applied().is_none());
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "batch-stops-at-refusal",
        "nothing is done after the first refusal",
        &["UPD-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut all = Vec::new();
                for update in updates {
                    let refused = all.iter().any(|outcome: &Outcome| !outcome.is_saved());
                    all.push(match refused {
                        true => Outcome::Fenced,
                        false => world.update(std::slice::from_ref(update), now)?.remove(0),
                    });
                }
                Ok(all)
            })
        },
    ),
    Mutant::new(
        "batch-is-all-or-nothing",
        "one refusal takes the whole batch back",
        &["UPD-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let before = world.clone();
                let outcomes = world.update(updates, now)?;
                if !outcomes.iter().all(Outcome::is_saved) {
                    *world = before;
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new("twice-in-a-call-is-merged", "a job may stand twice in a call", &["UPD-6"], || {
        Flaw::none().update(|world, updates, now| {
            let one =
                |update: &JobUpdate| Ok(world.update(std::slice::from_ref(update), now)?.remove(0));
            updates.iter().map(one).collect()
        })
    }),
    Mutant::new(
        "twice-in-a-call-half-done",
        "the call is refused after its first item",
        &["UPD-6"],
        || {
            Flaw::none().update(|world, updates, now| {
                if let Err(error) = queue_core::check_updates(updates) {
                    world.update(&updates[..1], now)?;
                    return Err(error);
                }
                world.update(updates, now)
            })
        },
    ),
    Mutant::new(
        "completed-may-be-retried",
        "the last holder may retry a completed job",
        &["UPD-7"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Fence(fence) = update.guard else { return None };
                    let control = &world.job(update.id)?.row.control;
                    let again = control.state.is_final() && control.fence == fence;
                    let other = update.patch.transition.as_ref().map(queue_core::Transition::kind)
                        != control.settled.map(|settled| settled.kind);
                    (again && other && update.patch.transition.is_some())
                        .then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new("repeat-is-fenced", "the repeat of a settle is not recognised", &["UPD-8"], || {
        answering(|_, outcome| match outcome {
            Outcome::Repeated(_) => Outcome::Fenced,
            outcome => outcome,
        })
    }),
    Mutant::new("repeat-is-applied", "the repeat of a settle says applied", &["UPD-8"], || {
        answering(|_, outcome| match outcome {
            Outcome::Repeated(ack) => Outcome::Applied(ack),
            outcome => outcome,
        })
    }),
    Mutant::new(
        "repeat-overwrites",
        "the repeat of a completion stores its output",
        &["UPD-8"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&outcomes) {
                    if let (
                        Outcome::Repeated(_),
                        Some(queue_core::Transition::Complete { output }),
                    ) = (outcome, &update.patch.transition)
                    {
                        world.edit(update.id, |stored| stored.row.output.clone_from(output));
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "any-settle-is-a-repeat",
        "another settle of the same run is called a repeat",
        &["UPD-8"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Fence(fence) = update.guard else { return None };
                    let settled = world.job(update.id)?.row.control.settled?;
                    (settled.fence == fence && update.patch.transition.is_some())
                        .then(|| Outcome::Repeated(queue_core::Ack::default()))
                })
            })
        },
    ),
    Mutant::new(
        "conflict-echoes-the-guard",
        "a conflict carries the version asked for",
        &["UPD-9"],
        || {
            answering(|update, outcome| match (outcome, update.guard) {
                (Outcome::Conflict { .. }, Guard::Version(actual)) => Outcome::Conflict { actual },
                (outcome, _) => outcome,
            })
        },
    ),
    Mutant::new("conflict-counts-on", "a conflict carries the next version", &["UPD-9"], || {
        answering(|_, outcome| match outcome {
            Outcome::Conflict { actual } => Outcome::Conflict { actual: Version(actual.0 + 1) },
            outcome => outcome,
        })
    }),
    Mutant::new(
        "missing-is-fenced",
        "an update of no job is answered as fenced",
        &["UPD-10"],
        || {
            answering(|_, outcome| match outcome {
                Outcome::Missing => Outcome::Fenced,
                outcome => outcome,
            })
        },
    ),
    Mutant::new("missing-is-an-error", "an update of no job is an error", &["UPD-10"], || {
        Flaw::none().update(|world, updates, now| {
            let outcomes = world.update(updates, now)?;
            match outcomes.contains(&Outcome::Missing) {
                true => Err(Error::new(ErrorKind::Backend, "no rows returned")),
                false => Ok(outcomes),
            }
        })
    }),
    Mutant::new(
        "reclaim-forgets-the-settle",
        "the next claim forgets how the last run ended",
        &["UPD-8"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.control.settled = None;
                }
            })
        },
    ),
];

/// A store that does what it should and says something else.
fn answering(lie: fn(&JobUpdate, Outcome) -> Outcome) -> Flaw {
    Flaw::none().update(move |world, updates, now| {
        let outcomes = world.update(updates, now)?;
        Ok(updates.iter().zip(outcomes).map(|(update, outcome)| lie(update, outcome)).collect())
    })
}
