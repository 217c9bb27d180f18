#![doc = include_str!("effects.md")]

use std::{fmt::Write as _, sync::Arc};

use crate::{CancelRequest, Control, Fence, Settled, State, Timestamp};

/// What happens to a job, as seen from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A worker takes the job.
    Claim,
    /// The holder renews its lease.
    Heartbeat,
    /// The holder completes.
    Complete,
    /// The holder fails for good.
    Fail,
    /// The holder cancels.
    CancelByHolder,
    /// The holder's attempt failed and is to be repeated.
    Retry,
    /// The holder gives back.
    Release,
    /// The holder gives back a job that was woken meanwhile.
    ReleaseWoken,
    /// The holder retries or gives back a job that is to be cancelled.
    Withdraw,
    /// The lease is over.
    Reap,
    /// The lease is over, once too often.
    ReapExhausted,
    /// The lease of a job that is to be cancelled is over.
    ReapCancelled,
    /// An operator cancels a waiting job.
    CancelWaiting,
    /// An operator asks a running job to stop.
    CancelRunning,
    /// A waiting job is made due.
    WakeWaiting,
    /// A running job is told that something happened.
    WakeRunning,
    /// Labels, priority or queue change; or progress, by somebody else than the holder.
    Edit,
    /// The holder reports progress, or anybody appends to the log.
    Append,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// It stays.
    Keep,
    /// The store's now.
    Now,
    /// What the call says.
    Given,
    /// Empty.
    Clear,
    /// What the call says, unless something is there already.
    GivenIfEmpty,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effect {
    /// What happens.
    pub operation: Operation,
    /// The state it happens in; `None`: any.
    pub from: Option<State>,
    /// The state it leads to; `None`: the same.
    pub to: Option<State>,
    /// Added to `attempt`.
    pub attempt: i8,
    /// Added to `crashes`.
    pub crashes: i8,
    /// Added to `fence.count`; where it is, the nonce is the claim's token.
    pub fence: i8,
    /// Added to `version`.
    pub version: i8,
    /// The holder.
    pub holder: Set,
    /// The end of the lease.
    pub lease: Set,
    /// When the job is due.
    pub run_at: Set,
    /// When the latest attempt began.
    pub started: Set,
    /// When the job ended.
    pub finished: Set,
    /// The request to cancel.
    pub cancel: Set,
    /// The mark left by a wake.
    pub wake: Set,
    /// The lane's slot.
    pub slot: Set,
    /// The memory of the holder's own settle.
    pub settled: Set,
}

/// Nothing changes.
const STILL: Effect = Effect {
    operation: Operation::Append,
    from: None,
    to: None,
    attempt: 0,
    crashes: 0,
    fence: 0,
    version: 0,
    holder: Set::Keep,
    lease: Set::Keep,
    run_at: Set::Keep,
    started: Set::Keep,
    finished: Set::Keep,
    cancel: Set::Keep,
    wake: Set::Keep,
    slot: Set::Keep,
    settled: Set::Keep,
};

/// A run ends: whoever held the job, its lane and the wake mark are gone.
const ENDED: Effect = Effect {
    from: Some(State::Running),
    version: 1,
    holder: Set::Clear,
    lease: Set::Clear,
    wake: Set::Clear,
    slot: Set::Clear,
    ..STILL
};

/// A run is ended by its holder, who may ask again.
const SETTLED: Effect = Effect { settled: Set::Given, ..ENDED };

