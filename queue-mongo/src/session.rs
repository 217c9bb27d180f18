//! Inserting and finishing jobs within the caller's own transaction.

use std::collections::{HashMap, HashSet};

use mongodb::{
    ClientSession,
    bson::{Bson, Document, doc},
};
use queue_core::{
    Error, ErrorKind, Inserted, JobId, JobUpdate, NewJob, Outcome, Result, Row, spec::superseded_by,
};

use crate::{
    batch::Statement,
    cas,
    change::Change,
    claim,
    codec::{self, Stored},
    connect::{Db, JOBS},
    error::{Call, contention, from_driver},
    intent,
    update::{Decided, decide},
};

/// A session of a server without transactions would make each write by itself.
fn check_transactions(db: &Db) -> Result<()> {
    match db.transactions {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Unsupported,
            "this server has no transactions; they need a replica set (one node is enough)",
        )),
    }
}

/// Makes changes, each judged on the job as the transaction sees it. No intents and no batches: a write that meets
/// another's aborts the transaction.
pub(crate) async fn update_in(
    db: &Db,
    session: &mut ClientSession,
    updates: &[JobUpdate],
) -> Result<Vec<Outcome>> {
    check_transactions(db)?;
    let now = db.now().await?;
    let failed = |error| from_driver(Call::Write, error);
    let ids: Vec<Bson> = updates.iter().map(|update| codec::job_id(&update.id)).collect();
    let found = find(db, session, doc! { "_id": { "$in": ids } }).await?;
    let found: HashMap<JobId, Stored> =
        found.into_iter().map(|stored| (stored.row.id, stored)).collect();
    // Without concerns of its own: they are the transaction's.
    let jobs = db.database.collection::<Document>(JOBS);
    let mut outcomes = Vec::with_capacity(updates.len());
    for update in updates {
        let Some(stored) = found.get(&update.id) else {
            outcomes.push(Outcome::Missing);
            continue;
        };
        let (ack, changed) = match decide(update, stored, now) {
            Decided::Answer(outcome) => {
                outcomes.push(outcome);
                continue;
            }
            Decided::Write(ack, Statement { filter, update, .. }) => {
                let done = jobs.update_one(filter, update).session(&mut *session).await;
                (ack, done.map_err(failed)?.matched_count)
            }
            Decided::Drop(ack) => {
                // Harmless if the transaction comes to nothing: the job is there.
                intent::settle_before_delete(db, &[codec::origin(stored)]).await?;
                let gone = jobs.delete_one(cas::unmoved(stored)).session(&mut *session).await;
                if let Some(lane) = &stored.row.control.lane {
                    claim::mark_in(session, db, &lane.key).await?;
                }
                (ack, gone.map_err(failed)?.deleted_count)
            }
        };
        if changed == 0 {
            return Err(contention());
        }
        outcomes.push(Outcome::Applied(ack));
    }
    Ok(outcomes)
}

/// Reads jobs narrowly, as the transaction sees them.
async fn find(db: &Db, session: &mut ClientSession, wanted: Document) -> Result<Vec<Stored>> {
    let failed = |error| from_driver(Call::Read, error);
    // The collection's own read concern would be refused: it is the transaction's.
    let jobs = db.database.collection::<Document>(JOBS);
    let found = jobs.find(wanted).projection(codec::narrow()).session(&mut *session).await;
    let mut found = found.map_err(failed)?;
    let mut jobs = Vec::new();
    while let Some(document) = found.next(&mut *session).await {
        jobs.push(codec::read(&document.map_err(failed)?, 0)?);
    }
    Ok(jobs)
}

/// Who holds a key: a job of the database, or one of this call.
enum Holder {
    Stored(Box<Stored>),
    New(usize),
}

/// Inserts jobs as if one after the other. No intents are needed: the transaction holds both documents.
pub(crate) async fn insert_in(
    db: &Db,
    session: &mut ClientSession,
    jobs: &[NewJob],
) -> Result<Vec<Inserted>> {
    check_transactions(db)?;
    let now = db.now().await?;
    let failed = |error| from_driver(Call::Write, error);
    let (mut known, mut holders) = look(db, session, jobs).await?;
    let mut rows: Vec<Row> = Vec::new();
    let mut cancelled: Vec<(Stored, Row)> = Vec::new();
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        if known.contains(&job.id) {
            answers.push(Inserted::Existing(job.id));
            continue;
        }
        if let Some(unique) = &job.unique
            && let Some(holder) = holders.remove(&unique.key)
        {
            let control = match &holder {
                Holder::Stored(stored) => &stored.row.control,
                Holder::New(index) => &rows[*index].control,
            };
            if !control.yields_to(unique) {
                let id = match &holder {
                    Holder::Stored(stored) => stored.row.id,
                    Holder::New(index) => rows[*index].id,
                };
                holders.insert(unique.key.clone(), holder);
                answers.push(Inserted::Existing(id));
                continue;
            }
            let reason = superseded_by(job.id);
            match holder {
                Holder::New(index) => rows[index].control.cancel(&reason, now),
                Holder::Stored(stored) => {
                    let mut after = stored.row.clone();
                    after.control.cancel(&reason, now);
                    cancelled.push((*stored, after));
                }
            }
        }
        known.insert(job.id);
        let row = Row::new(job, now);
        if let Some(unique) = row.control.unique.as_ref().filter(|_| row.control.holds_key()) {
            holders.insert(unique.key.clone(), Holder::New(rows.len()));
        }
        rows.push(row);
        answers.push(Inserted::New(job.id));
    }
    for (stored, after) in cancelled {
        let update = Change::between(&stored.row, &after).into_update();
        let done = db.jobs.update_one(cas::unmoved(&stored), update).session(&mut *session);
        if done.await.map_err(failed)?.matched_count == 0 {
            return Err(contention());
        }
    }
    if !rows.is_empty() {
        let documents: Vec<Document> = rows.iter().map(codec::new_document).collect();
        db.jobs.insert_many(documents).session(&mut *session).await.map_err(failed)?;
    }
    Ok(answers)
}

/// Which of the jobs are there, and who holds their keys.
async fn look(
    db: &Db,
    session: &mut ClientSession,
    jobs: &[NewJob],
) -> Result<(HashSet<JobId>, HashMap<String, Holder>)> {
    let ids: Vec<Bson> = jobs.iter().map(|job| codec::job_id(&job.id)).collect();
    let keys = jobs.iter().filter_map(|job| job.unique.as_ref());
    let keys: Vec<&str> = keys.map(|unique| unique.key.as_str()).collect();
    let wanted = doc! { "$or": [{ "_id": { "$in": ids } }, { "held_key": { "$in": keys } }] };
    let (mut known, mut holders) = (HashSet::new(), HashMap::new());
    for stored in find(db, session, wanted).await? {
        known.insert(stored.row.id);
        let unique = stored.row.control.unique.clone().filter(|_| stored.row.control.holds_key());
        if let Some(unique) = unique {
            holders.insert(unique.key, Holder::Stored(Box::new(stored)));
        }
    }
    Ok((known, holders))
}
