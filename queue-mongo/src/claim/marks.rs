//! Jobs behind full lanes: out of the way of claims, and back again.
//!
//! A claim that meets jobs of a full lane parks them: they stay waiting, in another index. The write that frees a slot
//! leaves a mark in its own document (`freed`). The next claim finds the mark, brings the lane's first jobs back, as
//! many as there are slots, and takes the mark away when the lane is full again or nothing is parked behind it.
//! So a mark never depends on a second write: a process may die anywhere, and the next claim goes on.
//!
//! Three races are left to look after. A slot may be freed, and its mark taken away, between the look that finds the
//! lane full and the write that parks: the parker looks at the lane once more afterwards ([`park`]). It may die
//! before that look, and a job may be deleted with its mark: every few seconds a reap marks lanes that have room
//! and parked jobs ([`repair`]).

use std::{collections::BTreeSet, time::Instant};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use queue_core::{JobId, Kinds, Queues, Result};

use super::{
    failed,
    lanes::Lanes,
    ranges::one_of,
    wanted::{Wanted, union},
};
use crate::{
    batch::{self, Statement},
    codec::{self, PARKED, READY, Read as _},
    connect::{Db, JOBS},
    error::{Call, corrupt, from_driver},
};

/// How many jobs of other queues and kinds a claim brings back from a lane that has nothing for itself.
const OTHERS: i64 = 20;
/// How often a process looks for lanes that lost their mark.
const REPAIR_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
/// A pipeline may have 1,000 stages.
const PARTS: usize = 200;

/// A lane of which a slot was freed.
#[derive(Debug)]
pub(super) struct Mark {
    lane: String,
    /// The documents that say so, with their revisions.
    documents: Vec<(Bson, i64)>,
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
        doc! { "$group": { "_id": "$freed", "marks": { "$push": { "id": "$_id", "rev": "$rev" } } } },
        with_limits(),
    ]
}

impl Mark {
    pub(super) fn read(document: &Document) -> Result<Mark> {
        let mut mark = Mark {
            lane: document.text("_id")?.to_owned(),
            documents: Vec::new(),
            limits: Vec::new(),
        };
        for limit in document.get_array("limits").map_err(corrupt)? {
            mark.limits.push(limit.as_document().ok_or_else(|| corrupt("a limit"))?.count("_id")?);
        }
        if document.has("marks") {
            for from in document.get_array("marks").map_err(corrupt)? {
                let from = from.as_document().ok_or_else(|| corrupt("a mark"))?;
                let id = from.get("id").cloned().ok_or_else(|| corrupt("a mark without a job"))?;
                mark.documents.push((id, from.int("rev")?));
            }
        }
        Ok(mark)
    }

    /// Takes the mark away, unless the job has run once more and left a new one. Not a change of the job: its revision
    /// stays.
    fn clear(self) -> impl Iterator<Item = Statement> {
        self.documents.into_iter().map(move |(id, rev)| Statement {
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
    let (mut parts, mut cleared) = (Vec::new(), Vec::new());
    for mark in marks {
        let open: Vec<u32> = mark
            .limits
            .iter()
            .copied()
            .filter(|limit| lanes.room(&mark.lane, *limit) > 0)
            .collect();
        if open.is_empty() {
            cleared.extend(mark.clear());
            continue;
        }
        // For each limit as many as there are slots: the jobs of one limit may all be in the way of another's.
        for limit_there in &open {
            let room = lanes.room(&mark.lane, *limit_there) as usize;
            let lane = behind(&mark.lane, i64::from(*limit_there).into());
            parts.push(first_parked(wanted, lane, limit.min(room)));
        }
        let open: Vec<i64> = open.into_iter().map(i64::from).collect();
        parts.push(vec![
            doc! { "$match": behind(&mark.lane, doc! { "$in": open }.into()) },
            doc! { "$limit": OTHERS },
            doc! { "$project": { "other": "$lane.key" } },
        ]);
    }
    if !cleared.is_empty() {
        batch::run(db, cleared).await?;
    }
    let (mut own, mut others) = (Vec::new(), Vec::new());
    let mut lanes_served = BTreeSet::new();
    for parts in parts.chunks(PARTS) {
        let mut found = db.jobs.aggregate(union(parts.to_vec())).await.map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            let id = document.get("_id").cloned().ok_or_else(|| corrupt("a job without an id"))?;
            if document.has("other") {
                others.push((document.text("other")?.to_owned(), id));
            } else {
                lanes_served.insert(document.text("own")?.to_owned());
                // No other job of its range may be ready.
                wanted.ranges.add(document.text("queue")?, document.text("kind")?);
                own.push(id);
            }
        }
    }
    let others = others.into_iter().filter(|(lane, _)| !lanes_served.contains(lane));
    let back: Vec<Bson> = own.into_iter().chain(others.map(|(_, id)| id)).collect();
    let came_back = !back.is_empty();
    if came_back {
        set_state(db, back, PARKED, READY).await?;
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
    if let Kinds::Only(kinds) = &wanted.request.kinds {
        query.insert("kind", one_of(&kinds.iter().map(AsRef::as_ref).collect::<Vec<_>>()));
    }
    vec![
        doc! { "$match": wanted.narrowed(query) },
        doc! { "$sort": wanted.order() },
        doc! { "$limit": codec::int(limit as u64) },
        doc! { "$project": { "own": "$lane.key", "queue": 1, "kind": 1 } },
    ]
}

async fn set_state(db: &Db, ids: Vec<Bson>, from: i32, to: i32) -> Result<()> {
    let query = doc! { "_id": { "$in": ids }, "state": from };
    // To its readers the job is waiting in both: its revision stays.
    let moved = db.jobs.update_many(query, doc! { "$set": { "state": to } }).await;
    moved.map(drop).map_err(|error| from_driver(Call::Write, error))
}

/// Puts jobs aside whose lanes were found full, unless a lane has room by now.
///
/// Whether some were brought back.
pub(super) async fn park(
    db: &Db,
    lanes: &mut Lanes,
    behind: &[(JobId, String, u32)],
) -> Result<bool> {
    let ids = behind.iter().map(|(id, ..)| codec::job_id(id)).collect();
    set_state(db, ids, READY, PARKED).await?;
    behind.iter().for_each(|(_, lane, _)| lanes.forget(lane));
    lanes.load(db, behind.iter().map(|(_, lane, _)| lane.as_str())).await?;
    let open = behind.iter().filter(|(_, lane, limit)| lanes.room(lane, *limit) > 0);
    let back: Vec<Bson> = open.map(|(id, ..)| codec::job_id(id)).collect();
    if back.is_empty() {
        return Ok(false);
    }
    set_state(db, back, PARKED, READY).await?;
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

/// Marks lanes that have room and parked jobs, if the last look at them is some time ago.
pub(crate) async fn repair(db: &Db) -> Result<()> {
    if !db.repaired.is_due(REPAIR_EVERY) {
        return Ok(());
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
    for Mark { lane, limits, .. } in &parked {
        if limits.iter().any(|limit| lanes.room(lane, *limit) > 0) {
            mark(db, lane).await?;
        }
    }
    Ok(())
}

/// When something was done last.
#[derive(Debug, Default)]
pub(crate) struct Last(std::sync::Mutex<Option<Instant>>);

impl Last {
    /// Whether that is as long ago; then it is now.
    fn is_due(&self, after: std::time::Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= after);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
