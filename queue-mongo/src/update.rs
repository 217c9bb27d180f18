//! Updates.

use std::collections::HashSet;

use mongodb::bson::{Bson, doc};
use queue_core::{
    Ack, Fence, Guard, JobId, JobPatch, JobUpdate, Judgement, NewEntry, Outcome, Result, Row,
    State, Timestamp, Transition, Version,
};

use crate::{
    batch::{self, Statement, Verdict},
    cas,
    change::{Change, log_bytes},
    codec::{self, Stored},
    connect::{Db, MAX_JOB_BYTES, MAX_PAYLOAD_BYTES},
    error::{Call, contention, from_driver},
    intent, reply,
};

/// What a statement takes beside payloads and log.
pub(crate) const STATEMENT_BYTES: usize = 1024;
/// The largest patch that fits into one command.
const MAX_PATCH_BYTES: usize = 15 * 1024 * 1024;

/// The entries of a patch, each id once.
fn entries(patch: &JobPatch) -> Vec<&NewEntry> {
    let mut seen = HashSet::with_capacity(patch.log.len());
    patch.log.iter().filter(|entry| seen.insert(entry.id)).collect()
}

/// Adds what the row does not show: payloads and entries.
fn complete_change(change: &mut Change, patch: &JobPatch, new: &[&NewEntry], now: Timestamp) {
    match &patch.transition {
        Some(Transition::Complete { output }) => {
            change.payload("output", output.as_ref());
            change.payload("error", None);
        }
        Some(Transition::Retry { error, .. } | Transition::Fail { error }) => {
            change.payload("error", Some(error));
        }
        Some(Transition::Release { .. } | Transition::Cancel { .. }) | None => {}
    }
    change.append(new, now);
}

/// The most that a job may have so that these entries still fit.
fn room_for(new: &[&NewEntry]) -> i64 {
    codec::int(MAX_JOB_BYTES.saturating_sub(log_bytes(new) as u64))
}

/// Whether the patch must leave room for the error with which a full job fails.
fn keeps_room(patch: &JobPatch) -> bool {
    matches!(patch.transition, None | Some(Transition::Retry { .. } | Transition::Release { .. }))
}

/// A job as its holder sees it: the least that a guard on the fence implies. What a settle changes of it, it
/// changes of every job that the guard lets through.
pub(crate) fn held_row(fence: Fence) -> Row {
    let mut row = codec::blank();
    let control = &mut row.control;
    control.state = State::Running;
    control.attempt = 1;
    control.fence = fence;
    control.holder = Some("".into());
    control.lease_until = Some(Timestamp::MIN);
    control.wake = true;
    control.lane = Some(queue_core::Lane::new("-"));
    control.slot = Some(0);
    row
}

pub(crate) fn held_filter(id: &JobId, fence: Fence) -> mongodb::bson::Document {
    doc! {
        "_id": codec::job_id(id),
        "state": i32::from(State::Running.code()),
        "fence": codec::int(fence.count),
        "nonce": codec::uuid(&fence.nonce),
        "cancel": Bson::Null,
    }
}

