use std::{
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures::stream::BoxStream;
use queue_core::{
    Clock, JobStore, Result, StoreInfo, Timestamp, Wakeup, async_trait,
    spec::{Answer, ByOp, Op, RunOp},
};

use super::{Answered, Call, History};

/// The clock of all histories of this program.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos() -> u64 {
    u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Records what is asked of handles and what they answer. Clones share the record.
///
/// A call begins before the handle is asked and ends when its answer is there, so that a call that ended before another
/// began came before it in truth. A call whose future is dropped stays without an end. It costs a copy of the call
/// and of its answer, and no trip, but for one: without a clock, a claim that answers fewer jobs than it may is
/// followed by a `ping`, to know which of its times have passed.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Record>);

#[derive(Debug)]
struct Record {
    store: StoreInfo,
    calls: Mutex<Calls>,
    handles: AtomicUsize,
    time: Time,
}

#[derive(Debug, Default)]
struct Calls {
    /// How often the list was taken: a call that is under way then is none of the next list.
    taken: usize,
    list: Vec<Call>,
}

/// What is known of the store's clock.
#[derive(Debug)]
enum Time {
    Driven(Clock),
    /// The latest time that any handle was told, in microseconds.
    Told(AtomicI64),
}

impl Time {
    fn reached(&self) -> Option<Timestamp> {
        match self {
            Time::Driven(clock) => Some(clock.now()),
            Time::Told(latest) => match latest.load(Ordering::SeqCst) {
                i64::MIN => None,
                micros => Some(Timestamp::from_micros_saturating(micros)),
            },
        }
    }
}

impl Recorder {
    /// Records calls of a store that runs by this clock, or by one of its own.
    ///
    /// The clock must not be moved while a call is under way.
    pub fn new(store: StoreInfo, clock: Option<Clock>) -> Self {
        let time = clock.map_or_else(|| Time::Told(AtomicI64::new(i64::MIN)), Time::Driven);
        Recorder(Arc::new(Record {
            store,
            calls: Mutex::default(),
            handles: AtomicUsize::new(0),
            time,
        }))
    }

    /// A handle whose calls are recorded. Handles are numbered in the order in which they were wrapped.
    pub fn wrap(&self, store: Arc<dyn JobStore>) -> Arc<dyn JobStore> {
        let number = self.0.handles.fetch_add(1, Ordering::SeqCst);
        Arc::new(ByOp(Handle { number, store, record: self.0.clone() }))
    }

    /// What was recorded so far; the record goes on with nothing. A call that is under way stays without an end.
    pub fn take(&self) -> History {
        let mut calls = self.0.lock();
        calls.taken += 1;
        History::new(self.0.store.clone(), std::mem::take(&mut calls.list))
    }

    /// How many calls are on record.
    pub fn calls(&self) -> usize {
        self.0.lock().list.len()
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing that is done under the lock can panic half-way.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where the call stands: in which list, and at which place.
    fn begin(&self, handle: usize, op: Op) -> (usize, usize) {
        let since = self.time.reached();
        let mut calls = self.lock();
        // Under the lock, so that the list is in the order of the begins.
        let begin = nanos();
        calls.list.push(Call { handle, begin, end: None, since, now: None, op, answer: None });
        (calls.taken, calls.list.len() - 1)
    }

    fn end(
        &self,
        (list, place): (usize, usize),
        end: u64,
        now: Option<Timestamp>,
        answer: Answered,
    ) {
        let mut calls = self.lock();
        if calls.taken == list
            && let Some(call) = calls.list.get_mut(place)
        {
            (call.end, call.answer, call.now) = (Some(end), Some(answer), now);
        }
    }
}

#[derive(Debug)]
struct Handle {
    number: usize,
    store: Arc<dyn JobStore>,
    record: Arc<Record>,
}

impl Handle {
    /// A time that the store's clock had not passed when it gave this answer, where one is needed.
    async fn not_passed(&self, op: &Op, answer: &Result<Answer>) -> Option<Timestamp> {
        match (&self.record.time, op, answer) {
            (Time::Driven(clock), ..) => Some(clock.now()),
            (Time::Told(_), Op::Claim(request), Ok(Answer::Claimed(claimed)))
            | (
                Time::Told(_),
                Op::UpdateAndClaim(_, request),
                Ok(Answer::OutcomesAndClaimed(_, claimed)),
            ) if (claimed.jobs.len() as u64) < u64::from(request.limit.get()) => {
                self.ping().await.ok()
            }
            _ => None,
        }
    }
}

#[async_trait]
impl RunOp for Handle {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        let now = self.store.ping().await?;
        if let Time::Told(latest) = &self.record.time {
            latest.fetch_max(now.as_micros(), Ordering::SeqCst);
        }
        Ok(now)
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.store.wakeups()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        let place = self.record.begin(self.number, op.clone());
        let answer = op.run(&*self.store).await;
        let end = nanos();
        let now = self.not_passed(&op, &answer).await;
        self.record.end(place, end, now, Answered::of(&answer));
        answer
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use queue_core::{JobFilter, JobQuery, LogRead, MemoryStore};

    use super::*;

    /// A store that never answers a read of pages.
    #[derive(Debug)]
    struct Silent(MemoryStore);

    #[async_trait]
    impl RunOp for Silent {
        fn info(&self) -> StoreInfo {
            self.0.info()
        }

        async fn ping(&self) -> Result<Timestamp> {
            self.0.ping().await
        }

        fn wakeups(&self) -> BoxStream<'static, Wakeup> {
            self.0.wakeups()
        }

        async fn run(&self, op: Op) -> Result<Answer> {
            match &op {
                Op::Find(_) => std::future::pending().await,
                _ => op.run(&self.0).await,
            }
        }
    }

    fn claim() -> Op {
        let lease = std::time::Duration::from_secs(1);
        let limit = std::num::NonZeroU32::MIN;
        Op::Claim(queue_core::ClaimRequest::new(queue_core::Queues::All, "worker", limit, lease))
    }

    #[tokio::test]
    async fn a_call_that_never_came_back_has_no_end_and_others_have_theirs_after_their_begin() {
        let memory = MemoryStore::new();
        let recorder = Recorder::new(memory.info(), None);
        let one = recorder.wrap(Arc::new(ByOp(Silent(memory.clone()))));
        let two = recorder.wrap(Arc::new(memory));
        let query = JobQuery::new(JobFilter::all());
        let read = one.find(&query);
        assert!(read.now_or_never().is_none());
        two.get(&[], LogRead::None).await.unwrap();
        one.get(&[], LogRead::None).await.unwrap();
        assert_eq!(recorder.calls(), 3);
        let history = recorder.take();
        let handles: Vec<usize> = history.calls.iter().map(|call| call.handle).collect();
        assert_eq!(handles, [0, 1, 0]);
        assert!(history.calls[0].end.is_none() && history.calls[0].answer.is_none());
        let (first, second) = (&history.calls[1], &history.calls[2]);
        assert!(first.begin <= first.end.unwrap() && first.end.unwrap() <= second.begin);
        assert!(recorder.take().calls.is_empty());
    }

    #[tokio::test]
    async fn the_time_of_the_store_is_known_by_its_clock_or_after_a_short_answer() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let memory = MemoryStore::with_clock(clock.clone());
        let driven = Recorder::new(memory.info(), Some(clock));
        claim().run(&*driven.wrap(Arc::new(memory.clone()))).await.unwrap();
        let told = Recorder::new(memory.info(), None);
        let handle = told.wrap(Arc::new(memory));
        claim().run(&*handle).await.unwrap();
        handle.get(&[], LogRead::None).await.unwrap();
        let (driven, told) = (driven.take().calls, told.take().calls);
        let epoch = Some(Timestamp::EPOCH);
        assert_eq!((driven[0].since, driven[0].now), (epoch, epoch));
        assert_eq!((told[0].since, told[0].now), (None, epoch));
        assert_eq!((told[1].since, told[1].now), (epoch, None));
    }

    #[tokio::test]
    async fn a_call_under_way_when_the_record_is_taken_is_none_of_the_next() {
        let memory = MemoryStore::new();
        let recorder = Recorder::new(memory.info(), None);
        let record = recorder.0.clone();
        let place = record.begin(0, claim());
        assert_eq!(recorder.take().calls.len(), 1);
        record.begin(1, claim());
        record.end(place, 5, None, Answered::Ok(Answer::Deleted(0)));
        assert!(recorder.take().calls[0].end.is_none());
    }
}
