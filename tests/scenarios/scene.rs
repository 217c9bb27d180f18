//! The store under test, and what handlers leave behind.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use queue::{JobStore, MemoryStore, Queue, core::spec::Op};

/// One store, as several processes would see it.
pub struct Scene {
    pub queue: Queue,
    /// How many calls the engine made, by the name of the method.
    pub trips: Arc<Trips>,
    another: Box<dyn Fn() -> Arc<dyn JobStore> + Send + Sync>,
    /// The URL for other processes, where they can share the store.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
    pub url: Option<String>,
    /// How many write transactions the database has made, where that can be told.
    pub transactions: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    _guard: Box<dyn Any + Send + Sync>,
}

impl Scene {
    pub async fn memory() -> Self {
        let store = MemoryStore::new();
        let another = store.clone();
        Self::new(Arc::new(store), Box::new(move || Arc::new(another.clone())), Box::new(()))
    }

    #[cfg(feature = "sqlite")]
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let store = queue::sqlite::SqliteStore::open(&path).await.unwrap();
        let counted = store.clone();
        let url = format!("sqlite:{}", path.display());
        let open = move || {
            let path = path.clone();
            let opened = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(queue::sqlite::SqliteStore::open(&path)).unwrap()
            });
            Arc::new(opened.join().unwrap()) as Arc<dyn JobStore>
        };
        let mut scene = Self::new(Arc::new(store), Box::new(open), Box::new(folder));
        scene.transactions = Some(Box::new(move || counted.transactions()));
        scene.url = Some(url);
        scene
    }

    fn new(
        store: Arc<dyn JobStore>,
        another: Box<dyn Fn() -> Arc<dyn JobStore> + Send + Sync>,
        guard: Box<dyn Any + Send + Sync>,
    ) -> Self {
        let trips = Arc::new(Trips::default());
        let counting: Arc<dyn JobStore> = Arc::new(Counting { store, trips: trips.clone() });
        Scene {
            queue: Queue::new(counting).unwrap(),
            trips,
            another,
            url: None,
            transactions: None,
            _guard: guard,
        }
    }

    /// The same jobs through a handle of their own, as another process would have it.
    pub fn sibling(&self) -> Queue {
        Queue::new((self.another)()).unwrap()
    }
}

/// Declares the tests of a module: each of the named bodies on each store.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::scene::Scene::memory().await).await;
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::scene::Scene::sqlite().await).await;
                }
            )*
        }
    };
}

/// What handlers write.
#[derive(Clone, Debug, Default)]
pub struct Docs(Arc<Mutex<Vec<String>>>);

impl Docs {
    pub fn write(&self, doc: impl Into<String>) {
        self.0.lock().unwrap().push(doc.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.all().len()
    }

    pub fn count(&self, doc: &str) -> usize {
        self.all().iter().filter(|there| *there == doc).count()
    }
}

/// Polls until the condition holds; a test that waits for what never comes fails.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Counts the calls of a store, and makes some of them fail.
#[derive(Debug, Default)]
pub struct Trips {
    calls: Mutex<BTreeMap<&'static str, usize>>,
    /// How many of the next calls do not reach the store.
    refuse: AtomicUsize,
    /// Of how many calls one reaches the store but its answer is lost; 0: none.
    lose_every: AtomicUsize,
    all: AtomicUsize,
    /// What is to happen to the next calls of a method.
    faults: Mutex<Vec<(&'static str, usize, Fault)>>,
    /// How long calls of a method take in addition.
    delays: Mutex<BTreeMap<&'static str, Duration>>,
    /// Whether the store gives no hints.
    silent: AtomicBool,
    /// Whether no call reaches the store.
    down: AtomicBool,
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
}

impl Trips {
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

    /// Keeps the store's hints from the engine.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Makes the store unavailable from now on.
    pub fn take_down(&self) {
        self.down.store(true, Ordering::SeqCst);
    }

    async fn wait(&self, method: &'static str) {
        let delay = self.delays.lock().unwrap().get(method).copied();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }

