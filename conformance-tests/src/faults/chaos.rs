use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use queue_core::{
    Effect, Error, ErrorKind, JobStore, Result, StoreInfo, Timestamp, Wakeup, async_trait,
    spec::{Answer, ByOp, Op, RunOp},
};
use tokio::sync::watch;

use super::{Fault, Switch};
use crate::Rng;

/// How many calls find their connection dead after an event that ended all of them.
const DEAD: u64 = 3;

/// A store whose way to its jobs can be broken, for tests of the code that uses it.
///
/// Every call goes on to the store that it wraps; while a [`Fault`] lasts, some or all of them fail as they would over a
/// broken network, before the store has seen them or after it has done what was asked. It needs nothing of that store, so
/// an application can have all of it with [`MemoryStore`](queue_core::MemoryStore). Clones share the faults.
///
/// | fault | calls that meet it | what becomes of them |
/// |---|---|---|
/// | `Unreachable`, `Restarted` | all | not made: `Unavailable`, `Effect::None` |
/// | `RequestLost` | the [share](ChaosStore::with_share) | not made: `Unavailable`, `Effect::Unknown` |
/// | `AnswerLost` | the share | made: `Unavailable`, `Effect::Unknown` |
/// | `Cut` | the share | one of these two |
/// | `Reset`, `Terminated` | the next three | not made: `Unavailable`, `Effect::Unknown` |
/// | `Silent` | all | made when it is over; after the [patience](ChaosStore::with_patience) given up with `Timeout`, `Effect::Unknown`, and half of them made later all the same |
/// | `Slow` | all | made after 1 to 20 ms |
/// | `Full` | writes | not made: `Backend`, `Effect::None` |
/// | `Locked` | writes | made when it is over; after the patience given up with `Contention`, `Effect::None` |
///
/// ```
/// use conformance_tests::{ChaosStore, Fault};
/// use queue_core::{Effect, JobStoreExt, MemoryStore, NewJob, Payload};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let chaos = ChaosStore::new(std::sync::Arc::new(MemoryStore::new()), 1);
/// let store = chaos.store(); // for the code under test
/// let job = NewJob::new("mail", Payload::null());
/// chaos.strike_next(Fault::AnswerLost);
/// assert_eq!(store.insert_one(&job).await.unwrap_err().effect(), Effect::Unknown);
/// assert!(!store.insert_one(&job).await?.is_new()); // it had been stored
/// # queue_core::Result::<()>::Ok(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ChaosStore(Arc<Chaos>);

#[derive(Clone)]
struct Chaos {
    store: Arc<dyn JobStore>,
    weather: Arc<watch::Sender<Option<Fault>>>,
    /// What the next calls meet, one each.
    next: Arc<Mutex<Vec<Fault>>>,
    dead: Arc<AtomicU64>,
    struck: Arc<AtomicU64>,
    dice: Arc<Mutex<Rng>>,
    share: u8,
    patience: Duration,
}

