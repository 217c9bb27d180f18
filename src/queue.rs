use std::sync::Arc;

use queue_core::{
    BulkChange, BulkOutcome, Clock, Inserted, Job, JobFilter, JobId, JobQuery, JobStore,
    JobStoreExt, LogRead, NewJob, Outcome, Page, QueueName, Result, StoreRegistry, Tally,
};

use crate::{
    Enqueue, EnqueueMany, JobHandle, Task,
    broken::around,
    io::{Background, Io},
    jitter::repeated,
};

/// Where an application enqueues jobs and looks after them. Cheap to clone.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize, queue::Task)]
/// # #[task(name = "greet", output = String)]
/// # struct Greet { name: String }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> queue::Result<()> {
/// let queue = queue::Queue::connect("memory:").await?;
/// let handle = queue.enqueue(Greet { name: "Ada".into() }).priority(3).await?;
/// assert_eq!(handle.job().await?.unwrap().priority, 3);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Queue(Arc<Io>);

impl Queue {
    /// Opens the store that a URL names: `sqlite:path/to/file.db`, `memory:`, ...
    ///
    /// # Errors
    /// `Config` for an unknown scheme or one whose feature is switched off; what the store says.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(&registry(), url).await
    }

    /// As [`connect`](Self::connect), with the schemes of this registry.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(registry: &StoreRegistry, url: &str) -> Result<Self> {
        let runtime = Background::start()?;
        let (registry, url) = (registry.clone(), url.to_owned());
        let store = runtime.run(async move { registry.connect(&url).await }).await?;
        Ok(Queue(Arc::new(Io::new(around(store), runtime))))
    }

    /// Uses a store that is open already.
    ///
    /// # Errors
    /// `Config` when the thread for I/O cannot be started.
    pub fn new(store: impl Into<Arc<dyn JobStore>>) -> Result<Self> {
        Ok(Queue(Arc::new(Io::new(around(store.into()), Background::start()?))))
    }

    /// The same queue, for a store that was opened with this clock: what the queue and its workers do at a time, they do by
    /// it. For tests, which drive a [manual clock](queue_core::Clock::manual) instead of sleeping: each time it is moved,
    /// workers look whether something is due. Leases are renewed by real time all the same, so moving the clock by more than
    /// the lease while a job runs is to that job as if its worker had stood still.
    #[must_use]
    pub fn with_clock(&self, clock: Clock) -> Self {
        Queue(Arc::new(self.0.with_clock(clock)))
    }

    pub(crate) fn io(&self) -> &Io {
        &self.0
    }

    /// The store, for what the queue has no method for. Keep the queue, or a clone of it, as long as you use the store: a store
    /// that [`connect`](Self::connect) opened has its connections on the queue's thread for I/O, which ends with the last clone.
    pub fn store(&self) -> &Arc<dyn JobStore> {
        self.0.store()
    }

    /// Enqueues a job; set options, then await.
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<'_, T> {
        Enqueue::new(self, task)
    }

    /// Enqueues jobs with one call; set options for all, then await. One trip.
    pub fn enqueue_many<T: Task>(&self, tasks: impl IntoIterator<Item = T>) -> EnqueueMany<'_, T> {
        EnqueueMany::new(self, tasks.into_iter().collect())
    }

    /// Enqueues jobs whose types are known only at run time. One trip; a few more if the store has passing
    /// trouble, which is safe because the jobs bring their ids.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for any of them, and then none is enqueued; trouble with the store.
    pub async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>> {
        let call = |store: Arc<dyn JobStore>| async move { repeated(|| store.insert(&jobs)).await };
        self.0.change(call).await
    }

    /// A handle on a job of this task that was enqueued before.
    pub fn handle<T: Task>(&self, id: JobId) -> JobHandle<T> {
        JobHandle::new(self.clone(), Inserted::Existing(id))
    }

    /// Reads a job with its log. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>> {
        self.0.call(|store| async move { store.get_one(id).await }).await
    }

    /// Reads jobs by id. Positional. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn jobs(&self, ids: Vec<JobId>, log: LogRead) -> Result<Vec<Option<Job>>> {
        self.0.call(|store| async move { store.get(&ids, log).await }).await
    }

    /// Reads a page of jobs. One trip.
    ///
    /// # Errors
    /// `Invalid` for a malformed query; trouble with the store.
    pub async fn find(&self, query: JobQuery) -> Result<Page<Job>> {
        self.0.call(|store| async move { store.find(&query).await }).await
    }

    /// Counts jobs by queue and state. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn tally(&self, filter: JobFilter) -> Result<Vec<Tally>> {
        self.0.call(|store| async move { store.tally(&filter).await }).await
    }

    /// Cancels a job: a waiting one ends at once, a running one is told at its next contact with
    /// the store, at the latest with its next heartbeat. `Illegal` for a job that had ended, `Missing` for one that is not there.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn cancel(&self, id: JobId, reason: impl Into<String>) -> Result<Outcome> {
        let reason = reason.into();
        self.0.call(|store| async move { store.cancel(id, &reason).await }).await
    }

    /// Cancels all matching jobs, and says how many ended, how many were signalled and how many
    /// had ended before. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn cancel_where(
        &self,
        filter: JobFilter,
        reason: impl Into<String>,
    ) -> Result<BulkOutcome> {
        let change = BulkChange::Cancel { reason: reason.into() };
        self.0.call(|store| async move { store.update_where(&filter, &change).await }).await
    }

    /// Pauses a queue: within a second nothing is taken from it; running jobs go on.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn pause(&self, queue: QueueName) -> Result<()> {
        self.0.call(|store| async move { store.pause(&queue).await }).await
    }

    /// Resumes a paused queue.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn resume(&self, queue: QueueName) -> Result<()> {
        self.0.change(|store| async move { store.resume(&queue).await }).await
    }
}

/// Opens the store that a URL names, with the stores that this build has.
///
/// # Errors
/// As [`Queue::connect`].
pub async fn connect(url: &str) -> Result<Queue> {
    Queue::connect(url).await
}

/// The stores that this build has, by URL scheme; add your own to it.
pub fn registry() -> StoreRegistry {
    let mut registry = StoreRegistry::new();
    #[cfg(feature = "sqlite")]
    queue_sqlite::register(&mut registry);
    #[cfg(not(feature = "sqlite"))]
    registry.switched_off("sqlite", "sqlite");
    #[cfg(feature = "postgres")]
    queue_postgres::register(&mut registry);
    #[cfg(not(feature = "postgres"))]
    registry.switched_off("postgres", "postgres").switched_off("postgresql", "postgres");
    #[cfg(feature = "mongo")]
    queue_mongo::register(&mut registry);
    #[cfg(not(feature = "mongo"))]
    registry.switched_off("mongodb", "mongo").switched_off("mongodb+srv", "mongo");
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unknown_scheme_is_answered_with_the_known_ones_and_without_the_password() {
        let error = Queue::connect("mysql://root:secret@db/jobs").await.unwrap_err().to_string();
        assert!(error.contains("\"mysql\"") && error.contains("memory:"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[cfg(not(feature = "sqlite"))]
    #[tokio::test]
    async fn a_scheme_whose_feature_is_off_is_answered_with_the_feature() {
        let error = Queue::connect("sqlite:jobs.db").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "configuration: URLs that begin with sqlite: need the feature `sqlite`, which is \
             switched off in this build"
        );
    }
}
