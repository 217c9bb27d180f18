use std::{collections::BTreeSet, fmt};

use crate::{
    Seq, State,
    spec::{Stored, World},
};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks what must hold in every state of a store.
///
/// # Errors
/// The first invariant that does not.
pub fn check_world(world: &World) -> Result<(), Broken> {
    let mut keys = BTreeSet::new();
    let mut slots = BTreeSet::new();
    for stored in world.jobs() {
        check_job(stored)?;
        let control = &stored.row.control;
        if let (Some(unique), true) = (&control.unique, control.holds_key())
            && !keys.insert(&unique.key)
        {
            return broken(stored, "two jobs hold one unique key");
        }
        if let (Some(lane), Some(slot)) = (&control.lane, control.slot) {
            if slot >= lane.limit.get() {
                return broken(stored, "a slot beyond the lane's limit");
            }
            if !slots.insert((&lane.key, slot)) {
                return broken(stored, "two jobs hold one slot of a lane");
            }
        }
    }
    Ok(())
}

fn check_job(stored: &Stored) -> Result<(), Broken> {
    let control = &stored.row.control;
    let running = control.state == State::Running;
    let rules = [
        (control.holder.is_some() == running, "exactly the running jobs have a holder"),
        (control.lease_until.is_some() == running, "exactly the running jobs have a lease"),
        (
            control.slot.is_some() == (running && control.lane.is_some()),
            "exactly the running jobs with a lane have a slot",
        ),
        (
            control.finished_at.is_some() == control.state.is_final(),
            "exactly the final states have an end",
        ),
        (running || !control.wake, "only a running job carries a wake mark"),
        (
            control.cancel.is_none() || control.state != State::Waiting,
            "no waiting job is to be cancelled",
        ),
        (control.state != State::Cancelled || control.cancel.is_some(), "a cancelled job says why"),
        (
            u64::from(control.attempt) + u64::from(control.crashes) <= control.fence.count,
            "no attempt or crash without a claim",
        ),
        (
            control.crashes <= control.max_crashes || control.state.is_final(),
            "a job that crashed too often has ended",
        ),
        (
            control.settled.is_none_or(|settled| settled.fence.count <= control.fence.count),
            "the remembered settle is not from the future",
        ),
        (control.log_len == stored.log.len() as u64, "the length of the log is known"),
        (
            stored.log.iter().zip(1..).all(|(entry, position)| entry.seq == Seq(position)),
            "positions in the log run from 1 without gaps",
        ),
        (
            stored.log.iter().map(|entry| entry.id).collect::<BTreeSet<_>>().len()
                == stored.log.len(),
            "no entry is in the log twice",
        ),
        (
            stored.row.output.is_none() || control.state == State::Completed,
            "only a completed job has an output",
        ),
        (
            stored.row.error.is_none() || control.state != State::Completed,
            "a completed job has no error",
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => broken(stored, rule),
        None => Ok(()),
    }
}

/// Checks what must hold between a state and the next one.
///
/// # Errors
/// The first invariant that does not.
pub fn check_step(before: &World, after: &World) -> Result<(), Broken> {
    for old in before.jobs() {
        let Some(new) = after.job(old.row.id) else {
            if old.row.control.state == State::Running
                && old.row.control.keep == crate::Keep::Always
            {
                return broken(old, "a running job was deleted");
            }
            continue;
        };
        let (was, is) = (&old.row.control, &new.row.control);
        let moved = was.state != is.state;
        let rules = [
            (!moved || was.state.next().contains(is.state), "the transition is in the table"),
            (!moved || is.version > was.version, "every change of state bumps the version"),
            (is.version >= was.version, "versions never go back"),
            (is.fence.count >= was.fence.count, "fences never go back"),
            (is.fence.count <= was.fence.count + 1, "fences go up one by one"),
            (is.fence == was.fence || is.state == State::Running, "only a claim changes the fence"),
            (
                was.state != State::Running || moved || is.fence == was.fence,
                "no running job is taken from its holder without being reaped",
            ),
            (is.crashes >= was.crashes, "crashes are never forgotten"),
            (new.log.starts_with(&old.log), "the log only grows"),
            (
                was.cancel.is_none() || is.cancel == was.cancel,
                "a request to cancel is never cleared or changed",
            ),
            (
                !was.state.is_final() || (is.finished_at == was.finished_at && !moved),
                "a final state is final",
            ),
            (new.row.created_at == old.row.created_at, "a job keeps its date of birth"),
            (new.row.input == old.row.input, "a job keeps its input"),
        ];
        if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
            return broken(new, rule);
        }
    }
    Ok(())
}

fn broken(stored: &Stored, rule: &str) -> Result<(), Broken> {
    Err(Broken(format!("{rule}: {stored:#?}")))
}