/// What each operation does. The unique key is not in it: a job holds its key as
/// [`Control::holds_key`] says, whatever made it enter or leave the scope.
pub const TABLE: [Effect; 18] = [
    Effect {
        operation: Operation::Claim,
        from: Some(State::Waiting),
        to: Some(State::Running),
        attempt: 1,
        fence: 1,
        version: 1,
        holder: Set::Given,
        lease: Set::Given,
        started: Set::Now,
        wake: Set::Clear,
        slot: Set::Given,
        ..STILL
    },
    Effect {
        operation: Operation::Heartbeat,
        from: Some(State::Running),
        lease: Set::Given,
        ..STILL
    },
    Effect {
        operation: Operation::Complete,
        to: Some(State::Completed),
        finished: Set::Now,
        ..SETTLED
    },
    Effect { operation: Operation::Fail, to: Some(State::Failed), finished: Set::Now, ..SETTLED },
    Effect {
        operation: Operation::CancelByHolder,
        to: Some(State::Cancelled),
        finished: Set::Now,
        cancel: Set::GivenIfEmpty,
        ..SETTLED
    },
    Effect { operation: Operation::Retry, to: Some(State::Waiting), run_at: Set::Given, ..SETTLED },
    Effect {
        operation: Operation::Release,
        to: Some(State::Waiting),
        attempt: -1,
        run_at: Set::Given,
        ..SETTLED
    },
    Effect {
        operation: Operation::ReleaseWoken,
        to: Some(State::Waiting),
        attempt: -1,
        run_at: Set::Now,
        ..SETTLED
    },
    Effect {
        operation: Operation::Withdraw,
        to: Some(State::Cancelled),
        finished: Set::Now,
        ..SETTLED
    },
    Effect {
        operation: Operation::Reap,
        to: Some(State::Waiting),
        attempt: -1,
        crashes: 1,
        ..ENDED
    },
    Effect {
        operation: Operation::ReapExhausted,
        to: Some(State::Failed),
        attempt: -1,
        crashes: 1,
        finished: Set::Now,
        ..ENDED
    },
    Effect {
        operation: Operation::ReapCancelled,
        to: Some(State::Cancelled),
        attempt: -1,
        crashes: 1,
        finished: Set::Now,
        ..ENDED
    },
    Effect {
        operation: Operation::CancelWaiting,
        from: Some(State::Waiting),
        to: Some(State::Cancelled),
        version: 1,
        finished: Set::Now,
        cancel: Set::Given,
        ..STILL
    },
    Effect {
        operation: Operation::CancelRunning,
        from: Some(State::Running),
        version: 1,
        cancel: Set::Given,
        ..STILL
    },
    Effect {
        operation: Operation::WakeWaiting,
        from: Some(State::Waiting),
        version: 1,
        run_at: Set::Now,
        ..STILL
    },
    Effect {
        operation: Operation::WakeRunning,
        from: Some(State::Running),
        wake: Set::Given,
        ..STILL
    },
    Effect { operation: Operation::Edit, version: 1, ..STILL },
    STILL,
];

impl Operation {
    /// Its row of the table.
    pub fn effect(self) -> &'static Effect {
        // Every operation has a row: `every_operation_has_exactly_one_row`.
        &TABLE[TABLE.iter().position(|effect| effect.operation == self).unwrap_or(TABLE.len() - 1)]
    }
}

/// What a call brings along for the fields that the table marks as [`Set::Given`] or [`Set::Now`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Given {
    /// The store's now.
    pub now: Timestamp,
    /// When the job is due.
    pub run_at: Timestamp,
    /// Until when it is held.
    pub lease_until: Timestamp,
    /// Who claims.
    pub holder: Option<Arc<str>>,
    /// The claim's token.
    pub token: uuid::Uuid,
    /// The lane's slot taken.
    pub slot: Option<u32>,
    /// The reason of a cancel.
    pub reason: Option<String>,
    /// The settle to remember.
    pub settled: Option<Settled>,
}

impl Given {
    /// A call at this time that brings nothing else.
    pub const fn at(now: Timestamp) -> Self {
        Given {
            now,
            run_at: now,
            lease_until: now,
            holder: None,
            token: uuid::Uuid::nil(),
            slot: None,
            reason: None,
            settled: None,
        }
    }
}

fn set<T>(field: &mut Option<T>, set: Set, now: Option<T>, given: impl FnOnce() -> Option<T>) {
    match set {
        Set::Keep => {}
        Set::Now => *field = now,
        Set::Given => *field = given(),
        Set::Clear => *field = None,
        Set::GivenIfEmpty => {
            if field.is_none() {
                *field = given();
            }
        }
    }
}

