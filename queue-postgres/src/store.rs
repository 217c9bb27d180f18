use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use futures::stream::{self, BoxStream, StreamExt as _};
use queue_core::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Claimed, Effect, Fire, Fired, Held,
    Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page,
    Reach, Reaped, Record, Result, ScheduleStat, StoreInfo, StoreRegistry, Tally, Timestamp,
    Version, Wakeup, async_trait, broadcast_wakeups, check_held, check_prefix, check_updates,
};
use sqlx::{PgPool, postgres::PgConnection};

use crate::{
    PostgresOptions, bulk, claim, connect, db::Db, error::STORE, insert, options::Pooler, read,
    schedule, sql::Sql, update, wake::Hints,
};

/// Jobs in a schema of a PostgreSQL database.
///
/// Clones share connections and wake-ups. The connections belong to the Tokio runtime that opened the store and end
/// with it, or with the last clone.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    db: Db,
    options: PostgresOptions,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresStore").field(&self.0.options).finish()
    }
}

impl PostgresStore {
    /// Opens the store that a URL names; see [`PostgresOptions::from_url`] for its form.
    ///
    /// # Errors
    /// See [`PostgresOptions::from_url`] and [`PostgresOptions::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        PostgresOptions::from_url(url)?.open().await
    }

    pub(crate) async fn start(options: PostgresOptions) -> Result<Self> {
        let sql = Sql::new(&options.schema);
        let pools = connect::open(&options, &sql).await?;
        let direct = match options.pooler {
            Pooler::None => Some(&options.server),
            Pooler::Transaction => None,
        };
        let hints = match options.listen.as_ref().or(direct) {
            Some(server) => Hints::start(
                pools.calls.clone(),
                options.pooler,
                sql.notify.clone(),
                server.clone(),
                sql.channel(),
                options.call_timeout,
            ),
            None => Hints::silent(),
        };
        let (clock, pooler) = (options.clock.clone(), options.pooler);
        #[cfg(test)]
        let mutation = options.mutation.clone();
        let db = Db {
            pools,
            clock,
            pooler,
            call_timeout: options.call_timeout,
            sql,
            hints,
            #[cfg(test)]
            mutation,
        };
        Ok(PostgresStore(Arc::new(Inner { db, options })))
    }

    /// Connections to the store's database for the application: as many as the store has for its calls, and none of those, so
    /// that transactions of yours keep no call waiting. They see the store's tables through its schema's name only.
    pub fn pool(&self) -> &PgPool {
        &self.0.db.pools.callers
    }

    /// The connections of the store's own calls.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> &PgPool {
        &self.0.db.pools.calls
    }

    /// Inserts jobs as part of the caller's own transaction, on a connection to the store's database: they are there
    /// if and only if it commits. Otherwise as [`JobStore::insert`]. One statement.
    ///
    /// "Now" is the moment of the call, not the beginning of the transaction. No wake-up is sent, since the commit is still to
    /// come: call [`PostgresStore::announce`] after it, or leave the jobs to be found by polling.
    ///
    /// Keep a transaction that inserts jobs with unique keys short: until it ends, others that insert such jobs wait, for
    /// the same keys and for some of the others, up to `call_timeout`.
    ///
    /// # Errors
    /// As [`JobStore::insert`]. After an error that the server reported, the transaction can only be rolled back.
    pub async fn insert_in(
        &self,
        connection: &mut PgConnection,
        jobs: &[NewJob],
    ) -> Result<Vec<Inserted>> {
        self.capabilities().check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        insert::insert_in(&self.0.db, connection, jobs).await
    }

    /// Updates jobs as part of the caller's own transaction, on a connection to the store's database. Otherwise as
    /// [`JobStore::update_jobs`]. One statement.
    ///
    /// A handler that completes its job in the transaction of its own writes does them exactly once: both are there if it commits,
    /// and neither if it does not, whatever became of the handler. Look at the outcome before the commit: a holder
    /// that was [`Fenced`](Outcome::Fenced) has lost its job to another, and rolls back. Until the end of
    /// the transaction nobody else can take or change these jobs: other writers of them wait, and the lease
    /// cannot run out. So keep it short.
    ///
    /// ```no_run
    /// # use queue_core::{Job, JobPatch, JobUpdate, Payload, Transition};
    /// # use queue_postgres::{PostgresStore, sqlx};
    /// # async fn example(store: &PostgresStore, job: &Job) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = store.pool().begin().await?;
    /// sqlx::query("UPDATE account SET balance = balance - 10 WHERE id = 1").execute(&mut *tx).await?;
    /// let done = JobPatch::transition(Transition::Complete { output: Some(Payload::from_value("paid")?) });
    /// let outcomes = store.update_in(&mut tx, &[JobUpdate::held(job.id, job.fence, done)]).await?;
    /// match outcomes[0].is_saved() {
    ///     true => tx.commit().await?,
    ///     false => tx.rollback().await?,
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// No wake-up is sent, since the commit is still to come: who waits for a lane that becomes free, or for a job that is
    /// given back, finds it by polling.
    ///
    /// # Errors
    /// As [`JobStore::update_jobs`]. After an error that the server reported, the transaction can only be rolled back;
    /// after `Contention`, a rival's commit, try it again as a whole.
    pub async fn update_in(
        &self,
        connection: &mut PgConnection,
        updates: &[JobUpdate],
    ) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.capabilities().max_payload_bytes;
        update::update_in(&self.0.db, connection, updates, limit).await
    }

    /// Tells workers that these jobs may be due: after the commit of a transaction that inserted them by
    /// [`PostgresStore::insert_in`]. Returns at once; the notification is sent beside.
    pub fn announce(&self, jobs: &[NewJob]) {
        insert::announce(&self.0.db, jobs.iter());
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(Reach::Network);
        capabilities.durable = true;
        capabilities.wakeups = self.0.db.hints.are_sent().then_some(Reach::Network);
        capabilities
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JobStore for PostgresStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(STORE, self.capabilities())
    }

    async fn ping(&self) -> Result<Timestamp> {
        read::ping(&self.0.db).await
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.capabilities().check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        insert::insert(&self.0.db, jobs).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        claim::claim(&self.0.db, request).await
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        update::update(&self.0.db, updates, self.capabilities().max_payload_bytes).await
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        check_updates(updates)?;
        let limit = self.capabilities().max_payload_bytes;
        match claim::update_and_claim(&self.0.db, updates, request, limit).await? {
            Some(both) => Ok(both),
            None => {
                let outcomes = self.update_jobs(updates).await?;
                let claimed = self.claim(request).await;
                // The updates are made.
                let claimed = claimed.map_err(|error| match updates.is_empty() {
                    true => error,
                    false => error.with_effect(Effect::Unknown),
                });
                Ok((outcomes, claimed?))
            }
        }
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        update::heartbeat(&self.0.db, held, lease).await
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        bulk::reap(&self.0.db, limit).await
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        filter.check()?;
        bulk::update_where(&self.0.db, filter, change).await
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        bulk::delete(&self.0.db, filter, limit).await
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        read::get(&self.0.db, ids, log).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        read::find(&self.0.db, query).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        read::tally(&self.0.db, filter).await
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        fire.check()?;
        if let Some(job) = &fire.job {
            self.capabilities().check_new(std::slice::from_ref(job))?;
        }
        schedule::fire(&self.0.db, fire).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        read::schedules(&self.0.db).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        read::records(&self.0.db, prefix).await
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.capabilities().check_record(record)?;
        schedule::put_record(&self.0.db, record, expect).await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        match self.0.db.hints.are_sent() {
            true => broadcast_wakeups(self.0.db.hints.subscribe()),
            false => stream::pending().boxed(),
        }
    }
}

/// Makes a registry open URLs that begin with `postgres:` or `postgresql:`.
pub fn register(registry: &mut StoreRegistry) {
    for scheme in ["postgres", "postgresql"] {
        registry.register(scheme, |url| async move {
            Ok(Arc::new(PostgresStore::connect(&url).await?) as Arc<dyn JobStore>)
        });
    }
}
