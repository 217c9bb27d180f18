//! Looking for jobs to take.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};
use queue_core::{JobId, Kinds, Lane, Order, PAUSED_QUEUE, Queues, Result, Timestamp, Unique};

use super::{
    failed,
    marks::{self, Mark},
    wanted::{Candidate, Wanted, each_distinct, union},
};
use crate::{
    codec::{self, READY, Read as _},
    connect::Db,
    error::corrupt,
};

/// A pipeline may have 1,000 stages.
const PARTS: usize = 200;
/// LIFO looks at so many priorities in one trip, or at fewer: each repeats the ranges, which may be long lists of names.
const PRIORITIES: usize = 50;
/// The size of such a command; the server takes 16 MiB.
const BYTES: usize = 8 * 1024 * 1024;

/// What the first look finds.
#[derive(Debug, Default)]
pub(super) struct First {
    /// The queues that are paused.
    pub(super) paused: Vec<String>,
    /// Whether the token holds jobs already.
    pub(super) is_repeat: bool,
    /// The kinds that wait; asked for when the request names none.
    pub(super) kinds: Option<BTreeSet<String>>,
    /// The lanes of which a slot was freed.
    pub(super) marks: Vec<Mark>,
    pub(super) candidates: Vec<Candidate>,
}

/// The first look, in one trip.
pub(super) async fn first(db: &Db, wanted: &Wanted<'_>, limit: usize) -> Result<First> {
    // The prefix ends in a slash, whose successor is the digit zero.
    let end = PAUSED_QUEUE.replace('/', "0");
    let token = codec::uuid(&wanted.request.token);
    let paused = vec![
        doc! { "$match": {
            "_id": { "$gte": PAUSED_QUEUE, "$lt": end }, "body": { "$exists": true },
        } },
        doc! { "$project": { "paused": "$_id", "_id": 0 } },
    ];
    let held = vec![
        doc! { "$match": { "state": 1, "nonce": token } },
        doc! { "$project": { "held": "$_id", "_id": 0 } },
    ];
    let mut parts = vec![paused, held, marks::steps()];
    let mut first = First::default();
    if wanted.request.kinds == Kinds::All {
        first.kinds = Some(BTreeSet::new());
        parts.push(each_distinct(wanted.kind_ranges(), "kind"));
    }
    if wanted.request.order == Order::Fifo {
        parts.push(wanted.fifo(limit));
    }
    parts.retain(|part| !part.is_empty());
    let mut found = db.fresh_records.aggregate(union(parts)).await.map_err(failed)?;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        if document.has("paused") {
            let key = document.text("paused")?;
            first.paused.push(key.strip_prefix(PAUSED_QUEUE).unwrap_or(key).to_owned());
        } else if document.has("held") {
            first.is_repeat = true;
        } else if document.has("marks") {
            first.marks.push(Mark::read(&document)?);
        } else if document.has("a_kind") {
            first.kinds.get_or_insert_default().insert(document.text("a_kind")?.to_owned());
        } else {
            first.candidates.push(read_candidate(&document)?);
        }
    }
    Ok(first)
}

/// A further look for candidates. One trip, two when LIFO.
pub(super) async fn again(db: &Db, wanted: &Wanted<'_>, limit: usize) -> Result<Vec<Candidate>> {
    if wanted.request.order == Order::Fifo {
        return found(db, wanted.fifo(limit)).await;
    }
    if wanted.ranges.groups().is_empty() {
        return Ok(Vec::new());
    }
    let mut priorities = BTreeSet::new();
    let few = wanted.ranges.queues.as_ref().is_some_and(|queues| queues.len() == 1);
    let ranges = if few { wanted.ranges.singles() } else { wanted.ranges.by_kind() };
    for value in distinct(&db.jobs, ranges, "priority").await? {
        priorities.insert(value.as_i32().ok_or_else(|| corrupt("a priority"))?);
    }
    let priorities: Vec<i32> = priorities.into_iter().rev().collect();
    let one = doc! { "pipeline": wanted.lifo(&[0], limit) };
    let bytes = one.to_vec().map_err(corrupt)?.len();
    let groups = wanted.ranges.groups().len();
    let each = PRIORITIES.min(BYTES / bytes).min(PARTS / groups).max(1);
    let mut candidates = Vec::new();
    for priorities in priorities.chunks(each) {
        if candidates.len() < limit {
            candidates.extend(found(db, wanted.lifo(priorities, limit - candidates.len())).await?);
        }
    }
    Ok(candidates)
}

async fn found(db: &Db, steps: Vec<Document>) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    if steps.is_empty() {
        return Ok(candidates);
    }
    let mut found = db.jobs.aggregate(steps).await.map_err(failed)?;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        candidates.push(read_candidate(&document)?);
    }
    Ok(candidates)
}

