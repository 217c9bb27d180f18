//! What happens to jobs without their holders: reaping, bulk changes, deleting.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
};

use futures::TryStreamExt;
use mongodb::{
    bson::{Bson, Document, doc},
    options::ReadConcern,
};
use queue_core::{BulkChange, BulkOutcome, JobFilter, JobId, Reaped, Result, Row, State};

use crate::{
    batch::{self, Statement, Verdict},
    cas::{self, ROUNDS},
    change::Change,
    claim,
    codec::{self, Read as _, Stored},
    connect::Db,
    error::{Call, SNAPSHOT_TOO_OLD, code_of, contention, from_driver},
    filter, intent, reply,
};

/// How many jobs are changed by one command.
const CHUNK: usize = 500;
/// How long a reap waits for jobs that a transaction has written.
const REAP_WAITS: std::time::Duration = std::time::Duration::from_secs(2);
/// About the size of a statement.
const STATEMENT_BYTES: usize = 1024;

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

/// Takes jobs whose lease is over from their holders, and carries out what died with its caller.
pub(crate) async fn reap(db: &Db, limit: NonZeroU32) -> Result<Vec<Reaped>> {
    let now = db.now().await?;
    // Leases must not wait for an intent that cannot be carried out.
    if let Err(error) = intent::carry_out_left(db, now).await {
        tracing::warn!(%error, "what another process left could not be carried out");
    }
    if let Err(error) = claim::repair(db).await {
        tracing::warn!(%error, "the lanes with parked jobs could not be looked at");
    }
    // What another reap has written and a majority has not acknowledged is still found: this call then waits for it with its
    // own write, and does not say that nothing is over where a reader still sees it.
    let mut found = db
        .settled_jobs
        .find(doc! { "state": 1, "lease_until": { "$lte": now.as_micros() } })
        .hint(mongodb::options::Hint::Name("held".to_owned()))
        .sort(doc! { "lease_until": 1, "_id": 1 })
        .limit(limit.get().into())
        .projection(codec::narrow())
        .await
        .map_err(failed)?;
    let reap = Reap::begin();
    let mut reaped = Vec::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let stored = codec::read(&document, 0)?;
        let mut after = stored.row.clone();
        after.reap(now);
        reaped.push((stored, after));
    }
    let (mut won, full) = reap.write(db, reaped, &ErrorThen::AsReaped).await?;
    // Where there is no room for what became of a job, the error of its last attempt makes room.
    let (made_room, _) = reap.write(db, full, &ErrorThen::None).await?;
    won.extend(made_room);
    let report = |Row { id, queue, control, .. }| {
        Reaped::new(id, queue, control.fence, control.state, control.crashes)
    };
    Ok(won.into_iter().map(report).collect())
}

/// One reap, which knows its writes again.
struct Reap {
    /// By how much it moves the revision of a job: a random number of whole steps. No other reap moves it by as much, and any
    /// other write by one. So a job whose reaping was acknowledged too late is told from one that somebody else has reaped, also
    /// when it was claimed, or settled, since.
    step: i64,
}

/// More than the writes that follow a reap before it is acknowledged.
const STEP: i64 = 1 << 16;

impl Reap {
    fn begin() -> Reap {
        // The last bytes of a fresh UUID are random.
        let [.., a, b, c] = *queue_core::Uuid::now_v7().as_bytes();
        Reap { step: (1 + i64::from(u32::from_be_bytes([0, a, b, c]))) * STEP }
    }

    /// Whether this reap has moved a job from the one revision on its way to the other.
    fn is_behind(&self, before: i64, now: i64) -> bool {
        (0..STEP).contains(&(now - before - self.step))
    }

