use super::{
    piece,
    search::{Failure, Search},
};
use crate::history::{Answered, Call, History};
use queue_core::{
    Capabilities, Effect, Error, ErrorKind, Result, Timestamp,
    spec::{Answer, Op, World},
};

/// An operation of a history in which operations overlap: by which handle, from when to when, and what was answered.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) handle: usize,
    /// Read from one counter before the call, and after it: who ended before another began has a smaller `end`.
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) now: Timestamp,
    pub(super) op: Op,
    pub(super) answer: Answered,
}

impl Event {
    /// An operation that ran from `begin` to `end`, in the ticks of a counter that all handles share, at `now` by
    /// the store's clock.
    pub(super) fn new(
        handle: usize,
        (begin, end): (u64, u64),
        now: Timestamp,
        op: &Op,
        answer: &Result<Answer>,
    ) -> Self {
        Event { handle, begin, end, now, op: op.clone(), answer: Answered::of(answer) }
    }

    /// The event of a call in a history; `Err` says what it lacks.
    fn of(call: &Call) -> Result<Self, String> {
        let now = call.now.or(call.since).ok_or("nobody says at what time of the store it ran")?;
        let lost = || {
            Answered::of(&Err(
                Error::new(ErrorKind::Unavailable, "no answer").with_effect(Effect::Unknown)
            ))
        };
        let end = call.end.unwrap_or(u64::MAX);
        if call.begin >= end {
            return Err("it ends before it begins".to_owned());
        }
        Ok(Event {
            handle: call.handle,
            begin: call.begin,
            end,
            now,
            op: call.op.clone(),
            answer: call.answer.clone().unwrap_or_else(lost),
        })
    }

    /// The event as a history has it.
    pub(super) fn to_call(&self) -> Call {
        Call {
            handle: self.handle,
            begin: self.begin,
            end: Some(self.end),
            since: Some(self.now),
            now: Some(self.now),
            op: self.op.clone(),
            answer: Some(self.answer.clone()),
        }
    }

    /// Whether it may still take effect after its call has ended.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.answer.to_result(), Err(error) if error.effect() == Effect::Unknown)
    }

    /// Whether it is over before the other begins.
    pub(super) fn precedes(&self, other: &Event) -> bool {
        !self.is_open() && self.end < other.begin
    }

    /// Whether neither is over before the other begins.
    pub(super) fn overlaps(&self, other: &Event) -> bool {
        !self.precedes(other) && !other.precedes(self)
    }
}

/// What is known of a history as it grows: every state in which the store may be.
pub(super) struct Checker {
    worlds: Vec<World>,
    /// The events since something was left open. They are judged again with what comes.
    open: Vec<Event>,
    /// The most states that any search visited.
    pub(super) visited: usize,
}

impl Checker {
    pub(super) fn new(limits: Capabilities) -> Self {
        Checker { worlds: vec![World::new(limits)], open: Vec::new(), visited: 0 }
    }

    /// One of the states in which the store may be.
    pub(super) fn world(&self) -> &World {
        // Never empty: an event that leaves no state is a failure, and the check ends there.
        &self.worlds[0]
    }

    /// Whether an operation whose fate is unknown may still take effect.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes in events that began after all earlier ones had ended, and that have ended.
    pub(super) fn take(&mut self, events: &[Event]) -> Result<(), Failure> {
        let mut events = events.to_vec();
        events.sort_by_key(|event| event.begin);
        for quiet in segments(&events) {
            self.open.extend_from_slice(quiet);
            let units = piece::split(&self.open)?;
            let mut search = Search::new(&self.open, &units);
            let found = search.run(&self.worlds);
            self.visited = self.visited.max(search.visited());
            let worlds = found?;
            if !self.open.iter().any(Event::is_open) {
                self.worlds = worlds;
                self.open.clear();
            }
        }
        Ok(())
    }
}

/// Cuts a history, which is sorted, wherever nothing is under way.
fn segments(events: &[Event]) -> Vec<&[Event]> {
    let (mut segments, mut from, mut end) = (Vec::new(), 0, 0);
    for (at, event) in events.iter().enumerate() {
        if at > from && event.begin > end {
            segments.push(&events[from..at]);
            from = at;
        }
        end = end.max(event.end);
    }
    if from < events.len() {
        segments.push(&events[from..]);
    }
    segments
}

/// Checks a history in which calls overlap, and that began with an empty store: is there an order of the operations, one after the other, each between its begin and its
/// end, in which the specification allows every answer?
///
/// Operations on several items are taken item by item, as the contract has it. A claim or a reap that other
/// writes overlap may pass over jobs, and its `next_due` may come of two looks, at the leases and then at what waits. A job that supersedes another may come to be seen a moment after that one has
/// ended. What failed with `Effect::Unknown` may take effect at any time after its begin, or never. A change by a filter, a delete
/// and a read by a filter are taken as a whole: where writes overlap them, they should concern one job.
///
/// The time grows with the product of the lengths of what the handles do at once; three times four operations are
/// some hundred states.
///
/// # Errors
/// Why there is no such order; or what a call lacks; or that the search was given up.
pub fn check_parallel(history: &History) -> Result<(), String> {
    let events = history.calls.iter().enumerate().map(|(place, call)| {
        // The line of the saved file, whose first one names the store.
        Event::of(call).map_err(|why| format!("line {}: {why}", place + 2))
    });
    let events = events.collect::<Result<Vec<Event>, String>>()?;
    Checker::new(history.store.capabilities).take(&events).map_err(|failure| failure.to_string())
}
