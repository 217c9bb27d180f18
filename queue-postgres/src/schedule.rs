//! Schedules, and the small facts that processes share.

use queue_core::{
    Ack, Fire, Fired, JobId, Outcome, Payload, Record, Result, Uuid, Version, name::clean_message,
};

use crate::{
    args::Args,
    codec::{self, get},
    db::{self, Db},
    error, insert,
};

/// How often a conditional put asks that was told the version which it expects.
const TRIES: u32 = 8;

pub(crate) async fn fire(db: &Db, fire: &Fire) -> Result<Fired> {
    let jobs = fire.job.as_slice();
    let args = || {
        insert::args(db.now(), jobs)
            .with(fire.schedule.clone())
            .with(fire.slot.as_micros())
            .with(fire.error.as_deref().map(clean_message))
    };
    let rows = db.rows("fire", &db.sql.fire, args).await?;
    // The function answers with one row.
    let Some(row) = rows.first() else {
        return Err(error::corrupt("a fired slot without an answer"));
    };
    if let Some(last_slot) = get::<Option<i64>>(row, "already")? {
        return Ok(Fired::Already { last_slot: codec::time(last_slot)? });
    }
    let job = get::<Option<Uuid>>(row, "job")?.map(JobId::from_uuid);
    Ok(match (get(row, "made")?, job) {
        (true, Some(id)) => {
            insert::announce(db, jobs.iter());
            Fired::Enqueued(id)
        }
        (_, job) => Fired::Skipped(job),
    })
}

pub(crate) async fn put_record(
    db: &Db,
    record: &Record,
    expect: Option<Version>,
) -> Result<Outcome> {
    let text = if expect.is_some() { &db.sql.put_record_if } else { &db.sql.put_record };
    let args = || {
        let args = Args::new()
            .with(db.now())
            .with(record.key.clone())
            .with(record.body.as_ref().map(Payload::as_str).map(str::to_owned));
        match expect {
            None => args,
            Some(expected) => args.with(codec::int(expected.0)),
        }
    };
    for tried in 1..=TRIES {
        let rows = db.rows("put_record", text, args).await?;
        // Both statements answer with one row.
        let Some(row) = rows.first() else { return Err(error::corrupt("a put without an answer")) };
        if let Some(version) = get::<Option<i64>>(row, "version")? {
            db.hints.anywhere();
            return Ok(Outcome::Applied(Ack::editor(Version(codec::count(version)?))));
        }
        let actual = Version(codec::count(get::<Option<i64>>(row, "actual")?.unwrap_or_default())?);
        if Some(actual) != expect {
            return Ok(Outcome::Conflict { actual });
        }
        // A rival was first after this statement had begun.
        db::pause(tried).await;
    }
    Err(db::contention("put_record"))
}
