//! Heartbeats.

use std::time::Duration;

use queue_core::{Outcome, Progress, Timestamp, Version, spec::Stored};

use super::super::{Flaw, Mutant};

/// Spoils a job whose holder's heartbeat was accepted: as it was, as it is, and the progress that came along.
fn beating(spoil: fn(&Stored, &mut Stored, Option<&Progress>, Duration, Timestamp)) -> Flaw {
    Flaw::none().heartbeat(move |world, held, lease, now| {
        let before = world.clone();
        let outcomes = world.heartbeat(held, *lease, now)?;
        for (held, outcome) in held.iter().zip(&outcomes) {
            if let (Outcome::Applied(_), Some(was)) = (outcome, before.job(held.id)) {
                world.edit(held.id, |is| spoil(was, is, held.progress.as_ref(), *lease, now));
            }
        }
        Ok(outcomes)
    })
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "heartbeat-lease-in-milliseconds",
        "a heartbeat drops the microseconds of its lease",
        &["FID-6"],
        || {
            beating(|_, is, _, lease, now| {
                let lease =
                    Duration::from_millis(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
                is.row.control.lease_until = Some(now.plus(lease));
            })
        },
    ),
    Mutant::new(
        "endless-heartbeat-is-short",
        "a heartbeat whose lease exceeds the calendar ends the lease",
        &["FID-6"],
        || {
            beating(|_, is, _, lease, now| {
                if now.plus(lease) == Timestamp::MAX {
                    is.row.control.lease_until = Some(now);
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-keeps-an-old-message",
        "a heartbeat whose progress has no message keeps the old one",
        &["LSE-12"],
        || {
            beating(|was, is, progress, _, _| {
                let old = was.row.progress.as_ref().and_then(|old| old.message.clone());
                if let (Some(Progress { message: None, .. }), Some(now)) =
                    (progress, &mut is.row.progress)
                {
                    now.message = old;
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-progress-never-falls",
        "a heartbeat cannot lower the progress",
        &["LSE-12"],
        || {
            beating(|was, is, _, _, _| {
                if let (Some(was), Some(is)) = (&was.row.progress, &mut is.row.progress) {
                    is.percent = is.percent.max(was.percent);
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-progress-bumps-the-version",
        "the progress of a heartbeat adds one to the version",
        &["LSE-9"],
        || {
            beating(|was, is, progress, _, _| {
                if progress.is_some() {
                    is.row.control.version = Version(was.row.control.version.0 + 1);
                }
            })
        },
    ),
    Mutant::new(
        "heartbeat-clears-the-wake",
        "a heartbeat clears the mark of a wake",
        &["SIG-1"],
        || beating(|_, is, _, _, _| is.row.control.wake = false),
    ),
    Mutant::new(
        "heartbeat-clears-the-cancel",
        "a heartbeat that told its holder of a cancel clears the request",
        &["CAN-5"],
        || beating(|_, is, _, _, _| is.row.control.cancel = None),
    ),
    Mutant::new(
        "heartbeat-restarts-the-attempt",
        "a heartbeat sets the start of the attempt to now",
        &["LSE-12"],
        || beating(|_, is, _, _, now| is.row.control.started_at = Some(now)),
    ),
    Mutant::new(
        "heartbeat-stops-at-the-first-lost-job",
        "the heartbeats after one that is refused are refused",
        &["LSE-1"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let judged = world.clone().heartbeat(held, *lease, now)?;
                let good = judged.iter().take_while(|outcome| outcome.is_saved()).count();
                let mut outcomes = world.heartbeat(&held[..good], *lease, now)?;
                outcomes.extend(judged.into_iter().skip(good).map(|outcome| match outcome {
                    Outcome::Applied(_) => Outcome::Fenced,
                    refused => refused,
                }));
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "heartbeat-answers-in-order-of-ids",
        "the answers to a heartbeat come in the order of the jobs' ids",
        &["LSE-1"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let outcomes = world.heartbeat(held, *lease, now)?;
                let mut answers: Vec<_> = held.iter().map(|held| held.id).zip(outcomes).collect();
                answers.sort_by_key(|(id, _)| *id);
                Ok(answers.into_iter().map(|(_, outcome)| outcome).collect())
            })
        },
    ),
    Mutant::new(
        "refused-heartbeat-reports-progress",
        "the progress of a heartbeat that is refused is stored",
        &["LSE-1"],
        || {
            Flaw::none().heartbeat(|world, held, lease, now| {
                let outcomes = world.heartbeat(held, *lease, now)?;
                for (held, outcome) in held.iter().zip(&outcomes) {
                    if let (Outcome::Fenced, Some(progress)) = (outcome, &held.progress) {
                        world.edit(held.id, |job| job.row.progress = Some(progress.clone()));
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    // "Renews leases, to `lease` from the store's now"
    Mutant::new(
        "heartbeat-never-shortens",
        "a heartbeat with a shorter lease leaves the longer one",
        &["FID-6"],
        || {
            beating(|was, is, _, _, _| {
                is.row.control.lease_until =
                    is.row.control.lease_until.max(was.row.control.lease_until);
            })
        },
    ),
    // "Progress that rides along."
    Mutant::new(
        "heartbeat-without-progress-clears-it",
        "a heartbeat without progress removes the progress",
        &["LSE-12"],
        || {
            beating(|_, is, progress, _, _| {
                if progress.is_none() {
                    is.row.progress = None;
                }
            })
        },
    ),
];
