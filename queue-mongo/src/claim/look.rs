//! Looking for jobs to take.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use queue_core::{
    ClaimRequest, JobId, Kinds, Lane, Order, PAUSED_QUEUE, Queues, Result, Timestamp, Unique,
};

use super::failed;
use crate::{
    codec::{self, Read as _},
    connect::{Db, JOBS},
    error::corrupt,
    filter,
};

/// A due job, before it is known whether its lane has room.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) id: JobId,
    pub(super) lane: Option<Lane>,
    /// The unique key that the job gives up when it is started.
    pub(super) yielding: Option<Unique>,
}

/// What a claim looks for, and what it has learned meanwhile.
pub(super) struct Wanted<'a> {
    pub(super) request: &'a ClaimRequest,
    now: Timestamp,
    paused: Vec<String>,
    /// By lane, the lowest slot that is free.
    full: BTreeMap<String, u32>,
    lost: Vec<JobId>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(request: &'a ClaimRequest, now: Timestamp) -> Self {
        let (paused, full, lost) = (Vec::new(), BTreeMap::new(), Vec::new());
        Wanted { request, now, paused, full, lost }
    }

    /// Leaves out paused queues. Whether that makes a difference to what was asked for.
    pub(super) fn pause(&mut self, paused: Vec<String>) -> bool {
        self.paused = paused;
        match &self.request.queues {
            Queues::All => !self.paused.is_empty(),
            Queues::Only(queues) => {
                queues.iter().any(|queue| self.paused.iter().any(|name| name == queue.as_str()))
            }
        }
    }

    /// Leaves out the jobs of a lane that would need a lower slot than this.
    pub(super) fn set_full(&mut self, key: &str, lowest_free: u32) {
        self.full.insert(key.to_owned(), lowest_free);
    }

    /// Leaves out a job that another was faster with.
    pub(super) fn set_lost(&mut self, id: JobId) {
        self.lost.push(id);
    }

    /// Waiting jobs that the request matches.
    fn waiting(&self) -> Document {
        let mut query = doc! { "state": 0 };
        let is_paused = |name: &str| self.paused.iter().any(|paused| paused == name);
        match &self.request.queues {
            Queues::All if self.paused.is_empty() => {}
            Queues::All => drop(query.insert("queue", doc! { "$nin": self.paused.clone() })),
            Queues::Only(queues) => {
                let open = queues.iter().map(|queue| queue.as_str());
                let open: Vec<&str> = open.filter(|name| !is_paused(name)).collect();
                query.insert("queue", doc! { "$in": open });
            }
        }
        if let Kinds::Only(kinds) = &self.request.kinds {
            let kinds: Vec<&str> = kinds.iter().map(AsRef::as_ref).collect();
            query.insert("kind", doc! { "$in": kinds });
        }
        match &self.request.filter {
            None => query,
            Some(narrower) => filter::both(query, filter::query(narrower)),
        }
    }

    /// The waiting jobs that are due.
    pub(super) fn due(&self) -> Document {
        // Without a bound on its first field the server walks an index from end to end: with it, it leaps over what is
        // not yet due at each priority.
        let due = doc! {
            "priority": { "$gte": i32::from(i16::MIN) },
            "run_at": { "$lte": self.now.as_micros() },
        };
        filter::both(self.waiting(), due)
    }

    /// Leaves out what was passed over.
    fn not_passed_over(&self, query: Document) -> Document {
        let mut rest = Document::new();
        if !self.lost.is_empty() {
            let lost: Vec<Bson> = self.lost.iter().map(codec::job_id).collect();
            rest.insert("_id", doc! { "$nin": lost });
        }
        if !self.full.is_empty() {
            let full = self.full.iter().map(|(key, lowest_free)| {
                doc! { "lane.key": key, "lane.limit": { "$lte": i64::from(*lowest_free) } }
            });
            rest.insert("$nor", full.collect::<Vec<_>>());
        }
        filter::both(query, rest)
    }

    pub(super) fn candidates(&self, limit: usize) -> Vec<Document> {
        let direction = match self.request.order {
            Order::Fifo => 1,
            Order::Lifo => -1,
        };
        vec![
            doc! { "$match": self.not_passed_over(self.due()) },
            doc! { "$sort": { "priority": -1, "run_at": direction, "_id": direction } },
            doc! { "$limit": i64::try_from(limit).unwrap_or(i64::MAX) },
            doc! { "$project": {
                "candidate": "$_id", "_id": 0, "lane": 1,
                "yielding": { "$cond": [{ "$eq": ["$unique.mode", 1] }, "$unique.key", "$$REMOVE"] },
            } },
        ]
    }
}

