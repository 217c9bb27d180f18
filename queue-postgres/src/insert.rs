//! Inserting jobs.

use std::collections::{BTreeSet, HashSet};

use queue_core::{
    Inserted, JobId, Keep, NewJob, OnConflict, QueueName, Result, Timestamp, Uuid, When,
};
use sqlx::postgres::{PgConnection, PgRow};

use crate::{
    args::Args,
    codec::get,
    db::{self, Db},
    error::from_sqlx,
};

/// The columns of new jobs, `$1` to `$16` of every statement that inserts.
pub(crate) fn args(now: Option<i64>, jobs: &[NewJob]) -> Args {
    fn column<T>(jobs: &[NewJob], field: impl Fn(&NewJob) -> T) -> Vec<T> {
        jobs.iter().map(field).collect()
    }
    let (due, delay): (Vec<_>, Vec<_>) = jobs.iter().map(|job| due(job.when)).unzip();
    Args::new()
        .with(now)
        .with(column(jobs, |job| *job.id.as_uuid()))
        .with(column(jobs, |job| job.queue.as_str().to_owned()))
        .with(column(jobs, |job| job.kind.clone().into_owned()))
        .with(column(jobs, |job| -i32::from(job.priority)))
        .with(due)
        .with(delay)
        .with(column(jobs, |job| i64::from(job.max_crashes)))
        .with(column(jobs, |job| match job.keep {
            Keep::Always => 0_i16,
            Keep::UnlessCompleted => 1,
        }))
        .with(column(jobs, |job| job.lane.as_ref().map(|lane| lane.key.clone())))
        .with(column(jobs, |job| job.lane.as_ref().map(|lane| i64::from(lane.limit.get()))))
        .with(column(jobs, |job| job.unique.as_ref().map(|unique| unique.key.clone())))
        .with(column(jobs, |job| job.unique.as_ref().map(|unique| i16::from(unique.within.bits()))))
        .with(column(jobs, |job| {
            job.unique.as_ref().map(|unique| match unique.on_conflict {
                OnConflict::Return => 0_i16,
                OnConflict::Supersede => 1,
            })
        }))
        .with(column(jobs, |job| {
            // A map of strings always serialises.
            (!job.labels.is_empty()).then(|| serde_json::to_string(&job.labels).unwrap_or_default())
        }))
        .with(column(jobs, |job| job.input.as_str().to_owned()))
}

/// An instant, or a delay from the server's now: one of the two.
pub(crate) fn due(when: When) -> (Option<i64>, Option<i64>) {
    let longest = Timestamp::MIN.until(Timestamp::MAX);
    match when {
        When::Now => (None, Some(0)),
        When::At(at) => (Some(at.as_micros()), None),
        // Within the calendar, so that the sum does not overflow.
        When::After(delay) => (None, i64::try_from(delay.min(longest).as_micros()).ok()),
    }
}

fn has_keys(jobs: &[NewJob]) -> bool {
    jobs.iter().any(|job| job.unique.is_some())
}

fn answer(rows: &[PgRow], jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    if has_keys(jobs) {
        return rows
            .iter()
            .map(|row| {
                let id = JobId::from_uuid(get(row, "job")?);
                Ok(if get(row, "made")? { Inserted::New(id) } else { Inserted::Existing(id) })
            })
            .collect();
    }
    let mut made: HashSet<Uuid> = rows.iter().map(|row| get(row, "id")).collect::<Result<_>>()?;
    // Of a job that stands twice in the call, the first is new.
    let answer = |job: &NewJob| match made.remove(job.id.as_uuid()) {
        true => Inserted::New(job.id),
        false => Inserted::Existing(job.id),
    };
    Ok(jobs.iter().map(answer).collect())
}

/// Inserts jobs.
pub(crate) async fn insert(db: &Db, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let mut inserted = Vec::with_capacity(jobs.len());
    for part in db::parts(jobs, |job| job.input.as_str().len()) {
        let more = insert_part(db, part).await;
        inserted.extend(more.map_err(|error| db::after(&inserted, error))?);
    }
    Ok(inserted)
}

async fn insert_part(db: &Db, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let text = if has_keys(jobs) { &db.sql.enqueue } else { &db.sql.insert };
    let turn = db.hints.turn();
    let told: Vec<String> = match turn {
        Some(_) => queues(jobs.iter()).into_iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    let rows = db.rows("insert", text, || args(db.now(), jobs).with(told.clone())).await?;
    let inserted = answer(&rows, jobs)?;
    if turn.is_none() {
        let new = jobs.iter().zip(&inserted).filter(|(_, inserted)| inserted.is_new());
        announce(db, new.map(|(job, _)| job));
    }
    Ok(inserted)
}

fn queues<'a>(jobs: impl Iterator<Item = &'a NewJob>) -> BTreeSet<&'a QueueName> {
    jobs.map(|job| &job.queue).collect()
}

/// Tells workers that these jobs may be due, each queue once.
pub(crate) fn announce<'a>(db: &Db, jobs: impl Iterator<Item = &'a NewJob>) {
    queues(jobs).into_iter().for_each(|queue| db.hints.queue(queue.clone()));
}

/// Inserts jobs in the caller's transaction.
pub(crate) async fn insert_in(
    db: &Db,
    connection: &mut PgConnection,
    jobs: &[NewJob],
) -> Result<Vec<Inserted>> {
    let text = if has_keys(jobs) { &db.sql.enqueue } else { &db.sql.insert };
    // Told within the caller's transaction, its commit would wait for those of all others.
    let told = Vec::<String>::new();
    let rows = db::on(connection, text, args(db.now(), jobs).with(told)).await;
    answer(&rows.map_err(|error| from_sqlx(error, "insert"))?, jobs)
}
