//! What a claim looks for, as pipelines.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document, doc};
use queue_core::{ClaimRequest, JobId, Kinds, Lane, Order, Queues, Result, Timestamp, Unique};

use super::{
    Pick,
    lanes::Lanes,
    look::{self, First},
    ranges::Ranges,
    seen::Seen,
};
use crate::{
    codec::{self, PARKED, READY},
    connect::{Db, JOBS},
    filter,
};

/// Of more queues the kinds are not asked for one by one.
const ASKED_ONE_BY_ONE: usize = 20;

/// A due job, before it is known whether its lane has room.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) id: JobId,
    pub(super) queue: String,
    /// Where it stands among those of its queue, in the units of the document.
    pub(super) priority: i32,
    pub(super) run_at: i64,
    pub(super) lane: Option<Lane>,
    /// The unique key that the job gives up when it is started.
    pub(super) yielding: Option<Unique>,
}

/// What a claim looks for, and what it has learned meanwhile.
pub(super) struct Wanted<'a> {
    pub(super) request: &'a ClaimRequest,
    pub(super) ranges: Ranges,
    pub(super) paused: Vec<String>,
    pub(super) now: Timestamp,
    /// The marks of lanes that the first look met.
    pub(super) marks: Vec<(Bson, i64)>,
    lost: Vec<JobId>,
    passed_by: PassedBy,
}

/// Lanes that are full with what is about to be taken: looks pass by the jobs behind it.
#[derive(Default)]
struct PassedBy {
    /// By the lowest slot that is free.
    lanes: BTreeMap<u32, BTreeSet<String>>,
    /// What is about to be taken.
    picked: Vec<JobId>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(request: &'a ClaimRequest, seen: &Seen, now: Timestamp) -> Self {
        let queues = match &request.queues {
            Queues::All => None,
            Queues::Only(queues) => {
                let names: BTreeSet<&str> = queues.iter().map(|queue| queue.as_str()).collect();
                Some(names.into_iter().map(str::to_owned).collect())
            }
        };
        let kinds = match &request.kinds {
            Kinds::All => seen.kinds(),
            Kinds::Only(kinds) => kinds.iter().map(|kind| kind.as_ref().to_owned()).collect(),
        };
        let ranges = Ranges { queues, kinds };
        Wanted {
            request,
            ranges,
            paused: Vec::new(),
            now,
            marks: Vec::new(),
            lost: Vec::new(),
            passed_by: PassedBy::default(),
        }
    }

    /// Leaves out paused queues, and looks for all kinds that there are. Whether that makes a difference.
    pub(super) async fn learn(&mut self, db: &Db, first: &First) -> Result<bool> {
        let mut differs = false;
        if let Some(kinds) = &first.kinds {
            db.seen.add(kinds.iter().map(String::as_str));
            differs |= !kinds.is_subset(&self.ranges.kinds);
            self.ranges.kinds.clone_from(kinds);
        }
        if !first.paused.is_empty() {
            let before = match self.ranges.queues.take() {
                Some(queues) => queues,
                // Skipping the jobs of a paused queue one by one could take for ever.
                None => {
                    differs = true;
                    look::names(&db.jobs, vec![doc! { "state": READY }], "queue").await?
                }
            };
            let (count, paused) = (before.len(), &first.paused);
            let open: Vec<String> =
                before.into_iter().filter(|name| !paused.contains(name)).collect();
            differs |= open.len() < count;
            self.ranges.queues = Some(open);
            self.paused.clone_from(paused);
        }
        Ok(differs)
    }

    /// A job that is taken keeps the mark of the slot that it freed, and has one revision more.
    pub(super) fn set_taken(&mut self, id: JobId) {
        let id = codec::job_id(&id);
        self.marks.iter_mut().filter(|mark| mark.0 == id).for_each(|mark| mark.1 += 1);
    }

    /// Leaves out a job that another was faster with.
    pub(super) fn set_lost(&mut self, id: JobId) {
        self.lost.push(id);
    }

    /// Looks pass by what is behind these candidates, which are still to be taken.
    pub(super) fn pass_by(&mut self, lanes: &Lanes, picked: &[Pick]) {
        let mut passed_by = PassedBy::default();
        for pick in picked {
            passed_by.picked.push(pick.candidate.id);
            if let Some(lane) = pick.lane() {
                let same = passed_by.lanes.entry(lanes.free(lane)).or_default();
                same.insert(lane.to_owned());
            }
        }
        self.passed_by = passed_by;
    }

    /// Looks see everything again. Whether some jobs were passed by.
    pub(super) fn pass_by_none(&mut self) -> bool {
        !std::mem::take(&mut self.passed_by).lanes.is_empty()
    }

    /// Matches a candidate only as long as it is one, in its place: one that was taken and given back meanwhile may have
    /// its turn after others.
    pub(super) fn still(&self, candidate: &Candidate) -> Document {
        let this = doc! {
            "_id": codec::job_id(&candidate.id),
            "state": { "$in": [READY, PARKED] },
            "queue": &candidate.queue,
            "priority": candidate.priority,
            "run_at": candidate.run_at,
        };
        self.narrowed(this)
    }

