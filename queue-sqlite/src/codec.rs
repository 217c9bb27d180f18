//! Jobs as rows and back.

use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32, sync::LazyLock};

use queue_core::{
    CancelRequest, EntryId, EntryKind, Fence, Job, JobId, Keep, Lane, LogEntry, LogRead, NewEntry,
    NewJob, OnConflict, Payload, Progress, QueueName, Row, Seq, Settled, State, States, Timestamp,
    TransitionKind, Unique, Uuid, Version,
};
use rusqlite::{CachedStatement, Connection, OptionalExtension, types::ValueRef};

use crate::{
    error::{Db, Fault, corrupt},
    sql,
};

/// Inputs longer than this stand in a table of their own: a quarter of a page, so that most rows
/// that are rewritten by a claim or a heartbeat are short.
pub(crate) const LARGE_INPUT: usize = 1024;

/// A job as it is stored. Without payloads when it was read by a narrow statement.
pub(crate) struct StoredJob {
    /// The rowid.
    pub(crate) num: i64,
    pub(crate) row: Row,
    /// Whether the input stands in `queue_input`.
    pub(crate) large: bool,
}

/// What every row is filled into: the constructors of core mint ids.
static BLANK: LazyLock<Row> =
    LazyLock::new(|| Row::new(&NewJob::new("", Payload::null()), Timestamp::EPOCH));

pub(crate) fn id_bytes(id: &JobId) -> &[u8] {
    id.as_uuid().as_bytes()
}

/// Counters are u64 in the contract and i64 in SQLite; none of them gets there by adding one.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn time(micros: i64) -> Db<Timestamp> {
    Ok(Timestamp::from_micros(micros).map_err(corrupt)?)
}

pub(crate) fn payload(text: String) -> Db<Payload> {
    Ok(Payload::from_text(text).map_err(corrupt)?)
}

pub(crate) fn count(value: i64) -> Db<u64> {
    Ok(u64::try_from(value).map_err(corrupt)?)
}

fn known<T>(value: Option<T>, what: &'static str) -> Db<T> {
    value.ok_or_else(|| Fault::Contract(corrupt(what)))
}

pub(crate) fn queue_name(text: &str) -> Db<QueueName> {
    Ok(QueueName::new(text).map_err(corrupt)?)
}

/// The labels as the row keeps them: none at all for a job without labels.
pub(crate) fn labels_text(labels: &BTreeMap<String, String>) -> Option<String> {
    // A map of strings always serialises.
    (!labels.is_empty()).then(|| serde_json::to_string(labels).unwrap_or_default())
}

/// Reads the columns of `select_narrow.sql`.
pub(crate) fn read_narrow(from: &rusqlite::Row<'_>) -> Db<StoredJob> {
    let mut row = BLANK.clone();
    row.id = JobId::from_uuid(Uuid::from_bytes(from.get(1)?));
    row.queue = queue_name(from.get_ref(2)?.as_str().map_err(corrupt)?)?;
    row.kind = Cow::Owned(from.get(3)?);
    row.priority = from.get(5)?;
    row.created_at = time(from.get(14)?)?;
    row.progress = match from.get::<_, Option<u8>>(32)? {
        None => None,
        Some(percent) => {
            let mut progress = Progress::new(percent);
            progress.message = from.get(33)?;
            Some(progress)
        }
    };
    row.labels = match from.get_ref(34)? {
        ValueRef::Null => BTreeMap::new(),
        text => serde_json::from_str(text.as_str().map_err(corrupt)?).map_err(corrupt)?,
    };
    let control = &mut row.control;
    control.state = known(State::from_code(from.get(4)?), "a state")?;
    control.run_at = time(from.get(6)?)?;
    control.attempt = from.get(7)?;
    control.crashes = from.get(8)?;
    control.max_crashes = from.get(9)?;
    control.keep = match from.get::<_, i64>(10)? {
        0 => Keep::Always,
        _ => Keep::UnlessCompleted,
    };
    control.fence = fence(from.get(11)?, from.get(12)?)?;
    control.version = Version(count(from.get(13)?)?);
    control.started_at = from.get::<_, Option<i64>>(15)?.map(time).transpose()?;
    control.finished_at = from.get::<_, Option<i64>>(16)?.map(time).transpose()?;
    control.holder = match from.get_ref(17)? {
        ValueRef::Null => None,
        text => Some(text.as_str().map_err(corrupt)?.into()),
    };
    control.lease_until = from.get::<_, Option<i64>>(18)?.map(time).transpose()?;
    control.cancel = match from.get::<_, Option<i64>>(20)? {
        None => None,
        Some(at) => Some(CancelRequest::new(from.get::<_, String>(19)?, time(at)?)),
    };
    control.wake = from.get(21)?;
    control.settled = match from.get::<_, Option<u8>>(24)? {
        None => None,
        Some(kind) => {
            let kind = known(TransitionKind::from_code(kind), "a kind of settle")?;
            Some(Settled::new(fence(from.get(22)?, from.get(23)?)?, kind))
        }
    };
    control.lane = match from.get::<_, Option<u32>>(26)? {
        None => None,
        Some(limit) => {
            let limit = known(NonZeroU32::new(limit), "a lane's limit")?;
            Some(Lane::with_limit(from.get::<_, String>(25)?, limit))
        }
    };
    control.slot = from.get(27)?;
    control.unique = match from.get::<_, Option<u8>>(30)? {
        None => None,
        Some(mode) => {
            let mut unique = Unique::new(from.get::<_, String>(28)?);
            unique.within = States::from_bits(from.get(29)?);
            if mode != 0 {
                unique.on_conflict = OnConflict::Supersede;
            }
            Some(unique)
        }
    };
    control.log_len = count(from.get(31)?)?;
    Ok(StoredJob { num: from.get(0)?, row, large: from.get(35)? })
}

