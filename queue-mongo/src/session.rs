//! Inserting jobs within the caller's own transaction.

use std::collections::{HashMap, HashSet};

use mongodb::{
    ClientSession,
    bson::{Bson, Document, doc},
};
use queue_core::{Inserted, JobId, NewJob, Result, Row, spec::superseded_by};

use crate::{
    cas,
    change::Change,
    codec::{self, Stored},
    connect::Db,
    error::{Call, from_driver},
};

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
            return Err(crate::error::contention());
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
    let failed = |error| from_driver(Call::Read, error);
    let ids: Vec<Bson> = jobs.iter().map(|job| codec::job_id(&job.id)).collect();
    let keys = jobs.iter().filter_map(|job| job.unique.as_ref());
    let keys: Vec<&str> = keys.map(|unique| unique.key.as_str()).collect();
    let wanted = doc! { "$or": [{ "_id": { "$in": ids } }, { "held_key": { "$in": keys } }] };
    // The collection's own read concern would be refused: it is the transaction's.
    let jobs = db.database.collection::<Document>(crate::connect::JOBS);
    let mut found = jobs
        .find(wanted)
        .projection(codec::narrow())
        .session(&mut *session)
        .await
        .map_err(failed)?;
    let (mut known, mut holders) = (HashSet::new(), HashMap::new());
    while let Some(document) = found.next(&mut *session).await {
        let stored = codec::read(&document.map_err(failed)?, 0)?;
        known.insert(stored.row.id);
        let unique = stored.row.control.unique.clone().filter(|_| stored.row.control.holds_key());
        if let Some(unique) = unique {
            holders.insert(unique.key, Holder::Stored(Box::new(stored)));
        }
    }
    Ok((known, holders))
}