impl fmt::Debug for ChaosStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosStore")
            .field("store", &self.0.store)
            .field("fault", &*self.0.weather.borrow())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChaosStore {
    /// The faults that it can make: all.
    pub const FAULTS: [Fault; 11] = Fault::ALL;

    /// A way to this store that is not broken yet. The seed decides which calls a fault meets.
    pub fn new(store: Arc<dyn JobStore>, seed: u64) -> Self {
        ChaosStore(Arc::new(Chaos {
            store,
            weather: Arc::new(watch::channel(None).0),
            next: Arc::default(),
            dead: Arc::default(),
            struck: Arc::default(),
            dice: Arc::new(Mutex::new(Rng::new(seed))),
            share: 50,
            patience: Duration::from_secs(1),
        }))
    }

    /// With so many calls of a hundred meeting a fault that need not meet all; 50 unless it is said.
    #[must_use]
    pub fn with_share(self, percent: u8) -> Self {
        let share = percent.min(100);
        ChaosStore(Arc::new(Chaos { share, ..Chaos::clone(&self.0) }))
    }

    /// With calls that are given up after so long when nothing is heard; one second unless it is said.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        ChaosStore(Arc::new(Chaos { patience, ..Chaos::clone(&self.0) }))
    }

    /// The store at the other end of the way.
    pub fn store(&self) -> Arc<dyn JobStore> {
        Arc::new(ByOp(self.clone()))
    }

    /// From now on this fault is there.
    pub fn begin(&self, fault: Fault) {
        if matches!(fault, Fault::Reset | Fault::Terminated) {
            self.0.dead.store(DEAD, Ordering::SeqCst);
        }
        self.0.weather.send_replace(Some(fault));
    }

    /// From now on no fault is there.
    pub fn end(&self) {
        self.0.dead.store(0, Ordering::SeqCst);
        self.0.weather.send_replace(None);
    }

    /// Has the next call that nothing else awaits meet this fault, and no other.
    pub fn strike_next(&self, fault: Fault) {
        lock(&self.0.next).push(fault);
    }

    /// How many calls have met a fault.
    pub fn struck(&self) -> u64 {
        self.0.struck.load(Ordering::SeqCst)
    }

    /// A switch for this fault.
    pub fn switch(&self, fault: Fault) -> impl Switch + 'static {
        Breaker { chaos: self.clone(), fault }
    }

    /// What this call meets.
    fn met(&self, is_write: bool) -> Option<Fault> {
        let chaos = &self.0;
        let awaited = lock(&chaos.next).pop();
        let met = awaited.or_else(|| {
            let fault = (*chaos.weather.borrow())?;
            let is_met = match fault {
                Fault::RequestLost | Fault::AnswerLost | Fault::Cut => {
                    lock(&chaos.dice).below(100) < usize::from(chaos.share)
                }
                Fault::Reset | Fault::Terminated => {
                    let less = |dead: u64| dead.checked_sub(1);
                    chaos.dead.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
                }
                Fault::Full | Fault::Locked => is_write,
                _ => true,
            };
            is_met.then_some(fault)
        });
        chaos.struck.fetch_add(u64::from(met.is_some()), Ordering::SeqCst);
        met
    }

    /// Makes a call, or what the weather leaves of it.
    async fn through<T: Send + 'static>(
        &self,
        operation: &'static str,
        is_write: bool,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let Some(fault) = self.met(is_write) else { return call.await };
        let failed = |kind, effect| {
            let message = format!("the way to the store is `{fault}`");
            Err(Error::new(kind, message).with_effect(effect).with_operation(operation))
        };
        let lost = match fault {
            Fault::Cut if lock(&self.0.dice).below(2) == 0 => Fault::AnswerLost,
            other => other,
        };
        match lost {
            Fault::Unreachable | Fault::Restarted => failed(ErrorKind::Unavailable, Effect::None),
            Fault::AnswerLost => {
                // Whatever it was.
                drop(call.await);
                failed(ErrorKind::Unavailable, Effect::Unknown)
            }
            Fault::Slow => {
                let late = 1 + lock(&self.0.dice).next_u64() % 20;
                tokio::time::sleep(Duration::from_millis(late)).await;
                call.await
            }
            Fault::Full => failed(ErrorKind::Backend, Effect::None),
            Fault::Silent if self.ends_in_time(fault).await => call.await,
            Fault::Silent => {
                if lock(&self.0.dice).below(2) == 0 {
                    let later = self.clone();
                    drop(tokio::spawn(async move {
                        later.end_of(fault).await;
                        drop(call.await);
                    }));
                }
                failed(ErrorKind::Timeout, Effect::Unknown)
            }
            Fault::Locked if self.ends_in_time(fault).await => call.await,
            Fault::Locked => failed(ErrorKind::Contention, Effect::None),
            _ => failed(ErrorKind::Unavailable, Effect::Unknown),
        }
    }

    /// Whether a fault ends before the patience does. One that only the next call meets does not.
    async fn ends_in_time(&self, fault: Fault) -> bool {
        let is_lasting = self.0.weather.borrow().is_some();
        tokio::time::timeout(self.0.patience, self.end_of(fault)).await.is_ok() && is_lasting
    }

    async fn end_of(&self, fault: Fault) {
        // The sender lives as long as this store.
        let _ = self.0.weather.subscribe().wait_for(|now| *now != Some(fault)).await;
    }
}

#[async_trait]
impl RunOp for ChaosStore {
    fn info(&self) -> StoreInfo {
        self.0.store.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        let store = self.0.store.clone();
        self.through("ping", false, async move { store.ping().await }).await
    }

    /// While a fault lasts, hints are lost, unless it is `Slow`, `Full` or `Locked`; when it is over, one says "anywhere".
    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        let deaf = |fault: &Option<Fault>| {
            fault.is_some_and(|f| !matches!(f, Fault::Slow | Fault::Full | Fault::Locked))
        };
        let (heard, weather) = (self.0.store.wakeups(), self.0.weather.subscribe());
        stream::unfold((heard, weather, false), move |(mut heard, mut weather, was_deaf)| {
            async move {
                let mut was_deaf = was_deaf;
                loop {
                    let is_deaf = deaf(&weather.borrow_and_update());
                    if was_deaf && !is_deaf {
                        return Some((Wakeup::anywhere(), (heard, weather, false)));
                    }
                    was_deaf = is_deaf;
                    tokio::select! {
                        changed = weather.changed() => if changed.is_err() { return None },
                        hint = heard.next() => if !is_deaf {
                            return hint.map(|hint| (hint, (heard, weather, false)));
                        },
                    }
                }
            }
            .boxed()
        })
        .boxed()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        let store = self.0.store.clone();
        self.through(op.method(), is_write(&op), async move { op.run(&*store).await }).await
    }
}

/// Whether an operation may change anything.
pub(crate) const fn is_write(op: &Op) -> bool {
    !matches!(op, Op::Get(..) | Op::Find(_) | Op::Tally(_) | Op::Schedules | Op::Records(_))
}

struct Breaker {
    chaos: ChaosStore,
    fault: Fault,
}

#[async_trait]
impl Switch for Breaker {
    async fn on(&self) -> Result<()> {
        self.chaos.begin(self.fault);
        Ok(())
    }

    async fn off(&self) -> Result<()> {
        self.chaos.end();
        Ok(())
    }
}