/// A holder's update as one guarded statement that needs no look before. `None` where the answer
/// depends on more than a filter can say.
fn by_holder(update: &JobUpdate, now: Timestamp) -> Option<Statement> {
    let JobUpdate { id, guard: Guard::Fence(fence), patch, .. } = update else { return None };
    let new = entries(patch);
    let bytes = log_bytes(&new) + patch.largest_payload() + STATEMENT_BYTES;
    let too_large = patch.largest_payload() as u64 > MAX_PAYLOAD_BYTES || bytes > MAX_PATCH_BYTES;
    if !patch.labels.is_empty() || too_large {
        return None;
    }
    let mut filter = held_filter(id, *fence);
    let mut before = held_row(*fence);
    match &patch.transition {
        // The mark of a wake decides where a release leads.
        Some(Transition::Release { .. }) => {
            filter.insert("wake", Bson::Null);
            before.control.wake = false;
        }
        Some(Transition::Complete { .. }) => {
            filter.insert("keep", Bson::Null);
        }
        _ => {}
    }
    let mut after = before.clone();
    let _ = after.patch(update.guard, patch, None, now);
    let state = after.control.state;
    if state.is_final() {
        // A key is given up, unless it is held beyond the end of the run: that is left to the careful way.
        let bit = i32::from(state.code());
        filter.insert(
            "$or",
            vec![
                doc! { "held_key": Bson::Null },
                doc! { "unique.within": { "$bitsAllClear": [bit] } },
            ],
        );
    }
    if !new.is_empty() {
        let ids: Vec<Bson> = new.iter().map(|entry| codec::uuid(entry.id.as_uuid())).collect();
        filter.insert("log.id", doc! { "$nin": ids });
        if keeps_room(patch) {
            filter.insert("bytes", doc! { "$lte": room_for(&new) });
        }
    }
    let mut change = Change::between(&before, &after);
    if patch.transition.is_some() && state == State::Waiting {
        change.set.insert("run_at", after.control.run_at.as_micros());
    }
    if state.is_final() {
        change.unset.insert("held_key", "");
    }
    complete_change(&mut change, patch, &new, now);
    Some(Statement { filter, update: change.into_update(), bytes })
}

/// Makes changes, each on its own.
///
/// One trip when every holder's guard holds. The others are read, judged and written under their revision.
pub(crate) async fn update(db: &Db, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
    let now = db.now().await?;
    let mut outcomes: Vec<Option<Outcome>> = vec![None; updates.len()];
    let (mut sent, mut statements) = (Vec::new(), Vec::new());
    let mut open = Vec::new();
    for (index, update) in updates.iter().enumerate() {
        match by_holder(update, now) {
            Some(statement) => {
                sent.push(index);
                statements.push(statement);
            }
            None => open.push(index),
        }
    }
    for (index, verdict) in sent.into_iter().zip(batch::run(db, statements).await?) {
        match verdict {
            Verdict::Applied => outcomes[index] = Some(Outcome::Applied(Ack::holder(None))),
            Verdict::TooLarge => outcomes[index] = Some(too_large_job()),
            Verdict::NotMatched | Verdict::Taken | Verdict::Blocked | Verdict::Doubtful => {
                open.push(index)
            }
        }
    }
    if let ([update], [0]) = (updates, &open[..])
        && let Some(version) = append_by_editor(db, update, now).await?
    {
        return Ok(vec![Outcome::Applied(Ack::editor(version))]);
    }
    for round in 0..cas::ROUNDS {
        if open.is_empty() {
            break;
        }
        if round > 0 {
            reply::pause(round).await;
        }
        open = careful(db, updates, &open, &mut outcomes, now).await?;
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(contention)).collect()
}

const fn too_large_job() -> Outcome {
    Outcome::TooLarge { limit: MAX_JOB_BYTES }
}

/// Appends of somebody who is not the holder commute; one goes without a look before. `None`: look.
async fn append_by_editor(db: &Db, update: &JobUpdate, now: Timestamp) -> Result<Option<Version>> {
    let JobUpdate { id, guard, patch, .. } = update;
    let new = entries(patch);
    let bytes = log_bytes(&new) + STATEMENT_BYTES;
    let only_log = patch.progress.is_none() && patch.labels.is_empty() && !new.is_empty();
    let fits = patch.largest_payload() as u64 <= MAX_PAYLOAD_BYTES && bytes <= MAX_PATCH_BYTES;
    let mut filter = doc! { "_id": codec::job_id(id) };
    match guard {
        Guard::Fence(_) => return Ok(None),
        Guard::Version(version) => drop(filter.insert("version", codec::int(version.0))),
        Guard::None => {}
    }
    if !only_log || !fits {
        return Ok(None);
    }
    let ids: Vec<Bson> = new.iter().map(|entry| codec::uuid(entry.id.as_uuid())).collect();
    filter.insert("log.id", doc! { "$nin": ids });
    filter.insert("bytes", doc! { "$lte": room_for(&new) });
    let row = codec::blank();
    let mut change = Change::between(&row, &row);
    change.append(&new, now);
    let found = db
        .jobs
        .find_one_and_update(filter, change.into_update())
        .projection(doc! { "version": 1 })
        .await
        .map_err(|error| from_driver(Call::Write, error))?;
    use crate::codec::Read as _;
    found.map(|document| Ok(Version(document.count("version")?))).transpose()
}