    /// Writes what became of the jobs. Returns those that it took from their holders, and those with too little room.
    ///
    /// One that has moved on was reaped, settled or renewed by another meanwhile; one that a transaction has written is
    /// about to be.
    async fn write(
        &self,
        db: &Db,
        jobs: Vec<(Stored, Row)>,
        error: &ErrorThen,
    ) -> Result<(Vec<Row>, Vec<(Stored, Row)>)> {
        let statements =
            jobs.iter().map(|(stored, after)| self.statement(stored, after, error)).collect();
        let verdicts = batch::run_within(db, statements, REAP_WAITS).await?;
        let (mut won, mut full, mut doubtful) = (Vec::new(), Vec::new(), Vec::new());
        for ((stored, after), verdict) in jobs.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Applied => won.push(after),
                Verdict::TooLarge => full.push((stored, after)),
                Verdict::Doubtful | Verdict::Blocked => doubtful.push((stored.rev, after)),
                Verdict::NotMatched | Verdict::Taken => {}
            }
        }
        if !doubtful.is_empty() {
            let ids: Vec<Bson> =
                doubtful.iter().map(|(_, after)| codec::job_id(&after.id)).collect();
            // What is made and not acknowledged even now is waited for: a job must not be taken back without anybody's report.
            db.wait_for_majority().await?;
            let wanted = doc! { "_id": { "$in": ids } };
            let found = db.settled_jobs.find(wanted).projection(doc! { "rev": 1 });
            let there: Vec<Document> =
                found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
            let mut revisions = HashMap::with_capacity(there.len());
            for document in there {
                revisions.insert(JobId::from_uuid(document.id("_id")?), document.int("rev")?);
            }
            won.extend(doubtful.into_iter().filter_map(|(rev, after)| {
                self.is_behind(rev, *revisions.get(&after.id)?).then_some(after)
            }));
        }
        Ok((won, full))
    }

    fn statement(&self, stored: &Stored, after: &Row, error: &ErrorThen) -> Statement {
        let mut change = Change::between(&stored.row, after);
        change.move_revision_by(self.step);
        match (error, &after.error) {
            (ErrorThen::AsReaped, None) => {}
            (ErrorThen::AsReaped, error) => change.payload("error", error.as_ref()),
            (ErrorThen::None, _) => change.payload("error", None),
        }
        cas::guarded(stored, change, STATEMENT_BYTES)
    }
}

/// What a reap leaves as the error of a job.
enum ErrorThen {
    AsReaped,
    None,
}

