use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use queue_core::{Clock, Effect, Error, ErrorKind, JobStore, Result};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Notify, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::supervise::{End, Who, discard, supervise};

/// A store with the runtime on which it is used.
///
/// The engine talks to stores on a thread of its own: a handler that blocks its thread starves neither the renewal
/// of leases nor the commits, and a connection pool stays on the runtime that opened it.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    store: Arc<dyn JobStore>,
    runtime: Arc<Background>,
    clock: Clock,
    /// What this process has written that may make a job due, for stores that do not hint.
    own: watch::Sender<()>,
}

#[derive(Debug)]
pub(crate) struct Background(Option<Runtime>);

impl Background {
    pub(crate) fn start() -> Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("queue-io")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Config, format!("cannot start the I/O thread: {error}"))
            })?;
        Ok(Arc::new(Background(Some(runtime))))
    }

    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match &self.0 {
            Some(runtime) => runtime.handle().spawn(work).await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Backend, format!("a store operation broke off: {error}"))
                    .with_effect(Effect::Unknown))
            }),
            None => Err(Error::new(ErrorKind::Unavailable, "the queue is shut down")),
        }
    }
}

/// A call of the store by a task that must not die of it: a panic becomes an error.
pub(crate) async fn surviving<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|content| {
        discard(content);
        Err(Error::new(ErrorKind::Backend, "the store panicked").with_effect(Effect::Unknown))
    })
}

/// As [`surviving`], and for at most so long. What has not answered then is dropped: it has happened as a whole or not at all,
/// and every write of the contract may be repeated.
pub(crate) async fn answering<T>(
    patience: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    if broken!(WaitsForEver) {
        return surviving(call).await;
    }
    tokio::time::timeout(patience, surviving(call)).await.unwrap_or_else(|_| {
        let message = format!("the store has not answered within {patience:?}");
        Err(Error::new(ErrorKind::Timeout, message).with_effect(Effect::Unknown))
    })
}

impl Drop for Background {
    fn drop(&mut self) {
        // Dropping a runtime blocks, which is not allowed where the last handle may well be dropped:
        // inside another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Io {
    pub(crate) fn new(store: Arc<dyn JobStore>, runtime: Arc<Background>) -> Self {
        Io { store, runtime, clock: Clock::system(), own: watch::Sender::new(()) }
    }

    pub(crate) fn with_clock(&self, clock: Clock) -> Self {
        Io { clock, ..self.clone() }
    }

    /// The clock of the store, if it is one that is moved by hand.
    pub(crate) fn manual_clock(&self) -> Option<&Clock> {
        Some(&self.clock).filter(|clock| clock.is_manual())
    }

    /// The clock of the store: the system's, or one that is moved by hand.
    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) const fn store(&self) -> &Arc<dyn JobStore> {
        &self.store
    }

    /// Calls the store from the I/O thread. The call runs to its end even if this future is dropped.
    pub(crate) async fn call<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<dyn JobStore>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.runtime.run(call(self.store.clone())).await
    }

    /// As [`call`](Self::call), for writes that may make a job due: idle workers of this process look for it, also where the store
    /// gives no hints.
    pub(crate) async fn change<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<dyn JobStore>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let changed = self.call(call).await;
        // Whatever the answer: a write that reports an error may have been made.
        if self.is_blind() && !broken!(DeafToItself) {
            self.own.send_replace(());
        }
        changed
    }

    /// Whether the store gives no hints.
    pub(crate) fn is_blind(&self) -> bool {
        self.store.info().capabilities.wakeups.is_none()
    }

    /// Notifies a worker of the store's hints, until the guard is dropped. Where the store's stream of them ends, another one
    /// is taken.
    pub(crate) fn hints(&self, worker: Arc<str>) -> (Arc<Notify>, DropGuard) {
        let (hints, over) = (Arc::new(Notify::new()), CancellationToken::new());
        if let Some(handle) = self.handle() {
            let (store, hints, own) = (self.store.clone(), hints.clone(), self.own.subscribe());
            let who = Who { worker, does: "listens for the store's hints" };
            let begun = AtomicBool::new(false);
            // It waits for a hint as long as it takes.
            supervise(handle, who, Duration::MAX, over.clone(), move |_| {
                let again = begun.swap(true, Ordering::SeqCst);
                listen(store.clone(), hints.clone(), own.clone(), again)
            });
        }
        (hints, over.drop_guard())
    }

    /// Where to run what must not depend on the threads of handlers.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.runtime.0.as_ref().map(Runtime::handle)
    }
}

async fn listen(
    store: Arc<dyn JobStore>,
    hints: Arc<Notify>,
    mut own: watch::Receiver<()>,
    again: bool,
) -> End {
    let mut wakeups = store.wakeups();
    if again {
        // What was hinted at between the two streams was not heard.
        hints.notify_one();
    }
    loop {
        tokio::select! {
            hint = wakeups.next() => match hint {
                None => break,
                Some(_) if broken!(DeafToTheStore) => continue,
                Some(_) => {}
            },
            Ok(()) = own.changed() => {}
        }
        hints.notify_one();
    }
    if broken!(ListensOnce) { End::Done } else { End::CutOff }
}
