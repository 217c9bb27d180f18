//! Schedules, and the small facts that processes share.

use queue_core::{Ack, Fire, Fired, Inserted, JobId, Outcome, Record, ScheduleStat, Uuid, Version};
use rusqlite::{Connection, params};

use crate::{
    codec::{self, every, first, id_bytes, int},
    error::Db,
    insert, sql,
    writer::Writing,
};

fn read_stat(row: &rusqlite::Row<'_>) -> Db<ScheduleStat> {
    let mut stat = ScheduleStat::new(row.get(0)?, codec::time(row.get(1)?)?);
    let last_job: Option<[u8; 16]> = row.get(2)?;
    stat.last_job = last_job.map(|id| JobId::from_uuid(Uuid::from_bytes(id)));
    stat.fired = codec::count(row.get(3)?)?;
    stat.skipped = codec::count(row.get(4)?)?;
    stat.last_error = row.get(5)?;
    Ok(stat)
}

pub(crate) fn schedules(db: &Connection) -> Db<Vec<ScheduleStat>> {
    every(&mut sql::prepare(db, sql::SCHEDULES)?, [], read_stat)
}

pub(crate) fn fire(writing: &mut Writing<'_>, fire: &Fire) -> Db<Fired> {
    let known = {
        let mut statement = sql::prepare(writing.db, sql::SCHEDULE_BY_NAME)?;
        first(&mut statement, [&fire.schedule], read_stat)?
    };
    if let Some(stat) = &known
        && fire.slot <= stat.last_slot
    {
        return Ok(Fired::Already { last_slot: stat.last_slot });
    }
    let inserted = fire.job.as_ref().map(|job| insert::insert_one(writing, job)).transpose()?;
    let fired = match inserted {
        None => Fired::Skipped(None),
        Some(Inserted::New(id)) => Fired::Enqueued(id),
        Some(Inserted::Existing(id)) => Fired::Skipped(Some(id)),
    };
    let mut stat = known.unwrap_or_else(|| ScheduleStat::new(fire.schedule.clone(), fire.slot));
    stat.count(fire.slot, &fired, fire.error.clone());
    sql::prepare(writing.db, sql::PUT_SCHEDULE)?.execute(params![
        stat.schedule,
        stat.last_slot.as_micros(),
        stat.last_job.as_ref().map(id_bytes),
        int(stat.fired),
        int(stat.skipped),
        stat.last_error,
    ])?;
    Ok(fired)
}

pub(crate) fn put_record(
    writing: &mut Writing<'_>,
    record: &Record,
    expect: Option<Version>,
) -> Db<Outcome> {
    let known: Option<i64> = codec::value(writing.db, sql::RECORD_VERSION, [&record.key])?;
    let actual = Version(codec::count(known.unwrap_or(0))?);
    if expect.is_some_and(|expected| expected != actual) {
        return Ok(Outcome::Conflict { actual });
    }
    let version = Version(actual.0 + 1);
    sql::prepare(writing.db, sql::PUT_RECORD)?.execute(params![
        record.key,
        record.body.as_ref().map(|body| body.as_str()),
        int(version.0),
        writing.now.as_micros(),
    ])?;
    writing.hints.insert(None);
    Ok(Outcome::Applied(Ack::editor(version)))
}
