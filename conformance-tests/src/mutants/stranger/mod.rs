//! Broken stores by somebody who had read the contract and not the suite.
//!
//! They go wrong as the authors of stores do: an index that orders differently, a text column that
//! compares loosely, a window that is too small, a row that is written back whole, an empty list that
//! means everything. Above each stands the sentence that it breaks, where the flaw's own does not say it.

mod batches;
mod bulk;
mod claims;
mod due;
mod heartbeats;
mod keys;
mod lanes;
mod logs;
mod outcomes;
mod pages;
mod reads;
mod reaps;
mod records;
mod repeats;
mod schedules;
mod selections;
mod settles;
mod sizes;
mod supersedes;
mod writes;

use queue_core::{
    ClaimRequest, Claimed, JobId, Order, Record, Row, State, Timestamp, Transition, TransitionKind,
    spec::{Stored, World},
};

use super::{Mutant, raw};

/// The mutants of all themes.
pub(super) fn mutants() -> Vec<Mutant> {
    let themes: [&[Mutant]; 20] = [
        bulk::MUTANTS,
        claims::MUTANTS,
        due::MUTANTS,
        batches::MUTANTS,
        outcomes::MUTANTS,
        pages::MUTANTS,
        reaps::MUTANTS,
        records::MUTANTS,
        schedules::MUTANTS,
        supersedes::MUTANTS,
        keys::MUTANTS,
        lanes::MUTANTS,
        heartbeats::MUTANTS,
        logs::MUTANTS,
        reads::MUTANTS,
        repeats::MUTANTS,
        selections::MUTANTS,
        settles::MUTANTS,
        sizes::MUTANTS,
        writes::MUTANTS,
    ];
    themes.concat()
}

/// A claim that does not know its token.
fn fresh_claim(world: &mut World, request: &ClaimRequest, now: Timestamp) -> Claimed {
    let picked = world.pick(request, now);
    raw::take(world, &picked, request, now)
}

/// Whether the job waits and is due.
fn is_due(row: &Row, now: Timestamp) -> bool {
    row.control.state == State::Waiting && row.control.run_at <= now
}

/// Whether the request asks for jobs like this one, pauses, lanes and due times aside.
fn is_asked_for(row: &Row, request: &ClaimRequest) -> bool {
    request.queues.contains(&row.queue)
        && request.kinds.contains(&row.kind)
        && request.filter.as_ref().is_none_or(|filter| row.matches(filter))
}

/// Whether the job's queue is paused.
fn is_paused(world: &World, row: &Row) -> bool {
    let key = Record::pause_key(&row.queue);
    world.records(&key).iter().any(|record| record.key == key)
}

/// The jobs of the world of which this holds, in the order of a claim.
fn in_order(world: &World, order: Order, holds: impl Fn(&Row) -> bool) -> Vec<JobId> {
    let mut rows: Vec<&Row> = world.jobs().map(|job| &job.row).filter(|row| holds(row)).collect();
    rows.sort_by(|a, b| {
        let place = (a.control.run_at, a.id).cmp(&(b.control.run_at, b.id));
        let place = if order == Order::Fifo { place } else { place.reverse() };
        b.priority.cmp(&a.priority).then(place)
    });
    rows.into_iter().map(|row| row.id).collect()
}

/// The start of the millisecond.
fn millis(at: Timestamp) -> Timestamp {
    Timestamp::from_micros_saturating(at.as_micros().div_euclid(1_000) * 1_000)
}

/// The instant one microsecond later.
fn next_micro(at: Timestamp) -> Timestamp {
    Timestamp::from_micros_saturating(at.as_micros() + 1)
}

/// The holder ended its run between these two, by this kind of transition.
fn settled_by(was: &Stored, is: &Stored, kind: TransitionKind) -> bool {
    was.row.control.state == State::Running
        && is.row.control.state != State::Running
        && is
            .row
            .control
            .settled
            .is_some_and(|own| own.kind == kind && own.fence == was.row.control.fence)
}

/// A retry or release of a job that was to be cancelled ended it between these two.
fn withdrawn(was: &Stored, is: &Stored) -> bool {
    is.row.control.state == State::Cancelled
        && (settled_by(was, is, TransitionKind::Retry)
            || settled_by(was, is, TransitionKind::Release))
}

/// The instant that a retry or a release asks for.
fn asked_due(transition: &mut Transition) -> Option<&mut queue_core::When> {
    match transition {
        Transition::Retry { when, .. } | Transition::Release { when } => Some(when),
        _ => None,
    }
}
