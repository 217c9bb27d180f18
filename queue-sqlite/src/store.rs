use std::{
    fmt,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use futures::stream::BoxStream;
use queue_core::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Claimed, Effect, Error, ErrorKind, Fire,
    Fired, Held, Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob,
    Outcome, Page, Reach, Reaped, Record, Result, ScheduleStat, StoreInfo, StoreRegistry, Tally,
    Timestamp, Version, Wakeup, async_trait, broadcast_wakeups, check_held, check_prefix,
    check_updates,
};
use rusqlite::{Connection, Transaction};
use tokio::sync::{broadcast, oneshot};

use crate::{
    SqliteOptions, Synchronous, bulk, claim, connect,
    error::{Db, Fault, STORE},
    insert, read,
    reader::{self, Read},
    schedule, update,
    writer::{Call, Command, Log, Writer, Writing},
};

/// How many wake-ups a slow listener may be behind before they are summed up as "anywhere".
const HINTS: usize = 256;

/// Jobs in a SQLite file.
///
/// Clones share threads, connections and wake-ups. When the last one is dropped, what was asked for
/// is still done, and then the threads end; [`SqliteStore::close`] waits for that.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    options: SqliteOptions,
    commands: Sender<Box<dyn Command>>,
    reads: Sender<Read>,
    hints: broadcast::Sender<Wakeup>,
    transactions: Arc<AtomicU64>,
    reads_made: AtomicU64,
    /// Told when the writing thread has closed the database.
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteStore").field(&self.0.options.path).finish()
    }
}

impl SqliteStore {
    /// Opens the file at this path with the defaults of [`SqliteOptions`].
    ///
    /// # Errors
    /// See [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteOptions::new(path).open().await
    }

    /// Opens the file that a URL names; see [`SqliteOptions::from_url`] for its form.
    ///
    /// # Errors
    /// See [`SqliteOptions::from_url`] and [`SqliteOptions::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        SqliteOptions::from_url(url)?.open().await
    }

    pub(crate) async fn start(options: SqliteOptions) -> Result<Self> {
        let (commands, queue) = mpsc::channel();
        let (reads, asked) = mpsc::channel();
        let (hints, _) = broadcast::channel(HINTS);
        let transactions = Arc::new(AtomicU64::new(0));
        let (say_opened, opened) = oneshot::channel();
        let (say_closed, closed) = oneshot::channel();
        let work = {
            let (options, hints, transactions) =
                (options.clone(), hints.clone(), transactions.clone());
            move || {
                #[cfg(test)]
                crate::mutant_tests::apply(options.mutation.as_ref());
                let started = connect::open_writer(&options).and_then(|db| {
                    let readers = reader::start(&options, asked)?;
                    let clock = options.clock.clone();
                    let log = Log::of(&options);
                    Ok(Writer { db, log, clock, commands: queue, readers, hints, transactions })
                });
                match started {
                    Ok(writer) => {
                        // An error says that nobody waits for the store any more; then its
                        // handles are gone too, and the writer ends at once.
                        let _ = say_opened.send(Ok(()));
                        writer.run();
                        let _ = say_closed.send(());
                    }
                    Err(error) => drop(say_opened.send(Err(error))),
                }
            }
        };
        thread::Builder::new()
            .name("queue-sqlite-write".to_owned())
            .spawn(work)
            .map_err(no_thread)?;
        opened.await.map_err(|_| gone("open"))??;
        let closed = Mutex::new(Some(closed));
        let reads_made = AtomicU64::new(0);
        Ok(SqliteStore(Arc::new(Inner {
            options,
            commands,
            reads,
            hints,
            transactions,
            reads_made,
            closed,
        })))
    }

    /// Drops this handle. When it was the last one, waits until everything that was asked for is
    /// done and the database is closed, its log moved into the file.
    pub async fn close(self) {
        let Some(inner) = Arc::into_inner(self.0) else { return };
        let closed = inner.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(inner);
        if let Some(closed) = closed {
            // An error says that the thread has ended, too.
            let _ = closed.await;
        }
    }

    /// How many write transactions the store has made since it was opened, empty ones included.
    /// Calls that were made together share one.
    pub fn transactions(&self) -> u64 {
        self.0.transactions.load(Ordering::Relaxed)
    }

    /// How many read transactions the store has made since it was opened.
    pub fn reads(&self) -> u64 {
        self.0.reads_made.load(Ordering::Relaxed)
    }

    /// Inserts jobs as part of the caller's own transaction, on a connection to the store's file:
    /// they are there if and only if it commits. Otherwise as [`JobStore::insert`].
    ///
    /// "Now" is the store's clock at the moment of the call. No wake-up is sent, since the commit is still to
    /// come: call [`SqliteStore::announce`] after it, or leave the jobs to be found by polling.
    ///
    /// # Errors
    /// As [`JobStore::insert`]; then none of the jobs is inserted, and the transaction can go on.
    /// `Unavailable` when SQLite itself has rolled it back, as it does when the disk is full.
    pub fn insert_in(&self, tx: &Transaction<'_>, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.capabilities().check_new(jobs)?;
        // After SQLite has rolled it back (a full disk does that), statements on the connection
        // would commit by themselves.
        if tx.is_autocommit() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "SQLite has rolled the caller's transaction back",
            )
            .with_operation("insert")
            .with_store(STORE));
        }
        let in_savepoint = || -> Db<Vec<Inserted>> {
            tx.execute_batch("SAVEPOINT queue_insert")?;
            let mut hints = std::collections::HashSet::new();
            let now = self.0.options.clock.now();
            let inserted = insert::insert(&mut Writing { db: tx, now, hints: &mut hints }, jobs);
            match inserted {
                Ok(_) => tx.execute_batch("RELEASE queue_insert")?,
                Err(_) if tx.is_autocommit() => {}
                Err(_) => tx.execute_batch("ROLLBACK TO queue_insert; RELEASE queue_insert")?,
            }
            inserted
        };
        in_savepoint().map_err(|fault| fault.into_error("insert"))
    }

    /// Tells the workers of this process that these jobs may be due: after the commit of a
    /// transaction that inserted them by [`SqliteStore::insert_in`].
    pub fn announce(&self, jobs: &[NewJob]) {
        let queues: std::collections::HashSet<_> = jobs.iter().map(|job| &job.queue).collect();
        for queue in queues {
            // An error says that nobody listens.
            let _ = self.0.hints.send(Wakeup::queue(queue.clone()));
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(Reach::Host);
        capabilities.durable = self.0.options.synchronous == Synchronous::Full;
        capabilities.wakeups = Some(Reach::Process);
        capabilities
    }

    /// Has the writing thread do something, and waits for its commit.
    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> Db<T> + Send + 'static,
    {
        let (call, answer) = Call::new(operation, work);
        self.0.commands.send(Box::new(call)).map_err(|_| gone(operation))?;
        answer.await.map_err(|_| gone(operation).with_effect(Effect::Unknown))?
    }

    /// Has a reading thread do something within one snapshot.
    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Db<T> + Send + 'static,
    {
        self.0.reads_made.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let read = move |db: Result<&mut Connection>| {
            let found = db.map_err(Fault::from).and_then(|db| {
                let snapshot = db.transaction()?;
                let found = work(&snapshot)?;
                snapshot.finish()?;
                Ok(found)
            });
            // An error says that the caller has gone.
            let _ = reply.send(found.map_err(|fault| fault.into_error(operation)));
        };
        self.0.reads.send(Box::new(read)).map_err(|_| gone(operation))?;
        answer.await.map_err(|_| gone(operation))?
    }
}

fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Backend, "a thread of the store gave up unexpectedly")
        .with_operation(operation)
        .with_store(STORE)
}

pub(crate) fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "cannot start a thread")
        .with_source(error)
        .with_operation("open")
        .with_store(STORE)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JobStore for SqliteStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(STORE, self.capabilities())
    }

    async fn ping(&self) -> Result<Timestamp> {
        let clock = self.0.options.clock.clone();
        self.read("ping", move |db| read::ping(db).map(|()| clock.now())).await
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.capabilities().check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = jobs.to_vec();
        self.write("insert", move |writing| insert::insert(writing, &jobs)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        let request = request.clone();
        self.write("claim", move |writing| claim::claim(writing, &request)).await
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let updates = updates.to_vec();
        let limit = self.capabilities().max_payload_bytes;
        self.write("update_jobs", move |writing| update::update(writing, &updates, limit)).await
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        check_updates(updates)?;
        let (updates, request) = (updates.to_vec(), request.clone());
        let limit = self.capabilities().max_payload_bytes;
        self.write("update_and_claim", move |writing| {
            let outcomes = update::update(writing, &updates, limit)?;
            Ok((outcomes, claim::claim(writing, &request)?))
        })
        .await
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let held = held.to_vec();
        self.write("heartbeat", move |writing| update::heartbeat(writing, &held, lease)).await
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        self.write("reap", move |writing| bulk::reap(writing, limit)).await
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        filter.check()?;
        let (filter, change) = (filter.clone(), change.clone());
        self.write("update_where", move |writing| bulk::update_where(writing, &filter, &change))
            .await
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        let filter = filter.clone();
        self.write("delete", move |writing| bulk::delete(writing, &filter, limit)).await
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ids.to_vec();
        self.read("get", move |db| read::get(db, &ids, log)).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        let query = query.clone();
        self.read("find", move |db| read::find(db, &query)).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        let filter = filter.clone();
        self.read("tally", move |db| read::tally(db, &filter)).await
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        fire.check()?;
        if let Some(job) = &fire.job {
            self.capabilities().check_new(std::slice::from_ref(job))?;
        }
        let fire = fire.clone();
        self.write("fire", move |writing| schedule::fire(writing, &fire)).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        self.read("schedules", schedule::schedules).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.read("records", move |db| read::records(db, &prefix)).await
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.capabilities().check_record(record)?;
        let record = record.clone();
        self.write("put_record", move |writing| schedule::put_record(writing, &record, expect))
            .await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        broadcast_wakeups(self.0.hints.subscribe())
    }
}

/// Makes a registry open URLs that begin with `sqlite:`.
pub fn register(registry: &mut StoreRegistry) {
    registry.register("sqlite", |url| async move {
        Ok(Arc::new(SqliteStore::connect(&url).await?) as Arc<dyn JobStore>)
    });
}
