//! Schedules, and the small facts that processes share.

use futures::TryStreamExt;
use mongodb::{
    bson::{Bson, Document, doc},
    options::ReturnDocument,
};
use queue_core::{
    Ack, Fire, Fired, Inserted, JobId, NewJob, Outcome, Record, Result, ScheduleStat, Timestamp,
    Version,
};

use crate::{
    StopAfter,
    cas::ROUNDS,
    codec::{self, Read as _},
    connect::{Db, SCHEDULES},
    error::{Call, DUPLICATE, code_of, contention, corrupt, from_driver},
    insert::{self, Source},
    intent::Intent,
    reply,
};

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

fn write_failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Write, error)
}

fn read_stat(document: &Document) -> Result<ScheduleStat> {
    let mut stat = ScheduleStat::new(document.text("_id")?.to_owned(), document.time("last_slot")?);
    stat.last_job = document.maybe("last_job", Document::id)?.map(JobId::from_uuid);
    stat.fired = document.count("fired")?;
    stat.skipped = document.count("skipped")?;
    stat.last_error = document.maybe("last_error", |d, key| d.text(key).map(str::to_owned))?;
    Ok(stat)
}

/// What is known of every schedule.
///
/// A slot that was taken has been fired, though whoever did so may have died before its job was inserted or the slot was
/// counted: that is done first, or the job could be seen before its slot.
pub(crate) async fn schedules(db: &Db) -> Result<Vec<ScheduleStat>> {
    for round in 0..ROUNDS {
        if round > 0 {
            reply::pause(round).await;
        }
        let found = db.schedules.find(doc! {}).sort(doc! { "_id": 1 }).await.map_err(failed)?;
        let documents: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let mut is_whole = true;
        for taken in documents.iter().filter(|document| document.has("pending")) {
            is_whole = false;
            let _ = finish(db, taken).await?;
        }
        if is_whole {
            return documents.iter().map(read_stat).collect();
        }
    }
    Err(contention())
}

/// Fires a slot.
///
/// The write that takes the slot carries the job; it is inserted, and then the slot is counted and the job cleared in
/// one write, by whoever gets there first.
pub(crate) async fn fire(db: &Db, fire: &Fire) -> Result<Fired> {
    let now = db.now().await?;
    for round in 0..ROUNDS {
        if round > 0 {
            reply::pause(round).await;
        }
        let known = db.schedules.find_one(doc! { "_id": &fire.schedule }).await.map_err(failed)?;
        if let Some(known) = &known {
            if known.has("pending") {
                let _ = finish(db, known).await?;
                continue;
            }
            let last_slot = known.time("last_slot")?;
            if fire.slot <= last_slot {
                return Ok(Fired::Already { last_slot });
            }
        }
        let Some(taken) = take_slot(db, fire, known.as_ref(), now).await? else { continue };
        db.stop_point(StopAfter::Slot)?;
        return match finish(db, &taken).await? {
            (fired, true) => Ok(fired),
            (found, false) => finished_by_another(db, fire, found).await,
        };
    }
    Err(contention())
}

/// Takes the slot, the job with it. `None`: another call was faster.
async fn take_slot(
    db: &Db,
    fire: &Fire,
    known: Option<&Document>,
    now: Timestamp,
) -> Result<Option<Document>> {
    let mut pending = doc! { "slot": fire.slot.as_micros(), "at": now.as_micros() };
    if let Some(job) = &fire.job {
        // A job is a value of core, which knows how to write and read it.
        pending.insert("job", serde_json::to_string(job).map_err(corrupt)?);
    }
    if let Some(error) = &fire.error {
        pending.insert("error", queue_core::name::clean_message(error));
    }
    let mut taken = doc! { "_id": &fire.schedule, "rev": 1_i64 };
    if let Some(known) = known {
        taken = known.clone();
        taken.insert("rev", known.int("rev")? + 1);
    }
    // What readers see of a schedule changes as one, when the slot is counted: until then `pending` alone names the slot.
    taken.insert("pending", pending);
    let written = match known {
        None => db.schedules.insert_one(&taken).await.map(|_| 1),
        Some(known) => {
            let unmoved = doc! { "_id": &fire.schedule, "rev": known.int("rev")? };
            db.schedules.replace_one(unmoved, &taken).await.map(|done| done.matched_count)
        }
    };
    match written {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(taken)),
        Err(error) if code_of(&error) == Some(DUPLICATE) => Ok(None),
        Err(error) => Err(write_failed(error)),
    }
}

