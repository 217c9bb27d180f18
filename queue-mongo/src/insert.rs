//! Inserting jobs.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use queue_core::{Inserted, JobId, NewJob, OnConflict, Result, Row, Timestamp};

use crate::{
    cas::ROUNDS,
    codec::{self, Stored},
    connect::{Db, JOBS},
    error::{Call, DUPLICATE, contention, from_driver, from_statement},
    intent::{self, Intent, Superseded, Taken},
    reply,
};

/// The most documents and bytes of one command.
const DOCUMENTS: usize = 1_000;
const BYTES: usize = 8 * 1024 * 1024;

fn supersedes(job: &NewJob) -> bool {
    job.unique.as_ref().is_some_and(|unique| unique.on_conflict == OnConflict::Supersede)
}

/// Inserts jobs as if one after the other. One trip when all are new.
pub(crate) async fn insert(db: &Db, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let now = db.now().await?;
    let again: Vec<Bson> =
        jobs.iter().filter(|job| supersedes(job)).map(|job| codec::job_id(&job.id)).collect();
    intent::carry_out_earlier(db, &again, now).await?;
    let (mut ids, mut keys) = (HashSet::with_capacity(jobs.len()), HashSet::new());
    // The same id once more, or the same key, waits for what becomes of the first.
    let (first, mut later): (Vec<usize>, Vec<usize>) = (0..jobs.len()).partition(|index| {
        let NewJob { id, unique, .. } = &jobs[*index];
        ids.insert(id) & unique.as_ref().is_none_or(|unique| keys.insert(&unique.key))
    });
    let mut answers: Vec<Option<Inserted>> = vec![None; jobs.len()];
    db.seen.add(jobs.iter().map(|job| job.kind.as_ref()));
    let mut rest = first.into_iter().peekable();
    while rest.peek().is_some() {
        let (mut chunk, mut documents, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(index) = rest.next_if(|index| {
            let size = jobs[*index].input.len();
            chunk.is_empty() || (chunk.len() < DOCUMENTS && bytes + size <= BYTES)
        }) {
            bytes += jobs[index].input.len() + 1024;
            answers[index] = Some(Inserted::New(jobs[index].id));
            documents.push(codec::new_document(&Row::new(&jobs[index], now)));
            chunk.push(index);
        }
        let command = doc! { "insert": JOBS, "documents": documents };
        for failed in reply::run(db, command).await? {
            let Some(&index) = chunk.get(failed.index) else { continue };
            if failed.code != DUPLICATE {
                return Err(from_statement(failed.code, &failed.message));
            }
            match failed.key.as_deref() {
                Some("_id") => answers[index] = Some(Inserted::Existing(jobs[index].id)),
                _ => {
                    answers[index] = None;
                    later.push(index);
                }
            }
        }
    }
    later.sort_unstable();
    if later.len() > 1 && !later.iter().any(|index| supersedes(&jobs[*index])) {
        later = existing_holders(db, jobs, later, &mut answers).await?;
    }
    for index in later {
        answers[index] = Some(insert_one(db, &jobs[index], None, now).await?);
    }
    answers.into_iter().map(|answer| answer.ok_or_else(contention)).collect()
}

/// Answers, in one trip, for jobs that found their key taken. Returns those for which that was not enough.
async fn existing_holders(
    db: &Db,
    jobs: &[NewJob],
    later: Vec<usize>,
    answers: &mut [Option<Inserted>],
) -> Result<Vec<usize>> {
    let ids: Vec<Bson> = later.iter().map(|index| codec::job_id(&jobs[*index].id)).collect();
    let keys = later.iter().filter_map(|index| jobs[*index].unique.as_ref());
    let keys: Vec<&str> = keys.map(|unique| unique.key.as_str()).collect();
    let wanted = doc! { "$or": [{ "_id": { "$in": ids } }, { "held_key": { "$in": keys } }] };
    let found = look(db, wanted).await?;
    let known: HashSet<JobId> = found.iter().map(|stored| stored.row.id).collect();
    let holders: HashMap<&str, JobId> = found
        .iter()
        .filter(|stored| stored.row.control.holds_key())
        .filter_map(|stored| {
            Some((stored.row.control.unique.as_ref()?.key.as_str(), stored.row.id))
        })
        .collect();
    let mut left = Vec::new();
    for index in later {
        let job = &jobs[index];
        let holder = job.unique.as_ref().and_then(|unique| holders.get(unique.key.as_str()));
        match (known.contains(&job.id), holder) {
            (true, _) => answers[index] = Some(Inserted::Existing(job.id)),
            (false, Some(holder)) => answers[index] = Some(Inserted::Existing(*holder)),
            (false, None) => left.push(index),
        }
    }
    Ok(left)
}

async fn look(db: &Db, wanted: Document) -> Result<Vec<Stored>> {
    let failed = |error| from_driver(Call::Read, error);
    let found = db.settled_jobs.find(wanted).projection(codec::narrow()).await.map_err(failed)?;
    let documents: Vec<Document> = found.try_collect().await.map_err(failed)?;
    documents.iter().map(|document| codec::read(document, 0)).collect()
}

/// What a job comes of, and the intent to insert it.
pub(crate) struct Source {
    pub(crate) document: Document,
    pub(crate) intent: Intent,
}

/// Inserts one job that may be there or may find its key held. With a source whose intent stands no more, nothing is
/// inserted, whatever the answer.
pub(crate) async fn insert_one(
    db: &Db,
    job: &NewJob,
    source: Option<Source>,
    now: Timestamp,
) -> Result<Inserted> {
    let mut document = codec::new_document(&Row::new(job, now));
    let intent = source.map(|source| {
        document.insert("source", source.document);
        source.intent
    });
    let id = codec::job_id(&job.id);
    for round in 0..ROUNDS {
        if round > 0 {
            reply::pause(round).await;
        }
        let wanted = match &job.unique {
            None => doc! { "_id": &id },
            Some(unique) => doc! { "$or": [{ "_id": &id }, { "held_key": &unique.key }] },
        };
        let found = look(db, wanted).await?;
        if found.iter().any(|stored| stored.row.id == job.id) {
            return Ok(Inserted::Existing(job.id));
        }
        let (Some(holder), Some(unique)) = (found.first(), &job.unique) else {
            match intent::put(db, &document, intent.as_ref()).await? {
                None => return Ok(Inserted::New(job.id)),
                Some(Taken::Id) => return Ok(Inserted::Existing(job.id)),
                Some(Taken::Key) => continue,
            }
        };
        if !holder.row.control.yields_to(unique) {
            return Ok(Inserted::Existing(holder.row.id));
        }
        match intent::supersede(db, holder, &document, now).await? {
            Superseded::Moved => {}
            Superseded::Done => return Ok(Inserted::New(job.id)),
            Superseded::There => return Ok(Inserted::Existing(job.id)),
        }
    }
    Err(contention())
}
