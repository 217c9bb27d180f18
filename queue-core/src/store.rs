use std::{fmt, num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Fire, Fired, Held, Inserted, Job, JobFilter,
    JobId, JobQuery, JobUpdate, LogRead, NewJob, Outcome, Page, QueueName, Reaped, Record, Result,
    ScheduleStat, StoreInfo, Tally, Timestamp, Version,
};

/// Where jobs live.
///
/// # The contract
///
/// | method | atomic unit | order | may be repeated after `Effect::Unknown` |
/// |---|---|---|---|
/// | [`insert`](JobStore::insert) | one job | positional | yes: the same id is `Existing` |
/// | [`claim`](JobStore::claim) | each job; never more than `limit` | priority, `run_at`, id | yes, by its token |
/// | [`update_jobs`](JobStore::update_jobs) | one item: guard, fields and log together | positional | yes |
/// | [`update_and_claim`](JobStore::update_and_claim) | as the two | as the two | yes |
/// | [`heartbeat`](JobStore::heartbeat) | one item | positional | yes |
/// | [`reap`](JobStore::reap) | one job | oldest expiry first, then id | yes |
/// | [`update_where`](JobStore::update_where) | one job; exact counts | none | yes |
/// | [`delete`](JobStore::delete) | one job with its log | oldest first | yes |
/// | [`get`](JobStore::get), [`find`](JobStore::find), [`tally`](JobStore::tally) | a statement's snapshot | as asked | yes |
/// | [`fire`](JobStore::fire) | the slot and its job | slots only move forward | yes |
/// | [`put_record`](JobStore::put_record) | one record | none | with a version: a repeat may answer `Conflict` |
///
/// Every method is linearisable unless it says otherwise; what it answered `Ok` to has happened and, where
/// [`Capabilities::durable`](crate::Capabilities::durable) is true, survives a crash. A future that is dropped leaves the
/// store usable; its call has happened as a whole or not at all. What a store runs again inside, after a conflict or a failed
/// commit, has happened once, and is answered as if it had been run once.
///
/// Where a crash comes between the steps of a call that is one here (a slot and its job, a job and the one in whose place it is),
/// the steps that are missing are made by a repeat of the call, or by a reap, of anybody, a few seconds later; until then
/// the new job may be missing, and never are both jobs there.
///
/// # Trips
///
/// "One trip" below is what a call costs where the database has a statement (or a transaction) that does it all. Elsewhere
/// it may cost more, but never more for a hundred items than for one, and at most, once the store has warmed up, with jobs
/// that are not in lanes and claims in FIFO order:
///
/// | call | trips at most |
/// |---|---|
/// | `ping`, `heartbeat`, `get`, `find`, `tally`, `schedules`, `records`, `put_record` | 1 |
/// | `insert` | 1 where all jobs are new, 2 where they are there |
/// | `claim` | 4 |
/// | `update_jobs` by holders: log, progress, transitions | 1 where all are applied, 3 where they are not |
/// | `update_where`, `delete` | 2 |
/// | `reap` | 4 |
/// | `fire` | 5 |
/// | a whole job: `insert`, `claim`, `update_jobs` with the last entry | 4 |
/// | `update_and_claim` | 4 |
///
/// Empty input costs no trip and answers empty. Malformed input is refused whole with
/// `ErrorKind::Invalid` before anything is changed, empty or not. What to call first:
///
/// | method | checks |
/// |---|---|
/// | `insert` | [`Capabilities::check_new`](crate::Capabilities::check_new) |
/// | `claim`, `update_and_claim` | [`ClaimRequest::check`]; for the updates as below |
/// | `update_jobs` | [`check_updates`](crate::check_updates) |
/// | `heartbeat` | [`check_held`](crate::check_held) |
/// | `update_where`, `delete`, `tally` | [`JobFilter::check`] |
/// | `find` | [`JobQuery::check`] |
/// | `fire` | [`Fire::check`], and `check_new` for its job |
/// | `records`, `put_record` | [`check_prefix`](crate::check_prefix), [`Capabilities::check_record`](crate::Capabilities::check_record) |
///
/// What each operation does to a job's fields is stated once, in [`effects::TABLE`](crate::effects::TABLE). The rules that
/// decide (guards, scopes, lanes) are methods of [`Control`](crate::Control) and [`Row`](crate::Row); a store uses them or
/// says the same in its own dialect. The crate `conformance-tests` checks that it does.
#[async_trait]
pub trait JobStore: fmt::Debug + Send + Sync + 'static {
    /// Who the store is and what it promises. Costs nothing.
    fn info(&self) -> StoreInfo;

    /// The store's clock, by which leases and due times are judged. One trip.
    async fn ping(&self) -> Result<Timestamp>;

    /// Stores new jobs and answers for each, in order, whether it is new.
    ///
    /// A job whose id is there changes nothing and is `Existing`; so does one whose unique key another job
    /// holds (that job's id is answered), unless it supersedes that one. Jobs of one call are
    /// treated one after the other, so a key twice in a call makes one job. One trip.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for any of them: then none is stored.
    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>>;

    /// Takes up to `limit` due jobs for a lease, in order: priority descending, then `run_at`, then
    /// id (with [`Order::Lifo`](crate::Order::Lifo) the last two reversed).
    ///
    /// Only waiting jobs are taken; a job whose lease is over must be reaped first. Jobs behind a full
    /// lane and in paused queues are passed over. Without concurrent writes exactly the first `limit`
    /// are taken; a claim may pass over a job that another operation is writing at that
    /// moment, and then says so with a `next_due` that is not later than now. A repeat with the
    /// same token answers the jobs of the first call that are still held under it, if any is, and takes none besides; if
    /// none is, it is a new claim. A claim that still runs while it is repeated shares its limit with the repeat. One trip.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed>;

    /// Makes changes and answers for each, in order, what became of it.
    ///
    /// Each item is atomic: its guard is checked, its fields changed and its log entries appended
    /// together or not at all. Items do not depend on each other. Of several reasons to refuse one the first in the order of
    /// [`Outcome`] is told; whether a payload fits is asked last. One trip.
    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>>;

    /// [`update_jobs`](JobStore::update_jobs), then [`claim`](JobStore::claim).
    ///
    /// Stores that can do both in one trip override it. The claim may see the store as before or as after the
    /// updates; when an update freed a job, a lane or a key that the claim did not see,
    /// `next_due` is not later than now.
    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        let outcomes = self.update_jobs(updates).await?;
        Ok((outcomes, self.claim(request).await?))
    }

    /// Renews leases, to `lease` from the store's now, and answers for each what became of it:
    /// `Applied`, `Fenced` or `Missing`. A request to cancel comes back in the acknowledgement. One trip.
    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>>;

    /// Takes up to `limit` jobs whose lease is over from their holders: gives them back, or fails
    /// those that crashed more than `max_crashes` times, or ends those that were to be cancelled. One trip.
    ///
    /// Until then an expired job still belongs to its holder, whose writes are accepted.
    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>>;

    /// Changes all matching jobs and counts them. One trip.
    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome>;

    /// Deletes up to `limit` matching jobs with their logs, by `(created_at, id)`, the oldest first; never a
    /// running one. Answers how many. One trip.
    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64>;

    /// Reads jobs by id; `None` where there is none. Positional. One trip.
    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>>;

    /// Reads a page of jobs, without their logs. One trip.
    async fn find(&self, query: &JobQuery) -> Result<Page<Job>>;

    /// Counts matching jobs by queue and state, in that order. One trip.
    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>>;

    /// Fires a slot of a schedule: at most one job per schedule and slot, ever. The job is inserted as by
    /// [`insert`](JobStore::insert); if it is `Existing`, the slot counts as skipped. One trip.
    async fn fire(&self, fire: &Fire) -> Result<Fired>;

    /// What is known of every schedule, by name. One trip.
    async fn schedules(&self) -> Result<Vec<ScheduleStat>>;

    /// The records whose key begins with `prefix`, by key. One trip.
    async fn records(&self, prefix: &str) -> Result<Vec<Record>>;

    /// Puts (or removes) a record: always, or only if it has the expected version, where 0 means
    /// that it was never put. Every put raises the version by one, that of a removal too. Answers `Applied` with the new
    /// version, or `Conflict`. One trip.
    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome>;

    /// Hints that jobs may have become due. They may be lost, doubled or spurious; a worker
    /// that gets none must poll by `next_due`. See [`Capabilities::wakeups`](crate::Capabilities::wakeups).
    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        stream::pending().boxed()
    }
}

/// A hint that there may be something to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Wakeup {
    /// Where; `None`: anywhere.
    pub queue: Option<QueueName>,
}

impl Wakeup {
    /// Something may be due in this queue.
    pub const fn queue(queue: QueueName) -> Self {
        Wakeup { queue: Some(queue) }
    }

    /// Something may be due somewhere.
    pub const fn anywhere() -> Self {
        Wakeup { queue: None }
    }
}
