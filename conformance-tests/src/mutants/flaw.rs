use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, ready},
    stream::BoxStream,
};
use queue_core::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Clock, Fire, Fired, Held, Inserted, Job,
    JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page, Reaped,
    Record, Result, ScheduleStat, Tally, Timestamp, Version, Wakeup,
    spec::{Answer, Op, Stored, World},
};
use tokio::sync::broadcast;

/// How long a racing call waits at a pause point for another call to come between. Longer than any
/// scheduling delay that matters, so that the race is lost every time and not by luck.
const RENDEZVOUS: Duration = Duration::from_millis(3);

/// The jobs of a broken store, and the places where its races are held open.
#[derive(Debug)]
pub struct Shared {
    world: Mutex<World>,
    clock: Clock,
    arrivals: AtomicU64,
    /// How many calls stand in a gap.
    standing: AtomicU64,
    pub(super) changing: Hook<Change>,
    pub(super) hints: broadcast::Sender<Wakeup>,
}

type Change = dyn Fn(&Stored, &mut Stored, Timestamp) + Send + Sync;
type Reading = dyn Fn(&mut Job) + Send + Sync;
type Writing = dyn Fn(&mut NewJob) + Send + Sync;
type Patching = dyn Fn(&mut JobUpdate) + Send + Sync;
pub(super) type Around = dyn Fn(Way, Op) -> BoxFuture<'static, Result<Answer>> + Send + Sync;
type Hearing = dyn Fn(BoxStream<'static, Wakeup>) -> BoxStream<'static, Wakeup> + Send + Sync;

/// What lies behind a flaw that spoils the calls themselves.
#[derive(Clone, Debug)]
pub struct Way {
    /// The store with whatever fault is there at the moment.
    pub broken: Arc<dyn JobStore>,
    /// The same store past the fault.
    pub sound: Arc<dyn JobStore>,
}

/// A place where a flaw may hook in.
pub(super) struct Hook<F: ?Sized>(pub(super) Option<Box<F>>);

impl<F: ?Sized> Default for Hook<F> {
    fn default() -> Self {
        Hook(None)
    }
}

impl<F: ?Sized> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "flawed" } else { "sound" })
    }
}

impl Shared {
    pub(super) fn new(world: World, clock: Clock, changing: Hook<Change>) -> Self {
        let hints = broadcast::channel(256).0;
        let (arrivals, standing) = (AtomicU64::new(0), AtomicU64::new(0));
        Shared { world: Mutex::new(world), clock, arrivals, standing, changing, hints }
    }

    /// The store's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// One atomic step: everything in it happens under one lock.
    pub fn step<T>(&self, step: impl FnOnce(&mut World, Timestamp) -> T) -> T {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let before = self.changing.0.as_ref().map(|change| (change, world.clone()));
        let answer = step(&mut world, now);
        for queue in world.take_hints() {
            // An error says that nobody listens.
            let _ = self.hints.send(queue.map_or_else(Wakeup::anywhere, Wakeup::queue));
        }
        let Some((change, before)) = before else { return answer };
        for was in before.jobs() {
            let id = was.row.id;
            if world.job(id).is_some_and(|is| is != was) {
                world.edit(id, |is| change(was, is, now));
            }
        }
        answer
    }

    /// The gap between two steps of an operation that should have been one: it stays open until
    /// another call stands in such a gap too, or for a short time.
    pub async fn pause(&self) {
        self.meets().await;
    }

