//! Reads.

use std::collections::HashMap;

use queue_core::{
    Cursor, Job, JobFilter, JobId, JobQuery, LogRead, Page, Record, Result, ScheduleStat, Sort,
    Tally, Timestamp, Uuid, Version,
};

use crate::{
    args::Args,
    codec::{self, get as column},
    db::Db,
    filter::Conditions,
};

pub(crate) async fn ping(db: &Db) -> Result<Timestamp> {
    let rows = db.rows("ping", &db.sql.ping, || Args::new().with(db.now())).await?;
    match rows.first() {
        None => Err(crate::error::corrupt("a clock without time")),
        Some(row) => codec::time(column(row, "now")?),
    }
}

pub(crate) async fn get(db: &Db, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
    let args = || {
        let ids: Vec<Uuid> = ids.iter().map(|id| *id.as_uuid()).collect();
        Args::new().with(ids).with(codec::after(log))
    };
    let rows = db.rows("get", &db.sql.get, args).await?;
    let jobs = rows.iter().map(codec::job).map(|job| job.map(|job| (job.id, job)));
    let jobs: HashMap<JobId, Job> = jobs.collect::<Result<_>>()?;
    Ok(ids.iter().map(|id| jobs.get(id).cloned()).collect())
}

pub(crate) async fn find(db: &Db, query: &JobQuery) -> Result<Page<Job>> {
    let conditions = Conditions::of(&query.filter, 1);
    let next = conditions.next();
    let (beyond, order) = match query.sort {
        Sort::NewestFirst => ("<", "DESC"),
        Sort::OldestFirst => (">", "ASC"),
    };
    let limit = u64::from(query.limit.get());
    let (offset, next) = match query.offset {
        0 => (String::new(), next),
        _ => (format!(" OFFSET ${next}"), next + 1),
    };
    let place = match query.after {
        None => String::new(),
        Some(_) => format!(" AND (j.created_at, j.id) {beyond} (${next}, ${})", next + 1),
    };
    // One more than the page holds says whether another follows. The number stands in the text: whether the index of
    // this order or that of the condition is the better way depends on it, and plans are made for all values.
    let text = db.sql.expand(&format!(
        "SELECT {{job}} FROM {{s}}.job j WHERE {}{place} ORDER BY j.created_at {order}, j.id {order} LIMIT {}{offset}",
        conditions.text(),
        limit + 1
    ));
    let args = || {
        let args = conditions.bind(Args::new());
        let args = match query.offset {
            0 => args,
            offset => args.with(codec::int(offset)),
        };
        match query.after {
            None => args,
            Some(Cursor { created_at, id }) => {
                args.with(created_at.as_micros()).with(*id.as_uuid())
            }
        }
    };
    let rows = db.listing("find", &text, args).await?;
    let read = rows.iter().map(|row| codec::row(row).map(|row| row.into_job(Vec::new())));
    let mut jobs = read.collect::<Result<Vec<Job>>>()?;
    let more = jobs.len() > query.limit.get() as usize;
    jobs.truncate(query.limit.get() as usize);
    let next = jobs.last().filter(|_| more).map(Cursor::of);
    Ok(Page::new(jobs, next))
}

pub(crate) async fn tally(db: &Db, filter: &JobFilter) -> Result<Vec<Tally>> {
    let conditions = Conditions::of(filter, 1);
    let text = db.sql.expand(&format!(
        "SELECT j.queue, j.state, count(*) AS count FROM {{s}}.job j WHERE {} \
         GROUP BY j.queue, j.state ORDER BY j.queue, j.state",
        conditions.text()
    ));
    let rows = db.listing("tally", &text, || conditions.bind(Args::new())).await?;
    let tally = |row| {
        let queue = codec::queue_name(column(row, "queue")?)?;
        Ok(Tally::new(
            queue,
            codec::state(column(row, "state")?)?,
            codec::count(column(row, "count")?)?,
        ))
    };
    rows.iter().map(tally).collect()
}

pub(crate) async fn schedules(db: &Db) -> Result<Vec<ScheduleStat>> {
    let rows = db.rows("schedules", &db.sql.schedules, Args::new).await?;
    let stat = |row| {
        let mut stat =
            ScheduleStat::new(column(row, "name")?, codec::time(column(row, "last_slot")?)?);
        stat.last_job = column::<Option<Uuid>>(row, "last_job")?.map(JobId::from_uuid);
        stat.fired = codec::count(column(row, "fired")?)?;
        stat.skipped = codec::count(column(row, "skipped")?)?;
        stat.last_error = column(row, "last_error")?;
        Ok(stat)
    };
    rows.iter().map(stat).collect()
}

pub(crate) async fn records(db: &Db, prefix: &str) -> Result<Vec<Record>> {
    let rows = db.rows("records", &db.sql.records, || Args::new().with(prefix.to_owned())).await?;
    let record = |row| {
        let mut record =
            Record::new(column::<String>(row, "key")?, codec::payload(column(row, "body")?)?);
        record.version = Version(codec::count(column(row, "version")?)?);
        record.updated_at = codec::time(column(row, "updated_at")?)?;
        Ok(record)
    };
    rows.iter().map(record).collect()
}