/// Reads the jobs of the open updates, judges them and writes. Returns those that others were faster with.
async fn careful(
    db: &Db,
    updates: &[JobUpdate],
    open: &[usize],
    outcomes: &mut [Option<Outcome>],
    now: Timestamp,
) -> Result<Vec<usize>> {
    let ids: Vec<JobId> = open.iter().map(|index| updates[*index].id).collect();
    let loaded = cas::load(db, &ids).await?;
    let (mut left, mut sent, mut statements) = (Vec::new(), Vec::new(), Vec::new());
    let mut dropped = Vec::new();
    for &index in open {
        let update = &updates[index];
        let decided = match loaded.get(&update.id) {
            None => Decided::Answer(Outcome::Missing),
            Some(stored) => decide(update, stored, now),
        };
        match decided {
            Decided::Answer(outcome) => outcomes[index] = Some(outcome),
            Decided::Write(ack, statement) => {
                sent.push((index, ack));
                statements.push(statement);
            }
            Decided::Drop(ack) => dropped.push((index, ack)),
        }
    }
    let doomed: Vec<&Stored> =
        dropped.iter().filter_map(|(index, _)| loaded.get(&updates[*index].id)).collect();
    let gone = intent::drop_unmoved(db, &doomed).await?;
    for (index, ack) in dropped {
        match gone.contains(&updates[index].id) {
            true => outcomes[index] = Some(Outcome::Applied(ack)),
            false => left.push(index),
        }
    }
    for ((index, ack), verdict) in sent.into_iter().zip(batch::run(db, statements).await?) {
        match verdict {
            Verdict::Applied => outcomes[index] = Some(Outcome::Applied(ack)),
            Verdict::TooLarge => outcomes[index] = Some(too_large_job()),
            Verdict::NotMatched | Verdict::Taken | Verdict::Blocked | Verdict::Doubtful => {
                left.push(index)
            }
        }
    }
    Ok(left)
}

/// What is to be done about an update of a job that was read.
pub(crate) enum Decided {
    Answer(Outcome),
    Write(Ack, Statement),
    Drop(Ack),
}

pub(crate) fn decide(update: &JobUpdate, stored: &Stored, now: Timestamp) -> Decided {
    let JobUpdate { guard, patch, .. } = update;
    let kind = patch.transition.as_ref().map(Transition::kind);
    let cancel = match stored.row.control.judge(*guard, kind) {
        Judgement::Refuse(outcome) => return Decided::Answer(outcome),
        Judgement::Apply(cancel) => cancel,
    };
    if patch.largest_payload() as u64 > MAX_PAYLOAD_BYTES {
        return Decided::Answer(Outcome::TooLarge { limit: MAX_PAYLOAD_BYTES });
    }
    let known: HashSet<_> = stored.log.iter().map(|entry| entry.id).collect();
    let new: Vec<_> = entries(patch).into_iter().filter(|e| !known.contains(&e.id)).collect();
    let mut after = stored.row.clone();
    let ack = after.patch(*guard, patch, cancel, now);
    if after.control.is_dropped() && patch.transition.is_some() {
        return Decided::Drop(ack);
    }
    let log = log_bytes(&new);
    let bytes = log + patch.largest_payload() + STATEMENT_BYTES;
    let full = keeps_room(patch) && !new.is_empty() && stored.bytes + log as u64 > MAX_JOB_BYTES;
    if full || bytes > MAX_PATCH_BYTES {
        return Decided::Answer(too_large_job());
    }
    let mut change = Change::between(&stored.row, &after);
    complete_change(&mut change, patch, &new, now);
    Decided::Write(ack, cas::guarded(stored, change, bytes))
}
