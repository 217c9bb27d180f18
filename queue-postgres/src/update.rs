//! Updates and heartbeats.

use std::{collections::HashSet, sync::Arc, time::Duration};

use queue_core::{
    Ack, CancelRequest, Effect, Guard, Held, JobUpdate, Outcome, Progress, Result, State,
    Transition, Uuid, Version, clean_progress, name::clean_message,
};
use sqlx::postgres::{PgConnection, PgRow};

use crate::{
    args::Args,
    codec::{self, get, int},
    db::{self, Db},
    error::from_sqlx,
    insert::due,
};

const UNGUARDED: i16 = 0;
const BY_VERSION: i16 = 1;
const BY_FENCE: i16 = 2;

/// The columns of updates, `$1` to `$19` of every statement that updates.
pub(crate) fn args(now: Option<i64>, updates: &[JobUpdate], limit: u64) -> Args {
    #[derive(Default)]
    struct Columns {
        ids: Vec<Uuid>,
        guards: Vec<i16>,
        counts: Vec<i64>,
        nonces: Vec<Uuid>,
        kinds: Vec<Option<i16>>,
        dues: Vec<Option<i64>>,
        delays: Vec<Option<i64>>,
        payloads: Vec<Option<String>>,
        reasons: Vec<Option<String>>,
        percents: Vec<Option<i16>>,
        messages: Vec<Option<String>>,
        labels_set: Vec<Option<String>>,
        labels_gone: Vec<Option<String>>,
        large: Vec<bool>,
        entry_jobs: Vec<i64>,
        entry_ids: Vec<Uuid>,
        entry_kinds: Vec<i16>,
        entry_bodies: Vec<String>,
    }
    let mut columns = Columns::default();
    for (update, place) in updates.iter().zip(1_i64..) {
        let (guard, count, nonce) = match update.guard {
            Guard::None => (UNGUARDED, 0, Uuid::nil()),
            Guard::Version(version) => (BY_VERSION, int(version.0), Uuid::nil()),
            Guard::Fence(fence) => (BY_FENCE, int(fence.count), fence.nonce),
        };
        let patch = &update.patch;
        let large = patch.largest_payload() as u64 > limit;
        let mut columns_of_transition = (None, None, None, None);
        match &patch.transition {
            Some(Transition::Complete { output }) => {
                columns_of_transition.2 = output.as_ref().map(|output| output.as_str().to_owned());
            }
            Some(Transition::Retry { when, error }) => {
                (columns_of_transition.0, columns_of_transition.1) = due(*when);
                columns_of_transition.2 = Some(error.as_str().to_owned());
            }
            Some(Transition::Release { when }) => {
                (columns_of_transition.0, columns_of_transition.1) = due(*when);
            }
            Some(Transition::Fail { error }) => {
                columns_of_transition.2 = Some(error.as_str().to_owned())
            }
            Some(Transition::Cancel { reason }) => {
                columns_of_transition.3 = Some(clean_message(reason))
            }
            None => {}
        }
        let (due, delay, payload, reason) = columns_of_transition;
        let (percent, message) = progress(patch.progress.as_ref());
        let set: std::collections::BTreeMap<_, _> =
            patch.labels.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
        let gone: Vec<_> =
            patch.labels.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key).collect();
        columns.ids.push(*update.id.as_uuid());
        columns.guards.push(guard);
        columns.counts.push(count);
        columns.nonces.push(nonce);
        columns
            .kinds
            .push(patch.transition.as_ref().map(|transition| i16::from(transition.kind().code())));
        columns.dues.push(due);
        columns.delays.push(delay);
        // What is refused for its size is not sent.
        columns.payloads.push(payload.filter(|_| !large));
        columns.reasons.push(reason);
        columns.percents.push(percent);
        columns.messages.push(message);
        // Strings always serialise.
        columns
            .labels_set
            .push((!set.is_empty()).then(|| serde_json::to_string(&set).unwrap_or_default()));
        columns
            .labels_gone
            .push((!gone.is_empty()).then(|| serde_json::to_string(&gone).unwrap_or_default()));
        columns.large.push(large);
        let mut seen = HashSet::new();
        for entry in patch.log.iter().filter(|entry| !large && seen.insert(entry.id)) {
            columns.entry_jobs.push(place);
            columns.entry_ids.push(*entry.id.as_uuid());
            columns.entry_kinds.push(i16::from(entry.kind.code()));
            columns.entry_bodies.push(entry.body.as_str().to_owned());
        }
    }
    Args::new()
        .with(now)
        .with(columns.ids)
        .with(columns.guards)
        .with(columns.counts)
        .with(columns.nonces)
        .with(columns.kinds)
        .with(columns.dues)
        .with(columns.delays)
        .with(columns.payloads)
        .with(columns.reasons)
        .with(columns.percents)
        .with(columns.messages)
        .with(columns.labels_set)
        .with(columns.labels_gone)
        .with(columns.large)
        .with(columns.entry_jobs)
        .with(columns.entry_ids)
        .with(columns.entry_kinds)
        .with(columns.entry_bodies)
}

fn progress(progress: Option<&Progress>) -> (Option<i16>, Option<String>) {
    match progress.map(clean_progress) {
        None => (None, None),
        Some(progress) => (Some(i16::from(progress.percent)), progress.message),
    }
}

/// What a statement says about one update.
pub(crate) struct Verdict {
    pub(crate) code: i32,
    pub(crate) state: Option<State>,
    pub(crate) version: Option<i64>,
    pub(crate) actual: Option<i64>,
    pub(crate) cancel: Option<CancelRequest>,
}

