//! Schedules and records.

use queue_core::{
    Ack, Fire, Fired, Inserted, Outcome, PAUSED_QUEUE, QueueName, Record, ScheduleStat, Version,
};
use redb::{Error, ReadableTable};

use crate::{document::decode, tables::View, work::Work, write::insert_one};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn fire(work: &mut Work<'_>, fire: &Fire) -> Result<Fired> {
    let known = work.tables.schedules.get(fire.schedule.as_str())?;
    let known = known.map(|bytes| decode::<ScheduleStat>(bytes.value())).transpose()?;
    if let Some(last_slot) =
        known.as_ref().map(|stat| stat.last_slot).filter(|last| *last >= fire.slot)
    {
        return Ok(Fired::Already { last_slot });
    }
    let fired = match &fire.job {
        None => Fired::Skipped(None),
        Some(job) => match insert_one(work, job)? {
            Inserted::New(id) => Fired::Enqueued(id),
            Inserted::Existing(id) => Fired::Skipped(Some(id)),
        },
    };
    let mut stat = known.unwrap_or_else(|| ScheduleStat::new(fire.schedule.clone(), fire.slot));
    stat.count(fire.slot, &fired, fire.error.clone());
    work.put_schedule(&fire.schedule, &stat)?;
    Ok(fired)
}

pub(crate) fn schedules(view: &impl View) -> Result<Vec<ScheduleStat>> {
    view.schedules().iter()?.map(|entry| decode(entry?.1.value())).collect()
}

pub(crate) fn records(view: &impl View, prefix: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in view.records().range(prefix..)? {
        let (key, bytes) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let record: Record = decode(bytes.value())?;
        if record.body.is_some() {
            records.push(record);
        }
    }
    Ok(records)
}

pub(crate) fn put_record(
    work: &mut Work<'_>,
    record: &Record,
    expect: Option<Version>,
) -> Result<Outcome> {
    let known = work.tables.records.get(record.key.as_str())?;
    let known = known.map(|bytes| decode::<Record>(bytes.value())).transpose()?;
    let actual = known.map_or(Version(0), |known| known.version);
    if expect.is_some_and(|expected| expected != actual) {
        return Ok(Outcome::Conflict { actual });
    }
    let mut stored = record.clone();
    stored.version = Version(actual.0 + 1);
    stored.updated_at = work.now;
    work.put_record(&record.key, &stored)?;
    if let Some(queue) = record.key.strip_prefix(PAUSED_QUEUE).filter(|_| record.body.is_none()) {
        work.hint(QueueName::new(queue).ok());
    }
    Ok(Outcome::Applied(Ack::editor(stored.version)))
}