fn read_candidate(document: &Document) -> Result<Candidate> {
    let lane = document.maybe("lane", |document, key| {
        let lane = document.get_document(key).map_err(corrupt)?;
        let limit = std::num::NonZeroU32::new(lane.count("limit")?);
        Ok(Lane::with_limit(lane.text("key")?, limit.ok_or_else(|| corrupt("a lane's limit"))?))
    })?;
    let key = document.maybe("yielding", |document, key| document.text(key).map(str::to_owned))?;
    let id = JobId::from_uuid(document.id("_id")?);
    let queue = document.text("queue")?.to_owned();
    let priority = document.get_i32("priority").map_err(corrupt)?;
    let run_at = document.get_i64("run_at").map_err(corrupt)?;
    Ok(Candidate { id, queue, priority, run_at, lane, yielding: key.map(Unique::supersede) })
}

/// The values that a field has in these ranges.
async fn distinct(
    jobs: &Collection<Document>,
    ranges: Vec<Document>,
    field: &str,
) -> Result<Vec<Bson>> {
    let mut values = Vec::new();
    for ranges in ranges.chunks(PARTS) {
        let steps = each_distinct(ranges.to_vec(), field);
        let mut found = jobs.aggregate(steps).await.map_err(failed)?;
        while let Some(mut document) = found.try_next().await.map_err(failed)? {
            values.extend(document.remove(format!("a_{field}")));
        }
    }
    Ok(values)
}

/// The queues, or kinds, in which jobs wait.
pub(super) async fn names(
    jobs: &Collection<Document>,
    ranges: Vec<Document>,
    field: &str,
) -> Result<Vec<String>> {
    let values = distinct(jobs, ranges, field).await?;
    let names = values.iter().map(|value| value.as_str().map(str::to_owned));
    names.map(|name| name.ok_or_else(|| corrupt("a name"))).collect()
}

/// The names that a field has in these ranges, and, looked at before them and in the same trip, the earliest lease.
async fn names_after_leases(
    jobs: &Collection<Document>,
    ranges: Vec<Document>,
    field: &str,
    leases: &mut Vec<Vec<Document>>,
    earliest: &mut Option<Timestamp>,
) -> Result<Vec<String>> {
    let (key, mut names) = (format!("a_{field}"), Vec::new());
    for ranges in ranges.chunks(PARTS) {
        let parts = leases.drain(..).chain([each_distinct(ranges.to_vec(), field)]);
        let mut found = jobs.aggregate(union(parts)).await.map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            match document.has("at") {
                true => keep_earlier(earliest, document.time("at")?),
                false => names.push(document.text(&key)?.to_owned()),
            }
        }
    }
    Ok(names)
}

fn keep_earlier(earliest: &mut Option<Timestamp>, at: Timestamp) {
    *earliest = Some(earliest.map_or(at, |known| known.min(at)));
}

/// The earliest instant at which the request could find more. One trip, as long as the request names its kinds and fewer
/// ranges than a pipeline may have parts.
///
/// Jobs that are not yet due count whether or not their lane has room by now; that is early at most. Jobs behind
/// full lanes are parked by then; a mark that the first look has not met says that they have room since.
///
/// What is read is not of one instant, so that leases are read before and after all else: a run that ends meanwhile is seen
/// before, or its mark is, and one that starts meanwhile among the jobs that wait, or after.
pub(super) async fn next_due(db: &Db, wanted: &Wanted<'_>) -> Result<Option<Timestamp>> {
    let lease = vec![
        doc! { "$match": { "state": 1 } },
        doc! { "$group": { "_id": Bson::Null, "at": { "$min": "$lease_until" } } },
        doc! { "$project": { "at": 1, "_id": 0 } },
    ];
    let mut leases = vec![lease.clone()];
    let mut earliest: Option<Timestamp> = None;
    // As a majority has them: a claim that is not yet acknowledged may still come to nothing. That is why the ranges are
    // asked for anew: the look before saw what others are about to take as taken.
    let (jobs, mut ranges) = (&db.settled_jobs, wanted.ranges.clone());
    if wanted.request.kinds == Kinds::All {
        let asked = wanted.kind_ranges();
        let kinds = names_after_leases(jobs, asked, "kind", &mut leases, &mut earliest).await?;
        ranges.kinds.extend(kinds);
    }
    if wanted.request.queues == Queues::All && ranges.queues.is_some() {
        let asked = vec![doc! { "state": READY }];
        let queues = names_after_leases(jobs, asked, "queue", &mut leases, &mut earliest).await?;
        let open = queues.into_iter().filter(|name| !wanted.paused.contains(name));
        ranges.queues = Some(open.collect());
    }
    let mut parts = leases;
    parts.push(marks::steps());
    parts.extend(ranges.singles().into_iter().map(|range| wanted.earliest(range)));
    parts.push(lease);
    for parts in parts.chunks(PARTS) {
        let steps = union(parts.to_vec());
        let mut found = jobs.aggregate(steps).await.map_err(failed)?;
        while let Some(document) = found.try_next().await.map_err(failed)? {
            if !document.has("marks") {
                keep_earlier(&mut earliest, document.time("at")?);
                continue;
            }
            let mark = Mark::read(&document)?;
            if mark.matters() && mark.signs().any(|sign| !wanted.marks.contains(&sign)) {
                return Ok(Some(wanted.now));
            }
        }
    }
    Ok(earliest.map(|at| at.max(wanted.now)))
}
