//! Inserts, updates, heartbeats, reaping, bulk changes and deletes.
//!
//! Each follows one pattern: read the row, let the rules of `queue-core` change it, save it.

use std::{num::NonZeroU32, ops::ControlFlow, time::Duration};

use queue_core::{
    Ack, BulkChange, BulkOutcome, Held, Inserted, JobFilter, JobUpdate, Judgement, NewJob, Outcome,
    Reaped, Row, Sort, State, clean_progress, spec::superseded_by,
};
use redb::{Error, ReadableTable};
use uuid::Uuid;

use crate::{
    document::{indexed_row, row},
    read::walk,
    work::Work,
};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn insert(work: &mut Work<'_>, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    jobs.iter().map(|job| insert_one(work, job)).collect()
}

pub(crate) fn insert_one(work: &mut Work<'_>, job: &NewJob) -> Result<Inserted> {
    if work.tables.jobs.get(*job.id.as_uuid())?.is_some() {
        return Ok(Inserted::Existing(job.id));
    }
    if let Some(unique) = &job.unique {
        let holder = work.tables.keys.get(unique.key.as_str())?.map(|holder| holder.value());
        if let Some(holder) = holder {
            let old = indexed_row(&work.tables, holder)?;
            if !old.control.yields_to(unique) {
                return Ok(Inserted::Existing(old.id));
            }
            let mut superseded = old.clone();
            superseded.control.cancel(&superseded_by(job.id), work.now);
            work.save(&old, &superseded)?;
        }
    }
    work.create(&Row::new(job, work.now))?;
    Ok(Inserted::New(job.id))
}

pub(crate) fn update(
    work: &mut Work<'_>,
    updates: &[JobUpdate],
    limit: u64,
) -> Result<Vec<Outcome>> {
    updates.iter().map(|update| update_one(work, update, limit)).collect()
}

fn update_one(work: &mut Work<'_>, update: &JobUpdate, limit: u64) -> Result<Outcome> {
    let Some(old) = row(&work.tables, *update.id.as_uuid())? else { return Ok(Outcome::Missing) };
    let patch = &update.patch;
    let transition = patch.transition.as_ref().map(|transition| transition.kind());
    let cancel = match old.control.judge(update.guard, transition) {
        Judgement::Apply(cancel) => cancel,
        Judgement::Refuse(outcome) => return Ok(outcome),
    };
    if u64::try_from(patch.largest_payload()).unwrap_or(u64::MAX) > limit {
        return Ok(Outcome::TooLarge { limit });
    }
    let mut row = old.clone();
    let ack = row.patch(update.guard, patch, cancel, work.now);
    if row.control.is_dropped() {
        work.remove(&old)?;
    } else {
        work.append(&mut row, &patch.log)?;
        if row != old {
            work.save(&old, &row)?;
        }
    }
    Ok(Outcome::Applied(ack))
}

pub(crate) fn heartbeat(
    work: &mut Work<'_>,
    held: &[Held],
    lease: Duration,
) -> Result<Vec<Outcome>> {
    held.iter().map(|held| heartbeat_one(work, held, lease)).collect()
}

fn heartbeat_one(work: &mut Work<'_>, held: &Held, lease: Duration) -> Result<Outcome> {
    let Some(old) = row(&work.tables, *held.id.as_uuid())? else { return Ok(Outcome::Missing) };
    if !old.control.is_held(held.fence) {
        return Ok(Outcome::Fenced);
    }
    let mut row = old.clone();
    row.control.heartbeat(lease, work.now);
    if let Some(progress) = &held.progress {
        row.progress = Some(clean_progress(progress));
    }
    work.save(&old, &row)?;
    Ok(Outcome::Applied(Ack::holder(row.control.cancel)))
}

pub(crate) fn reap(work: &mut Work<'_>, limit: NonZeroU32) -> Result<Vec<Reaped>> {
    let over = work.tables.leases.range(..=(work.now.as_micros(), Uuid::max()))?;
    let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
    let over = over.take(limit).map(|entry| Ok(entry?.0.value().1));
    let over = over.collect::<Result<Vec<Uuid>>>()?;
    over.into_iter().map(|id| reap_one(work, id)).collect()
}

fn reap_one(work: &mut Work<'_>, id: Uuid) -> Result<Reaped> {
    let old = indexed_row(&work.tables, id)?;
    let mut row = old.clone();
    row.reap(work.now);
    work.save(&old, &row)?;
    let Row { id, queue, control, .. } = row;
    Ok(Reaped::new(id, queue, old.control.fence, control.state, control.crashes))
}

pub(crate) fn update_where(
    work: &mut Work<'_>,
    filter: &JobFilter,
    change: &BulkChange,
) -> Result<BulkOutcome> {
    let mut outcome = BulkOutcome::default();
    for old in matching(work, filter, usize::MAX)? {
        *outcome.count(change, old.control.state) += 1;
        if let Some(operation) = old.control.bulk_operation(change, work.now) {
            let mut row = old.clone();
            row.change(operation, change, work.now);
            work.save(&old, &row)?;
        }
    }
    Ok(outcome)
}

pub(crate) fn delete(work: &mut Work<'_>, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
    let mut filter = filter.clone();
    filter.states = filter.states.iter().filter(|state| *state != State::Running).collect();
    let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
    let rows = matching(work, &filter, limit)?;
    for row in &rows {
        work.remove(row)?;
    }
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

/// The first matching rows, the oldest first. They are gathered before the first is changed: a walk in an index that moves
/// under it would meet some jobs twice and others never.
fn matching(work: &Work<'_>, filter: &JobFilter, limit: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    walk(&work.tables, filter, Sort::OldestFirst, None, |row| {
        rows.push(row);
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(rows)
}
