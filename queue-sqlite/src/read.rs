//! Reads, each within one snapshot.

use std::collections::BTreeMap;

use queue_core::{
    Cursor, Job, JobFilter, JobId, JobQuery, LogRead, Page, QueueName, Record, Sort, State, Tally,
    Version,
};
use rusqlite::{Connection, params_from_iter};

use crate::{
    codec::{self, every, first, id_bytes, int},
    error::{Db, Fault, corrupt},
    filter::Conditions,
    sql,
};

/// Makes sure that the database answers.
pub(crate) fn ping(db: &Connection) -> Db<()> {
    // Reading a table, unlike a constant, touches the file.
    codec::value::<i64>(db, "SELECT max(version) FROM queue_schema", [])?;
    Ok(())
}

pub(crate) fn get(db: &Connection, ids: &[JobId], log: LogRead) -> Db<Vec<Option<Job>>> {
    let mut statement = sql::prepare(db, sql::WIDE_BY_ID)?;
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        let stored = first(&mut statement, [id_bytes(id)], codec::read_wide)?;
        jobs.push(stored.map(|stored| codec::into_job(db, stored, log)).transpose()?);
    }
    Ok(jobs)
}

pub(crate) fn find(db: &Connection, query: &JobQuery) -> Db<Page<Job>> {
    let mut conditions = Conditions::of(&query.filter);
    if let Some(cursor) = query.after {
        conditions.fixed(match query.sort {
            Sort::OldestFirst => "(created_at, id) > (?, ?)",
            Sort::NewestFirst => "(created_at, id) < (?, ?)",
        });
        conditions.value(cursor.created_at.as_micros());
        conditions.value(id_bytes(&cursor.id).to_vec());
    }
    // One more than the page holds tells whether there is a next one.
    let limit = i64::from(query.limit.get());
    conditions.value(limit + 1);
    conditions.value(int(query.offset));
    let order = match query.sort {
        Sort::OldestFirst => " ORDER BY created_at, id LIMIT ? OFFSET ?",
        Sort::NewestFirst => " ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
    };
    let index = Conditions::ordered_by(&query.filter);
    let text = format!("{}{index}WHERE {}{order}", sql::SELECT_WIDE, conditions.text());
    let mut statement = sql::prepare(db, &text)?;
    let mut jobs = every(&mut statement, params_from_iter(conditions.values()), |row| {
        codec::into_job(db, codec::read_wide(row)?, LogRead::None)
    })?;
    let more = int(jobs.len() as u64) > limit;
    if more {
        jobs.pop();
    }
    let next = jobs.last().filter(|_| more).map(Cursor::of);
    Ok(Page::new(jobs, next))
}

pub(crate) fn tally(db: &Connection, filter: &JobFilter) -> Db<Vec<Tally>> {
    let mut counts: BTreeMap<(QueueName, State), u64> = BTreeMap::new();
    let mut count = |row: &rusqlite::Row<'_>| -> Db<()> {
        let state =
            State::from_code(row.get(1)?).ok_or_else(|| Fault::Contract(corrupt("a state")))?;
        *counts.entry((codec::queue_name(&row.get::<_, String>(0)?)?, state)).or_default() +=
            codec::count(row.get(2)?)?;
        Ok(())
    };
    if *filter == JobFilter::all() {
        every(&mut sql::prepare(db, sql::TALLY)?, [], &mut count)?;
    } else {
        let conditions = Conditions::of(filter);
        let text = format!(
            "SELECT queue, state, count(*) FROM queue_job WHERE {} GROUP BY queue, state",
            conditions.text()
        );
        let mut statement = sql::prepare(db, &text)?;
        every(&mut statement, params_from_iter(conditions.values()), &mut count)?;
    }
    let tallies = counts.into_iter();
    Ok(tallies.map(|((queue, state), count)| Tally::new(queue, state, count)).collect())
}

pub(crate) fn records(db: &Connection, prefix: &str) -> Db<Vec<Record>> {
    let mut statement = sql::prepare(db, sql::SELECT_RECORDS)?;
    let mut rows = statement.query([prefix])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        let Some(body) = row.get::<_, Option<String>>(1)? else { continue };
        let mut record = Record::new(key, codec::payload(body)?);
        record.version = Version(codec::count(row.get(2)?)?);
        record.updated_at = codec::time(row.get(3)?)?;
        records.push(record);
    }
    Ok(records)
}
