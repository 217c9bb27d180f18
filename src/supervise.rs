//! Loops of the engine that go on whatever happens to them.
//!
//! A call of the store may fail, panic, or never return. The first is the loop's own business. For the others there are two
//! means: a supervised loop is reported and begun anew when it panics, ends, or waits too long for one call; and a worker's own
//! loop, which belongs to the application's runtime and cannot be begun anew, answers a question now and then, and is reported
//! when it does not.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::jitter::jittered;

/// The shortest time for which the store may be silent before that counts as trouble: even where leases are shorter.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);
/// The waits before a loop that panicked or ended is begun anew. They double while it does not last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long a worker with this lease waits for one call of the store: what takes longer than a lease has failed as far as
/// its jobs are concerned.
pub(crate) fn patience(lease: Duration) -> Duration {
    lease.max(SHORTEST_PATIENCE)
}

/// How long it waits for a call that renews leases: a third, so that there is time for another.
pub(crate) fn patience_to_renew(lease: Duration) -> Duration {
    (lease / 3).max(SHORTEST_PATIENCE)
}

/// Which loop of which worker.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) worker: Arc<str>,
    pub(crate) does: &'static str,
}

/// Where a loop says that it waits for the store.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(watch::Sender<Option<Instant>>);

impl Pulse {
    /// Waits for one call of the store.
    pub(crate) async fn during<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.send_replace(Some(Instant::now()));
        let answer = call.await;
        self.0.send_replace(None);
        answer
    }

    /// Resolves when one call has taken so long.
    async fn stalls(&self, patience: Duration) {
        let mut since = self.0.subscribe();
        loop {
            let begun = *since.borrow_and_update();
            // The sender is this very value: there will be changes.
            let changed = since.changed();
            match begun {
                None => drop(changed.await),
                Some(begun) if timeout_at(begun + patience, changed).await.is_err() => return,
                Some(_) => {}
            }
        }
    }
}

/// Whether a loop that ended was meant to.
pub(crate) enum End {
    /// What it worked for is gone.
    Done,
    /// It has nothing to go on with.
    CutOff,
}

/// Runs a loop until it is done or `over` is cancelled. When it panics, is cut off, or waits for one call longer than
/// `patience`, that is reported, and it is begun anew; what it waited for is dropped.
pub(crate) fn supervise<F, Fut>(
    handle: &Handle,
    who: Who,
    patience: Duration,
    over: CancellationToken,
    begin: F,
) where
    F: Fn(Pulse) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = End> + Send,
{
    let supervised = async move {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = Instant::now();
            let pulse = Pulse(watch::Sender::new(None));
            let run = AssertUnwindSafe(async { begin(pulse.clone()).await }).catch_unwind();
            let (why, pause) = tokio::select! {
                ended = run => match ended {
                    Ok(End::Done) => return,
                    Ok(End::CutOff) => ("was cut off", wait),
                    Err(content) => {
                        discard(content);
                        ("panicked", wait)
                    }
                },
                () = pulse.stalls(patience) => ("waits for the store in vain", Duration::ZERO),
            };
            if broken!(LoopsEndForGood) {
                return;
            }
            tracing::error!(worker = %who.worker, "what {} {why}; it is begun anew", who.does);
            sleep(jittered(pause)).await;
            wait = match begun.elapsed() > LONGEST_WAIT {
                true => FIRST_WAIT,
                false => (wait * 2).min(LONGEST_WAIT),
            };
        }
    };
    handle.spawn(async move { over.run_until_cancelled(supervised).await });
}

/// The end of a loop that answers when it is asked whether it goes on.
#[derive(Debug)]
pub(crate) struct Watched {
    worker: Arc<str>,
    questions: mpsc::Receiver<()>,
    patience: Duration,
}

/// Watches a worker's own loop: every `patience` it is asked whether it goes on, and reported when it does not say so within
/// as long. Ends with what is returned.
pub(crate) fn watch(handle: Option<&Handle>, worker: Arc<str>, patience: Duration) -> Watched {
    // A question is answered by taking it: there is room for one.
    let (ask, questions) = mpsc::channel(1);
    if let Some(handle) = handle {
        handle.spawn(question(ask, worker.clone(), patience));
    }
    Watched { worker, questions, patience }
}

async fn question(ask: mpsc::Sender<()>, worker: Arc<str>, patience: Duration) {
    loop {
        tokio::select! {
            () = sleep(patience) => {}
            () = ask.closed() => return,
        }
        if ask.send(()).await.is_err() {
            return;
        }
        let asked = Instant::now();
        let answered = async { ask.reserve().await.map(drop) };
        if timeout(patience, answered).await.is_err() {
            tracing::error!(
                %worker,
                "the worker's loop does not go on, and takes no jobs: a handler blocks the threads of its runtime"
            );
            if ask.reserve().await.is_ok() {
                let after = asked.elapsed();
                tracing::info!(%worker, ?after, "the worker's loop goes on");
            }
        }
    }
}

impl Watched {
    /// Resolves when it has said that the loop goes on, or reported that nobody asks: then it is the engine's own thread that
    /// is blocked. The loop awaits it again each time.
    pub(crate) async fn goes_on(&mut self) {
        match timeout(self.patience * 3, self.questions.recv()).await {
            Ok(Some(())) => {}
            // Nobody will ask.
            Ok(None) => std::future::pending().await,
            Err(_) => {
                let worker = &self.worker;
                tracing::error!(%worker, "the engine's thread for the store does not go on: a call of the store blocks it");
            }
        }
    }
}

/// Drops what code that is not the engine's left behind: a panic while that is dropped must not end who drops it.
pub(crate) fn discard(content: Box<dyn Any + Send>) {
    if let Err(further) = std::panic::catch_unwind(AssertUnwindSafe(move || drop(content))) {
        // It could go on like this for ever.
        std::mem::forget(further);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    /// Begins a loop that does one thing at its first beginning and another at its second, which ends it.
    async fn begun_twice<Fut>(first: impl Fn(Pulse) -> Fut + Send + Sync + 'static)
    where
        Fut: Future<Output = End> + Send,
    {
        let (done, mut waiting) = mpsc::channel::<()>(1);
        let begun = AtomicUsize::new(0);
        let who = Who { worker: "w".into(), does: "is tested" };
        supervise(&Handle::current(), who, PATIENCE, CancellationToken::new(), move |pulse| {
            let first = (begun.fetch_add(1, Ordering::SeqCst) == 0).then(|| first(pulse));
            let done = done.clone();
            async move {
                match first {
                    Some(first) => first.await,
                    None => {
                        let _ = done.send(()).await;
                        End::Done
                    }
                }
            }
        });
        let again = timeout(Duration::from_secs(20), waiting.recv()).await;
        assert_eq!(again.expect("it is begun anew"), Some(()));
        assert_eq!(waiting.recv().await, None, "and ends when it is done");
    }

    #[tokio::test]
    async fn a_loop_that_panics_is_begun_anew() {
        begun_twice(|_| async { panic!("of itself") }).await;
    }

    #[tokio::test]
    async fn a_loop_that_is_cut_off_is_begun_anew() {
        begun_twice(|_| async { End::CutOff }).await;
    }

    #[tokio::test]
    async fn a_loop_that_waits_in_vain_is_begun_anew() {
        begun_twice(|pulse| async move { pulse.during(std::future::pending()).await }).await;
    }

    #[tokio::test]
    async fn what_panics_when_it_is_dropped_is_discarded() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::panic_any(Bomb);
            }
        }
        discard(Box::new(Bomb));
    }
}
