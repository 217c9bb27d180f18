//! Moves that the contract forbids, for flaws to make.

use std::num::NonZeroU32;

use queue_core::{
    Ack, Claim, ClaimRequest, Claimed, Inserted, JobId, JobUpdate, Judgement, NewJob, Outcome,
    Result, State, Timestamp, Transition,
    spec::{Stored, World},
};

/// All jobs that the claim might take, in order, with the lane slots they would get.
pub(super) fn due(
    world: &World,
    request: &ClaimRequest,
    now: Timestamp,
) -> Vec<(JobId, Option<u32>)> {
    let mut everything = request.clone();
    everything.limit = NonZeroU32::MAX;
    world.pick(&everything, now)
}

/// The row of a job that is known to be there.
pub(super) fn stored(world: &World, id: JobId) -> Stored {
    world.job(id).cloned().expect("the caller has just found the job in this world")
}

/// Claims these jobs, whatever their state.
pub(super) fn take(
    world: &mut World,
    picked: &[(JobId, Option<u32>)],
    request: &ClaimRequest,
    now: Timestamp,
) -> Claimed {
    let claim = Claim::of(request, now);
    for (id, slot) in picked {
        world.edit(*id, |job| {
            job.row.control.state = State::Waiting;
            job.row.control.claim(&claim, *slot);
        });
    }
    let ids: Vec<JobId> = picked.iter().map(|(id, _)| *id).collect();
    let jobs = world.get(&ids, request.log).into_iter().flatten().collect::<Vec<_>>();
    let full = jobs.len() >= request.limit.get() as usize;
    Claimed::new(jobs, if full { None } else { world.next_due(request, now) })
}

/// A claim that picks in its own way: from all due jobs, in order.
pub(super) fn claim_by(
    world: &mut World,
    request: &ClaimRequest,
    now: Timestamp,
    pick: impl FnOnce(&World, &mut Vec<(JobId, Option<u32>)>),
) -> Result<Claimed> {
    request.check()?;
    if let Some(repeated) = world.repeated_claim(request, now) {
        return Ok(repeated);
    }
    let mut picked = due(world, request, now);
    pick(world, &mut picked);
    picked.truncate(request.limit.get() as usize);
    Ok(take(world, &picked, request, now))
}

/// Makes an update whatever its guard and the job's state say.
pub(super) fn force(world: &mut World, update: &JobUpdate, now: Timestamp) -> Outcome {
    let forced = world.edit(update.id, |job| {
        let cancel = job.row.control.cancel.clone();
        if update.patch.transition.is_some() {
            job.row.control.state = State::Running;
            job.row.control.finished_at = None;
        }
        let ack = job.row.patch(update.guard, &update.patch, cancel, now);
        job.append(&update.patch.log, now);
        ack
    });
    forced.map_or(Outcome::Missing, Outcome::Applied)
}

/// Makes updates one after the other, some of them in another way than the contract's.
pub(super) fn update_by(
    world: &mut World,
    updates: &[JobUpdate],
    now: Timestamp,
    other: impl Fn(&mut World, &JobUpdate) -> Option<Outcome>,
) -> Result<Vec<Outcome>> {
    queue_core::check_updates(updates)?;
    let one = |update: &JobUpdate| match other(world, update) {
        Some(outcome) => Ok(outcome),
        None => Ok(world.update(std::slice::from_ref(update), now)?.remove(0)),
    };
    updates.iter().map(one).collect()
}

/// What the contract says about the guard of this update, if its job is there.
pub(super) fn judgement(world: &World, update: &JobUpdate) -> Option<Judgement> {
    let kind = update.patch.transition.as_ref().map(Transition::kind);
    world.job(update.id).map(|job| job.row.control.judge(update.guard, kind))
}

/// Stores a new job although its unique key is held.
pub(super) fn insert_blindly(world: &mut World, job: &NewJob, now: Timestamp) -> Result<Inserted> {
    let mut keyless = job.clone();
    keyless.unique = None;
    let inserted = world.insert(&[keyless], now)?.remove(0);
    if inserted.is_new() {
        world.edit(job.id, |stored| stored.row.control.unique.clone_from(&job.unique));
    }
    Ok(inserted)
}

/// A run ended between these two: it was running, and now it is in this state.
pub(super) fn ended(was: &Stored, is: &Stored, to: State) -> bool {
    was.row.control.state == State::Running && is.row.control.state == to
}

/// A job was claimed between these two.
pub(super) fn claimed(was: &Stored, is: &Stored) -> bool {
    was.row.control.state == State::Waiting && is.row.control.state == State::Running
}

/// A job was given back by a retry: the attempt was used, and no crash was counted.
pub(super) fn retried(was: &Stored, is: &Stored) -> bool {
    ended(was, is, State::Waiting) && was.row.control.attempt == is.row.control.attempt
}

/// A job was given back by a release.
pub(super) fn released(was: &Stored, is: &Stored) -> bool {
    ended(was, is, State::Waiting) && !retried(was, is) && !crashed(was, is)
}

/// A job was reaped.
pub(super) fn crashed(was: &Stored, is: &Stored) -> bool {
    was.row.control.crashes < is.row.control.crashes
}

/// The answer that lies.
pub(super) fn applied() -> Outcome {
    Outcome::Applied(Ack::holder(None))
}
