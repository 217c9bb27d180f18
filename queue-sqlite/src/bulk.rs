//! What happens to jobs without their holders: reaping, bulk changes, deleting.

use std::num::NonZeroU32;

use queue_core::{BulkChange, BulkOutcome, JobFilter, Reaped, State};
use rusqlite::params_from_iter;

use crate::{
    codec::{self, StoredJob, every, first, int},
    error::Db,
    filter::Conditions,
    sql, write,
    writer::Writing,
};

fn load(writing: &Writing<'_>, num: i64) -> Db<Option<StoredJob>> {
    let mut statement = sql::prepare(writing.db, sql::NARROW_BY_NUM)?;
    first(&mut statement, [num], codec::read_narrow)
}

/// Takes jobs whose lease is over from their holders.
pub(crate) fn reap(writing: &mut Writing<'_>, limit: NonZeroU32) -> Db<Vec<Reaped>> {
    let mut statement = sql::prepare(writing.db, sql::EXPIRED)?;
    let expired =
        every(&mut statement, (writing.now.as_micros(), limit.get()), |row| Ok(row.get(0)?))?;
    let mut reaped = Vec::with_capacity(expired.len());
    for num in expired {
        // It was found in this transaction, so it is there.
        let Some(mut stored) = load(writing, num)? else { continue };
        stored.row.reap(writing.now);
        write::put_control(writing.db, &stored)?;
        let row = &stored.row;
        if let Some(error) = &row.error {
            sql::prepare(writing.db, sql::ERROR)?.execute((num, error.as_str()))?;
        }
        hint(writing, &stored);
        let control = &row.control;
        let (state, crashes) = (control.state, control.crashes);
        reaped.push(Reaped::new(row.id, row.queue.clone(), control.fence, state, crashes));
    }
    Ok(reaped)
}

/// A job that waits may be due; one whose run ended may have left a lane.
fn hint(writing: &mut Writing<'_>, stored: &StoredJob) {
    let control = &stored.row.control;
    if control.state == State::Waiting {
        writing.hints.insert(Some(stored.row.queue.clone()));
    }
    if control.lane.is_some() && control.state != State::Running {
        writing.hints.insert(None);
    }
}

/// The rowids of the matching jobs; `index` and `rest` frame the conditions.
fn matching(
    writing: &Writing<'_>,
    index: &'static str,
    conditions: &Conditions,
    rest: &'static str,
) -> Db<Vec<i64>> {
    let text = format!("SELECT num FROM queue_job {index}WHERE {}{rest}", conditions.text());
    let mut statement = sql::prepare(writing.db, &text)?;
    every(&mut statement, params_from_iter(conditions.values()), |row| Ok(row.get(0)?))
}

/// Changes all matching jobs and counts them.
pub(crate) fn update_where(
    writing: &mut Writing<'_>,
    filter: &JobFilter,
    change: &BulkChange,
) -> Db<BulkOutcome> {
    let mut counts = BulkOutcome::default();
    for num in matching(writing, "", &Conditions::of(filter), "")? {
        // It was found in this transaction, so it is there.
        let Some(mut stored) = load(writing, num)? else { continue };
        *counts.count(change, stored.row.control.state) += 1;
        if let Some(operation) = stored.row.control.bulk_operation(change, writing.now) {
            stored.row.change(operation, change, writing.now);
            write::put_control(writing.db, &stored)?;
            hint(writing, &stored);
        }
    }
    Ok(counts)
}

/// Deletes matching jobs that do not run, the oldest first.
pub(crate) fn delete(writing: &mut Writing<'_>, filter: &JobFilter, limit: NonZeroU32) -> Db<u64> {
    let mut deleted = 0;
    for num in doomed(writing, filter, limit)? {
        // It was found in this transaction, so it is there.
        let Some(stored) = load(writing, num)? else { continue };
        write::drop_job(writing.db, &stored, &stored.row.labels)?;
        deleted += 1;
    }
    Ok(deleted)
}

const OLDEST_FIRST: &str = " ORDER BY created_at, id LIMIT ?";

/// The rowids of the jobs to delete.
///
/// With an upper bound of the end in two steps: jobs that ended before an instant were inserted before it, so a walk
/// from the oldest job may stop there, and neither the first nor the last call of a long clean-up reads
/// what stays. Only where the clock was set back is there anything for the second step, whose index
/// holds the end itself.
fn doomed(writing: &Writing<'_>, filter: &JobFilter, limit: NonZeroU32) -> Db<Vec<i64>> {
    let mut conditions = Conditions::of(filter);
    conditions.fixed("state <> 1");
    let index = Conditions::ordered_by(filter);
    let (Some(before), false) = (filter.finished.before, index.is_empty()) else {
        conditions.value(limit.get());
        return matching(writing, index, &conditions, OLDEST_FIRST);
    };
    let mut early = conditions.clone();
    early.fixed("created_at < ?");
    early.value(before.as_micros());
    early.value(limit.get());
    let mut found = matching(writing, "INDEXED BY queue_job_created ", &early, OLDEST_FIRST)?;
    let left = int(limit.get().into()) - int(found.len() as u64);
    if left > 0 {
        conditions.fixed("state > 1");
        conditions.fixed("created_at >= ?");
        conditions.value(before.as_micros());
        conditions.value(left);
        found.extend(matching(writing, "INDEXED BY queue_job_ended ", &conditions, OLDEST_FIRST)?);
    }
    Ok(found)
}
