//! How a run ends, and what is left on the row.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{
    Ack, Fence, Guard, JobId, Keep, Outcome, Payload, Settled, State, Timestamp, Transition,
    TransitionKind, Version, spec::Stored,
};

use super::{
    super::{Flaw, Mutant, raw},
    settled_by, withdrawn,
};

/// Spoils the job when this transition ended its run.
fn after(kind: TransitionKind, spoil: fn(&Stored, &mut Stored, Timestamp)) -> Flaw {
    Flaw::none().changing(move |was, is, now| {
        if settled_by(was, is, kind) {
            spoil(was, is, now);
        }
    })
}

/// A holder that writes a part of the row back as it was when it claimed the job.
fn writing_back(restore: fn(claimed: &Stored, was: &Stored, is: &mut Stored)) -> Flaw {
    let claimed: Arc<Mutex<HashMap<JobId, Stored>>> = Arc::default();
    Flaw::none().changing(move |was, is, _| {
        let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if raw::claimed(was, is) {
            claimed.insert(is.row.id, is.clone());
        }
        let settled = was.row.control.settled != is.row.control.settled;
        if let (true, Some(then)) = (settled, claimed.get(&is.row.id)) {
            restore(then, was, is);
        }
    })
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "withdrawn-retry-is-remembered-as-cancel",
        "a retry or release that cancelled its job is remembered as a cancel",
        &["UPD-14"],
        || {
            Flaw::none().changing(|was, is, _| {
                if withdrawn(was, is) {
                    let own = Settled::new(was.row.control.fence, TransitionKind::Cancel);
                    is.row.control.settled = Some(own);
                }
            })
        },
    ),
    // "On a job that is to be cancelled, this cancels it; its error is kept in any case."
    Mutant::new(
        "withdrawn-retry-loses-its-error",
        "a retry that cancels its job drops the error of the attempt",
        &["UPD-16"],
        || {
            Flaw::none().changing(|was, is, _| {
                if withdrawn(was, is) {
                    is.row.error.clone_from(&was.row.error);
                }
            })
        },
    ),
    Mutant::new(
        "withdrawn-job-has-no-end",
        "a job that a retry or release cancelled has no time at which it ended",
        &["CAN-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if withdrawn(was, is) {
                    is.row.control.finished_at = None;
                }
            })
        },
    ),
    Mutant::new(
        "withdrawn-release-gives-the-attempt-back",
        "a release that cancels its job takes its attempt back",
        &["CAN-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if withdrawn(was, is) && settled_by(was, is, TransitionKind::Release) {
                    is.row.control.attempt -= 1;
                }
            })
        },
    ),
    Mutant::new(
        "withdrawn-retry-moves-its-due-time",
        "a retry that cancels its job still sets when it is due",
        &["CAN-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for update in updates {
                    if let Some(Transition::Retry { when, .. } | Transition::Release { when }) =
                        &update.patch.transition
                    {
                        world.edit(update.id, |job| {
                            if job.row.control.finished_at == Some(now) {
                                job.row.control.run_at = when.resolve(now);
                            }
                        });
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "withdrawn-job-keeps-its-lease",
        "a job that a retry or release cancelled keeps its lease and holder",
        &["CAN-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if withdrawn(was, is) {
                    is.row.control.lease_until = was.row.control.lease_until;
                    is.row.control.holder.clone_from(&was.row.control.holder);
                }
            })
        },
    ),
    // The table of effects: Complete and Fail keep the request to cancel and do not become a cancel.
    Mutant::new(
        "complete-clears-the-cancel",
        "a job that completes loses the request to cancel it",
        &["CAN-2"],
        || after(TransitionKind::Complete, |_, is, _| is.row.control.cancel = None),
    ),
    Mutant::new(
        "fail-clears-the-cancel",
        "a job that fails loses the request to cancel it",
        &["UPD-15"],
        || after(TransitionKind::Fail, |_, is, _| is.row.control.cancel = None),
    ),
    Mutant::new(
        "cancel-mark-turns-a-failure-into-a-cancel",
        "a job that was to be cancelled and fails is cancelled",
        &["UPD-15"],
        || {
            after(TransitionKind::Fail, |_, is, _| {
                if is.row.control.cancel.is_some() {
                    is.row.control.state = State::Cancelled;
                }
            })
        },
    ),
    // "a request made earlier keeps its own reason"
    Mutant::new(
        "self-cancel-takes-the-time-over",
        "a holder that cancels a job which was to be cancelled sets the time of the request anew",
        &["CAN-5"],
        || {
            after(TransitionKind::Cancel, |_, is, now| {
                if let Some(cancel) = &mut is.row.control.cancel {
                    cancel.at = now;
                }
            })
        },
    ),
    Mutant::new(
        "self-cancel-clears-the-error",
        "a holder that cancels its job removes the error of an earlier attempt",
        &["UPD-16"],
        || after(TransitionKind::Cancel, |_, is, _| is.row.error = None),
    ),
    Mutant::new(
        "release-removes-the-error",
        "a release removes the error of an earlier attempt",
        &["UPD-16"],
        || after(TransitionKind::Release, |_, is, _| is.row.error = None),
    ),
    Mutant::new(
        "release-clears-the-start",
        "a job that is given back has no start any more",
        &["UPD-4"],
        || after(TransitionKind::Release, |_, is, _| is.row.control.started_at = None),
    ),
    Mutant::new(
        "retry-clears-the-start",
        "a job that waits for its retry has no start any more",
        &["UPD-4"],
        || after(TransitionKind::Retry, |_, is, _| is.row.control.started_at = None),
    ),
    Mutant::new(
        "retry-keeps-the-first-error",
        "a job keeps the error of its first failed attempt",
        &["UPD-16"],
        || {
            after(TransitionKind::Retry, |was, is, _| {
                if was.row.error.is_some() {
                    is.row.error.clone_from(&was.row.error);
                }
            })
        },
    ),
    Mutant::new(
        "complete-clears-the-progress",
        "a job that completes shows no progress",
        &["UPD-4"],
        || after(TransitionKind::Complete, |_, is, _| is.row.progress = None),
    ),
    Mutant::new(
        "complete-is-all-done",
        "a job that completes shows a progress of 100",
        &["UPD-4"],
        || {
            after(TransitionKind::Complete, |_, is, _| {
                if let Some(progress) = &mut is.row.progress {
                    progress.percent = 100;
                }
            })
        },
    ),
    Mutant::new("retry-clears-the-progress", "a retry removes the progress", &["UPD-4"], || {
        after(TransitionKind::Retry, |_, is, _| is.row.progress = None)
    }),
    // "What it returned; `None` is no output, `Some` of JSON `null` is one."
    Mutant::new(
        "no-output-is-null",
        "a job that completes without an output has the output null",
        &["FID-9"],
        || {
            after(TransitionKind::Complete, |_, is, _| {
                is.row.output.get_or_insert_with(Payload::null);
            })
        },
    ),
    Mutant::new(
        "null-error-is-no-error",
        "a job that fails with the error null has none",
        &["FID-3"],
        || {
            after(TransitionKind::Fail, |_, is, _| {
                is.row.error = is.row.error.take().filter(|error| *error != Payload::null());
            })
        },
    ),
    // "on one that was woken meanwhile, `when` becomes now": only a release does.
    Mutant::new(
        "woken-retry-is-due-now",
        "the retry of a job that was woken is due now",
        &["CAN-5"],
        || {
            after(TransitionKind::Retry, |was, is, now| {
                if was.row.control.wake {
                    is.row.control.run_at = now;
                }
            })
        },
    ),
    Mutant::new(
        "wake-outlives-a-retry",
        "a retry leaves the mark of a wake, so that the next release is due now",
        &["UPD-17"],
        || {
            let marks: Arc<Mutex<HashSet<JobId>>> = Arc::default();
            Flaw::none().changing(move |was, is, _| {
                let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
                if settled_by(was, is, TransitionKind::Retry) && was.row.control.wake {
                    marks.insert(is.row.id);
                }
                if raw::claimed(was, is) && marks.remove(&is.row.id) {
                    is.row.control.wake = true;
                }
            })
        },
    ),
    Mutant::new(
        "wake-outlives-a-reap",
        "a reap leaves the mark of a wake, so that the next release is due now",
        &["SIG-1"],
        || {
            let marks: Arc<Mutex<HashSet<JobId>>> = Arc::default();
            Flaw::none().changing(move |was, is, _| {
                let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
                if raw::crashed(was, is) && was.row.control.wake {
                    marks.insert(is.row.id);
                }
                if raw::claimed(was, is) && marks.remove(&is.row.id) {
                    is.row.control.wake = true;
                }
            })
        },
    ),
    Mutant::new(
        "woken-release-keeps-an-earlier-date",
        "the release of a job that was woken is due when it says, if that has passed",
        &["UPD-17"],
        || {
            Flaw::none().update(|world, updates, now| {
                let woken: HashSet<JobId> =
                    world.jobs().filter(|job| job.row.control.wake).map(|job| job.row.id).collect();
                let outcomes = world.update(updates, now)?;
                for update in updates.iter().filter(|update| woken.contains(&update.id)) {
                    if let Some(Transition::Release { when }) = &update.patch.transition {
                        let at = when.resolve(now).min(now);
                        world.edit(update.id, |job| {
                            if job.row.control.state == State::Waiting {
                                job.row.control.run_at = at;
                            }
                        });
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    // "There is no such job (any more)."
    Mutant::new(
        "dropped-job-remembers-its-settle",
        "the repeat of the settle that deleted its job is a repeat",
        &["LOG-13"],
        || {
            let dropped: Arc<Mutex<HashMap<JobId, Fence>>> = Arc::default();
            Flaw::none().update(move |world, updates, now| {
                let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
                let mut outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&mut outcomes) {
                    let Guard::Fence(fence) = update.guard else { continue };
                    match outcome {
                        Outcome::Applied(_) if world.job(update.id).is_none() => {
                            dropped.insert(update.id, fence);
                        }
                        Outcome::Missing if dropped.get(&update.id) == Some(&fence) => {
                            *outcome = Outcome::Repeated(Ack::default());
                        }
                        _ => {}
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    // "Failed and cancelled jobs stay in any case."
    Mutant::new(
        "withdrawn-job-is-dropped",
        "a job that is not to be kept is deleted when a retry or release cancels it",
        &["UPD-17"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for update in updates {
                    let gone = world.job(update.id).is_some_and(|job| {
                        job.row.control.state == State::Cancelled
                            && job.row.control.keep == Keep::UnlessCompleted
                    });
                    if gone && update.patch.transition.is_some() {
                        world.take(update.id);
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    // One atomic update of a part of the row must not undo what others changed meanwhile: "others stay".
    Mutant::new(
        "settle-writes-the-queue-back",
        "a settle sets the queue to what it was when the job was claimed",
        &["UPD-16"],
        || writing_back(|then, _, is| is.row.queue.clone_from(&then.row.queue)),
    ),
    Mutant::new(
        "settle-writes-the-priority-back",
        "a settle sets the priority to what it was when the job was claimed",
        &["UPD-16"],
        || writing_back(|then, _, is| is.row.priority = then.row.priority),
    ),
    Mutant::new(
        "settle-writes-the-labels-back",
        "a settle sets the labels to what they were when the job was claimed",
        &["UPD-16"],
        || {
            writing_back(|then, was, is| {
                if was.row.labels == is.row.labels {
                    is.row.labels.clone_from(&then.row.labels);
                }
            })
        },
    ),
    Mutant::new(
        "settle-writes-the-version-back",
        "a settle makes the version one more than it was when the job was claimed",
        &["UPD-11"],
        || {
            writing_back(|then, _, is| {
                is.row.control.version = Version(then.row.control.version.0 + 1);
            })
        },
    ),
    Mutant::new(
        "settle-writes-the-progress-back",
        "a settle sets the progress to what it was when the job was claimed",
        &["UPD-4"],
        || {
            writing_back(|then, was, is| {
                if was.row.progress == is.row.progress {
                    is.row.progress.clone_from(&then.row.progress);
                }
            })
        },
    ),
];
