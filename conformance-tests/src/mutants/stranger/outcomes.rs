//! What is answered to a write, and what is remembered of a settle.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{
    Ack, Fence, Guard, JobId, JobUpdate, Judgement, Outcome, Settled, State, Timestamp, Transition,
    TransitionKind, Version,
    spec::{Stored, World},
};

use super::super::{Flaw, Mutant, raw};

/// An update that treats some items in another way than the contract's.
fn updating(other: fn(&mut World, &JobUpdate, Timestamp) -> Option<Outcome>) -> Flaw {
    Flaw::none().update(move |world, updates, now| {
        raw::update_by(world, updates, now, |world, update| other(world, update, now))
    })
}

/// An update whose outcome is spoilt: by what was asked, and the job as it was and as it is.
fn answering(spoil: fn(&JobUpdate, Option<&Stored>, Option<&Stored>, &mut Outcome)) -> Flaw {
    Flaw::none().update(move |world, updates, now| {
        raw::update_by(world, updates, now, |world, update| {
            let was = world.job(update.id).cloned();
            let mut outcome = world.update(std::slice::from_ref(update), now).ok()?.remove(0);
            spoil(update, was.as_ref(), world.job(update.id), &mut outcome);
            Some(outcome)
        })
    })
}

fn refused(world: &World, update: &JobUpdate) -> Option<Outcome> {
    match raw::judgement(world, update)? {
        Judgement::Refuse(outcome) => Some(outcome),
        Judgement::Apply(_) => None,
    }
}