    /// The same. Whether another call was there, or has come.
    pub async fn meets(&self) -> bool {
        let was_met = self.standing.fetch_add(1, Ordering::SeqCst) > 0;
        let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
        let opened = Instant::now();
        let is_alone = || self.arrivals.load(Ordering::SeqCst) == arrival + 1;
        let mut looks = 0;
        while is_alone() && opened.elapsed() < RENDEZVOUS {
            looks += 1;
            match looks {
                ..=64 => tokio::task::yield_now().await,
                // A thread that is never idle takes no calls over from another one, which may have been interrupted.
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        let has_met = was_met || !is_alone();
        // The one that met us is let through as well before anybody writes.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.standing.fetch_sub(1, Ordering::SeqCst);
        has_met
    }
}

/// Defines `Flaw`: for each operation of the store, what is done instead.
macro_rules! flaw {
    ($($(#[$doc:meta])* $call:ident, $racing:ident: ($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        /// What a broken store does differently. The default is no flaw at all.
        ///
        /// Each operation can be replaced in two ways: by one atomic step on the
        /// [`World`], or (`.._racing`) by several steps with gaps between them.
        #[derive(Debug, Default)]
        #[allow(clippy::type_complexity)]
        pub struct Flaw {
            $(pub(super) $call: Hook<
                dyn for<'a> Fn(&'a Shared, $(&'a $of),*) -> BoxFuture<'a, Result<$answer>> + Send + Sync,
            >,)*
            pub(super) changing: Hook<Change>,
            pub(super) reading: Hook<Reading>,
            pub(super) writing: Hook<Writing>,
            pub(super) patching: Hook<Patching>,
            pub(super) around: Hook<Around>,
            pub(super) hearing: Hook<Hearing>,
            pub(super) is_mute: bool,
        }

        impl Flaw {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $call(
                    mut self,
                    call: impl Fn(&mut World, $(&$of,)* Timestamp) -> Result<$answer> + Send + Sync + 'static,
                ) -> Self {
                    self.$call = Hook(Some(Box::new(move |store, $($arg),*| {
                        ready(store.step(|world, now| call(world, $($arg,)* now))).boxed()
                    })));
                    self
                }

                $(#[$doc])*
                /// In several steps.
                #[must_use]
                pub fn $racing(
                    mut self,
                    call: impl for<'a> Fn(&'a Shared, $(&'a $of),*) -> BoxFuture<'a, Result<$answer>>
                    + Send + Sync + 'static,
                ) -> Self {
                    self.$call = Hook(Some(Box::new(call)));
                    self
                }
            )*
        }
    };
}

flaw! {
    /// Replaces `insert`.
    insert, insert_racing: (jobs: [NewJob]) -> Vec<Inserted>;
    /// Replaces `claim`.
    claim, claim_racing: (request: ClaimRequest) -> Claimed;
    /// Replaces `update_jobs`.
    update, update_racing: (updates: [JobUpdate]) -> Vec<Outcome>;
    /// Replaces `update_and_claim`.
    both, both_racing: (updates: [JobUpdate], request: ClaimRequest) -> (Vec<Outcome>, Claimed);
    /// Replaces `heartbeat`.
    heartbeat, heartbeat_racing: (held: [Held], lease: Duration) -> Vec<Outcome>;
    /// Replaces `reap`.
    reap, reap_racing: (limit: NonZeroU32) -> Vec<Reaped>;
    /// Replaces `update_where`.
    update_where, update_where_racing: (filter: JobFilter, change: BulkChange) -> BulkOutcome;
    /// Replaces `delete`.
    delete, delete_racing: (filter: JobFilter, limit: NonZeroU32) -> u64;
    /// Replaces `get`.
    get, get_racing: (ids: [JobId], log: LogRead) -> Vec<Option<Job>>;
    /// Replaces `find`.
    find, find_racing: (query: JobQuery) -> Page<Job>;
    /// Replaces `tally`.
    tally, tally_racing: (filter: JobFilter) -> Vec<Tally>;
    /// Replaces `fire`.
    fire, fire_racing: (fire: Fire) -> Fired;
    /// Replaces `schedules`.
    schedules, schedules_racing: () -> Vec<ScheduleStat>;
    /// Replaces `records`.
    records, records_racing: (prefix: str) -> Vec<Record>;
    /// Replaces `put_record`.
    put_record, put_record_racing: (record: Record, expect: Option<Version>) -> Outcome;
}

impl Flaw {
    /// No flaw.
    pub fn none() -> Self {
        Flaw::default()
    }

    /// Spoils what an operation made of a job: the job as it was, and as it is, to be changed.
    #[must_use]
    pub fn changing(
        mut self,
        change: impl Fn(&Stored, &mut Stored, Timestamp) + Send + Sync + 'static,
    ) -> Self {
        self.changing = Hook(Some(Box::new(change)));
        self
    }

    /// Spoils every job that is read, by whatever operation.
    #[must_use]
    pub fn reading(mut self, spoil: impl Fn(&mut Job) + Send + Sync + 'static) -> Self {
        self.reading = Hook(Some(Box::new(spoil)));
        self
    }

    /// Spoils the text of every payload that is read: inputs, outputs, errors, log bodies.
    /// A text that is no JSON any more is left as it was.
    #[must_use]
    pub fn texts(self, spoil: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.reading(move |job| {
            let spoil = |payload: &mut queue_core::Payload| {
                if let Ok(spoiled) = queue_core::Payload::from_text(spoil(payload.as_str())) {
                    *payload = spoiled;
                }
            };
            spoil(&mut job.input);
            job.output.iter_mut().for_each(spoil);
            job.error.iter_mut().for_each(spoil);
            job.log.iter_mut().for_each(|entry| spoil(&mut entry.body));
        })
    }

    /// Spoils every job before it is inserted.
    #[must_use]
    pub fn writing(mut self, spoil: impl Fn(&mut NewJob) + Send + Sync + 'static) -> Self {
        self.writing = Hook(Some(Box::new(spoil)));
        self
    }

    /// Makes every call in another way, whatever the weather.
    #[must_use]
    pub fn around(
        mut self,
        call: impl Fn(Way, Op) -> BoxFuture<'static, Result<Answer>> + Send + Sync + 'static,
    ) -> Self {
        self.around = Hook(Some(Box::new(call)));
        self
    }

    /// Spoils the stream of wake-ups.
    #[must_use]
    pub fn hearing(
        mut self,
        spoil: impl Fn(BoxStream<'static, Wakeup>) -> BoxStream<'static, Wakeup> + Send + Sync + 'static,
    ) -> Self {
        self.hearing = Hook(Some(Box::new(spoil)));
        self
    }

    /// Promises no wake-ups.
    #[must_use]
    pub const fn mute(mut self) -> Self {
        self.is_mute = true;
        self
    }

    /// Spoils every update before it is made.
    #[must_use]
    pub fn patching(mut self, spoil: impl Fn(&mut JobUpdate) + Send + Sync + 'static) -> Self {
        self.patching = Hook(Some(Box::new(spoil)));
        self
    }
}
