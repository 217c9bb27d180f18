//! [`RedbStore`]: the methods of the contract, each a check of its arguments and a call of its work.

use std::{
    fs, io,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use futures::stream::BoxStream;
use queue_core::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Claimed, Clock, Effect, Error, ErrorKind,
    Fire, Fired, Held, Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead,
    NewJob, Outcome, Page, Reach, Reaped, Record, Result, ScheduleStat, StoreInfo, Tally,
    Timestamp, Version, Wakeup, async_trait, broadcast_wakeups, check_held, check_prefix,
    check_updates,
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable};
use tokio::sync::{broadcast, oneshot};

use crate::{
    NAME, claim, facts,
    medium::{Failure, Medium},
    read,
    tables::{Snapshot, Tables},
    work::Work,
    write,
    writer::{Asked, Call, serve},
};

/// The version of what is stored. It changes when a release would misread what another wrote.
const FORMAT: u64 = 1;

/// How many wake-ups a slow listener may be behind before it is told "anywhere".
const WAKEUPS: usize = 256;

/// Jobs in a redb file. Clones share it; the file is closed when the last one is dropped.
#[derive(Clone, Debug)]
pub struct RedbStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    medium: Arc<Medium>,
    wakeups: broadcast::Sender<Wakeup>,
    /// There until the last handle is dropped.
    writer: Option<Writer>,
}

/// The way to the writing thread, and the thread.
type Writer = (mpsc::Sender<Box<dyn Call>>, JoinHandle<()>);

/// A file that is not there is made under a name of its own first: redb cannot open one whose maker died half-way. What such
/// a maker leaves ends in `.new` and may be deleted.
fn open_or_make(path: &Path) -> std::result::Result<Database, DatabaseError> {
    if !path.exists() {
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}.new", queue_core::Uuid::now_v7().simple()));
        drop(Database::create(&draft)?);
        let made = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match made {
            // Somebody else was faster: that file stays.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    Database::create(path)
}

impl RedbStore {
    /// Opens a file, and makes it if it is not there. Blocks; after a crash for as long as redb takes to check the file.
    ///
    /// # Errors
    /// `Unavailable` when the file is open already, here or in another process, or cannot be read; `Config` or `Corrupt`
    /// when it is not a file of this store.
    pub fn open(path: impl AsRef<Path>, clock: Clock) -> Result<Self> {
        let path = path.as_ref().to_owned();
        Self::on(move || open_or_make(&path), clock)
    }

    /// Opens a database by a function of the caller's, which is called again after every I/O error: for a cache of another
    /// size, or another [`StorageBackend`](redb::StorageBackend).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn on(
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
        clock: Clock,
    ) -> Result<Self> {
        let failed = |failure: Failure| failure.into_error("open");
        let medium = Medium::new(Box::new(open)).map_err(|error| failed(error.into()))?;
        medium.with(prepare).map_err(failed)?;
        let medium = Arc::new(medium);
        let (wakeups, _) = broadcast::channel(WAKEUPS);
        let (calls, waiting) = mpsc::channel();
        let thread = {
            let (medium, clock, wakeups) = (medium.clone(), clock.clone(), wakeups.clone());
            std::thread::Builder::new()
                .name("redb-writer".to_owned())
                .spawn(move || serve(&waiting, &medium, &clock, &wakeups))
                .map_err(|error| {
                    Error::new(ErrorKind::Config, "cannot start a thread").with_source(error)
                })?
        };
        Ok(RedbStore(Arc::new(Shared { clock, medium, wakeups, writer: Some((calls, thread)) })))
    }

    /// How many transactions it has begun since it was opened, those of all clones together.
    pub fn transactions(&self) -> u64 {
        self.0.medium.uses()
    }

    /// Has the writing thread carry out `work`, and waits until it is committed.
    ///
    /// `work` may run more than once, never with effect: a transaction that is given up has none.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnMut(&mut Work<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if let Some((calls, _)) = &self.0.writer {
            // If the thread is gone, so is the call, and with it `reply`.
            let _ = calls.send(Box::new(Asked { operation, work, done: None, reply }));
        }
        answer.await.unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Backend, "the writing thread has ended");
            Err(error.with_effect(Effect::Unknown).with_store(NAME).with_operation(operation))
        })
    }

    /// Reads from a snapshot, beside the writer and other readers, on a thread where that may block.
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Snapshot) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T> {
        let medium = self.0.medium.clone();
        let read = move || {
            medium.with(|database| {
                let snapshot = Snapshot::open(&database.begin_read()?)?;
                Ok(work(&snapshot)?)
            })
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(done) => done.map_err(|failure| failure.into_error(operation)),
            Err(error) => Err(Error::new(ErrorKind::Backend, "a read was broken off")
                .with_source(error)
                .with_store(NAME)
                .with_operation(operation)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((calls, thread)) = self.writer.take() {
            drop(calls);
            // So that the file can be opened again at once. A panic of the thread has been answered as an error.
            let _ = thread.join();
        }
    }
}

/// Makes the tables of a new file, and refuses a file of another format.
fn prepare(database: &Database) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    let mut tables = Tables::open(&transaction)?;
    let found = tables.meta.get("format")?.map(|format| format.value());
    match found {
        Some(FORMAT) => return Ok(()),
        Some(found) => return Err(Failure::other_format(found, FORMAT)),
        None => tables.meta.insert("format", FORMAT)?,
    };
    drop(tables);
    Ok(transaction.commit()?)
}

