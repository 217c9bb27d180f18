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
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Effect, Error, ErrorKind, Fire, Fired, Held,
    Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page,
    Reaped, Record, Result, ScheduleStat, StoreInfo, StoreRegistry, Tally, Timestamp, Version,
    Wakeup, async_trait, check_held, check_prefix, check_updates,
};

use crate::{
    MongoOptions, bulk, claim,
    connect::{self, Db},
    error::STORE,
    heartbeat, insert, read, schedule, session, update, wake,
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
    /// As [`JobStore::insert`]; `Contention` where the transaction was aborted; `Unsupported` on a server without
    /// transactions.
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

    /// Changes jobs as part of the caller's own transaction, so that a handler can complete its job in the very
    /// transaction of its own writes: both are there, or neither. Outcomes are positional, as those of
    /// [`JobStore::update_jobs`], and hold if and only if the transaction commits. One trip, and one more for each change.
    ///
    /// A holder that has lost its job is told so by [`Outcome::Fenced`]; it is for the caller to abort then. Where
    /// another writer of the job (its own heartbeat, an append) comes between the transaction's first read and this
    /// call, the server aborts the transaction: begin it again. Afterwards other writers of the job wait until it ends.
    ///
    /// Let it be the last thing in the transaction, and commit at once. As long as the transaction is open the job's own
    /// heartbeats cannot be written ([`JobStore::heartbeat`] renews the other jobs and fails with `Timeout`), and it
    /// cannot be reaped.
    ///
    /// ```no_run
    /// # use queue_core::{Job, JobPatch, JobUpdate, Outcome, Transition};
    /// # use queue_mongo::{MongoStore, mongodb::{self, bson::doc}};
    /// # async fn charge(store: &MongoStore, job: &Job) -> Result<(), Box<dyn std::error::Error>> {
    /// let invoices = store.database().collection::<mongodb::bson::Document>("invoices");
    /// let mut session = store.client().start_session().await?;
    /// session.start_transaction().await?;
    /// invoices.insert_one(doc! { "paid": true }).session(&mut session).await?;
    /// let done = JobPatch::transition(Transition::Complete { output: None });
    /// let outcomes =
    ///     store.update_in(&mut session, &[JobUpdate::held(job.id, job.fence, done)]).await?;
    /// match outcomes[0] {
    ///     Outcome::Applied(_) => session.commit_transaction().await?,
    ///     // The job is somebody else's by now, and the invoice with it.
    ///     _ => session.abort_transaction().await?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`JobStore::update_jobs`]; `Contention` where the transaction was aborted; `Unsupported` on a server without
    /// transactions. After an error the transaction is of no more use.
    pub async fn update_in(
        &self,
        session: &mut ClientSession,
        updates: &[JobUpdate],
    ) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        named("update_jobs", session::update_in(&self.0, session, updates).await)
    }
}

/// Names the operation that failed. One that ends in a read had an effect all the same if a write of it was answered
/// before; a write of another operation that was under way is taken for its own, which is the safe side.
async fn writing<T>(
    db: &Db,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let before = db.writes.load(Ordering::Relaxed);
    let result = in_time(db, call).await;
    let unmoved = db.writes.load(Ordering::Relaxed) == before;
    named(operation, result.map_err(|e| if unmoved { e } else { e.with_effect(Effect::Unknown) }))
}

/// Names the operation that failed.
async fn reading<T>(
    db: &Db,
    operation: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    named(operation, in_time(db, call).await)
}

/// Gives up a call on which nothing is heard. The driver closes the connection that it was waiting on.
async fn in_time<T>(db: &Db, call: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = db.call_timeout;
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!("no answer within {} ms (call_timeout_ms)", limit.as_millis());
            Err(Error::new(ErrorKind::Timeout, message).with_effect(Effect::Unknown))
        }
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
        reading(&self.0, "ping", self.0.clock.measure(&self.0.database)).await
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.0.capabilities.check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        writing(&self.0, "insert", insert::insert(&self.0, jobs)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        writing(&self.0, "claim", claim::claim(&self.0, request)).await
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        writing(&self.0, "update_jobs", update::update(&self.0, updates)).await
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        let outcomes = self.update_jobs(updates).await?;
        let claimed = self.claim(request).await;
        // The updates are made.
        let unknown = |error: queue_core::Error| error.with_effect(Effect::Unknown);
        Ok((outcomes, claimed.map_err(|e| if updates.is_empty() { e } else { unknown(e) })?))
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        writing(&self.0, "heartbeat", heartbeat::heartbeat(&self.0, held, lease)).await
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        writing(&self.0, "reap", bulk::reap(&self.0, limit)).await
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        filter.check()?;
        writing(&self.0, "update_where", bulk::update_where(&self.0, filter, change)).await
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        writing(&self.0, "delete", bulk::delete(&self.0, filter, limit)).await
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        reading(&self.0, "get", read::get(&self.0, ids, log)).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        reading(&self.0, "find", read::find(&self.0, query)).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        reading(&self.0, "tally", read::tally(&self.0, filter)).await
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        fire.check()?;
        if let Some(job) = &fire.job {
            self.0.capabilities.check_new(std::slice::from_ref(job))?;
        }
        writing(&self.0, "fire", schedule::fire(&self.0, fire)).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        reading(&self.0, "schedules", schedule::schedules(&self.0)).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        reading(&self.0, "records", schedule::records(&self.0, prefix)).await
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.0.capabilities.check_record(record)?;
        writing(&self.0, "put_record", schedule::put_record(&self.0, record, expect)).await
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
