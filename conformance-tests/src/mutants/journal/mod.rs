//! A store that keeps its jobs in a file of operations: the second reference store, which survives its process.
//!
//! Every operation that changes something is a line of the file: the time and the operation, in JSON. The jobs are what
//! the reference machine makes of all lines, one after the other. A lock on the file makes each operation alone:
//! whoever has it reads what others have appended, executes its own, appends it and waits for the disk.
//! A line without its end is what a process was writing when it died; the next one takes it away.

mod file;
mod flaw;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use queue_core::{
    Capabilities, Clock, Effect, Error, ErrorKind, Reach, Result, StoreInfo, Timestamp, Wakeup,
    async_trait,
    spec::{Answer, ByOp, Op, RunOp},
};

use file::Log;
pub use flaw::JournalFlaw;

/// The name of the store.
const STORE: &str = "journal";

/// Jobs in a file of operations. Clones share the file and the count of trips.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Mutex<Log>,
    clock: Clock,
    flaw: JournalFlaw,
    trips: AtomicU64,
}

impl Journal {
    /// Opens the file at this path, which is made when it is missing.
    ///
    /// # Errors
    /// `Config` when it cannot be opened, or was made by a later release; `Corrupt` when it is no journal.
    pub async fn open(path: impl AsRef<Path>, clock: Clock) -> Result<Self> {
        Journal::open_flawed(path, clock, JournalFlaw::None).await
    }

    /// Opens it in a way that is broken.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub async fn open_flawed(
        path: impl AsRef<Path>,
        clock: Clock,
        flaw: JournalFlaw,
    ) -> Result<Self> {
        let path: PathBuf = path.as_ref().to_owned();
        let log = blocking(move || Log::open(&path, Self::capabilities(), flaw)).await;
        let log = Mutex::new(log.map_err(|error| error.with_operation("open").with_store(STORE))?);
        Ok(Journal(Arc::new(Inner { log, clock, flaw, trips: AtomicU64::new(0) })))
    }

    /// Makes the file at this path look as if a later release had migrated it.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be written.
    pub fn age(path: impl AsRef<Path>) -> Result<()> {
        Log::age(path.as_ref())
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
    }

    /// How often the file was locked for an operation since this handle was opened.
    pub fn trips(&self) -> u64 {
        self.0.trips.load(Ordering::Relaxed)
    }

    /// As a store.
    pub fn into_store(self) -> ByOp<Journal> {
        ByOp(self)
    }

    /// Small payloads, so that exceeding the limit is cheap.
    const fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::new(Reach::Host);
        capabilities.durable = true;
        capabilities.max_payload_bytes = 2 * 1024 * 1024;
        capabilities
    }
}

impl Inner {
    fn execute(&self, op: &Op) -> Result<Answer> {
        // A panic in the machine is a bug of the specification; the file is right all the same.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if self.flaw == JournalFlaw::OneTripAnItem
            && let Some(parts) = flaw::split(op).filter(|parts| !parts.is_empty())
        {
            let answers = parts.iter().map(|part| self.trip(&mut log, part));
            return flaw::join(answers.collect::<Result<_>>()?);
        }
        if is_empty(op) && self.flaw != JournalFlaw::AsksForNothing {
            return log.peek(op, self.clock.now());
        }
        for look in self.flaw.looks_before(op) {
            self.trip(&mut log, &look)?;
        }
        let answer = self.trip(&mut log, op)?;
        for look in self.flaw.looks_after(&answer) {
            self.trip(&mut log, &look)?;
        }
        Ok(answer)
    }

    fn trip(&self, log: &mut Log, op: &Op) -> Result<Answer> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        log.execute(op, &self.clock)
    }
}

/// Whether the operation asks for nothing.
fn is_empty(op: &Op) -> bool {
    match op {
        Op::Insert(jobs) => jobs.is_empty(),
        Op::Update(updates) => updates.is_empty(),
        Op::Heartbeat(held, _) => held.is_empty(),
        Op::Get(ids, _) => ids.is_empty(),
        _ => false,
    }
}

/// Files block; they have threads of their own, and a call whose caller goes away is carried out all the same.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            Err(Error::new(ErrorKind::Unavailable, error.to_string()).with_effect(Effect::Unknown))
        }
    }
}

#[async_trait]
impl RunOp for Journal {
    fn info(&self) -> StoreInfo {
        StoreInfo::new(STORE, Self::capabilities())
    }

    async fn ping(&self) -> Result<Timestamp> {
        Ok(self.0.clock.now())
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        stream::pending().boxed()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        let (inner, method) = (self.0.clone(), op.method());
        let answer = blocking(move || inner.execute(&op)).await;
        answer.map_err(|error| error.with_operation(method).with_store(STORE))
    }
}
