//! Claims with a filter by id, label or time: the filter drives the look-up.

use queue_core::{JobFilter, JobId, Lane, Order, Timestamp, Uuid};
use rusqlite::params_from_iter;
use std::num::NonZeroU32;

use super::{Candidate, Taking, Wanted};
use crate::{codec, error::Db, filter::Conditions, sql};

/// Takes due jobs in order, and answers when the next one of the others falls due. Costs time in
/// proportion to the waiting jobs that match.
pub(super) fn take(
    taking: &mut Taking<'_, '_>,
    wanted: &Wanted,
    filter: &JobFilter,
) -> Db<Option<Timestamp>> {
    let mut conditions = Conditions::of(filter);
    conditions.fixed("state = 0");
    let order = match taking.request.order {
        Order::Fifo => "priority DESC, run_at, id",
        Order::Lifo => "priority DESC, run_at DESC, id DESC",
    };
    let text = format!(
        "SELECT num, id, run_at, lane_key, lane_limit, queue, kind FROM queue_job WHERE {} ORDER BY {order}",
        conditions.text()
    );
    let now = taking.writing.now;
    let mut due = Vec::new();
    let mut future: Option<Timestamp> = None;
    {
        let mut statement = sql::prepare(taking.writing.db, &text)?;
        let mut rows = statement.query(params_from_iter(conditions.values()))?;
        while let Some(row) = rows.next()? {
            let (queue, kind) = (row.get_ref(5)?, row.get_ref(6)?);
            let texts = (queue.as_str(), kind.as_str());
            if !matches!(texts, (Ok(queue), Ok(kind)) if wanted.has(queue, kind)) {
                continue;
            }
            let candidate = read_candidate(row)?;
            let at = codec::time(candidate.place.0)?;
            match at <= now {
                true => due.push(candidate),
                false => future = Some(future.map_or(at, |known| known.min(at))),
            }
        }
    }
    for candidate in &due {
        if taking.left() == 0 {
            break;
        }
        taking.take(candidate)?;
    }
    Ok(future)
}

/// Reads `num, id, run_at, lane_key, lane_limit`.
pub(super) fn read_candidate(row: &rusqlite::Row<'_>) -> Db<Candidate> {
    let limit: Option<u32> = row.get(4)?;
    let lane = match limit.and_then(NonZeroU32::new) {
        None => None,
        Some(limit) => Some(Lane::with_limit(row.get::<_, String>(3)?, limit)),
    };
    let id = JobId::from_uuid(Uuid::from_bytes(row.get(1)?));
    Ok(Candidate { num: row.get(0)?, place: (row.get(2)?, id), lane })
}
