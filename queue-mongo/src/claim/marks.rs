//! Jobs behind full lanes: out of the way of claims, and back again.
//!
//! A claim that meets jobs of a full lane parks them: they stay waiting, in another index. The write that frees a slot
//! leaves a mark in its own document (`freed`). The next claim finds the mark, brings the lane's first jobs back, as
//! many as there are slots, and takes the mark away when the lane is full again or nothing is parked behind it.
//! So a mark never depends on a second write: a process may die anywhere, and the next claim goes on.
//!
//! A transaction of the caller's that deletes the holder of a slot leaves a bare mark, in a collection of its own
//! ([`mark_in`]). A mark stays until a claim of the lane's own queues and kinds follows it: other requests pass it by.
//!
//! Three races are left to look after. A slot may be freed, and its mark taken away, between the look that finds the
//! lane full and the write that parks: the parker looks at the lane once more afterwards ([`park`]). It may die
//! before that look, and a job may be deleted with its mark: every few seconds a reap, or a claim that comes back
//! short, marks lanes that have room and parked jobs ([`repair`]).

use std::{collections::BTreeSet, time::Instant};

use futures::TryStreamExt;
use mongodb::{
    ClientSession,
    bson::{Bson, Document, doc},
};
use queue_core::{Kinds, Queues, Result, Timestamp};

use super::{
    Behind, failed,
    lanes::Lanes,
    ranges::one_of,
    wanted::{Wanted, union},
};
use crate::{
    batch::{self, Statement},
    codec::{self, PARKED, READY, Read as _},
    connect::{Db, JOBS, MARKS},
    error::{Call, corrupt, from_driver},
};

/// How often a process looks for lanes that lost their mark.
const REPAIR_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
/// A pipeline may have 1,000 stages.
const PARTS: usize = 200;

/// A lane of which a slot was freed.
#[derive(Debug)]
pub(super) struct Mark {
    lane: String,
    /// The jobs that say so, with their revisions.
    jobs: Vec<(Bson, i64)>,
    /// The documents that say nothing else.
    bare: Vec<Bson>,
    /// The limits of the jobs that are parked behind the lane.
    limits: Vec<u32>,
}

/// Adds the limits of what is parked behind each lane. One key is read for each limit.
fn with_limits() -> Document {
    doc! { "$lookup": {
        "from": JOBS, "localField": "_id", "foreignField": "lane.key", "as": "limits",
        "pipeline": [
            { "$match": { "state": PARKED } },
            { "$group": { "_id": "$lane.limit" } },
        ],
    } }
}

/// Finds all marks.
pub(super) fn steps() -> Vec<Document> {
    vec![
        doc! { "$match": { "freed": { "$exists": true } } },
        doc! { "$project": { "freed": 1, "rev": 1 } },
        doc! { "$unionWith": MARKS },
        doc! { "$group": { "_id": "$freed", "marks": { "$push": { "id": "$_id", "rev": "$rev" } } } },
        with_limits(),
    ]
}

impl Mark {
    pub(super) fn read(document: &Document) -> Result<Mark> {
        let mut mark = Mark {
            lane: document.text("_id")?.to_owned(),
            jobs: Vec::new(),
            bare: Vec::new(),
            limits: Vec::new(),
        };
        for limit in document.get_array("limits").map_err(corrupt)? {
            mark.limits.push(limit.as_document().ok_or_else(|| corrupt("a limit"))?.count("_id")?);
        }
        if document.has("marks") {
            for from in document.get_array("marks").map_err(corrupt)? {
                let from = from.as_document().ok_or_else(|| corrupt("a mark"))?;
                let id = from.get("id").cloned().ok_or_else(|| corrupt("a mark without a job"))?;
                match from.has("rev") {
                    true => mark.jobs.push((id, from.int("rev")?)),
                    false => mark.bare.push(id),
                }
            }
        }
        Ok(mark)
    }

    /// The documents that say so.
    pub(super) fn signs(&self) -> impl Iterator<Item = (Bson, i64)> {
        self.jobs.iter().cloned().chain(self.bare.iter().map(|id| (id.clone(), 0)))
    }

