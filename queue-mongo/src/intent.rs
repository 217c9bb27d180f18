//! Intents: what one document says about another that has still to be written.
//!
//! The write that commits carries the intent. Its caller carries it out and clears it; where the caller died, the next
//! reap does, a repeated insert, or whoever is about to delete one of the two. A job that an intent made names
//! its source, so that the intent is cleared before the job can be gone: nobody who reads the intent makes it twice. Its first caller does not
//! read it: one that stalls before its second write for longer than the job lives makes it anew (docs/decisions/0004).

use std::collections::{BTreeSet, HashSet};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use queue_core::{JobId, Result, Timestamp, spec::superseded_by};

use crate::{
    StopAfter,
    batch::{self, Verdict},
    cas,
    change::Change,
    claim,
    codec::{self, Read as _, Stored},
    connect::{Db, JOBS},
    error::{Call, DUPLICATE, contention, corrupt, from_driver, from_statement},
    reply, schedule,
};

/// How long an intent is left to its caller.
const LEFT: std::time::Duration = std::time::Duration::from_secs(2);
/// How many are carried out by one reap.
const BATCH: i64 = 100;

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

/// Why a document could not be inserted.
pub(crate) enum Taken {
    Id,
    Key,
}

/// Inserts one document.
pub(crate) async fn put(db: &Db, document: &Document) -> Result<Option<Taken>> {
    let failed = reply::run(db, doc! { "insert": JOBS, "documents": [document] }).await?;
    match failed.first() {
        None => Ok(None),
        Some(error) if error.code == DUPLICATE => match error.key.as_deref() {
            Some("held_key") => Ok(Some(Taken::Key)),
            _ => Ok(Some(Taken::Id)),
        },
        Some(error) => Err(from_statement(error.code, &error.message)),
    }
}

/// What became of a job that was to take another's place.
pub(crate) enum Superseded {
    /// The other has moved on, nothing was done.
    Moved,
    /// It is in its place.
    Done,
    /// A call that ran at the same time had inserted it under the same id.
    There,
}

/// Cancels a job that yields and puts another in its place.
pub(crate) async fn supersede(
    db: &Db,
    holder: &Stored,
    successor: &Document,
    now: Timestamp,
) -> Result<Superseded> {
    let mut successor = successor.clone();
    let mut source = successor.get_document("source").cloned().unwrap_or_default();
    source.insert("job", codec::job_id(&holder.row.id));
    successor.insert("source", source);
    let mut after = holder.row.clone();
    after.control.cancel(&superseded_by(JobId::from_uuid(successor.id("_id")?)), now);
    let mut change = Change::between(&holder.row, &after);
    let bytes = successor.text("input")?.len() + 1024;
    change.set.insert("successor", successor.clone());
    match batch::run(db, vec![cas::guarded(holder, change, bytes)]).await?.first() {
        Some(Verdict::Applied) => {}
        Some(Verdict::TooLarge) => {
            return Err(queue_core::Error::new(
                queue_core::ErrorKind::TooLarge,
                "the superseded job has no room to carry the one that takes its place",
            ));
        }
        _ => return Ok(Superseded::Moved),
    }
    db.stop_point(StopAfter::Supersede)?;
    if carry_out(db, &holder.row.id, &successor, now).await? {
        return Ok(Superseded::Done);
    }
    // Somebody else may have carried out this very intent; a job that names another source, or none, came by itself.
    let found = db.jobs.find_one(doc! { "_id": successor.get("_id").cloned() });
    let found = found.projection(doc! { "source": 1 }).await.map_err(failed)?;
    let came_by_itself = found.is_some_and(|job| job.get("source") != successor.get("source"));
    Ok(if came_by_itself { Superseded::There } else { Superseded::Done })
}

/// Inserts a successor, unless it is there, and clears the intent. Whether this call inserted it.
async fn carry_out(db: &Db, old: &JobId, successor: &Document, now: Timestamp) -> Result<bool> {
    let mut document = successor.clone();
    let mut inserted = None;
    for round in 0..cas::ROUNDS {
        match put(db, &document).await? {
            None => {
                inserted = Some(true);
                break;
            }
            Some(Taken::Id) => {
                inserted = Some(false);
                break;
            }
            // Between the two writes another job took the key: it came later, and superseded this one.
            Some(Taken::Key) => {
                let key = doc! { "held_key": successor.text("held_key")? };
                let Some(rival) = db.jobs.find_one(key).await.map_err(failed)? else {
                    reply::pause(round).await;
                    continue;
                };
                let mut row = codec::read(successor, 0)?.row;
                let before = row.clone();
                row.control.cancel(&superseded_by(JobId::from_uuid(rival.id("_id")?)), now);
                let change = Change::between(&before, &row);
                for key in change.unset.keys() {
                    document.remove(key);
                }
                document.extend(change.set);
                document.extend(codec::counters(&row));
            }
        }
    }
    let Some(inserted) = inserted else {
        return Err(contention().with_effect(queue_core::Effect::Unknown));
    };
    let cleared = doc! { "$unset": { "successor": "" }, "$inc": { "rev": 1_i64 } };
    let carried =
        doc! { "_id": codec::job_id(old), "successor._id": successor.get("_id").cloned() };
    db.jobs.update_one(carried, cleared).await.map_err(|e| from_driver(Call::Write, e))?;
    Ok(inserted)
}

