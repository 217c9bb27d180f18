//! Updates and heartbeats.

use std::time::Duration;

use queue_core::{
    Ack, Guard, Held, JobId, JobUpdate, Judgement, NewEntry, Outcome, State, Transition,
    clean_progress,
};

use rusqlite::CachedStatement;

use crate::{
    codec::{self, StoredJob, first, id_bytes, int},
    error::Db,
    sql,
    write::{self, Payloads},
    writer::Writing,
};

/// Makes changes, each on its own. `limit` is the largest payload in bytes.
pub(crate) fn update(
    writing: &mut Writing<'_>,
    updates: &[JobUpdate],
    limit: u64,
) -> Db<Vec<Outcome>> {
    let mut select = sql::prepare(writing.db, sql::NARROW_BY_ID)?;
    updates.iter().map(|update| update_one(&mut select, writing, update, limit)).collect()
}

fn load(select: &mut CachedStatement<'_>, id: &JobId) -> Db<Option<StoredJob>> {
    first(select, [id_bytes(id)], codec::read_narrow)
}

fn update_one(
    select: &mut CachedStatement<'_>,
    writing: &mut Writing<'_>,
    update: &JobUpdate,
    limit: u64,
) -> Db<Outcome> {
    let JobUpdate { id, guard, patch, .. } = update;
    let Some(mut stored) = load(select, id)? else { return Ok(Outcome::Missing) };
    let kind = patch.transition.as_ref().map(Transition::kind);
    let cancel = match stored.row.control.judge(*guard, kind) {
        Judgement::Refuse(outcome) => return Ok(outcome),
        Judgement::Apply(cancel) => cancel,
    };
    if patch.largest_payload() as u64 > limit {
        return Ok(Outcome::TooLarge { limit });
    }
    let was = stored.row.labels.clone();
    let held_slot = stored.row.control.slot.is_some();
    let ack = stored.row.patch(*guard, patch, cancel, writing.now);
    let control = &stored.row.control;
    if held_slot && control.slot.is_none() {
        writing.hints.insert(None);
    }
    if control.is_dropped() {
        write::drop_job(writing.db, &stored, &was)?;
        return Ok(Outcome::Applied(ack));
    }
    if control.state == State::Waiting && patch.transition.is_some() {
        writing.hints.insert(Some(stored.row.queue.clone()));
    }
    let appended = append(writing, &stored, &patch.log)?;
    stored.row.control.log_len += appended;
    if !patch.labels.is_empty() && was != stored.row.labels {
        write::drop_labels(writing.db, stored.num, &was)?;
        write::put_labels(writing.db, stored.num, &stored.row.labels)?;
    }
    match &patch.transition {
        Some(Transition::Release { .. } | Transition::Cancel { .. }) => {
            write::put_settle(writing.db, &stored, Payloads::Leave)?;
        }
        Some(_) => write::put_settle(writing.db, &stored, Payloads::Write)?,
        None if appended > 0 || patch.progress.is_some() || !patch.labels.is_empty() => {
            write::put_notes(writing.db, &stored)?;
        }
        None => {}
    }
    Ok(Outcome::Applied(ack))
}

/// Appends the entries whose id the log does not have, and answers how many those are.
fn append(writing: &Writing<'_>, stored: &StoredJob, entries: &[NewEntry]) -> Db<u64> {
    let mut appended = 0;
    if entries.is_empty() {
        return Ok(appended);
    }
    let mut statement = sql::prepare(writing.db, sql::APPEND)?;
    for entry in entries {
        let seq = stored.row.control.log_len + appended + 1;
        let new = statement.execute((
            stored.num,
            &entry.id.as_uuid().as_bytes()[..],
            int(seq),
            entry.kind.code(),
            writing.now.as_micros(),
            entry.body.as_str(),
        ))?;
        appended += new as u64;
    }
    Ok(appended)
}

/// Renews leases.
pub(crate) fn heartbeat(
    writing: &mut Writing<'_>,
    held: &[Held],
    lease: Duration,
) -> Db<Vec<Outcome>> {
    let mut select = sql::prepare(writing.db, sql::NARROW_BY_ID)?;
    let mut beat = |held: &Held| -> Db<Outcome> {
        let Some(mut stored) = load(&mut select, &held.id)? else { return Ok(Outcome::Missing) };
        let cancel = match stored.row.control.judge(Guard::Fence(held.fence), None) {
            Judgement::Refuse(outcome) => return Ok(outcome),
            Judgement::Apply(cancel) => cancel,
        };
        stored.row.control.heartbeat(lease, writing.now);
        if let Some(progress) = &held.progress {
            stored.row.progress = Some(clean_progress(progress));
        }
        write::put_heartbeat(writing.db, &stored)?;
        Ok(Outcome::Applied(Ack::holder(cancel)))
    };
    held.iter().map(&mut beat).collect()
}