fn capabilities() -> Capabilities {
    let mut capabilities = Capabilities::new(Reach::Process);
    capabilities.durable = true;
    capabilities.wakeups = Some(Reach::Process);
    capabilities
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JobStore for RedbStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(NAME, capabilities())
    }

    async fn ping(&self) -> Result<Timestamp> {
        let clock = self.0.clock.clone();
        self.read("ping", move |_| Ok(clock.now())).await
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        capabilities().check_new(jobs)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs = jobs.to_vec();
        self.write("insert", move |work| write::insert(work, &jobs)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        request.check()?;
        let request = request.clone();
        self.write("claim", move |work| claim::claim(work, &request)).await
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        if updates.is_empty() {
            return Ok(Vec::new());
        }
        let (updates, limit) = (updates.to_vec(), capabilities().max_payload_bytes);
        self.write("update_jobs", move |work| write::update(work, &updates, limit)).await
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        check_updates(updates)?;
        request.check()?;
        let limit = capabilities().max_payload_bytes;
        let (updates, request) = (updates.to_vec(), request.clone());
        self.write("update_and_claim", move |work| {
            let outcomes = write::update(work, &updates, limit)?;
            Ok((outcomes, claim::claim(work, &request)?))
        })
        .await
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let held = held.to_vec();
        self.write("heartbeat", move |work| write::heartbeat(work, &held, lease)).await
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        self.write("reap", move |work| write::reap(work, limit)).await
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        filter.check()?;
        let (filter, change) = (filter.clone(), change.clone());
        self.write("update_where", move |work| write::update_where(work, &filter, &change)).await
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        let filter = filter.clone();
        self.write("delete", move |work| write::delete(work, &filter, limit)).await
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ids.to_vec();
        self.read("get", move |snapshot| read::get(snapshot, &ids, log)).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        let query = query.clone();
        self.read("find", move |snapshot| read::find(snapshot, &query)).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        let filter = filter.clone();
        self.read("tally", move |snapshot| read::tally(snapshot, &filter)).await
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        fire.check()?;
        capabilities().check_new(fire.job.as_slice())?;
        let fire = fire.clone();
        self.write("fire", move |work| facts::fire(work, &fire)).await
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        self.read("schedules", facts::schedules).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.read("records", move |snapshot| facts::records(snapshot, &prefix)).await
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        capabilities().check_record(record)?;
        let record = record.clone();
        self.write("put_record", move |work| facts::put_record(work, &record, expect)).await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        broadcast_wakeups(self.0.wakeups.subscribe())
    }
}