/// Carries out the intents that a query finds.
async fn carry_out_found(db: &Db, query: Document, now: Timestamp) -> Result<()> {
    let found = db.jobs.find(query).projection(doc! { "successor": 1 }).limit(BATCH);
    let documents: Vec<Document> =
        found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
    for document in documents {
        let successor = document.get_document("successor").map_err(corrupt)?;
        carry_out(db, &JobId::from_uuid(document.id("_id")?), successor, now).await?;
    }
    Ok(())
}

/// Carries out what callers left behind.
pub(crate) async fn carry_out_left(db: &Db, now: Timestamp) -> Result<()> {
    let left = now.minus(LEFT).as_micros();
    let query = doc! { "successor._id": { "$exists": true }, "finished_at": { "$lte": left } };
    carry_out_found(db, query, now).await?;
    schedule::carry_out_left(db, left).await
}

/// Carries out an earlier, unfinished call that was to insert these jobs.
pub(crate) async fn carry_out_earlier(db: &Db, ids: Vec<Bson>, now: Timestamp) -> Result<()> {
    carry_out_found(db, doc! { "successor._id": { "$in": ids } }, now).await
}

/// Settles the intents of documents that are about to be deleted, so that none of them is made anew.
pub(crate) async fn settle_before_delete(db: &Db, documents: &[Document]) -> Result<()> {
    for document in documents {
        if let Ok(source) = document.get_document("source") {
            clear_source(db, source, document).await?;
        }
        if document.contains_key("successor") {
            // As it is now: one that was carried out since, has run and is gone must not be made again.
            let id = document.get("_id").cloned();
            let query = doc! { "_id": id, "successor._id": { "$exists": true } };
            carry_out_found(db, query, db.now().await?).await?;
        }
    }
    Ok(())
}

async fn clear_source(db: &Db, source: &Document, document: &Document) -> Result<()> {
    if source.has("job") {
        let id = document.get("_id").cloned();
        let query = doc! { "_id": source.get("job").cloned(), "successor._id": id };
        carry_out_found(db, query, db.now().await?).await?;
    }
    match source.has("schedule") {
        true => schedule::carry_out_pending(db, source.text("schedule")?).await,
        false => Ok(()),
    }
}

/// Deletes jobs that completed and are not kept, unless they have moved on. Which of them this call deleted. One trip, and a
/// look when one of them was not there as it was read.
pub(crate) async fn drop_unmoved(db: &Db, doomed: &[&Stored]) -> Result<HashSet<JobId>> {
    if doomed.is_empty() {
        return Ok(HashSet::new());
    }
    for stored in doomed {
        if let Some(source) = &stored.source {
            let document = doc! { "_id": codec::job_id(&stored.row.id) };
            clear_source(db, source, &document).await?;
        }
    }
    let deletes: Vec<Document> =
        doomed.iter().map(|stored| doc! { "q": cas::unmoved(stored), "limit": 1 }).collect();
    let deleted = reply::delete(db, deletes).await?;
    let mut gone: HashSet<JobId> = doomed.iter().map(|stored| stored.row.id).collect();
    if deleted == 0 {
        return Ok(HashSet::new());
    }
    if deleted < gone.len() as u64 {
        // The answer does not say which.
        let ids: Vec<JobId> = gone.iter().copied().collect();
        for id in cas::load(db, &ids).await?.keys() {
            gone.remove(id);
        }
    }
    let freed = doomed.iter().filter(|stored| gone.contains(&stored.row.id));
    let lanes: BTreeSet<&str> =
        freed.filter_map(|stored| Some(stored.row.control.lane.as_ref()?.key.as_str())).collect();
    for lane in lanes {
        claim::mark(db, lane).await?;
    }
    // Somebody else deleted one of these, perhaps after the job was no longer its holder's; that one cannot be told apart.
    if deleted < gone.len() as u64 {
        gone.clear();
    }
    Ok(gone)
}
