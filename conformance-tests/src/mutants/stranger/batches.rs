//! Batches, sizes, and two calls in one.

use queue_core::{Claimed, JobId, JobUpdate, Outcome, Timestamp, Transition, When, spec::World};

use super::super::{Flaw, Mutant};

/// An update whose batch is spoilt: each item is made as this says, given the outcomes so far.
fn one_by_one(one: fn(&mut World, &JobUpdate, &[Outcome], Timestamp) -> Option<Outcome>) -> Flaw {
    Flaw::none().update(move |world, updates, now| {
        queue_core::check_updates(updates)?;
        let mut outcomes: Vec<Outcome> = Vec::new();
        for update in updates {
            let outcome = match one(world, update, &outcomes, now) {
                Some(outcome) => outcome,
                None => world.update(std::slice::from_ref(update), now)?.remove(0),
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "Items do not depend on each other."
    Mutant::new(
        "update-stops-at-the-first-refusal",
        "the updates after one that is refused are refused",
        &["UPD-5"],
        || {
            one_by_one(|_, _, outcomes, _| {
                outcomes.iter().find(|outcome| !outcome.is_saved()).cloned()
            })
        },
    ),
    Mutant::new(
        "missing-job-refuses-its-batch",
        "an update of a job that is not there refuses the updates of the others",
        &["UPD-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                queue_core::check_updates(updates)?;
                if updates.iter().any(|update| world.job(update.id).is_none()) {
                    return Ok(updates.iter().map(|_| Outcome::Missing).collect());
                }
                world.update(updates, now)
            })
        },
    ),
    Mutant::new(
        "large-item-refuses-its-batch",
        "an item that is too large refuses the rest of its batch",
        &["UPD-19"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.clone().update(updates, now)?;
                let large = outcomes.iter().find(|o| matches!(o, Outcome::TooLarge { .. }));
                match large {
                    Some(large) => Ok(updates.iter().map(|_| large.clone()).collect()),
                    None => world.update(updates, now),
                }
            })
        },
    ),
    Mutant::new(
        "update-answers-in-order-of-ids",
        "the answers to updates come in the order of the jobs' ids",
        &["UPD-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                let mut answers: Vec<(JobId, Outcome)> =
                    updates.iter().map(|update| update.id).zip(outcomes).collect();
                answers.sort_by_key(|(id, _)| *id);
                Ok(answers.into_iter().map(|(_, outcome)| outcome).collect())
            })
        },
    ),
    Mutant::new(
        "update-of-at-most-1000",
        "of more than a thousand updates in one call the rest is answered as missing",
        &["REA-10"],
        || one_by_one(|_, _, outcomes, _| (outcomes.len() >= 1_000).then_some(Outcome::Missing)),
    ),
    // "All but `Applied` changed nothing."; "The limit in bytes."
    Mutant::new(
        "too-large-settle-releases",
        "a settle that is too large gives its job back",
        &["FID-5"],
        || {
            one_by_one(|world, update, _, now| {
                let outcome =
                    world.clone().update(std::slice::from_ref(update), now).ok()?.remove(0);
                if let (Outcome::TooLarge { .. }, Some(_)) = (&outcome, &update.patch.transition) {
                    let mut smaller = update.clone();
                    smaller.patch.log.clear();
                    smaller.patch.transition = Some(Transition::Release { when: When::Now });
                    let _ = world.update(&[smaller], now);
                    return Some(outcome);
                }
                None
            })
        },
    ),
    Mutant::new(
        "too-large-entry-is-left-out",
        "an entry that is too large is left out, and the rest of its update is made",
        &["FID-5"],
        || {
            Flaw::none().patching(|update| {
                update.patch.log.retain(|entry| entry.body.len() <= 2 * 1024 * 1024);
            })
        },
    ),
    Mutant::new(
        "too-large-error-is-cut",
        "an error that is too large is stored as null",
        &["FID-5"],
        || {
            Flaw::none().patching(|update| {
                if let Some(Transition::Retry { error, .. } | Transition::Fail { error }) =
                    &mut update.patch.transition
                    && error.len() > 2 * 1024 * 1024
                {
                    *error = queue_core::Payload::null();
                }
            })
        },
    ),
    Mutant::new(
        "too-large-says-the-size",
        "a refusal for size tells the size and not the limit",
        &["FID-5"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&mut outcomes) {
                    if let Outcome::TooLarge { limit } = outcome {
                        *limit = update.patch.largest_payload() as u64;
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "limit-itself-is-too-large",
        "an output of just the largest size is too large",
        &["FID-5"],
        || {
            one_by_one(|world, update, _, _| {
                let limit = 2 * 1024 * 1024;
                world.job(update.id)?;
                (update.patch.largest_payload() == limit)
                    .then_some(Outcome::TooLarge { limit: limit as u64 })
            })
        },
    ),
    // update_and_claim: "Makes changes ..., then claims"; "Malformed input is refused whole"
    Mutant::new(
        "claim-with-updates-does-not-see-what-they-freed",
        "a claim made with updates sees the store as before them and does not say so",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                queue_core::check_updates(updates)?;
                let claimed = world.claim(request, now)?;
                Ok((world.update(updates, now)?, claimed))
            })
        },
    ),
    Mutant::new(
        "invalid-claim-with-updates-makes-them",
        "a malformed claim made with updates is refused after they were made",
        &["UPD-6"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                let outcomes = world.update(updates, now)?;
                Ok((outcomes, world.claim(request, now)?))
            })
        },
    ),
    Mutant::new(
        "invalid-updates-with-a-claim-leave-it",
        "malformed updates made with a claim are refused after it took its jobs",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                if queue_core::check_updates(updates).is_err() {
                    world.claim(request, now)?;
                }
                Ok((world.update(updates, now)?, world.claim(request, now)?))
            })
        },
    ),
    Mutant::new(
        "claim-without-updates-takes-nothing",
        "a claim made with no updates takes nothing",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                let outcomes = world.update(updates, now)?;
                if updates.is_empty() {
                    return Ok((outcomes, Claimed::new(Vec::new(), world.next_due(request, now))));
                }
                Ok((outcomes, world.claim(request, now)?))
            })
        },
    ),
    Mutant::new(
        "claim-with-refused-updates-takes-nothing",
        "a claim made with updates of which one is refused takes nothing and has nothing to wait for",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                let outcomes = world.update(updates, now)?;
                if outcomes.iter().any(|outcome| !outcome.is_saved()) {
                    return Ok((outcomes, Claimed::new(Vec::new(), None)));
                }
                Ok((outcomes, world.claim(request, now)?))
            })
        },
    ),
    Mutant::new(
        "claim-with-updates-forgets-its-token",
        "the repeat of a claim made with updates takes further jobs",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                let outcomes = world.update(updates, now)?;
                Ok((outcomes, super::fresh_claim(world, request, now)))
            })
        },
    ),
    Mutant::new(
        "claim-with-updates-has-no-logs",
        "a claim made with updates answers its jobs without their logs",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                let outcomes = world.update(updates, now)?;
                let mut claimed = world.claim(request, now)?;
                claimed.jobs.iter_mut().for_each(|job| job.log.clear());
                Ok((outcomes, claimed))
            })
        },
    ),
    Mutant::new(
        "claim-with-updates-hides-cancels",
        "updates made with a claim are not told that their jobs are to be cancelled",
        &["UPD-20"],
        || {
            Flaw::none().both(|world, updates, request, now| {
                request.check()?;
                let mut outcomes = world.update(updates, now)?;
                for outcome in &mut outcomes {
                    if let Outcome::Applied(ack) = outcome {
                        ack.cancel = None;
                    }
                }
                Ok((outcomes, world.claim(request, now)?))
            })
        },
    ),
];
