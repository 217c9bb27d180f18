//! A store that tells somebody of every change before and after it is made.

use std::{fmt, num::NonZeroU32, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, stream::BoxStream};
use queue_core::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Effect, Error, ErrorKind, Fire, Fired, Held,
    Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page,
    Reaped, Record, Result, ScheduleStat, StoreInfo, Tally, Timestamp, Version, Wakeup,
    async_trait,
};

/// A change of jobs that is about to be made, or was made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Jobs are enqueued.
    Insert(&'a [NewJob]),
    /// A worker takes jobs.
    Claim(&'a ClaimRequest),
    /// Holders and editors write: log, progress, labels, the end of a run.
    Update(&'a [JobUpdate]),
    /// Holders renew their leases and report progress.
    Heartbeat(&'a [Held], Duration),
    /// Up to so many jobs are taken back whose lease is over.
    Reap(NonZeroU32),
    /// Matching jobs are cancelled, woken, moved, or given a priority.
    UpdateWhere(&'a JobFilter, &'a BulkChange),
    /// Up to so many matching jobs are deleted.
    Delete(&'a JobFilter, NonZeroU32),
    /// A slot of a schedule enqueues its job.
    Fire(&'a Fire),
}

/// What became of a [`Change`]: the answer of the method of the same name.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `Change`
pub enum Changed<'a> {
    Insert(&'a [Inserted]),
    Claim(&'a Claimed),
    Update(&'a [Outcome]),
    Heartbeat(&'a [Outcome]),
    Reap(&'a [Reaped]),
    UpdateWhere(&'a BulkOutcome),
    Delete(u64),
    Fire(&'a Fired),
}

/// What is called around every change of jobs.
///
/// The calls are made in the way of the change, which takes as long as they do; workers call from the thread on which leases are
/// renewed, so a hook must not block it. Where one call of the store makes two changes (a settle and the next claim), each is
/// announced before either is made.
#[async_trait]
pub trait Hooks: fmt::Debug + Send + Sync + 'static {
    /// Called before a change. An error (or a panic) refuses it: nothing is changed, and whoever asked for the change is given
    /// the error. A change may turn out to be impossible after this.
    ///
    /// Refusing is meant for enqueuing, editing and cancelling. A worker whose claim is refused asks again, at a pace that
    /// suits a store in trouble; one whose settle is refused for good gives the job up, and it runs again when its lease is over.
    ///
    /// # Errors
    /// Why the change must not be made.
    async fn before(&self, change: Change<'_>) -> Result<()> {
        let _ = change;
        Ok(())
    }

    /// Called after a change, with what became of it: outcomes that changed nothing (a lost race, a job that was there)
    /// and errors too. An error or a panic is logged and changes nothing. It is not called if whoever asked for the change stopped
    /// waiting for it, or if the process ends: what must not be missed is to be read from the store.
    ///
    /// # Errors
    /// Something worth a line in the log.
    async fn after(&self, change: Change<'_>, changed: Result<Changed<'_>, &Error>) -> Result<()> {
        let _ = (change, changed);
        Ok(())
    }
}

/// A store with [`Hooks`] around every change of its jobs. Reads, records and wake-ups pass through.
///
/// It is a store like the one that it wraps, with its promises. Only who makes one pays for it. It sees what goes through it: not
/// what other processes do with the same jobs, nor what a store's own methods do in the caller's transaction.
///
/// ```
/// use std::sync::Arc;
/// use queue::{Change, Error, Hooked, Hooks, JobStore, MemoryStore, Queue, core::async_trait};
///
/// /// Nothing is enqueued without a tenant.
/// #[derive(Debug)]
/// struct Tenants;
///
/// #[async_trait]
/// impl Hooks for Tenants {
///     async fn before(&self, change: Change<'_>) -> queue::Result<()> {
///         match change {
///             Change::Insert(jobs) if jobs.iter().any(|job| !job.labels.contains_key("tenant")) => {
///                 Err(Error::invalid("a job needs the label `tenant`"))
///             }
///             _ => Ok(()),
///         }
///     }
/// }
///
/// # #[derive(serde::Serialize, serde::Deserialize, queue::Task)]
/// # #[task(name = "greet")]
/// # struct Greet;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> queue::Result<()> {
/// let store: Arc<dyn JobStore> = Arc::new(Hooked::new(Arc::new(MemoryStore::new()), Tenants));
/// let queue = Queue::new(store)?;
/// assert!(queue.enqueue(Greet).await.is_err());
/// assert!(queue.enqueue(Greet).label("tenant", "a").await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Hooked<H> {
    store: Arc<dyn JobStore>,
    hooks: H,
}

impl<H: Hooks> Hooked<H> {
    /// This store with these hooks.
    pub const fn new(store: Arc<dyn JobStore>, hooks: H) -> Self {
        Hooked { store, hooks }
    }

    /// The hooks.
    pub const fn hooks(&self) -> &H {
        &self.hooks
    }

    /// Asks whether the change may be made.
    async fn ask(&self, change: Change<'_>) -> Result<()> {
        let asked = AssertUnwindSafe(self.hooks.before(change)).catch_unwind().await;
        let answer = asked.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Backend, "a hook panicked before the change was made"))
        });
        if broken!(HookRefusesInVain) {
            return Ok(());
        }
        // The store was not called, whatever the error was made for.
        answer.map_err(|error| error.with_effect(Effect::None))
    }

    async fn tell(&self, change: Change<'_>, changed: Result<Changed<'_>, &Error>) {
        if broken!(HookEndsTheCall) {
            return drop(self.hooks.after(change, changed).await);
        }
        match AssertUnwindSafe(self.hooks.after(change, changed)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a hook failed after a change"),
            Err(_) => tracing::error!("a hook panicked after a change"),
        }
    }
}

/// Makes a change between the two hooks.
macro_rules! around {
    ($self:ident, $change:expr, $make:expr, $answer:ident => $changed:expr) => {{
        let change = $change;
        $self.ask(change).await?;
        let made = $make.await;
        $self.tell(change, made.as_ref().map(|$answer| $changed)).await;
        made
    }};
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<H: Hooks> JobStore for Hooked<H> {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        self.store.ping().await
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        around!(self, Change::Insert(jobs), self.store.insert(jobs), made => Changed::Insert(made))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        around!(self, Change::Claim(request), self.store.claim(request), made => Changed::Claim(made))
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        let change = Change::Update(updates);
        around!(self, change, self.store.update_jobs(updates), made => Changed::Update(made))
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        self.ask(Change::Update(updates)).await?;
        self.ask(Change::Claim(request)).await?;
        let made = self.store.update_and_claim(updates, request).await;
        let outcomes = made.as_ref().map(|(outcomes, _)| Changed::Update(outcomes));
        if !broken!(HooksMissJoinedWrites) {
            self.tell(Change::Update(updates), outcomes).await;
        }
        let claimed = made.as_ref().map(|(_, claimed)| Changed::Claim(claimed));
        self.tell(Change::Claim(request), claimed).await;
        made
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        let change = Change::Heartbeat(held, lease);
        around!(self, change, self.store.heartbeat(held, lease), made => Changed::Heartbeat(made))
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        around!(self, Change::Reap(limit), self.store.reap(limit), made => Changed::Reap(made))
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        let there = Change::UpdateWhere(filter, change);
        around!(self, there, self.store.update_where(filter, change), made => Changed::UpdateWhere(made))
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        let change = Change::Delete(filter, limit);
        around!(self, change, self.store.delete(filter, limit), made => Changed::Delete(*made))
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        self.store.get(ids, log).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        self.store.find(query).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        self.store.tally(filter).await
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        around!(self, Change::Fire(fire), self.store.fire(fire), made => Changed::Fire(made))
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        self.store.schedules().await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        self.store.records(prefix).await
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.store.put_record(record, expect).await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.store.wakeups()
    }
}