/// Inserts the job of a slot that was taken, counts the slot and clears it. What it found, and whether it was this call that
/// counted it.
async fn finish(db: &Db, taken: &Document) -> Result<(Fired, bool)> {
    let name = taken.text("_id")?;
    let pending = taken.get_document("pending").map_err(corrupt)?;
    let slot = pending.time("slot")?;
    let job: Option<NewJob> = match pending.has("job") {
        false => None,
        true => Some(serde_json::from_str(pending.text("job")?).map_err(corrupt)?),
    };
    let fired = match &job {
        None => Fired::Skipped(None),
        Some(job) => {
            let stands = doc! { "_id": name, "rev": taken.int("rev")? };
            let source = Source {
                document: doc! { "schedule": name },
                intent: Intent { collection: SCHEDULES, stands },
            };
            match insert::insert_one(db, job, Some(source), pending.time("at")?).await? {
                Inserted::New(id) => Fired::Enqueued(id),
                Inserted::Existing(id) if id == job.id && is_ours(db, &id).await? => {
                    Fired::Enqueued(id)
                }
                Inserted::Existing(id) => Fired::Skipped(Some(id)),
            }
        }
    };
    db.stop_point(StopAfter::SlotJob)?;
    let mut stat = match taken.has("fired") {
        true => read_stat(taken)?,
        false => ScheduleStat::new(name.to_owned(), slot),
    };
    let error = pending.maybe("error", |d, key| d.text(key).map(str::to_owned))?;
    stat.count(slot, &fired, error);
    let mut counted = doc! {
        "_id": name,
        "rev": taken.int("rev")? + 1,
        "last_slot": slot.as_micros(),
        "fired": codec::int(stat.fired),
        "skipped": codec::int(stat.skipped),
    };
    if let Some(id) = &stat.last_job {
        counted.insert("last_job", codec::job_id(id));
    }
    if let Some(error) = &stat.last_error {
        counted.insert("last_error", error);
    }
    let unmoved = doc! { "_id": name, "rev": taken.int("rev")? };
    let done = db.schedules.replace_one(unmoved, counted).await.map_err(write_failed)?;
    Ok((fired, done.matched_count == 1))
}

/// The answer of a call whose slot another call has counted meanwhile, and what it had found itself.
async fn finished_by_another(db: &Db, fire: &Fire, found: Fired) -> Result<Fired> {
    let Some(job) = &fire.job else { return Ok(Fired::Skipped(None)) };
    if is_ours(db, &job.id).await? {
        return Ok(Fired::Enqueued(job.id));
    }
    let known = db.schedules.find_one(doc! { "_id": &fire.schedule }).await.map_err(failed)?;
    let Some(known) = known else { return Ok(found) };
    // The other one may have enqueued it, and it has run and is deleted.
    if known.get("last_job") == Some(&codec::job_id(&job.id)) {
        return Ok(Fired::Enqueued(job.id));
    }
    match (&found, &job.unique) {
        // This call came too late to insert anything; the other one met whoever holds the key.
        (Fired::Enqueued(_), Some(unique)) if known.time("last_slot")? == fire.slot => {
            let holder = db.jobs.find_one(doc! { "held_key": &unique.key });
            let holder = holder.projection(doc! { "_id": 1 }).await.map_err(failed)?;
            let holder = holder.map(|holder| holder.id("_id")).transpose()?;
            Ok(Fired::Skipped(holder.map(JobId::from_uuid)))
        }
        _ => Ok(found),
    }
}