fn is_holder(update: &JobUpdate) -> bool {
    matches!(update.guard, Guard::Fence(_))
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "To a holder: the request to cancel this job that stood when the write was made."
    Mutant::new(
        "cancel-is-told-once",
        "a holder is told once that its job is to be cancelled, and not again",
        &["UPD-15"],
        || {
            let told: Arc<Mutex<HashSet<(JobId, Fence)>>> = Arc::default();
            let beaten = told.clone();
            let once = |told: &Mutex<HashSet<(JobId, Fence)>>, id, fence, outcome: &mut Outcome| {
                if let Outcome::Applied(ack) = outcome
                    && ack.cancel.is_some()
                    && !told.lock().unwrap_or_else(PoisonError::into_inner).insert((id, fence))
                {
                    ack.cancel = None;
                }
            };
            Flaw::none()
                .update(move |world, updates, now| {
                    let mut outcomes = world.update(updates, now)?;
                    for (update, outcome) in updates.iter().zip(&mut outcomes) {
                        if let Guard::Fence(fence) = update.guard {
                            once(&told, update.id, fence, outcome);
                        }
                    }
                    Ok(outcomes)
                })
                .heartbeat(move |world, held, lease, now| {
                    let mut outcomes = world.heartbeat(held, *lease, now)?;
                    for (held, outcome) in held.iter().zip(&mut outcomes) {
                        once(&beaten, held.id, held.fence, outcome);
                    }
                    Ok(outcomes)
                })
        },
    ),
    Mutant::new(
        "append-hides-the-cancel",
        "an append is not told that its job is to be cancelled",
        &["CAN-2"],
        || {
            answering(|update, _, _, outcome| {
                if let (None, Outcome::Applied(ack)) = (&update.patch.transition, outcome) {
                    ack.cancel = None;
                }
            })
        },
    ),
    Mutant::new(
        "settle-hides-the-cancel",
        "a settle is not told that its job was to be cancelled",
        &["CAN-2"],
        || {
            answering(|update, _, _, outcome| {
                if let (Some(_), Outcome::Applied(ack)) = (&update.patch.transition, outcome) {
                    ack.cancel = None;
                }
            })
        },
    ),
    Mutant::new(
        "self-cancel-is-told-back",
        "a holder that cancels its job is told that the job was to be cancelled",
        &["UPD-15"],
        || {
            answering(|update, _, is, outcome| {
                if let (Some(Transition::Cancel { .. }), Outcome::Applied(ack)) =
                    (&update.patch.transition, outcome)
                {
                    ack.cancel = is.and_then(|is| is.row.control.cancel.clone());
                }
            })
        },
    ),
    Mutant::new(
        "editor-is-told-the-cancel",
        "an editor is told that the job is to be cancelled, as if it held it",
        &["UPD-15"],
        || {
            answering(|update, was, _, outcome| {
                if let (false, Outcome::Applied(ack)) = (is_holder(update), outcome) {
                    ack.cancel = was.and_then(|was| was.row.control.cancel.clone());
                }
            })
        },
    ),
    // "To an editor (guard `Version` or `None`): the version after the change."
    Mutant::new(
        "append-answers-no-version",
        "an append by somebody else than the holder is answered without a version",
        &["LOG-10"],
        || {
            answering(|update, _, _, outcome| {
                if let (true, Outcome::Applied(ack)) = (!update.patch.is_edit(false), outcome) {
                    ack.version = None;
                }
            })
        },
    ),
    Mutant::new(
        "holder-is-told-the-version",
        "a holder's write is answered with the version of the job",
        &["UPD-15"],
        || {
            answering(|update, _, is, outcome| {
                if let (true, Outcome::Applied(ack)) = (is_holder(update), outcome) {
                    ack.version = is.map(|is| is.row.control.version);
                }
            })
        },
    ),
    Mutant::new(
        "conflict-tells-the-next-version",
        "a conflict tells the version that the edit would have made",
        &["UPD-2"],
        || {
            answering(|_, _, _, outcome| {
                if let Outcome::Conflict { actual } = outcome {
                    *actual = Version(actual.0 + 1);
                }
            })
        },
    ),
    // "Guard::Version: The job has this version."
    Mutant::new(
        "version-from-the-future-passes",
        "an edit with a version that the job has not reached is made",
        &["LOG-7"],
        || {
            updating(|world, update, now| match update.guard {
                Guard::Version(version) if world.job(update.id)?.row.control.version < version => {
                    Some(raw::force(world, update, now))
                }
                _ => None,
            })
        },
    ),
    Mutant::new(
        "version-zero-is-any-version",
        "an edit with the version 0 is made whatever the job's version is",
        &["UPD-9"],
        || {
            updating(|world, update, now| {
                world.job(update.id)?;
                (update.guard == Guard::Version(Version(0))).then(|| raw::force(world, update, now))
            })
        },
    ),
    // "Guard::None: The job exists."
    Mutant::new(
        "finished-jobs-cannot-be-edited",
        "an edit of a finished job's labels or progress is illegal",
        &["REA-2"],
        || {
            updating(|world, update, _| {
                let state = world.job(update.id)?.row.control.state;
                (state.is_final()
                    && !is_holder(update)
                    && update.patch.is_edit(false)
                    && refused(world, update).is_none())
                .then_some(Outcome::Illegal { from: state })
            })
        },
    ),
    Mutant::new(
        "late-append-is-lost",
        "an append to a finished job by nobody in particular is answered and not made",
        &["LOG-10"],
        || {
            updating(|world, update, _| {
                let control = &world.job(update.id)?.row.control;
                (control.state.is_final()
                    && update.guard == Guard::None
                    && !update.patch.is_edit(false))
                .then(|| Outcome::Applied(Ack::editor(control.version)))
            })
        },
    ),
    // "The job is running and held under this fence."
    Mutant::new(
        "nil-fence-opens-new-jobs",
        "an append with the fence of no claim is made on a job that was never claimed",
        &["UPD-15"],
        || {
            updating(|world, update, now| {
                let control = &world.job(update.id)?.row.control;
                (control.never_started()
                    && update.guard == Guard::Fence(Fence::default())
                    && update.patch.transition.is_none())
                .then(|| raw::force(world, update, now))
            })
        },
    ),
    Mutant::new(
        "fence-by-nonce",
        "a fence is compared by its nonce, which a token that claims the job twice repeats",
        &["UPD-1"],
        || {
            updating(|world, update, now| {
                let control = &world.job(update.id)?.row.control;
                let Guard::Fence(fence) = update.guard else { return None };
                (control.state == State::Running
                    && control.fence.nonce == fence.nonce
                    && control.fence.count != fence.count)
                    .then(|| raw::force(world, update, now))
            })
        },
    ),
    Mutant::new(
        "newer-fence-passes",
        "a fence with a higher count than the job's is taken for a good one",
        &["UPD-1"],
        || {
            updating(|world, update, now| {
                let control = &world.job(update.id)?.row.control;
                let Guard::Fence(fence) = update.guard else { return None };
                (control.state == State::Running && control.fence.count < fence.count)
                    .then(|| raw::force(world, update, now))
            })
        },
    ),
    // "Where several would fit, the first of this order is answered"
    Mutant::new(
        "lost-append-is-illegal",
        "an append by a holder whose job was reaped is illegal, not fenced",
        &["UPD-15"],
        || {
            answering(|update, was, _, outcome| {
                let Some(was) = was else { return };
                let control = &was.row.control;
                if *outcome == Outcome::Fenced
                    && update.patch.transition.is_none()
                    && update.guard == Guard::Fence(control.fence)
                    && control.settled.is_none_or(|own| own.fence != control.fence)
                {
                    *outcome = Outcome::Illegal { from: control.state };
                }
            })
        },
    ),
    Mutant::new(
        "own-settle-then-append-is-repeated",
        "an append by a holder that has settled is a repeat",
        &["LOG-11"],
        || {
            answering(|update, was, _, outcome| {
                let settled = was.and_then(|was| was.row.control.settled);
                if let (Outcome::Fenced, Guard::Fence(fence), None) =
                    (&outcome, update.guard, &update.patch.transition)
                    && settled.is_some_and(|own| own.fence == fence)
                {
                    *outcome = Outcome::Repeated(Ack::default());
                }
            })
        },
    ),
    Mutant::new(
        "own-settle-then-append-is-made",
        "an append by a holder that has settled is made while nobody else holds the job",
        &["LOG-7"],
        || {
            updating(|world, update, now| {
                let control = &world.job(update.id)?.row.control;
                let Guard::Fence(fence) = update.guard else { return None };
                (update.patch.transition.is_none()
                    && control.fence == fence
                    && control.settled.is_some_and(|own| own.fence == fence))
                .then(|| raw::force(world, update, now))
            })
        },
    ),
    Mutant::new(
        "repeated-settle-appends",
        "the repeat of a settle appends the entries that it brings",
        &["LOG-7"],
        || {
            updating(|world, update, now| {
                let outcome = refused(world, update)?;
                if matches!(outcome, Outcome::Repeated(_)) {
                    world.edit(update.id, |job| job.append(&update.patch.log, now));
                }
                Some(outcome)
            })
        },
    ),
    Mutant::new(
        "repeated-settle-labels",
        "the repeat of a settle sets the labels and the progress that it brings",
        &["LOG-7"],
        || {
            updating(|world, update, now| {
                let outcome = refused(world, update)?;
                if matches!(outcome, Outcome::Repeated(_)) {
                    let mut patch = update.patch.clone();
                    (patch.transition, patch.log) = (None, Vec::new());
                    world.edit(update.id, |job| {
                        let version = job.row.control.version;
                        job.row.patch(update.guard, &patch, None, now);
                        job.row.control.version = version;
                    });
                }
                Some(outcome)
            })
        },
    ),
    Mutant::new(
        "large-repeat-is-too-large",
        "the repeat of a settle with a larger output than allowed is too large, not a repeat",
        &["UPD-14"],
        || {
            answering(|update, _, _, outcome| {
                let limit = 2 * 1024 * 1024;
                let refused = !matches!(outcome, Outcome::Applied(_) | Outcome::Missing);
                if refused && update.patch.largest_payload() > limit {
                    *outcome = Outcome::TooLarge { limit: limit as u64 };
                }
            })
        },
    ),
    // "The settle that a holder made, remembered so that a repeat is recognised."
    Mutant::new(
        "claim-forgets-the-settle",
        "the next claim forgets how the holder before ended its run",
        &["UPD-8"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.control.settled = None;
                }
            })
        },
    ),
    Mutant::new(
        "reap-forgets-the-settle",
        "a reap forgets how an earlier holder ended its run",
        &["UPD-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) {
                    is.row.control.settled = None;
                }
            })
        },
    ),
    Mutant::new(
        "cancel-forgets-the-settle",
        "the cancel of a waiting job forgets how its last holder ended its run",
        &["UPD-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if was.row.control.state == State::Waiting
                    && is.row.control.state == State::Cancelled
                {
                    is.row.control.settled = None;
                }
            })
        },
    ),
    Mutant::new(
        "edit-forgets-the-settle",
        "an edit of a job forgets how its last holder ended its run",
        &["UPD-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if was.row.labels != is.row.labels && was.row.control.state == is.row.control.state
                {
                    is.row.control.settled = None;
                }
            })
        },
    ),
    Mutant::new(
        "wake-forgets-the-settle",
        "the wake of a waiting job forgets how its last holder ended its run",
        &["UPD-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                let waits = was.row.control.state == State::Waiting
                    && is.row.control.state == State::Waiting;
                if waits && was.row.control.run_at != is.row.control.run_at {
                    is.row.control.settled = None;
                }
            })
        },
    ),
    Mutant::new(
        "reap-is-remembered-as-release",
        "a job that is reaped remembers that its holder released it",
        &["LSE-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) {
                    let own = Settled::new(was.row.control.fence, TransitionKind::Release);
                    is.row.control.settled = Some(own);
                }
            })
        },
    ),
    Mutant::new(
        "reap-is-remembered-as-fail",
        "a job that crashed too often remembers that its holder failed it",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::crashed(was, is) && is.row.control.state == State::Failed {
                    let own = Settled::new(was.row.control.fence, TransitionKind::Fail);
                    is.row.control.settled = Some(own);
                }
            })
        },
    ),
];
