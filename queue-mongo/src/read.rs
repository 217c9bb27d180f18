//! Reading.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use queue_core::{
    Cursor, Job, JobFilter, JobId, JobQuery, LogRead, Page, QueueName, Result, Sort, State, Tally,
};

use crate::{
    codec::{self, Read as _},
    connect::Db,
    error::{Call, corrupt, from_driver},
    filter,
};

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

/// Reads jobs by id.
pub(crate) async fn get(db: &Db, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
    let wanted: Vec<_> = ids.iter().map(codec::job_id).collect();
    let mut found = db
        .settled_jobs
        .find(doc! { "_id": { "$in": wanted } })
        .projection(codec::with_log(log))
        .await
        .map_err(failed)?;
    let mut jobs = HashMap::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let job = codec::read_job(&document, log)?;
        jobs.insert(job.id, job);
    }
    Ok(ids.iter().map(|id| jobs.get(id).cloned()).collect())
}

/// Reads a page.
pub(crate) async fn find(db: &Db, query: &JobQuery) -> Result<Page<Job>> {
    let (order, beyond) = match query.sort {
        Sort::OldestFirst => (1, "$gt"),
        Sort::NewestFirst => (-1, "$lt"),
    };
    let mut wanted = filter::query(&query.filter);
    if let Some(cursor) = query.after {
        let at = cursor.created_at.as_micros();
        let bound = if order == 1 { "$gte" } else { "$lte" };
        let after = doc! {
            "created_at": { bound: at },
            "$or": [
                { "created_at": { beyond: at } },
                { "created_at": at, "_id": { beyond: codec::job_id(&cursor.id) } },
            ],
        };
        wanted = filter::both(wanted, after);
    }
    let limit = usize::try_from(query.limit.get()).unwrap_or(usize::MAX);
    // The server counts in i64; a page that far out is empty on any database.
    let offset = query.offset.min(i64::MAX as u64 / 2);
    let mut found = db
        .settled_jobs
        .find(wanted)
        .sort(doc! { "created_at": order, "_id": order })
        .skip(offset)
        .limit(i64::from(query.limit.get()) + 1)
        .projection(doc! { "log": 0 })
        .await
        .map_err(failed)?;
    let mut items = Vec::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        items.push(codec::read_job(&document, LogRead::None)?);
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(Cursor::of);
    Ok(Page::new(items, next))
}

/// Counts by queue and state.
pub(crate) async fn tally(db: &Db, wanted: &JobFilter) -> Result<Vec<Tally>> {
    let steps = [
        doc! { "$match": filter::query(wanted) },
        doc! { "$group": { "_id": { "queue": "$queue", "state": "$state" }, "count": { "$sum": 1_i64 } } },
    ];
    let mut found = db.settled_jobs.aggregate(steps).await.map_err(failed)?;
    let mut counts: BTreeMap<(QueueName, State), u64> = BTreeMap::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let group: &Document = document.get_document("_id").map_err(corrupt)?;
        let queue = QueueName::new(group.text("queue")?).map_err(corrupt)?;
        // Waiting jobs are stored in two states.
        *counts.entry((queue, codec::state(group)?)).or_default() +=
            document.count::<u64>("count")?;
    }
    let mut tallies: Vec<Tally> =
        counts.into_iter().map(|((queue, state), count)| Tally::new(queue, state, count)).collect();
    tallies.sort();
    Ok(tallies)
}
