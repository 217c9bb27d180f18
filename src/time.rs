use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{Clock, Job, Result, Timestamp};
use tokio::time::Instant;

use crate::io::Io;

/// How long a reading of the store's clock is carried on by the process's own. The two drift apart by some parts in a million.
const CARRIED_FOR: Duration = Duration::from_secs(3_600);

/// The latest reading of the store's clock that a worker has. An answer that comes late shows an instant that is past: what
/// was read before, carried on, may then be the later one, and each of them is no later than the store's clock.
#[derive(Debug, Default)]
pub(crate) struct Readings(Mutex<Option<(Timestamp, Instant)>>);

impl Readings {
    /// Takes in what an answer shows that was received now, and returns the latest.
    fn latest(&self, shown: Timestamp, now: Instant) -> (Timestamp, Instant) {
        // It is replaced as a whole.
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let carried = latest.filter(|(store, read_at)| {
            let since = now.duration_since(*read_at);
            since < CARRIED_FOR && store.plus(since) > shown
        });
        *latest.insert(carried.unwrap_or((shown, now)))
    }
}

/// The store's clock, as this process sees it: read once, carried on by the process's own monotonic clock. What is done at a
/// time is done by it, never by the clock of this machine.
#[derive(Clone, Debug)]
pub(crate) struct StoreClock(Source);

#[derive(Clone, Debug)]
enum Source {
    Carried { store: Timestamp, read_at: Instant },
    Manual(Clock),
}

impl StoreClock {
    /// One trip, but for a manual clock.
    pub(crate) async fn read(io: &Io) -> Result<Self> {
        if let Some(clock) = io.manual_clock() {
            return Ok(StoreClock(Source::Manual(clock.clone())));
        }
        let store = io.call(|store| async move { store.ping().await }).await?;
        Ok(StoreClock(Source::Carried { store, read_at: Instant::now() }))
    }

    /// Takes it in among the readings of a worker.
    pub(crate) fn note(&self, readings: &Readings) {
        if let Source::Carried { store, read_at } = self.0 {
            readings.latest(store, read_at);
        }
    }

    /// As the claim of this job shows it, which was answered just now, or an earlier reading if that says more. No trip.
    pub(crate) fn of_claim(clock: &Clock, job: &Job, readings: &Readings) -> Self {
        if clock.is_manual() {
            return StoreClock(Source::Manual(clock.clone()));
        }
        // A job that was claimed was due.
        let shown = job.started_at.map_or(job.run_at, |at| at.max(job.run_at));
        let (store, read_at) = readings.latest(shown, Instant::now());
        StoreClock(Source::Carried { store, read_at })
    }

    pub(crate) fn now(&self) -> Timestamp {
        match &self.0 {
            Source::Carried { store, read_at } => store.plus(read_at.elapsed()),
            Source::Manual(clock) => clock.now(),
        }
    }

    /// How long until then; nothing if it is past.
    pub(crate) fn until(&self, due: Timestamp) -> Duration {
        self.now().until(due)
    }

    /// Resolves at each move of a manual clock that happens after `seen` was read from it, and otherwise never.
    pub(crate) async fn moved_from(&self, seen: Timestamp) {
        match &self.0 {
            Source::Carried { .. } => std::future::pending().await,
            Source::Manual(clock) => clock.moved_from(seen).await,
        }
    }

    /// Waits until then.
    pub(crate) async fn sleep_until(&self, due: Timestamp) {
        loop {
            let now = self.now();
            if now >= due {
                return;
            }
            match &self.0 {
                Source::Carried { .. } => tokio::time::sleep(now.until(due)).await,
                Source::Manual(clock) => clock.moved_from(now).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use queue_core::MemoryStore;

    use super::*;
    use crate::Queue;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_waits_for_an_instant_of_a_manual_clock_waits_until_it_is_moved_there() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        let queue = Queue::new(store as Arc<dyn queue_core::JobStore>).unwrap();
        let queue = queue.with_clock(clock.clone());
        let seen = StoreClock::read(queue.io()).await.unwrap();
        let due = Timestamp::EPOCH.plus(2 * SECOND);
        let mut waiting = Box::pin(seen.sleep_until(due));
        assert!((&mut waiting).now_or_never().is_none());
        clock.advance(SECOND);
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(seen.until(due), SECOND);
        clock.advance(SECOND);
        waiting.await;
        assert_eq!(seen.now(), due);
    }

    #[test]
    fn an_answer_that_comes_late_does_not_set_the_clock_back() {
        let (readings, noon) = (Readings::default(), Timestamp::EPOCH.plus(SECOND));
        let first = Instant::now();
        let at = |after: u32| first + after * SECOND;
        let shown = |after: u32| noon.plus(after * SECOND);
        assert_eq!(readings.latest(shown(0), at(0)), (shown(0), at(0)));
        assert_eq!(readings.latest(shown(2), at(5)), (shown(0), at(0)), "it is 3 s late");
        assert_eq!(readings.latest(shown(6), at(5)), (shown(6), at(5)), "the first was late");
        // Clocks drift apart: what was read long ago says nothing.
        let later = at(5) + CARRIED_FOR;
        assert_eq!(readings.latest(shown(7), later), (shown(7), later));
    }

    #[tokio::test]
    async fn the_clock_of_the_store_is_carried_on() {
        let queue = Queue::connect("memory:").await.unwrap();
        let clock = StoreClock::read(queue.io()).await.unwrap();
        let then = clock.now().plus(Duration::from_millis(2));
        clock.sleep_until(then).await;
        assert!(clock.now() >= then);
        assert!(clock.moved_from(then).now_or_never().is_none());
    }
}