/// Whether a job was inserted for its schedule. One that was is deleted only after its slot has been counted.
async fn is_ours(db: &Db, id: &JobId) -> Result<bool> {
    let there = db.jobs.find_one(doc! { "_id": codec::job_id(id) });
    let there = there.projection(doc! { "source": 1 }).await.map_err(failed)?;
    let source = there.as_ref().and_then(|there| there.get_document("source").ok());
    Ok(source.is_some_and(|source| source.has("schedule")))
}

/// Finishes a slot of this schedule that was taken and left.
pub(crate) async fn carry_out_pending(db: &Db, name: &str) -> Result<()> {
    let known = db.schedules.find_one(doc! { "_id": name, "pending": { "$exists": true } });
    match known.await.map_err(failed)? {
        // Boxed: the insert of its job may settle another intent in turn.
        Some(taken) => Box::pin(finish(db, &taken)).await.map(drop),
        None => Ok(()),
    }
}

/// Finishes slots that were taken before this instant and left.
pub(crate) async fn carry_out_left(db: &Db, before: i64) -> Result<()> {
    let left = db.schedules.find(doc! { "pending.at": { "$lte": before } });
    let left: Vec<Document> = left.await.map_err(failed)?.try_collect().await.map_err(failed)?;
    for taken in left {
        let _ = finish(db, &taken).await?;
    }
    Ok(())
}

fn read_record(document: &Document) -> Result<Record> {
    let mut record = Record::removal(document.text("_id")?);
    record.body = document.maybe("body", Document::payload)?;
    record.version = Version(document.count("version")?);
    record.updated_at = document.time("updated_at")?;
    Ok(record)
}

/// The records whose key begins with `prefix`.
pub(crate) async fn records(db: &Db, prefix: &str) -> Result<Vec<Record>> {
    let from = doc! { "_id": { "$gte": prefix }, "body": { "$exists": true } };
    let mut found = db.records.find(from).sort(doc! { "_id": 1 }).await.map_err(failed)?;
    let mut records = Vec::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        if !document.text("_id")?.starts_with(prefix) {
            break;
        }
        records.push(read_record(&document)?);
    }
    Ok(records)
}

/// Puts a record.
pub(crate) async fn put_record(
    db: &Db,
    record: &Record,
    expect: Option<Version>,
) -> Result<Outcome> {
    let now = db.now().await?;
    let mut update = doc! { "$inc": { "version": 1_i64 } };
    let mut set = doc! { "updated_at": now.as_micros() };
    match &record.body {
        Some(body) => drop(set.insert("body", body.as_str())),
        None => drop(update.insert("$unset", doc! { "body": "" })),
    }
    update.insert("$set", set);
    for round in 0..ROUNDS {
        if round > 0 {
            reply::pause(round).await;
        }
        let mut wanted = doc! { "_id": &record.key };
        if let Some(expected) = expect {
            // A record that was never put has none: then the upsert makes it, or meets the one that is there.
            let version = match expected.0 {
                0 => doc! { "$exists": false }.into(),
                version => Bson::Int64(codec::int(version)),
            };
            wanted.insert("version", version);
        }
        let put = db
            .records
            .find_one_and_update(wanted, update.clone())
            .upsert(expect.is_none_or(|expected| expected.0 == 0))
            .return_document(ReturnDocument::After)
            .await;
        match put {
            Ok(Some(stored)) => {
                let version = Version(stored.count("version")?);
                return Ok(Outcome::Applied(Ack::editor(version)));
            }
            Err(error) if code_of(&error) != Some(DUPLICATE) => return Err(write_failed(error)),
            Ok(None) | Err(_) => {}
        }
        let there = db.records.find_one(doc! { "_id": &record.key }).await.map_err(failed)?;
        let actual = there.map(|there| there.count("version").map(Version)).transpose()?;
        let actual = actual.unwrap_or_default();
        if expect.is_some_and(|expected| expected != actual) {
            return Ok(Outcome::Conflict { actual });
        }
    }
    Err(contention())
}