/// Reads the columns of `select_wide.sql`.
pub(crate) fn read_wide(from: &rusqlite::Row<'_>) -> Db<StoredJob> {
    let mut stored = read_narrow(from)?;
    stored.row.error = from.get::<_, Option<String>>(36)?.map(payload).transpose()?;
    stored.row.output = from.get::<_, Option<String>>(37)?.map(payload).transpose()?;
    stored.row.input = payload(from.get(38)?)?;
    Ok(stored)
}

fn fence(number: Option<i64>, nonce: Option<[u8; 16]>) -> Db<Fence> {
    let nonce = nonce.map_or(Uuid::nil(), Uuid::from_bytes);
    Ok(Fence::new(count(number.unwrap_or(0))?, nonce))
}

/// The first row of a statement, if there is one.
pub(crate) fn first<T>(
    statement: &mut CachedStatement<'_>,
    params: impl rusqlite::Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> Db<T>,
) -> Db<Option<T>> {
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// All rows of a statement.
pub(crate) fn every<T>(
    statement: &mut CachedStatement<'_>,
    params: impl rusqlite::Params,
    mut read: impl FnMut(&rusqlite::Row<'_>) -> Db<T>,
) -> Db<Vec<T>> {
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// The one value of a statement that gives at most one row with one value, NULL being none.
pub(crate) fn value<T: rusqlite::types::FromSql>(
    db: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Db<Option<T>> {
    let mut statement = sql::prepare(db, sql)?;
    Ok(statement.query_row(params, |row| row.get::<_, Option<T>>(0)).optional()?.flatten())
}

/// A job as users read it, with the part of its log that they ask for.
pub(crate) fn into_job(db: &Connection, stored: StoredJob, log: LogRead) -> Db<Job> {
    let entries = match log.after() {
        Some(after) if after.0 < stored.row.control.log_len => read_log(db, stored.num, after)?,
        _ => Vec::new(),
    };
    Ok(stored.row.into_job(entries))
}

fn read_log(db: &Connection, job: i64, after: Seq) -> Db<Vec<LogEntry>> {
    let mut statement = sql::prepare(db, sql::SELECT_LOG)?;
    let mut entries = every(&mut statement, (job, int(after.0)), |row| {
        let id = EntryId::from_uuid(Uuid::from_bytes(row.get(0)?));
        let kind = known(EntryKind::from_code(row.get(2)?), "a kind of log entry")?;
        let new = NewEntry::with_id(id, kind, payload(row.get(4)?)?);
        Ok(LogEntry::stored(new, Seq(count(row.get(1)?)?), time(row.get(3)?)?))
    })?;
    // They come in the order of their ids, which is nearly that of their positions.
    entries.sort_by_key(|entry| entry.seq);
    Ok(entries)
}