impl Verdict {
    /// The outcome that the verdict stands for.
    pub(crate) fn outcome(self, guard: Guard, limit: u64) -> Result<Outcome> {
        let count = |count: Option<i64>| codec::count(count.unwrap_or_default()).map(Version);
        Ok(match (self.code, guard) {
            (0, Guard::Fence(_)) => Outcome::Applied(Ack::holder(self.cancel)),
            (0, _) => Outcome::Applied(Ack::editor(count(self.version)?)),
            (1, _) => Outcome::Repeated(Ack::default()),
            (2, _) => Outcome::Fenced,
            (3, _) => Outcome::Conflict { actual: count(self.actual)? },
            (4, _) => Outcome::Illegal { from: self.state.unwrap_or(State::Waiting) },
            (5, _) => Outcome::TooLarge { limit },
            _ => Outcome::Missing,
        })
    }
}

fn verdict(row: &PgRow) -> Result<Verdict> {
    Ok(Verdict {
        code: get(row, "verdict")?,
        state: get::<Option<i16>>(row, "state")?.map(codec::state).transpose()?,
        version: get(row, "version")?,
        actual: get(row, "actual")?,
        cancel: codec::cancel(get(row, "cancel_reason")?, get(row, "cancel_at")?)?,
    })
}

/// Makes changes, each on its own. `limit` is the largest payload in bytes.
pub(crate) async fn update(db: &Db, updates: &[JobUpdate], limit: u64) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(updates.len());
    for part in db::parts(updates, bytes) {
        let more = update_part(db, part, limit).await;
        outcomes.extend(more.map_err(|error| db::after(&outcomes, error))?);
    }
    Ok(outcomes)
}

/// How much payload an update has.
pub(crate) fn bytes(update: &JobUpdate) -> usize {
    let payload = match &update.patch.transition {
        Some(Transition::Complete { output }) => output.as_ref(),
        Some(Transition::Retry { error, .. } | Transition::Fail { error }) => Some(error),
        Some(Transition::Release { .. } | Transition::Cancel { .. }) | None => None,
    };
    let log = update.patch.log.iter().map(|entry| entry.body.as_str().len());
    payload.map_or(0, |payload| payload.as_str().len()) + log.sum::<usize>()
}

async fn update_part(db: &Db, updates: &[JobUpdate], limit: u64) -> Result<Vec<Outcome>> {
    let rows = db.rows("update_jobs", &db.sql.update, || args(db.now(), updates, limit)).await?;
    for row in &rows {
        if let Some(queue) = get::<Option<&str>>(row, "waiting")? {
            db.hints.queue(codec::queue_name(queue)?);
        }
        if get(row, "lane_freed")? {
            db.hints.anywhere();
        }
    }
    outcomes(&rows, updates, limit)
}

fn outcomes(rows: &[PgRow], updates: &[JobUpdate], limit: u64) -> Result<Vec<Outcome>> {
    rows.iter()
        .zip(updates)
        .map(|(row, update)| verdict(row)?.outcome(update.guard, limit))
        .collect()
}

/// Makes changes in the caller's transaction.
pub(crate) async fn update_in(
    db: &Db,
    connection: &mut PgConnection,
    updates: &[JobUpdate],
    limit: u64,
) -> Result<Vec<Outcome>> {
    let rows = db::on(connection, &db.sql.update, args(db.now(), updates, limit)).await;
    outcomes(&rows.map_err(|error| from_sqlx(error, "update_jobs"))?, updates, limit)
}

/// Renews leases.
pub(crate) async fn heartbeat(db: &Db, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
    let [free, locked] = &db.sql.heartbeat;
    let mut outcomes = beat(db, free, held, lease).await?;
    // Not there, or locked by somebody.
    let open = |outcome: &Outcome| *outcome == Outcome::Missing;
    let rest: Vec<Held> = held
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| open(outcome))
        .map(|(held, _)| held.clone())
        .collect();
    if !rest.is_empty() {
        let waited = beat(db, locked, &rest, lease).await;
        // The others are renewed.
        let waited = waited.map_err(|error| error.with_effect(Effect::Unknown))?;
        let open = outcomes.iter_mut().filter(|outcome| open(outcome));
        open.zip(waited).for_each(|(outcome, waited)| *outcome = waited);
    }
    Ok(outcomes)
}

async fn beat(db: &Db, text: &Arc<str>, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
    let args = || heartbeat_args(db.now(), held, lease);
    let rows = db.rows("heartbeat", text, args).await?;
    let outcome = |row: &PgRow| {
        Ok(match get::<i32>(row, "verdict")? {
            0 => Outcome::Applied(Ack::holder(codec::cancel(
                get(row, "cancel_reason")?,
                get(row, "cancel_at")?,
            )?)),
            2 => Outcome::Fenced,
            _ => Outcome::Missing,
        })
    };
    rows.iter().map(outcome).collect()
}

/// The values of a heartbeat.
pub(crate) fn heartbeat_args(now: Option<i64>, held: &[Held], lease: Duration) -> Args {
    let (percents, messages): (Vec<_>, Vec<_>) =
        held.iter().map(|held| progress(held.progress.as_ref())).unzip();
    Args::new()
        .with(now)
        .with(held.iter().map(|held| *held.id.as_uuid()).collect::<Vec<Uuid>>())
        .with(held.iter().map(|held| int(held.fence.count)).collect::<Vec<i64>>())
        .with(held.iter().map(|held| held.fence.nonce).collect::<Vec<Uuid>>())
        .with(percents)
        .with(messages)
        .with(micros(lease))
}

/// A duration for the database, short enough that adding it to any instant does not overflow.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}