    /// Whether a call may reach the store, and if so whether its answer gets through.
    fn note(&self, method: &'static str) -> queue::Result<bool> {
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
            Some(Fault::LoseAnswer) => return Ok(false),
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
        Ok(every == 0 || !number.is_multiple_of(every))
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

#[derive(Debug)]
struct Counting {
    store: Arc<dyn JobStore>,
    trips: Arc<Trips>,
}

impl Counting {
    async fn run(&self, name: &'static str, op: Op) -> queue::Result<queue::core::spec::Answer> {
        let heard = self.trips.note(name)?;
        self.trips.wait(name).await;
        let answer = op.run(&*self.store).await?;
        match heard {
            true => Ok(answer),
            false => {
                let lost =
                    queue::Error::new(queue::ErrorKind::Timeout, "the answer was lost by the test");
                Err(lost.with_effect(queue::core::Effect::Unknown))
            }
        }
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty, $op:expr => $answer:pat => $value:expr;)*) => {
        #[queue::core::async_trait]
        impl JobStore for Counting {
            fn info(&self) -> queue::core::StoreInfo {
                self.store.info()
            }

            async fn ping(&self) -> queue::Result<queue::Timestamp> {
                self.trips.note("ping")?;
                self.store.ping().await
            }

            fn wakeups(&self) -> futures::stream::BoxStream<'static, queue::core::Wakeup> {
                if self.trips.silent.load(Ordering::SeqCst) {
                    return Box::pin(futures::stream::pending());
                }
                self.store.wakeups()
            }

            $(
                async fn $name(&self, $($arg: $type),*) -> queue::Result<$out> {
                    match self.run(stringify!($name), $op).await? {
                        $answer => Ok($value),
                        other => panic!("{other:?}"),
                    }
                }
            )*
        }
    };
}

use queue::core::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Fire, Fired, Held, Inserted, Job, JobFilter,
    JobId, JobQuery, JobUpdate, LogRead, NewJob, Outcome, Page, Reaped, Record, ScheduleStat,
    Tally, Version, spec::Answer,
};
use std::{num::NonZeroU32, time::Duration};

forward! {
    insert(jobs: &[NewJob]) -> Vec<Inserted>, Op::Insert(jobs.to_vec()) => Answer::Inserted(a) => a;
    claim(request: &ClaimRequest) -> Claimed, Op::Claim(request.clone()) => Answer::Claimed(a) => a;
    update_jobs(updates: &[JobUpdate]) -> Vec<Outcome>, Op::Update(updates.to_vec()) => Answer::Outcomes(a) => a;
    update_and_claim(updates: &[JobUpdate], request: &ClaimRequest) -> (Vec<Outcome>, Claimed),
        Op::UpdateAndClaim(updates.to_vec(), request.clone()) => Answer::OutcomesAndClaimed(a, b) => (a, b);
    heartbeat(held: &[Held], lease: Duration) -> Vec<Outcome>, Op::Heartbeat(held.to_vec(), lease) => Answer::Outcomes(a) => a;
    reap(limit: NonZeroU32) -> Vec<Reaped>, Op::Reap(limit) => Answer::Reaped(a) => a;
    update_where(filter: &JobFilter, change: &BulkChange) -> BulkOutcome,
        Op::UpdateWhere(filter.clone(), change.clone()) => Answer::Bulk(a) => a;
    delete(filter: &JobFilter, limit: NonZeroU32) -> u64, Op::Delete(filter.clone(), limit) => Answer::Deleted(a) => a;
    get(ids: &[JobId], log: LogRead) -> Vec<Option<Job>>, Op::Get(ids.to_vec(), log) => Answer::Jobs(a) => a;
    find(query: &JobQuery) -> Page<Job>, Op::Find(query.clone()) => Answer::Page(a) => a;
    tally(filter: &JobFilter) -> Vec<Tally>, Op::Tally(filter.clone()) => Answer::Tallies(a) => a;
    fire(fire: &Fire) -> Fired, Op::Fire(Box::new(fire.clone())) => Answer::Fired(a) => a;
    schedules() -> Vec<ScheduleStat>, Op::Schedules => Answer::Schedules(a) => a;
    records(prefix: &str) -> Vec<Record>, Op::Records(prefix.to_owned()) => Answer::Records(a) => a;
    put_record(record: &Record, expect: Option<Version>) -> Outcome, Op::PutRecord(record.clone(), expect) => Answer::Put(a) => a;
}
