//! Inserting jobs.

use queue_core::{Inserted, JobId, Keep, NewJob, OnConflict, spec::superseded_by};

use rusqlite::CachedStatement;

use crate::{
    codec::{self, LARGE_INPUT, first, id_bytes, int, labels_text},
    error::Db,
    sql, write,
    writer::Writing,
};

/// Inserts jobs one after the other.
pub(crate) fn insert(writing: &mut Writing<'_>, jobs: &[NewJob]) -> Db<Vec<Inserted>> {
    // Looked up once: of a batch, that is a tenth of the time.
    let mut statement = sql::prepare(writing.db, sql::INSERT_JOB)?;
    jobs.iter().map(|job| insert_with(&mut statement, writing, job)).collect()
}

pub(crate) fn insert_one(writing: &mut Writing<'_>, job: &NewJob) -> Db<Inserted> {
    let mut statement = sql::prepare(writing.db, sql::INSERT_JOB)?;
    insert_with(&mut statement, writing, job)
}

fn insert_with(
    statement: &mut CachedStatement<'_>,
    writing: &mut Writing<'_>,
    job: &NewJob,
) -> Db<Inserted> {
    if let Some(existing) = make_room(writing, job)? {
        return Ok(Inserted::Existing(existing));
    }
    match put(statement, writing, job)? {
        None => Ok(Inserted::Existing(job.id)),
        Some(num) => {
            write::put_labels(writing.db, num, &job.labels)?;
            writing.hints.insert(Some(job.queue.clone()));
            Ok(Inserted::New(job.id))
        }
    }
}

/// Looks who holds the job's unique key: `Some` is the job that stays; one that yields is cancelled.
fn make_room(writing: &mut Writing<'_>, job: &NewJob) -> Db<Option<JobId>> {
    let Some(unique) = &job.unique else { return Ok(None) };
    // A repeated insert must not supersede its own first run's successor.
    if codec::value::<i64>(writing.db, sql::JOB_EXISTS, [id_bytes(&job.id)])?.is_some() {
        return Ok(Some(job.id));
    }
    let mut statement = sql::prepare(writing.db, sql::NARROW_BY_KEY)?;
    let Some(mut holder) = first(&mut statement, [&unique.key], codec::read_narrow)? else {
        return Ok(None);
    };
    if !holder.row.control.yields_to(unique) {
        return Ok(Some(holder.row.id));
    }
    holder.row.control.cancel(&superseded_by(job.id), writing.now);
    write::put_control(writing.db, &holder)?;
    Ok(None)
}

/// Stores the row; `None`: its id is there already.
fn put(
    statement: &mut CachedStatement<'_>,
    writing: &Writing<'_>,
    job: &NewJob,
) -> Db<Option<i64>> {
    let control = queue_core::Control::new(job, writing.now);
    let (lane, unique) = (&control.lane, &control.unique);
    let large = job.input.len() > LARGE_INPUT;
    let inserted = statement.execute(rusqlite::params![
        id_bytes(&job.id),
        job.queue.as_str(),
        job.kind,
        job.priority,
        control.run_at.as_micros(),
        control.max_crashes,
        match control.keep {
            Keep::Always => 0,
            Keep::UnlessCompleted => 1,
        },
        int(control.version.0),
        writing.now.as_micros(),
        lane.as_ref().map(|lane| &lane.key),
        lane.as_ref().map(|lane| lane.limit.get()),
        unique.as_ref().map(|unique| &unique.key),
        unique.as_ref().map(|unique| unique.within.bits()),
        unique.as_ref().map(|unique| match unique.on_conflict {
            OnConflict::Return => 0,
            OnConflict::Supersede => 1,
        }),
        write::held_key(&control),
        labels_text(&job.labels),
        (!large).then(|| job.input.as_str()),
    ])?;
    if inserted == 0 {
        return Ok(None);
    }
    let num = writing.db.last_insert_rowid();
    if large {
        sql::prepare(writing.db, sql::PUT_INPUT)?.execute((num, job.input.as_str()))?;
    }
    Ok(Some(num))
}
