use std::{
    fmt,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use mongodb::{Client, ClientSession, Database};
use queue_core::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Fire, Fired, Held, Inserted, Job, JobFilter,
    JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page, Reaped, Record, Result,
    ScheduleStat, StoreInfo, StoreRegistry, Tally, Timestamp, Version, Wakeup, async_trait,
    check_held, check_prefix, check_updates,
};

use crate::{
    MongoOptions, bulk, claim,
    connect::{self, Db},
    error::STORE,
    insert, read, schedule, session, update, wake,
};

/// Jobs in a MongoDB database.
///
/// Clones share the connections, which belong to the runtime that opened the store.
#[derive(Clone)]
pub struct MongoStore(pub(crate) Arc<Db>);

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MongoStore").field(&self.0.database.name()).finish()
    }
}

impl MongoStore {
    /// Opens the database that a connection string names; see [`MongoOptions::from_url`].
    ///
    /// # Errors
    /// See [`MongoOptions::from_url`] and [`MongoOptions::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        MongoOptions::from_url(url)?.open().await
    }

    pub(crate) async fn start(options: MongoOptions) -> Result<Self> {
        Ok(MongoStore(Arc::new(connect::open(options).await?)))
    }

    /// The driver's client: for a session whose transaction shall insert jobs.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The database that the jobs are in.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// How many commands this store and its clones have sent since it was opened.
    pub fn commands(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    /// Inserts jobs as part of the caller's own transaction: they are there if and only if it
    /// commits. Otherwise as [`JobStore::insert`]. Two trips, and one more for each superseded job.
    ///
    /// The session must come from [`MongoStore::client`] and have a transaction under way. A job that another
    /// transaction inserts at the same time, or its key, makes the server abort this one: begin it again.
    ///
    /// # Errors
    /// As [`JobStore::insert`]; `Contention` where the transaction was aborted.
    pub async fn insert_in(
        &self,
        session: &mut ClientSession,
        jobs: &[NewJob],
    ) -> Result<Vec<Inserted>> {
        self.0.capabilities.check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        named("insert", session::insert_in(&self.0, session, jobs).await)
    }
}

/// Names the operation that failed.
fn named<T>(operation: &'static str, result: Result<T>) -> Result<T> {
    result.map_err(|error| error.with_operation(operation).with_store(STORE))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JobStore for MongoStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(STORE, self.0.capabilities)
    }

    async fn ping(&self) -> Result<Timestamp> {
        named("ping", self.0.clock.measure(&self.0.database).await)
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.0.capabilities.check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        named("insert", insert::insert(&self.0, jobs).await)
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        named("claim", claim::claim(&self.0, request).await)
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        named("update_jobs", update::update(&self.0, updates).await)
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        let outcomes = self.update_jobs(updates).await?;
        Ok((outcomes, self.claim(request).await?))
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        named("heartbeat", update::heartbeat(&self.0, held, lease).await)
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        named("reap", bulk::reap(&self.0, limit).await)
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        filter.check()?;
        named("update_where", bulk::update_where(&self.0, filter, change).await)
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        named("delete", bulk::delete(&self.0, filter, limit).await)
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        named("get", read::get(&self.0, ids, log).await)
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        named("find", read::find(&self.0, query).await)
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        named("tally", read::tally(&self.0, filter).await)
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        fire.check()?;
        if let Some(job) = &fire.job {
            self.0.capabilities.check_new(std::slice::from_ref(job))?;
        }
        named("fire", schedule::fire(&self.0, fire).await)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        named("schedules", schedule::schedules(&self.0).await)
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        named("records", schedule::records(&self.0, prefix).await)
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.0.capabilities.check_record(record)?;
        named("put_record", schedule::put_record(&self.0, record, expect).await)
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        match self.0.capabilities.wakeups {
            Some(_) => wake::wakeups(self.0.clone()),
            None => stream::pending().boxed(),
        }
    }
}

/// Makes a registry open URLs that begin with `mongodb:` and `mongodb+srv:`.
pub fn register(registry: &mut StoreRegistry) {
    for scheme in ["mongodb", "mongodb+srv"] {
        registry.register(scheme, |url| async move {
            Ok(Arc::new(MongoStore::connect(&url).await?) as Arc<dyn JobStore>)
        });
    }
}