/// What the first look finds.
#[derive(Debug, Default)]
pub(super) struct First {
    /// The queues that are paused.
    pub(super) paused: Vec<String>,
    /// Whether the token holds jobs already.
    pub(super) is_repeat: bool,
    pub(super) candidates: Vec<Candidate>,
}

/// The first look, in one trip.
pub(super) async fn first(db: &Db, wanted: &Wanted<'_>) -> Result<First> {
    // The prefix ends in a slash, whose successor is the digit zero.
    let end = PAUSED_QUEUE.replace('/', "0");
    let token = codec::uuid(&wanted.request.token);
    let limit = usize::try_from(wanted.request.limit.get()).unwrap_or(usize::MAX);
    let steps = [
        doc! { "$match": {
            "_id": { "$gte": PAUSED_QUEUE, "$lt": end }, "body": { "$exists": true },
        } },
        doc! { "$project": { "paused": "$_id", "_id": 0 } },
        doc! { "$unionWith": { "coll": JOBS, "pipeline": [
            { "$match": { "state": 1, "nonce": token } },
            { "$project": { "held": "$_id", "_id": 0 } },
        ] } },
        doc! { "$unionWith": { "coll": JOBS, "pipeline": wanted.candidates(limit) } },
    ];
    let mut found = db.fresh_records.aggregate(steps).await.map_err(failed)?;
    let mut first = First::default();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        if document.has("paused") {
            let key = document.text("paused")?;
            first.paused.push(key.strip_prefix(PAUSED_QUEUE).unwrap_or(key).to_owned());
        } else if document.has("held") {
            first.is_repeat = true;
        } else {
            first.candidates.push(read_candidate(&document)?);
        }
    }
    Ok(first)
}

/// A further look for candidates.
pub(super) async fn again(db: &Db, wanted: &Wanted<'_>, limit: usize) -> Result<Vec<Candidate>> {
    let mut found = db.jobs.aggregate(wanted.candidates(limit)).await.map_err(failed)?;
    let mut candidates = Vec::new();
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
    let id = JobId::from_uuid(document.id("candidate")?);
    Ok(Candidate { id, lane, yielding: key.map(Unique::supersede) })
}

/// The earliest instant at which the request could find more. One trip.
pub(super) async fn next_due(db: &Db, wanted: &Wanted<'_>) -> Result<Option<Timestamp>> {
    // What another was faster with may have come back by now.
    let waiting = Wanted {
        lost: Vec::new(),
        paused: wanted.paused.clone(),
        full: wanted.full.clone(),
        ..*wanted
    };
    let steps = [
        doc! { "$match": waiting.not_passed_over(waiting.waiting()) },
        doc! { "$sort": { "run_at": 1 } },
        doc! { "$limit": 1 },
        doc! { "$project": { "at": "$run_at", "_id": 0 } },
        doc! { "$unionWith": { "coll": JOBS, "pipeline": [
            { "$match": { "state": 1 } },
            { "$group": { "_id": Bson::Null, "at": { "$min": "$lease_until" } } },
        ] } },
    ];
    // As a majority has them: a claim that is not yet acknowledged may still come to nothing.
    let mut found = db.settled_jobs.aggregate(steps).await.map_err(failed)?;
    let mut earliest: Option<Timestamp> = None;
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let at = document.time("at")?.max(wanted.now);
        earliest = Some(earliest.map_or(at, |known| known.min(at)));
    }
    Ok(earliest)
}
