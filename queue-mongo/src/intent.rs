//! Intents: what one document says about another that has still to be written.
//!
//! The write that commits carries the intent. Its caller carries it out and clears it; where the caller died, the next
//! reap does, a repeated insert, or whoever is about to delete one of the two. A job that an intent made names
//! its source, so that the intent is cleared before the job can be gone; and whoever inserts the job has the server look in
//! the same command whether the intent still stands. So a caller that stalls between the two writes, while another
//! carries out the second and the job runs and is deleted, makes no second one (docs/decisions/0004).

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
const NO_LIMIT: i64 = 0;

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

/// Why a document could not be inserted.
pub(crate) enum Taken {
    Id,
    Key,
}

/// An intent that stands while its collection has what this matches.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) collection: &'static str,
    pub(crate) stands: Document,
}

impl Intent {
    /// Of a job that has yielded.
    fn of_job(old: &JobId, successor: &Document) -> Intent {
        let successor = successor.get("_id").cloned();
        let stands = doc! { "_id": codec::job_id(old), "successor._id": successor };
        Intent { collection: JOBS, stands }
    }
}

/// Inserts one document, or does nothing where the intent to do so does not stand any more.
pub(crate) async fn put(
    db: &Db,
    document: &Document,
    intent: Option<&Intent>,
) -> Result<Option<Taken>> {
    let failed = match intent {
        None => {
            let command = doc! { "insert": JOBS, "documents": [document] };
            reply::run(db, command).await?.into_iter().next()
        }
        Some(Intent { collection, stands }) => {
            let into = doc! {
                "into": JOBS, "on": "_id", "whenMatched": "fail", "whenNotMatched": "insert",
            };
            let insert_while_it_stands = doc! {
                "aggregate": *collection,
                "pipeline": [
                    { "$match": stands },
                    { "$replaceWith": { "$literal": document } },
                    { "$merge": into },
                ],
                "cursor": {},
                // What was written last, whatever a majority has.
                "readConcern": { "level": "local" },
            };
            reply::merge(db, insert_while_it_stands).await?
        }
    };
    match failed {
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

/// Inserts a successor, unless it is there, and clears the intent. Whether this call is known to have inserted it.
async fn carry_out(db: &Db, old: &JobId, successor: &Document, now: Timestamp) -> Result<bool> {
    let intent = Intent::of_job(old, successor);
    let mut document = successor.clone();
    let mut inserted = None;
    for round in 0..cas::ROUNDS {
        match put(db, &document, Some(&intent)).await? {
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
                row.control.cancel(&superseded_by(first_of(db, rival).await?), now);
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
    let write_failed = |error| from_driver(Call::Write, error);
    let cleared = db.jobs.update_one(intent.stands, cleared).await.map_err(write_failed)?;
    // Where it stood no more, this call may have inserted nothing.
    Ok(inserted && cleared.matched_count == 1)
}

/// Of the jobs that took each other's place, of which the last is given, the one that found the key free; or the earliest that
/// is still there.
async fn first_of(db: &Db, last: Document) -> Result<JobId> {
    let mut first = last;
    // Who stalls for long finds many, and an id that was used again leads round in a circle.
    for _ in 0..cas::ROUNDS {
        let Some(before) = first.get_document("source").ok().and_then(|made| made.get("job"))
        else {
            break;
        };
        let before = db.jobs.find_one(doc! { "_id": before.clone() });
        let Some(before) = before.projection(doc! { "source": 1 }).await.map_err(failed)? else {
            break;
        };
        first = before;
    }
    Ok(JobId::from_uuid(first.id("_id")?))
}

/// Carries out the intents that a query finds.
async fn carry_out_found(db: &Db, query: Document, limit: i64, now: Timestamp) -> Result<()> {
    let found = db.jobs.find(query).projection(doc! { "successor": 1 }).limit(limit);
    let mut found = found.await.map_err(failed)?;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let successor = document.get_document("successor").map_err(corrupt)?;
        carry_out(db, &JobId::from_uuid(document.id("_id")?), successor, now).await?;
    }
    Ok(())
}

/// Carries out what callers left behind.
pub(crate) async fn carry_out_left(db: &Db, now: Timestamp) -> Result<()> {
    let left = now.minus(LEFT).as_micros();
    let query = doc! { "successor._id": { "$exists": true }, "finished_at": { "$lte": left } };
    carry_out_found(db, query, BATCH, now).await?;
    schedule::carry_out_left(db, left).await
}

/// Carries out all intents to insert these jobs.
pub(crate) async fn carry_out_earlier(db: &Db, ids: &[Bson], now: Timestamp) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    carry_out_found(db, doc! { "successor._id": { "$in": ids } }, NO_LIMIT, now).await
}

/// Settles the intents of jobs that are about to be deleted, so that none of them is made anew. `documents` have an `_id`,
/// and those of the fields `unique`, `source` and `successor` that the job has.
pub(crate) async fn settle_before_delete(db: &Db, documents: &[Document]) -> Result<()> {
    // Not by what the job names as its source: it may have come another way than by an intent that stands all the same.
    let superseding = documents.iter().filter(|document| codec::supersedes(document));
    let superseding: Vec<Bson> = superseding.filter_map(|d| d.get("_id").cloned()).collect();
    carry_out_earlier(db, &superseding, db.now().await?).await?;
    let sources = documents.iter().filter_map(|document| document.get_document("source").ok());
    let schedules: BTreeSet<&str> =
        sources.filter_map(|source| source.get_str("schedule").ok()).collect();
    for schedule in schedules {
        schedule::carry_out_pending(db, schedule).await?;
    }
    for document in documents.iter().filter(|document| document.contains_key("successor")) {
        // As it is now: one that was carried out since, has run and is gone must not be made again.
        let id = document.get("_id").cloned();
        let query = doc! { "_id": id, "successor._id": { "$exists": true } };
        carry_out_found(db, query, NO_LIMIT, db.now().await?).await?;
    }
    Ok(())
}

/// Deletes jobs that completed and are not kept, unless they have moved on. Which of them this call deleted. One trip, and a
/// look when one of them was not there as it was read.
pub(crate) async fn drop_unmoved(db: &Db, doomed: &[&Stored]) -> Result<HashSet<JobId>> {
    if doomed.is_empty() {
        return Ok(HashSet::new());
    }
    let made: Vec<Document> = doomed.iter().map(|stored| codec::origin(stored)).collect();
    settle_before_delete(db, &made).await?;
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
