//! What happens to jobs without their holders: reaping, bulk changes, deleting.

use std::num::NonZeroU32;

use queue_core::{
    BulkChange, BulkOutcome, Fence, JobError, JobFilter, JobId, Reaped, Result, State,
    name::clean_message,
};

use crate::{
    args::Args,
    codec::{self, get},
    db::Db,
    filter::Conditions,
};

/// Numbers that stand for a job's own in the template of an error.
const CRASHES: u32 = 4_000_000_001;
const ATTEMPT: u32 = 4_000_000_002;

/// Takes jobs whose lease is over from their holders.
pub(crate) async fn reap(db: &Db, limit: NonZeroU32) -> Result<Vec<Reaped>> {
    let args = || {
        Args::new()
            .with(db.now())
            .with(i64::from(limit.get()))
            .with(JobError::crashed(CRASHES, ATTEMPT).to_payload().as_str().to_owned())
            .with(CRASHES.to_string())
            .with(ATTEMPT.to_string())
    };
    let rows = db.rows("reap", &db.sql.reap, args).await?;
    let mut reaped = Vec::with_capacity(rows.len());
    for row in &rows {
        let queue = codec::queue_name(get(row, "queue")?)?;
        let state = codec::state(get(row, "state")?)?;
        if state == State::Waiting {
            db.hints.queue(queue.clone());
        }
        if get(row, "laned")? {
            db.hints.anywhere();
        }
        let fence = Fence::new(codec::count(get(row, "fence")?)?, get(row, "nonce")?);
        let crashes = codec::small(get(row, "crashes")?)?;
        reaped.push(Reaped::new(JobId::from_uuid(get(row, "id")?), queue, fence, state, crashes));
    }
    Ok(reaped)
}

/// What a change sets, and on which of the locked rows `k`; its own value is the parameter after `$1`.
fn fragments(change: &BulkChange) -> (&'static str, &'static str) {
    match change {
        BulkChange::Cancel { .. } => (
            "state = CASE WHEN k.state = 0 THEN 4 ELSE j.state END, version = j.version + 1, \
             finished_at = CASE WHEN k.state = 0 THEN t.now ELSE j.finished_at END, \
             cancel_reason = $2::text, cancel_at = t.now, \
             held_key = CASE WHEN k.state = 1 THEN j.held_key \
                 WHEN j.unique_mode = 0 AND (j.unique_within >> 4) & 1 = 1 THEN j.unique_key END",
            "(k.state = 0 OR k.cancel_at IS NULL)",
        ),
        BulkChange::Wake => (
            "run_at = CASE WHEN k.state = 0 THEN t.now ELSE j.run_at END, \
             version = j.version + CASE WHEN k.state = 0 THEN 1 ELSE 0 END, wake = k.state = 1",
            "(k.state = 1 OR k.run_at > t.now)",
        ),
        BulkChange::Priority(_) => ("rank = $2::integer, version = j.version + 1", "true"),
        _ => ("queue = $2::text, version = j.version + 1", "true"),
    }
}

/// Changes all matching jobs and counts them.
pub(crate) async fn update_where(
    db: &Db,
    filter: &JobFilter,
    change: &BulkChange,
) -> Result<BulkOutcome> {
    let conditions = Conditions::of(filter, 3);
    let (set, touched) = fragments(change);
    let text = include_str!("sql/update_where.sql")
        .replace("{set}", set)
        .replace("{touched}", touched)
        .replace("{filter}", conditions.text());
    let text = db.sql.expand(&text);
    let args = || {
        let args = Args::new().with(db.now());
        conditions.bind(match change {
            BulkChange::Cancel { reason } => args.with(clean_message(reason)),
            BulkChange::Priority(priority) => args.with(-i32::from(*priority)),
            BulkChange::Queue(queue) => args.with(queue.as_str().to_owned()),
            _ => args.with(None::<String>),
        })
    };
    let rows = db.rows("update_where", &text, args).await?;
    let mut counts = BulkOutcome::default();
    for row in &rows {
        *counts.count(change, State::Waiting) += codec::count(get(row, "waiting")?)?;
        *counts.count(change, State::Running) += codec::count(get(row, "running")?)?;
        *counts.count(change, State::Completed) += codec::count(get(row, "ended")?)?;
        if !matches!(change, BulkChange::Cancel { .. }) {
            for queue in get::<Vec<String>>(row, "queues")? {
                db.hints.queue(codec::queue_name(&queue)?);
            }
        }
    }
    Ok(counts)
}

/// Deletes matching jobs that do not run, the oldest first.
pub(crate) async fn delete(db: &Db, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
    let conditions = Conditions::of(filter, 1);
    // The limit stands in the text, for the same reason as in a listing.
    let text = include_str!("sql/delete.sql").replace("{filter}", conditions.text());
    let text = db.sql.expand(&text.replace("{limit}", &limit.to_string()));
    let args = || conditions.bind(Args::new());
    let rows = db.listing("delete", &text, args).await?;
    rows.first().map_or(Ok(0), |row| codec::count(get(row, "deleted")?))
}