impl Control {
    /// Applies a row of the table.
    pub fn apply(&mut self, operation: Operation, given: Given) {
        let effect = operation.effect();
        debug_assert!(
            effect.from.is_none_or(|from| from == self.state),
            "{operation:?} on {self:?}"
        );
        self.state = effect.to.unwrap_or(self.state);
        self.attempt = self.attempt.saturating_add_signed(effect.attempt.into());
        self.crashes = self.crashes.saturating_add_signed(effect.crashes.into());
        if effect.fence != 0 {
            let count = self.fence.count.saturating_add_signed(effect.fence.into());
            self.fence = Fence::new(count, given.token);
        }
        self.version.0 = self.version.0.saturating_add_signed(effect.version.into());
        set(&mut self.holder, effect.holder, None, || given.holder);
        set(&mut self.lease_until, effect.lease, Some(given.now), || Some(given.lease_until));
        let mut run_at = Some(self.run_at);
        set(&mut run_at, effect.run_at, Some(given.now), || Some(given.run_at));
        self.run_at = run_at.unwrap_or(self.run_at);
        set(&mut self.started_at, effect.started, Some(given.now), || None);
        set(&mut self.finished_at, effect.finished, Some(given.now), || None);
        set(&mut self.cancel, effect.cancel, None, || {
            given.reason.map(|reason| CancelRequest::new(reason, given.now))
        });
        match effect.wake {
            Set::Given => self.wake = true,
            Set::Clear => self.wake = false,
            Set::Keep | Set::Now | Set::GivenIfEmpty => {}
        }
        set(&mut self.slot, effect.slot, None, || given.slot);
        set(&mut self.settled, effect.settled, None, || given.settled);
    }
}

/// The table as a Markdown page.
pub fn markdown() -> String {
    let mut page = String::from(
        "| operation | from | to | attempt | crashes | fence | version | holder | lease | run_at | started | \
         finished | cancel | wake | lane slot | settled |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for effect in &TABLE {
        let state = |state: Option<State>, none| state.map_or(none, State::as_str);
        let delta = |delta: i8| if delta == 0 { String::new() } else { format!("{delta:+}") };
        let set = |set| match set {
            Set::Keep => "",
            Set::Now => "now",
            Set::Given => "set",
            Set::Clear => "clear",
            Set::GivenIfEmpty => "set if empty",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| {:?} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            effect.operation,
            state(effect.from, "any"),
            state(effect.to, "same"),
            delta(effect.attempt),
            delta(effect.crashes),
            delta(effect.fence),
            delta(effect.version),
            set(effect.holder),
            set(effect.lease),
            set(effect.run_at),
            set(effect.started),
            set(effect.finished),
            set(effect.cancel),
            set(effect.wake),
            set(effect.slot),
            set(effect.settled),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_exactly_one_row() {
        for (index, effect) in TABLE.iter().enumerate() {
            let rows = TABLE.iter().filter(|other| other.operation == effect.operation).count();
            assert_eq!(rows, 1, "{:?}", effect.operation);
            assert_eq!(effect.operation.effect(), &TABLE[index]);
        }
    }

    #[test]
    fn every_change_of_state_is_in_the_transition_table() {
        for effect in &TABLE {
            let (Some(from), Some(to)) = (effect.from, effect.to) else { continue };
            assert!(from.next().contains(to), "{:?}", effect.operation);
            assert_eq!(effect.version, 1, "{:?} changes the state unseen", effect.operation);
            assert_eq!(to.is_final(), effect.finished == Set::Now, "{:?}", effect.operation);
        }
    }

    #[test]
    fn a_run_that_ends_frees_lane_and_lease_and_only_a_claim_raises_the_fence() {
        for effect in &TABLE {
            if effect.from == Some(State::Running) && effect.to.is_some() {
                assert_eq!(effect.slot, Set::Clear, "{:?}", effect.operation);
                assert_eq!(effect.lease, Set::Clear, "{:?}", effect.operation);
            }
            assert_eq!(effect.fence == 1, effect.operation == Operation::Claim);
        }
    }

    #[test]
    fn the_page_in_the_docs_is_printed_from_the_table() {
        let page = include_str!("effects.md");
        assert!(
            page.contains(&markdown()),
            "effects.md is stale; its table must read:\n{}",
            markdown()
        );
    }
}
