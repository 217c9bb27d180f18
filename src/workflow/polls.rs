//! Whether the body of a workflow still polls its steps.
//!
//! The futures of steps belong to the body, which may leave some alone: those that stand in a `FuturesUnordered` while it awaits
//! another step outside of it. Such a step must not hold up the end of a run, which would never end.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use futures::task::AtomicWaker;

/// What is seen of one step's future.
#[derive(Debug, Default)]
pub(super) struct Polls {
    /// It has asked for its next turn, and not had it.
    woken: AtomicBool,
    turns: AtomicU64,
    neglected: AtomicBool,
    outer: AtomicWaker,
}

impl Polls {
    /// How many turns it has had, if it waits for one.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.woken.load(SeqCst).then(|| self.turns.load(SeqCst))
    }

    /// Notes that the body leaves it alone. Its next turn ends that.
    pub(super) fn neglect(&self) {
        self.neglected.store(true, SeqCst);
    }

    pub(super) fn is_neglected(&self) -> bool {
        self.neglected.load(SeqCst)
    }

    /// Polls the future of the step.
    pub(super) async fn watch<T>(self: Arc<Self>, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        let waker = Waker::from(self.clone());
        std::future::poll_fn(move |context| {
            self.outer.register(context.waker());
            self.turns.fetch_add(1, SeqCst);
            self.woken.store(false, SeqCst);
            self.neglected.store(false, SeqCst);
            step.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }
}

impl Wake for Polls {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.outer.wake();
    }
}
