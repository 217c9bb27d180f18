//! A wrapper that counts the calls of a store, and makes some of them fail.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use queue::{
    JobId, JobStore, Timestamp,
    core::{
        StoreInfo, Wakeup, async_trait,
        spec::{Answer, Op, RunOp},
    },
};
use tokio::sync::watch;

/// Counts the calls of a store, and makes some of them fail.
#[derive(Debug, Default)]
pub struct Trips {
    calls: Mutex<BTreeMap<&'static str, usize>>,
    /// How many calls that ask for jobs the store has answered.
    asked: AtomicUsize,
    /// How many log entries were sent in all.
    entries: AtomicUsize,
    /// How many of the next calls do not reach the store.
    refuse: AtomicUsize,
    /// Of how many calls one reaches the store but its answer is lost; 0: none.
    lose_every: AtomicUsize,
    all: AtomicUsize,
    /// What is to happen to the next calls of a method.
    faults: Mutex<Vec<(&'static str, usize, Fault)>>,
    /// How long calls of a method take in addition.
    delays: Mutex<BTreeMap<&'static str, Duration>>,
    /// How late the answer to the next call of a method is.
    late: Mutex<BTreeMap<&'static str, Duration>>,
    /// Whether the store gives no hints.
    silent: AtomicBool,
    blind: AtomicBool,
    /// Whether no call reaches the store.
    down: AtomicBool,
    /// Which calls wait until they are let go on.
    locks: watch::Sender<Vec<Lock>>,
    /// How many calls have waited so, or were never answered.
    hung: AtomicUsize,
    /// Whether calls block the thread on which they are made.
    blocking: AtomicBool,
    /// How many streams of hints are still to end at once: the first by their ends, the last by a panic.
    cut: AtomicUsize,
    /// How many streams of hints were taken.
    streams: AtomicUsize,
}

/// Calls that wait until they are let go on: as for a row that another transaction has locked, or a network that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// All.
    All,
    /// Those that ask for jobs.
    Claims,
    /// Deletions.
    Deletes,
    /// Changes of this job.
    Writes(JobId),
    /// Renewals of this job's lease.
    Renewals(JobId),
}

/// Whether a call asks for jobs.
const fn asks(op: &Op) -> bool {
    matches!(op, Op::Claim(_) | Op::UpdateAndClaim(..))
}

impl Lock {
    fn holds(self, op: &Op) -> bool {
        match (self, op) {
            (Lock::All, _) | (Lock::Deletes, Op::Delete(..)) => true,
            (Lock::Claims, op) => asks(op),
            (Lock::Writes(id), Op::Update(updates) | Op::UpdateAndClaim(updates, _)) => {
                updates.iter().any(|update| update.id == id)
            }
            (Lock::Renewals(id), Op::Heartbeat(held, _)) => held.iter().any(|held| held.id == id),
            _ => false,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not reach the store, for a reason that does not pass.
    Break,
    /// It reaches the store, and its answer is lost.
    LoseAnswer,
    /// The store panics.
    Panic,
    /// It does not reach the store, and is never answered.
    Hang,
    /// It reaches the store, and is never answered.
    Silence,
}

/// What comes of a call that reaches the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Lost,
    Hung,
    Silent,
}

impl Trips {
    /// How many calls that ask for jobs the store has answered.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// How many log entries were sent in all.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::SeqCst)
    }

    /// The store gives no hints, and says so.
    pub fn blind(&self) {
        self.blind.store(true, Ordering::SeqCst);
    }

    /// Makes the next calls fail before they reach the store.
    pub fn refuse(&self, calls: usize) {
        self.refuse.store(calls, Ordering::SeqCst);
    }

    /// Loses the answer of one in so many calls from now on; 0 stops it.
    pub fn lose_every(&self, calls: usize) {
        self.lose_every.store(calls, Ordering::SeqCst);
    }

    /// Has something happen to the next call of a method; once for each time it is said.
    pub fn next(&self, method: &'static str, fault: Fault) {
        self.after(0, method, fault);
    }

    /// Has something happen to one call of a method, so many calls from now.
    pub fn after(&self, calls: usize, method: &'static str, fault: Fault) {
        self.faults.lock().unwrap().push((method, calls, fault));
    }

    /// Makes the calls of a method slow.
    pub fn delay(&self, method: &'static str, by: Duration) {
        self.delays.lock().unwrap().insert(method, by);
    }

    /// Has the answer to the next call of a method come late.
    pub fn delay_answer(&self, method: &'static str, by: Duration) {
        self.late.lock().unwrap().insert(method, by);
    }

    /// Keeps the store's hints from the engine.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Makes the store unavailable from now on.
    pub fn take_down(&self) {
        self.down.store(true, Ordering::SeqCst);
    }

    /// Has these calls wait.
    pub fn lock(&self, lock: Lock) {
        self.locks.send_modify(|locks| locks.push(lock));
    }

    /// Lets all calls go on that wait.
    pub fn unlock(&self) {
        self.locks.send_modify(Vec::clear);
    }

    /// Has calls block the thread on which they are made, from now on or no longer.
    pub fn block(&self, blocking: bool) {
        self.blocking.store(blocking, Ordering::SeqCst);
    }

