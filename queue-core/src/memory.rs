use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Claimed, Clock, Fire, Fired, Held,
    Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page,
    Reach, Reaped, Record, Result, ScheduleStat, StoreInfo, Tally, Timestamp, Version, Wakeup,
    check_prefix, spec::World,
};

/// How many wake-ups a slow listener may be behind before they are summed up as "anywhere".
const HINTS: usize = 256;

/// Jobs in the memory of one process: the reference store, and the one for tests.
///
/// A mutex around the specification's machine. Nothing survives the process. Clones share the jobs.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Mutex<World>,
    clock: Clock,
    hints: broadcast::Sender<Wakeup>,
}

impl MemoryStore {
    /// An empty store that runs by the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// An empty store that runs by this clock.
    pub fn with_clock(clock: Clock) -> Self {
        let world = Mutex::new(World::new(Self::capabilities()));
        MemoryStore(Arc::new(Inner { world, clock, hints: broadcast::channel(HINTS).0 }))
    }

    const fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::new(Reach::Process);
        capabilities.wakeups = Some(Reach::Process);
        capabilities
    }

    /// Runs one operation, then tells the listeners what may have become due.
    fn run<T>(&self, operation: impl FnOnce(&mut World, Timestamp) -> T) -> T {
        // A panic inside an operation is a bug of this crate; the jobs are still worth more than the lock.
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = operation(&mut world, self.0.clock.now());
        for queue in world.take_hints() {
            // An error says that nobody listens.
            let _ = self.0.hints.send(Wakeup { queue });
        }
        answer
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl JobStore for MemoryStore {
    fn info(&self) -> StoreInfo {
        StoreInfo::new("memory", Self::capabilities())
    }

    async fn ping(&self) -> Result<Timestamp> {
        Ok(self.0.clock.now())
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        self.run(|world, now| world.insert(jobs, now))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        self.run(|world, now| world.claim(request, now))
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        self.run(|world, now| world.update(updates, now))
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        request.check()?;
        self.run(|world, now| Ok((world.update(updates, now)?, world.claim(request, now)?)))
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        self.run(|world, now| world.heartbeat(held, lease, now))
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        Ok(self.run(|world, now| world.reap(limit, now)))
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        self.run(|world, now| world.update_where(filter, change, now))
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        self.run(|world, _| world.delete(filter, limit))
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        Ok(self.run(|world, _| world.get(ids, log)))
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        self.run(|world, _| world.find(query))
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        self.run(|world, _| world.tally(filter))
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        self.run(|world, now| world.fire(fire, now))
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        Ok(self.run(|world, _| world.schedules()))
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        check_prefix(prefix)?;
        Ok(self.run(|world, _| world.records(prefix)))
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        self.run(|world, now| world.put_record(record, expect, now))
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        broadcast_wakeups(self.0.hints.subscribe())
    }
}

/// The stream of a store that tells its listeners through a broadcast channel. A listener that fell
/// behind is told "anywhere".
pub fn broadcast_wakeups(hints: broadcast::Receiver<Wakeup>) -> BoxStream<'static, Wakeup> {
    stream::unfold(hints, |mut hints| async move {
        match hints.recv().await {
            Ok(wakeup) => Some((wakeup, hints)),
            Err(RecvError::Lagged(_)) => Some((Wakeup::anywhere(), hints)),
            Err(RecvError::Closed) => None,
        }
    })
    .boxed()
}
