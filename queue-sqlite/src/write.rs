//! Writing back what the rules of core made of a job.

use std::collections::BTreeMap;

use queue_core::{Control, Row};
use rusqlite::{CachedStatement, Connection, params};

use crate::{
    codec::{StoredJob, int, labels_text},
    error::Db,
    sql,
};

/// The unique key, while the job holds it.
pub(crate) fn held_key(control: &Control) -> Option<&str> {
    let held = control.unique.as_ref().filter(|_| control.holds_key());
    held.map(|unique| unique.key.as_str())
}

/// Writes what happened to a job without its holder.
pub(crate) fn put_control(db: &Connection, stored: &StoredJob) -> Db<()> {
    let (row, control) = (&stored.row, &stored.row.control);
    sql::prepare(db, sql::CONTROL)?.execute(params![
        stored.num,
        row.queue.as_str(),
        row.priority,
        control.state.code(),
        control.attempt,
        control.crashes,
        int(control.version.0),
        control.run_at.as_micros(),
        control.finished_at.map(|at| at.as_micros()),
        control.holder.as_deref(),
        control.lease_until.map(|at| at.as_micros()),
        control.cancel.as_ref().map(|cancel| &cancel.reason),
        control.cancel.as_ref().map(|cancel| cancel.at.as_micros()),
        control.wake,
        control.slot,
        held_key(control),
    ])?;
    Ok(())
}

/// Writes a claim by [`sql::CLAIM`]. Answers whether the job was still waiting.
pub(crate) fn put_claim(statement: &mut CachedStatement<'_>, stored: &StoredJob) -> Db<()> {
    let control = &stored.row.control;
    statement.execute(params![
        stored.num,
        control.attempt,
        int(control.fence.count),
        &control.fence.nonce.as_bytes()[..],
        int(control.version.0),
        control.started_at.map(|at| at.as_micros()),
        control.holder.as_deref(),
        control.lease_until.map(|at| at.as_micros()),
        control.wake,
        control.slot,
        held_key(control),
    ])?;
    Ok(())
}

/// Whether a settle brings its own error and output, or leaves those of earlier attempts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payloads {
    Write,
    Leave,
}

/// Writes a settle.
pub(crate) fn put_settle(db: &Connection, stored: &StoredJob, payloads: Payloads) -> Db<()> {
    let (row, control) = (&stored.row, &stored.row.control);
    let settled = control.settled.as_ref();
    let (progress, message) = progress(row);
    let mut statement = sql::prepare(
        db,
        match payloads {
            Payloads::Write => sql::SETTLE,
            Payloads::Leave => sql::RELEASE,
        },
    )?;
    let shared = params![
        stored.num,
        control.state.code(),
        control.attempt,
        int(control.version.0),
        control.run_at.as_micros(),
        control.finished_at.map(|at| at.as_micros()),
        control.holder.as_deref(),
        control.lease_until.map(|at| at.as_micros()),
        control.cancel.as_ref().map(|cancel| &cancel.reason),
        control.cancel.as_ref().map(|cancel| cancel.at.as_micros()),
        control.wake,
        control.slot,
        settled.map(|settled| int(settled.fence.count)),
        settled.map(|settled| &settled.fence.nonce.as_bytes()[..]),
        settled.map(|settled| settled.kind.code()),
        held_key(control),
        int(control.log_len),
        progress,
        message,
        labels_text(&row.labels),
    ];
    let own: &[&dyn rusqlite::ToSql] = match payloads {
        Payloads::Write => params![
            row.error.as_ref().map(|error| error.as_str()),
            row.output.as_ref().map(|output| output.as_str()),
        ],
        Payloads::Leave => &[],
    };
    for (index, value) in (1..).zip(shared.iter().chain(own)) {
        statement.raw_bind_parameter(index, value)?;
    }
    statement.raw_execute()?;
    Ok(())
}

/// Writes what changes nothing of a job's fate: log length, progress, labels, version.
pub(crate) fn put_notes(db: &Connection, stored: &StoredJob) -> Db<()> {
    let (row, control) = (&stored.row, &stored.row.control);
    let (progress, message) = progress(row);
    sql::prepare(db, sql::ANNOTATE)?.execute(params![
        stored.num,
        int(control.version.0),
        int(control.log_len),
        progress,
        message,
        labels_text(&row.labels),
    ])?;
    Ok(())
}

/// Writes a heartbeat.
pub(crate) fn put_heartbeat(db: &Connection, stored: &StoredJob) -> Db<()> {
    let lease_until = stored.row.control.lease_until.map(|at| at.as_micros());
    let (progress, message) = progress(&stored.row);
    sql::prepare(db, sql::HEARTBEAT)?.execute((stored.num, lease_until, progress, message))?;
    Ok(())
}

fn progress(row: &Row) -> (Option<u8>, Option<&str>) {
    let progress = row.progress.as_ref();
    (
        progress.map(|progress| progress.percent),
        progress.and_then(|progress| progress.message.as_deref()),
    )
}

/// Adds labels to the index.
pub(crate) fn put_labels(db: &Connection, num: i64, labels: &BTreeMap<String, String>) -> Db<()> {
    for (key, value) in labels {
        sql::prepare(db, sql::PUT_LABEL)?.execute((key, value, num))?;
    }
    Ok(())
}

/// Takes labels out of the index.
pub(crate) fn drop_labels(db: &Connection, num: i64, labels: &BTreeMap<String, String>) -> Db<()> {
    for (key, value) in labels {
        sql::prepare(db, sql::DROP_LABEL)?.execute((key, value, num))?;
    }
    Ok(())
}

/// Deletes a job with everything that belongs to it. `labels` are those that the index has.
pub(crate) fn drop_job(
    db: &Connection,
    stored: &StoredJob,
    labels: &BTreeMap<String, String>,
) -> Db<()> {
    if stored.row.control.log_len > 0 {
        sql::prepare(db, sql::DROP_LOG)?.execute([stored.num])?;
    }
    if stored.large {
        sql::prepare(db, sql::DROP_INPUT)?.execute([stored.num])?;
    }
    drop_labels(db, stored.num, labels)?;
    sql::prepare(db, sql::DROP_JOB)?.execute([stored.num])?;
    Ok(())
}