    /// How many calls have waited, or were never answered.
    pub fn hung(&self) -> usize {
        self.hung.load(Ordering::SeqCst)
    }

    /// Ends the next streams of hints at once; the last of them by a panic.
    pub fn cut_hints(&self, streams: usize) {
        self.cut.store(streams, Ordering::SeqCst);
    }

    /// How many streams of hints were taken so far.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    async fn wait_for_locks(&self, op: &Op) {
        let holds = |locks: &Vec<Lock>| locks.iter().any(|lock| lock.holds(op));
        if holds(&self.locks.borrow()) {
            self.hung.fetch_add(1, Ordering::SeqCst);
        }
        self.locks.subscribe().wait_for(|locks| !holds(locks)).await.expect("these are they");
    }

    async fn never<T>(&self) -> T {
        self.hung.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    async fn wait(&self, method: &'static str) {
        let delay = self.delays.lock().unwrap().get(method).copied();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }

    /// Whether a call may reach the store, and if so whether its answer gets through.
    fn note(&self, method: &'static str) -> queue::Result<Fate> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        if self.down.load(Ordering::SeqCst) {
            return Err(queue::Error::new(queue::ErrorKind::Unavailable, "taken down by the test"));
        }
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let named = faults.iter_mut().find(|(name, ..)| *name == method);
            let due = named
                .is_some_and(|(_, left, _)| left.checked_sub(1).map(|rest| *left = rest).is_none());
            let place = faults.iter().position(|(name, ..)| *name == method);
            place.filter(|_| due).map(|place| faults.remove(place).2)
        };
        match fault {
            Some(Fault::Break) => {
                return Err(queue::Error::new(queue::ErrorKind::Backend, "broken by the test"));
            }
            Some(Fault::Panic) => panic!("the store panics, as the test told it to"),
            Some(Fault::LoseAnswer) => return Ok(Fate::Lost),
            Some(Fault::Hang) => return Ok(Fate::Hung),
            Some(Fault::Silence) => return Ok(Fate::Silent),
            None => {}
        }
        let refused = self
            .refuse
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        if refused {
            return Err(queue::Error::new(queue::ErrorKind::Unavailable, "refused by the test"));
        }
        let number = self.all.fetch_add(1, Ordering::SeqCst);
        let every = self.lose_every.load(Ordering::SeqCst);
        match every == 0 || !number.is_multiple_of(every) {
            true => Ok(Fate::Answered),
            false => Ok(Fate::Lost),
        }
    }

    pub fn of(&self, method: &str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    pub fn total(&self) -> usize {
        self.calls.lock().unwrap().values().sum()
    }

    pub fn clear(&self) {
        self.calls.lock().unwrap().clear();
    }
}

/// A store whose calls are counted, by way of [`ByOp`](queue::core::spec::ByOp).
#[derive(Debug)]
pub struct Counting {
    pub store: Arc<dyn JobStore>,
    pub trips: Arc<Trips>,
}

#[async_trait]
impl RunOp for Counting {
    fn info(&self) -> StoreInfo {
        let mut info = self.store.info();
        if self.trips.blind.load(Ordering::SeqCst) {
            info.capabilities.wakeups = None;
        }
        info
    }

    async fn ping(&self) -> queue::Result<Timestamp> {
        self.trips.note("ping")?;
        self.store.ping().await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        let trips = &self.trips;
        trips.streams.fetch_add(1, Ordering::SeqCst);
        let left = |cut: usize| cut.checked_sub(1);
        match trips.cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
            Ok(1) => Box::pin(futures::stream::poll_fn(|_| panic!("as the test told it to"))),
            Ok(_) => Box::pin(futures::stream::empty()),
            Err(_) if trips.blind.load(Ordering::SeqCst) => Box::pin(futures::stream::pending()),
            Err(_) if trips.silent.load(Ordering::SeqCst) => Box::pin(futures::stream::pending()),
            Err(_) => self.store.wakeups(),
        }
    }

    async fn run(&self, op: Op) -> queue::Result<Answer> {
        let fate = self.trips.note(op.method())?;
        if fate == Fate::Hung {
            return self.trips.never().await;
        }
        while self.trips.blocking.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.trips.wait_for_locks(&op).await;
        self.trips.wait(op.method()).await;
        if let Op::Update(updates) | Op::UpdateAndClaim(updates, _) = &op {
            let entries = updates.iter().map(|update| update.patch.log.len()).sum();
            self.trips.entries.fetch_add(entries, Ordering::SeqCst);
        }
        let (method, late) = (op.method(), &self.trips.late);
        let asks = asks(&op);
        let answer = op.run(&*self.store).await?;
        self.trips.asked.fetch_add(asks.into(), Ordering::SeqCst);
        let late = late.lock().unwrap().remove(method);
        tokio::time::sleep(late.unwrap_or_default()).await;
        match fate {
            Fate::Answered | Fate::Hung => Ok(answer),
            Fate::Silent => self.trips.never().await,
            Fate::Lost => {
                let lost =
                    queue::Error::new(queue::ErrorKind::Timeout, "the answer was lost by the test");
                Err(lost.with_effect(queue::core::Effect::Unknown))
            }
        }
    }
}