    /// Whether jobs are parked behind the lane.
    pub(super) fn matters(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Takes the mark away, unless the job has run once more and left a new one. Not a change of the job: its revision
    /// stays.
    fn clear(&self) -> impl Iterator<Item = Statement> {
        self.jobs.iter().map(|(id, rev)| Statement {
            filter: doc! { "_id": id, "rev": rev, "freed": &self.lane },
            update: doc! { "$unset": { "freed": "" } },
            bytes: 256,
        })
    }
}

/// Brings jobs back that wait behind lanes with room. Whether there were any.
pub(super) async fn reopen(
    db: &Db,
    wanted: &mut Wanted<'_>,
    lanes: &mut Lanes,
    marks: Vec<Mark>,
    limit: usize,
) -> Result<bool> {
    let parked = marks.iter().filter(|mark| !mark.limits.is_empty());
    lanes.load(db, parked.map(|mark| mark.lane.as_str())).await?;
    let (mut parts, mut cleared, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for mark in marks {
        let open: Vec<u32> = mark
            .limits
            .iter()
            .copied()
            .filter(|limit| lanes.room(&mark.lane, *limit) > 0)
            .collect();
        if open.is_empty() {
            cleared.extend(mark.clear());
            bare.extend(mark.bare);
            continue;
        }
        // For each limit as many as there are slots: the jobs of one limit may all be in the way of another's.
        for limit_there in &open {
            let room = lanes.room(&mark.lane, *limit_there) as usize;
            let lane = behind(&mark.lane, i64::from(*limit_there).into());
            parts.push(first_parked(wanted, lane, limit.min(room)));
        }
    }
    if !cleared.is_empty() {
        batch::run(db, cleared).await?;
    }
    if !bare.is_empty() {
        let gone = db.marks.delete_many(doc! { "_id": { "$in": bare } }).await;
        gone.map_err(|error| from_driver(Call::Write, error))?;
    }
    let mut back = Vec::new();
    for parts in parts.chunks(PARTS) {
        let mut found = db.jobs.aggregate(union(parts.to_vec())).await.map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            let id = document.get("_id").cloned().ok_or_else(|| corrupt("a job without an id"))?;
            // No other job of its range may be ready.
            wanted.ranges.add(document.text("queue")?, document.text("kind")?);
            back.push(id);
        }
    }
    let came_back = !back.is_empty();
    if came_back {
        move_all(db, doc! { "_id": { "$in": back }, "state": PARKED }, READY).await?;
    }
    Ok(came_back)
}

/// Matches what is parked behind a lane, of some limits.
fn behind(lane: &str, limits: Bson) -> Document {
    doc! { "state": PARKED, "lane.key": lane, "lane.limit": limits }
}

/// The first jobs of the request behind a lane.
fn first_parked(wanted: &Wanted<'_>, lane: Document, limit: usize) -> Vec<Document> {
    let mut query = lane;
    let open = match (&wanted.request.queues, &wanted.ranges.queues) {
        (Queues::Only(_), Some(open)) => {
            Some(one_of(&open.iter().map(String::as_str).collect::<Vec<_>>()))
        }
        _ if wanted.paused.is_empty() => None,
        _ => Some(doc! { "$nin": wanted.paused.clone() }.into()),
    };
    open.map(|open| query.insert("queue", open));
    query.insert("run_at", doc! { "$lte": wanted.now.as_micros() });
    if let Kinds::Only(kinds) = &wanted.request.kinds {
        query.insert("kind", one_of(&kinds.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
    }
    vec![
        doc! { "$match": wanted.narrowed(query) },
        doc! { "$sort": wanted.order() },
        doc! { "$limit": codec::int(limit as u64) },
        doc! { "$project": { "queue": 1, "kind": 1 } },
    ]
}

async fn move_all(db: &Db, query: Document, to: i32) -> Result<()> {
    // To its readers the job is waiting in both: its revision stays.
    let moved = db.jobs.update_many(query, doc! { "$set": { "state": to } }).await;
    moved.map(drop).map_err(|error| from_driver(Call::Write, error))
}

/// Puts jobs aside whose lanes were found full, unless a lane has room by now.
///
/// Only what is due: a job that has run meanwhile and is to be tried again later does not wait for its lane. Whether
/// some were brought back.
pub(super) async fn park(
    db: &Db,
    lanes: &mut Lanes,
    behind: &[Behind],
    now: Timestamp,
) -> Result<bool> {
    let ids: Vec<Bson> = behind.iter().map(|job| codec::job_id(&job.id)).collect();
    let due = doc! { "_id": { "$in": ids }, "state": READY, "run_at": { "$lte": now.as_micros() } };
    move_all(db, due, PARKED).await?;
    behind.iter().for_each(|job| lanes.forget(&job.lane));
    lanes.load(db, behind.iter().map(|job| job.lane.as_str())).await?;
    let open = behind.iter().filter(|job| lanes.room(&job.lane, job.limit) > 0);
    let back: Vec<Bson> = open.map(|job| codec::job_id(&job.id)).collect();
    if back.is_empty() {
        return Ok(false);
    }
    move_all(db, doc! { "_id": { "$in": back }, "state": PARKED }, READY).await?;
    Ok(true)
}

/// Marks a lane for a job that was deleted with its slot or its mark. The mark is put into a parked job: where there is
/// none, none is needed.
pub(crate) async fn mark(db: &Db, lane: &str) -> Result<()> {
    let parked = doc! { "state": PARKED, "lane.key": lane };
    let marked = db
        .jobs
        .update_one(parked, doc! { "$set": { "freed": lane }, "$inc": { "rev": 1_i64 } })
        .await;
    marked.map(drop).map_err(|error| from_driver(Call::Write, error))
}

/// Marks a lane as part of the caller's transaction, which deletes the job that holds a slot. In a document of its own: the
/// transaction may not see the jobs that were parked since it began.
pub(crate) async fn mark_in(session: &mut ClientSession, db: &Db, lane: &str) -> Result<()> {
    // Without concerns of its own: they are the transaction's.
    let marks = db.database.collection::<Document>(MARKS);
    let mark = doc! { "_id": codec::uuid(&queue_core::Uuid::now_v7()), "freed": lane };
    let marked = marks.insert_one(mark).session(session).await;
    marked.map(drop).map_err(|error| from_driver(Call::Write, error))
}

/// The net under a claim that has room for more. Whether a lane was marked, so that another claim finds more.
pub(super) async fn repair_when_short(db: &Db) -> bool {
    if !db.repaired.is_old(REPAIR_EVERY) {
        return false;
    }
    repair(db).await.unwrap_or_else(|error| {
        // What was taken is taken.
        tracing::warn!(%error, "the lanes with parked jobs could not be looked at");
        false
    })
}

/// Marks lanes that have room and parked jobs, if the last look at them is some time ago. Whether there were any.
pub(crate) async fn repair(db: &Db) -> Result<bool> {
    if !db.repaired.is_due(REPAIR_EVERY) {
        return Ok(false);
    }
    let steps = [
        doc! { "$match": { "state": PARKED } },
        doc! { "$group": { "_id": "$lane.key" } },
        with_limits(),
    ];
    let mut found = db.jobs.aggregate(steps).await.map_err(failed)?;
    let mut parked = Vec::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        parked.push(Mark::read(&document)?);
    }
    let mut lanes = Lanes::default();
    lanes.load(db, parked.iter().map(|mark| mark.lane.as_str())).await?;
    parked.retain(|Mark { lane, limits, .. }| {
        limits.iter().any(|limit| lanes.room(lane, *limit) > 0)
    });
    if parked.is_empty() {
        return Ok(false);
    }
    // Those that have their mark wait for their own workers.
    let steps = [
        doc! { "$match": { "freed": { "$exists": true } } },
        doc! { "$project": { "freed": 1 } },
        doc! { "$unionWith": MARKS },
        doc! { "$group": { "_id": "$freed" } },
    ];
    let mut marked = BTreeSet::new();
    let mut found = db.jobs.aggregate(steps).await.map_err(failed)?;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        marked.insert(document.text("_id")?.to_owned());
    }
    parked.retain(|parked| !marked.contains(&parked.lane));
    for parked in &parked {
        mark(db, &parked.lane).await?;
    }
    Ok(!parked.is_empty())
}

/// When something was done last.
#[derive(Debug)]
pub(crate) struct Last {
    opened: Instant,
    at: std::sync::Mutex<Option<Instant>>,
}

impl Default for Last {
    fn default() -> Last {
        Last { opened: Instant::now(), at: std::sync::Mutex::default() }
    }
}

impl Last {
    /// As if a long time had passed.
    #[cfg(test)]
    pub(super) fn set_old(&self) {
        let long_ago = Instant::now().checked_sub(2 * REPAIR_EVERY);
        *self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = long_ago;
    }

    /// Whether that, or the opening of the store, is as long ago.
    fn is_old(&self, than: std::time::Duration) -> bool {
        let last = *self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.unwrap_or(self.opened).elapsed() >= than
    }

    /// Whether that is as long ago; then it is now.
    fn is_due(&self, after: std::time::Duration) -> bool {
        let mut last = self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= after);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
