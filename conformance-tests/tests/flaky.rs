//! The long runs on a sound store whose answers are lost now and then: the checkers must make allowance for calls of unknown
//! effect, and the workloads repeat them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use conformance_tests::{Fixture, Harness, Rng, Suite, Verdict, async_trait};
use futures::stream::BoxStream;
use queue_core::{
    Clock, Effect, Error, ErrorKind, JobStore, MemoryStore, Result, StoreInfo, Timestamp, Wakeup,
    spec::{Answer, ByOp, Op, RunOp},
};

/// A store that loses one call in twenty before it is made, and one in twenty after.
#[derive(Debug)]
struct Flaky {
    store: MemoryStore,
    calls: AtomicU64,
    lost: Arc<AtomicU64>,
}

fn lost() -> Error {
    Error::new(ErrorKind::Timeout, "no answer").with_effect(Effect::Unknown)
}

#[async_trait]
impl RunOp for Flaky {
    fn info(&self) -> StoreInfo {
        self.store.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        self.store.ping().await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.store.wakeups()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let dice = Rng::new(number).below(20);
        if dice < 2 {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        if dice == 0 {
            return Err(lost());
        }
        let answer = op.run(&self.store).await;
        if dice == 1 { Err(lost()) } else { answer }
    }
}

struct Losing {
    is_clocked: bool,
    lost: Arc<AtomicU64>,
}

#[async_trait]
impl Harness for Losing {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let store = match self.is_clocked {
            true => MemoryStore::with_clock(clock.clone()),
            false => MemoryStore::new(),
        };
        let lost = self.lost.clone();
        let handle = move || {
            let flaky =
                Flaky { store: store.clone(), calls: AtomicU64::new(0), lost: lost.clone() };
            Arc::new(ByOp(flaky)) as Arc<dyn JobStore>
        };
        let fixture = Fixture::new(handle()).with_sibling(move || {
            let sibling = handle();
            Box::pin(async move { Ok(sibling) })
        });
        Ok(if self.is_clocked { fixture.clocked() } else { fixture })
    }
}

async fn check(is_clocked: bool) {
    let lost = Arc::new(AtomicU64::new(0));
    let suite = Suite::new(Losing { is_clocked, lost: lost.clone() }).only(["HIS"]);
    for report in suite.outcomes().await {
        assert_eq!(report.verdict, Verdict::Pass, "{}", report.id);
        assert!(!report.note.is_empty(), "{} says nothing of what it did", report.id);
    }
    let lost = lost.load(Ordering::SeqCst);
    assert!(lost > 300, "only {lost} calls were lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_whose_answers_are_lost_is_not_refused() {
    check(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_clock_to_drive_it_is_not_either() {
    check(false).await;
}