/// Changes all matching jobs and counts them.
pub(crate) async fn update_where(
    db: &Db,
    wanted: &JobFilter,
    change: &BulkChange,
) -> Result<BulkOutcome> {
    let now = db.now().await?;
    let mut counts = BulkOutcome::default();
    let query = filter::query(wanted);
    let mut seen = HashSet::new();
    // As all jobs were at one moment: a job that is released while the index is read would otherwise be passed by, where it is not
    // any more and where it is not yet.
    let concern = if db.transactions { ReadConcern::snapshot() } else { ReadConcern::majority() };
    let look = async || {
        let found = db.settled_jobs.find(query.clone()).read_concern(concern.clone());
        found.projection(codec::narrow()).await.map_err(failed)
    };
    let mut found = look().await?;
    loop {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let document = match found.try_next().await {
                Ok(Some(document)) => document,
                Ok(None) => break,
                // The server keeps minutes of its past, and this took longer. What was met is not met again.
                Err(error) if code_of(&error) == Some(SNAPSHOT_TOO_OLD) => {
                    found = look().await?;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let stored = codec::read(&document, 0)?;
            // A job that a change moves along the index that is read comes by again.
            if seen.insert(stored.row.id) {
                chunk.push(stored);
            }
        }
        if chunk.is_empty() {
            return Ok(counts);
        }
        for round in 1..=ROUNDS {
            let moved = change_chunk(db, &chunk, change, now, &mut counts).await?;
            if moved.is_empty() {
                break;
            }
            if round == ROUNDS {
                return Err(contention().with_effect(queue_core::Effect::Unknown));
            }
            reply::pause(round).await;
            let ids: Vec<Bson> = moved.iter().map(codec::job_id).collect();
            let again = filter::both(doc! { "_id": { "$in": ids } }, query.clone());
            let found =
                db.settled_jobs.find(again).projection(codec::narrow()).await.map_err(failed)?;
            let documents: Vec<_> = found.try_collect().await.map_err(failed)?;
            chunk =
                documents.iter().map(|document| codec::read(document, 0)).collect::<Result<_>>()?;
        }
    }
}

/// Changes jobs that were read, and counts them. Returns those that have moved on.
async fn change_chunk(
    db: &Db,
    chunk: &[Stored],
    change: &BulkChange,
    now: queue_core::Timestamp,
    counts: &mut BulkOutcome,
) -> Result<Vec<JobId>> {
    let (mut sent, mut statements) = (Vec::new(), Vec::<Statement>::new());
    for stored in chunk {
        match stored.row.control.bulk_operation(change, now) {
            None => *counts.count(change, stored.row.control.state) += 1,
            Some(operation) => {
                let mut after = stored.row.clone();
                after.change(operation, change, now);
                let difference = Change::between(&stored.row, &after);
                statements.push(cas::guarded(stored, difference, STATEMENT_BYTES));
                sent.push(stored);
            }
        }
    }
    let mut moved = Vec::new();
    for (stored, verdict) in sent.into_iter().zip(batch::run(db, statements).await?) {
        match verdict {
            Verdict::Applied => *counts.count(change, stored.row.control.state) += 1,
            Verdict::NotMatched
            | Verdict::Taken
            | Verdict::TooLarge
            | Verdict::Blocked
            | Verdict::Doubtful => moved.push(stored.row.id),
        }
    }
    Ok(moved)
}

/// Deletes matching jobs that do not run, the oldest first.
pub(crate) async fn delete(db: &Db, wanted: &JobFilter, limit: NonZeroU32) -> Result<u64> {
    let idle = doc! { "state": { "$ne": i32::from(State::Running.code()) } };
    let query = filter::both(filter::query(wanted), idle);
    let mut deleted = 0;
    let mut round = 0;
    while round < ROUNDS {
        let left = (u64::from(limit.get()) - deleted).min(CHUNK as u64);
        if left == 0 {
            break;
        }
        if round > 0 {
            reply::pause(round).await;
        }
        // What others have deleted and a majority has not acknowledged is still found, and waited for with the write below:
        // otherwise a reader could still see it when this call has said that nothing is there.
        let found = db
            .settled_jobs
            .find(query.clone())
            .sort(doc! { "created_at": 1, "_id": 1 })
            .limit(codec::int(left))
            .projection(doc! { "_id": 1, "successor": 1, "source": 1, "unique": 1, "freed": 1 })
            .await
            .map_err(failed)?;
        let documents: Vec<_> = found.try_collect().await.map_err(failed)?;
        if documents.is_empty() {
            break;
        }
        intent::settle_before_delete(db, &documents).await?;
        let ids: Vec<Bson> = documents.iter().filter_map(|d| d.get("_id").cloned()).collect();
        let doomed = ids.len() as u64;
        // A mark that was not there when the job was read would be lost with it.
        let marked: Vec<Bson> = documents
            .iter()
            .filter(|d| d.contains_key("freed"))
            .filter_map(|d| d.get("_id").cloned())
            .collect();
        let still = doc! { "_id": { "$in": ids }, "successor": Bson::Null, "$or": [{ "freed": Bson::Null }, { "_id": { "$in": marked } }] };
        let gone = db
            .jobs
            .delete_many(filter::both(query.clone(), still))
            .await
            .map_err(|error| from_driver(Call::Write, error))?;
        deleted += gone.deleted_count;
        for lane in documents.iter().filter_map(|document| document.get_str("freed").ok()) {
            claim::mark(db, lane).await?;
        }
        if gone.deleted_count < doomed {
            // Others deleted some of them, or changed them.
            round += 1;
        } else if doomed < left {
            break;
        }
    }
    Ok(deleted)
}
