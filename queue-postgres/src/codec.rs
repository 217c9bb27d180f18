//! Jobs as rows and back.

use std::{borrow::Cow, num::NonZeroU32, sync::LazyLock};

use queue_core::{
    CancelRequest, EntryId, EntryKind, Error, Fence, Job, JobId, Keep, Lane, LogEntry, LogRead,
    NewEntry, NewJob, OnConflict, Payload, Progress, QueueName, Result, Row, Seq, State, States,
    Timestamp, Unique, Uuid, Version,
};
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow};

use crate::error::corrupt;

/// What every row is filled into: the constructors of core mint ids.
static BLANK: LazyLock<Row> =
    LazyLock::new(|| Row::new(&NewJob::new("", Payload::null()), Timestamp::EPOCH));

/// A column by its name.
pub(crate) fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(corrupt)
}

/// Counters are u64 in the contract and bigint here; none of them gets there by adding one.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_micros(micros).map_err(corrupt)
}

pub(crate) fn count(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(corrupt)
}

pub(crate) fn small(value: i64) -> Result<u32> {
    u32::try_from(value).map_err(corrupt)
}

pub(crate) fn payload(text: String) -> Result<Payload> {
    Payload::from_text(text).map_err(corrupt)
}

pub(crate) fn queue_name(text: &str) -> Result<QueueName> {
    QueueName::new(text).map_err(corrupt)
}

pub(crate) fn state(code: i16) -> Result<State> {
    known(u8::try_from(code).ok().and_then(State::from_code), "a state")
}

pub(crate) fn cancel(reason: Option<String>, at: Option<i64>) -> Result<Option<CancelRequest>> {
    at.map(|at| Ok(CancelRequest::new(reason.unwrap_or_default(), time(at)?))).transpose()
}

fn known<T>(value: Option<T>, what: &'static str) -> Result<T> {
    value.ok_or_else(|| corrupt(what))
}

fn optional_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?.map(time).transpose()
}

fn optional_payload(row: &PgRow, column: &str) -> Result<Option<Payload>> {
    get::<Option<String>>(row, column)?.map(payload).transpose()
}

/// The position after which a read wants the log; for none of it, one that no entry has.
pub(crate) fn after(log: LogRead) -> i64 {
    log.after().map_or(i64::MAX, |seq| int(seq.0))
}

/// Reads a job with its log.
pub(crate) fn job(from: &PgRow) -> Result<Job> {
    Ok(row(from)?.into_job(log(from)?))
}

/// Reads a job without its log.
pub(crate) fn row(from: &PgRow) -> Result<Row> {
    let mut row = BLANK.clone();
    row.id = JobId::from_uuid(get(from, "id")?);
    row.queue = queue_name(get(from, "queue")?)?;
    row.kind = Cow::Owned(get(from, "kind")?);
    row.priority = i16::try_from(-get::<i32>(from, "rank")?).map_err(corrupt)?;
    row.created_at = time(get(from, "created_at")?)?;
    row.input = payload(get(from, "input")?)?;
    row.output = optional_payload(from, "output")?;
    row.error = optional_payload(from, "error")?;
    row.progress = match get::<Option<i16>>(from, "progress")? {
        None => None,
        Some(percent) => {
            let mut progress = Progress::new(u8::try_from(percent).map_err(corrupt)?);
            progress.message = get(from, "progress_message")?;
            Some(progress)
        }
    };
    if let Some(labels) = get::<Option<&str>>(from, "labels")? {
        row.labels = serde_json::from_str(labels).map_err(corrupt)?;
    }
    let control = &mut row.control;
    control.state = state(get(from, "state")?)?;
    control.run_at = time(get(from, "run_at")?)?;
    control.attempt = small(get(from, "attempt")?)?;
    control.crashes = small(get(from, "crashes")?)?;
    control.max_crashes = small(get(from, "max_crashes")?)?;
    control.keep = match get::<i16>(from, "keep")? {
        0 => Keep::Always,
        _ => Keep::UnlessCompleted,
    };
    control.fence = Fence::new(count(get(from, "fence")?)?, get(from, "nonce")?);
    control.version = Version(count(get(from, "version")?)?);
    control.started_at = optional_time(from, "started_at")?;
    control.finished_at = optional_time(from, "finished_at")?;
    control.holder = get::<Option<&str>>(from, "holder")?.map(Into::into);
    control.lease_until = optional_time(from, "lease_until")?;
    control.cancel = cancel(get(from, "cancel_reason")?, get(from, "cancel_at")?)?;
    control.wake = get(from, "wake")?;
    control.lane = lane(get(from, "lane_key")?, get(from, "lane_limit")?)?;
    control.unique = match get::<Option<String>>(from, "unique_key")? {
        None => None,
        Some(key) => {
            let mut unique = Unique::new(key);
            unique.within = States::from_bits(
                u8::try_from(get::<i16>(from, "unique_within")?).map_err(corrupt)?,
            );
            if get::<i16>(from, "unique_mode")? != 0 {
                unique.on_conflict = OnConflict::Supersede;
            }
            Some(unique)
        }
    };
    control.log_len = count(get(from, "log_len")?)?;
    Ok(row)
}

pub(crate) fn lane(key: Option<String>, limit: Option<i64>) -> Result<Option<Lane>> {
    match (key, limit) {
        (Some(key), Some(limit)) => {
            let limit = known(NonZeroU32::new(small(limit)?), "a lane's limit")?;
            Ok(Some(Lane::with_limit(key, limit)))
        }
        _ => Ok(None),
    }
}

/// Reads the part of a log that stands beside its job.
fn log(from: &PgRow) -> Result<Vec<LogEntry>> {
    let Some(ids) = get::<Option<Vec<Uuid>>>(from, "log_ids")? else { return Ok(Vec::new()) };
    let seqs: Vec<i64> = get(from, "log_seqs")?;
    let kinds: Vec<i16> = get(from, "log_kinds")?;
    let ats: Vec<i64> = get(from, "log_ats")?;
    let bodies: Vec<String> = get(from, "log_bodies")?;
    let rest = seqs.into_iter().zip(kinds).zip(ats).zip(bodies);
    ids.into_iter()
        .zip(rest)
        .map(|(id, (((seq, kind), at), body))| {
            let kind = known(
                u8::try_from(kind).ok().and_then(EntryKind::from_code),
                "a kind of log entry",
            )?;
            let new = NewEntry::with_id(EntryId::from_uuid(id), kind, payload(body)?);
            Ok(LogEntry::stored(new, Seq(count(seq)?), time(at)?))
        })
        .collect::<Result<_, Error>>()
}