    /// The query, and the request's own filter.
    pub(super) fn narrowed(&self, query: Document) -> Document {
        match &self.request.filter {
            None => query,
            Some(narrower) => filter::both(query, filter::query(narrower)),
        }
    }

    /// The first due jobs of these ranges, in order.
    fn due(&self, mut range: Document, order: &Document, limit: usize) -> Vec<Document> {
        // Without a bound on the priority the server walks the range from end to end: with it, it leaps over what is
        // not yet due at each priority.
        if !range.contains_key("priority") {
            range.insert("priority", doc! { "$gte": i32::from(i16::MIN) });
        }
        range.insert("run_at", doc! { "$lte": self.now.as_micros() });
        if !self.lost.is_empty() {
            let lost: Vec<Bson> = self.lost.iter().map(codec::job_id).collect();
            range.insert("_id", doc! { "$nin": lost });
        }
        if !self.passed_by.lanes.is_empty() {
            let picked: Vec<Bson> = self.passed_by.picked.iter().map(codec::job_id).collect();
            let behind = self.passed_by.lanes.iter().map(|(free, lanes)| {
                let lanes: Vec<&str> = lanes.iter().map(String::as_str).collect();
                doc! {
                    "lane.key": { "$in": lanes },
                    "lane.limit": { "$lte": i64::from(*free) },
                    "_id": { "$nin": picked.clone() },
                }
            });
            range.insert("$nor", behind.collect::<Vec<_>>());
        }
        vec![
            doc! { "$match": self.narrowed(range) },
            doc! { "$sort": order },
            doc! { "$limit": codec::int(limit as u64) },
            doc! { "$project": {
                "queue": 1, "lane": 1, "priority": 1, "run_at": 1,
                "yielding": { "$cond": [{ "$eq": ["$unique.mode", 1] }, "$unique.key", "$$REMOVE"] },
            } },
        ]
    }

    pub(super) fn order(&self) -> Document {
        match self.request.order {
            Order::Fifo => doc! { "priority": -1, "run_at": 1, "_id": 1 },
            Order::Lifo => doc! { "priority": -1, "run_at": -1, "_id": -1 },
        }
    }

    /// The first due jobs of all ranges, at this priority or at all of them.
    fn merged(&self, priority: Option<i32>, limit: usize) -> Vec<Document> {
        let mut order = self.order();
        if priority.is_some() {
            // The server does not see that this is the same for all, and would not walk the index backwards.
            order.remove("priority");
        }
        let groups = self.ranges.groups().into_iter().map(|mut group| {
            if let Some(priority) = priority {
                group.insert("priority", priority);
            }
            self.due(group, &order, limit)
        });
        let several = groups.len() > 1;
        let mut steps = union(groups);
        if several {
            steps.push(doc! { "$sort": order });
            steps.push(doc! { "$limit": codec::int(limit as u64) });
        }
        steps
    }

    /// Finds the first `limit` due jobs, FIFO. No steps where there is nothing to look at.
    pub(super) fn fifo(&self, limit: usize) -> Vec<Document> {
        self.merged(None, limit)
    }

    /// The same, LIFO: the index backwards, one priority after the other. The server stops at the first that suffices.
    pub(super) fn lifo(&self, priorities: &[i32], limit: usize) -> Vec<Document> {
        let mut steps = union(priorities.iter().map(|p| self.merged(Some(*p), limit)));
        steps.push(doc! { "$limit": codec::int(limit as u64) });
        steps
    }

    /// The earliest start of what waits in these ranges, due or not; by priority, whose first entries the server leaps to.
    pub(super) fn earliest(&self, range: Document) -> Vec<Document> {
        vec![
            doc! { "$match": self.narrowed(range) },
            doc! { "$sort": { "priority": -1, "run_at": 1 } },
            doc! { "$group": { "_id": "$priority", "at": { "$first": "$run_at" } } },
            doc! { "$project": { "at": 1, "_id": 0 } },
        ]
    }

    /// Where all wanted kinds are found: in the queues or in more.
    pub(super) fn kind_ranges(&self) -> Vec<Document> {
        match &self.ranges.queues {
            Some(queues) if queues.len() <= ASKED_ONE_BY_ONE => {
                queues.iter().map(|queue| doc! { "state": READY, "queue": queue }).collect()
            }
            _ => vec![doc! { "state": READY }],
        }
    }
}

/// The results of these pipelines, one after the other.
pub(super) fn union(parts: impl IntoIterator<Item = Vec<Document>>) -> Vec<Document> {
    let mut parts = parts.into_iter();
    let mut steps = parts.next().unwrap_or_default();
    steps.extend(parts.map(|part| doc! { "$unionWith": { "coll": JOBS, "pipeline": part } }));
    steps
}

/// The values that a field has in each of these ranges. One key is read for each.
pub(super) fn each_distinct(ranges: Vec<Document>, field: &str) -> Vec<Document> {
    union(ranges.into_iter().map(|range| {
        vec![
            doc! { "$match": range },
            doc! { "$group": { "_id": format!("${field}") } },
            doc! { "$project": { "_id": 0, (format!("a_{field}")): "$_id" } },
        ]
    }))
}
