use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Fire, Fired, Held, Inserted, Job, JobFilter,
    JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page, Reaped, Record, Result,
    ScheduleStat, Tally, Version,
};

/// An operation of a store, as a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // as the methods of `JobStore`
pub enum Op {
    Insert(Vec<NewJob>),
    Claim(ClaimRequest),
    Update(Vec<JobUpdate>),
    UpdateAndClaim(Vec<JobUpdate>, ClaimRequest),
    Heartbeat(Vec<Held>, Duration),
    Reap(NonZeroU32),
    UpdateWhere(JobFilter, BulkChange),
    Delete(JobFilter, NonZeroU32),
    Get(Vec<JobId>, LogRead),
    Find(JobQuery),
    Tally(JobFilter),
    Fire(Box<Fire>),
    Schedules,
    Records(String),
    PutRecord(Record, Option<Version>),
}

/// What a store answered to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // as the methods of `JobStore`
pub enum Answer {
    Inserted(Vec<Inserted>),
    Claimed(Claimed),
    Outcomes(Vec<Outcome>),
    OutcomesAndClaimed(Vec<Outcome>, Claimed),
    Reaped(Vec<Reaped>),
    Bulk(BulkOutcome),
    Deleted(u64),
    Jobs(Vec<Option<Job>>),
    Page(Page<Job>),
    Tallies(Vec<Tally>),
    Fired(Fired),
    Schedules(Vec<ScheduleStat>),
    Records(Vec<Record>),
    Put(Outcome),
}

impl Op {
    /// The method of [`JobStore`] that it stands for.
    pub const fn method(&self) -> &'static str {
        match self {
            Op::Insert(_) => "insert",
            Op::Claim(_) => "claim",
            Op::Update(_) => "update_jobs",
            Op::UpdateAndClaim(..) => "update_and_claim",
            Op::Heartbeat(..) => "heartbeat",
            Op::Reap(_) => "reap",
            Op::UpdateWhere(..) => "update_where",
            Op::Delete(..) => "delete",
            Op::Get(..) => "get",
            Op::Find(_) => "find",
            Op::Tally(_) => "tally",
            Op::Fire(_) => "fire",
            Op::Schedules => "schedules",
            Op::Records(_) => "records",
            Op::PutRecord(..) => "put_record",
        }
    }

    /// Calls the store.
    ///
    /// # Errors
    /// What the store says.
    pub async fn run(&self, store: &dyn JobStore) -> Result<Answer> {
        Ok(match self {
            Op::Insert(jobs) => Answer::Inserted(store.insert(jobs).await?),
            Op::Claim(request) => Answer::Claimed(store.claim(request).await?),
            Op::Update(updates) => Answer::Outcomes(store.update_jobs(updates).await?),
            Op::UpdateAndClaim(updates, request) => {
                let (outcomes, claimed) = store.update_and_claim(updates, request).await?;
                Answer::OutcomesAndClaimed(outcomes, claimed)
            }
            Op::Heartbeat(held, lease) => Answer::Outcomes(store.heartbeat(held, *lease).await?),
            Op::Reap(limit) => Answer::Reaped(store.reap(*limit).await?),
            Op::UpdateWhere(filter, change) => {
                Answer::Bulk(store.update_where(filter, change).await?)
            }
            Op::Delete(filter, limit) => Answer::Deleted(store.delete(filter, *limit).await?),
            Op::Get(ids, log) => Answer::Jobs(store.get(ids, *log).await?),
            Op::Find(query) => Answer::Page(store.find(query).await?),
            Op::Tally(filter) => Answer::Tallies(store.tally(filter).await?),
            Op::Fire(fire) => Answer::Fired(store.fire(fire).await?),
            Op::Schedules => Answer::Schedules(store.schedules().await?),
            Op::Records(prefix) => Answer::Records(store.records(prefix).await?),
            Op::PutRecord(record, expect) => Answer::Put(store.put_record(record, *expect).await?),
        })
    }
}
