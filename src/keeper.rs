use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use queue_core::{Error, ErrorKind, Held, JobId, JobStore, Outcome, Progress, Result};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    active::Active,
    io::{Io, answering},
    jitter::jittered,
    supervise::{End, Pulse, Who, patience_to_renew, supervise},
};

/// How many calls there are at once when each lease is renewed by a call of its own.
const AT_ONCE: usize = 16;

/// Renews the leases of all jobs that a worker holds, with one call per interval, from the I/O thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    held: Mutex<HashMap<JobId, Arc<Active>>>,
    /// Whether a call for all was not answered: one of them may be the reason, a row that is locked for example, and the
    /// others are not to lose their leases for it.
    apart: AtomicBool,
    /// How long the handler of a lost job may go on.
    pub(crate) lost_grace: Duration,
}

impl Keeper {
    /// Starts one for the worker of this name. It ends when it is dropped.
    pub(crate) fn start(
        io: &Io,
        worker: Arc<str>,
        lease: Duration,
        every: Duration,
        lost_grace: Duration,
    ) -> Arc<Self> {
        let (held, apart) = (Mutex::default(), AtomicBool::new(false));
        let keeper = Arc::new(Keeper { held, apart, lost_grace });
        let among_handlers = broken!(RenewsAmongHandlers).then(Handle::current);
        if let Some(handle) = among_handlers.as_ref().or(io.handle()) {
            let (weak, store) = (Arc::downgrade(&keeper), io.store().clone());
            let who = Who { worker, does: "renews leases" };
            // Those that are renewed apart are given up one by one before all are.
            let patience = patience_to_renew(lease) * 2;
            let begun = AtomicBool::new(false);
            supervise(handle, who, patience, CancellationToken::new(), move |pulse| {
                // Begun anew, it is late.
                let wait = if begun.swap(true, Ordering::SeqCst) { Duration::ZERO } else { every };
                renew(weak.clone(), store.clone(), lease, every, wait, pulse)
            });
        }
        keeper
    }

    fn held(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Active>>> {
        // The map is whole between any two of its methods.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, active: Arc<Active>) {
        let before = self.held().insert(active.id, active);
        // The lease was over, and this very worker has claimed the job anew.
        if let Some(before) = before {
            before.lose();
        }
    }

    pub(crate) fn remove(&self, active: &Active) {
        let mut held = self.held();
        // The same job may have been lost and claimed anew by this very worker.
        if held.get(&active.id).is_some_and(|there| there.fence == active.fence) {
            held.remove(&active.id);
        }
    }

    /// Renews once.
    async fn beat(&self, store: &dyn JobStore, lease: Duration) -> Result<()> {
        let actives: Vec<Arc<Active>> = self.held().values().cloned().collect();
        if actives.is_empty() {
            return Ok(());
        }
        if !self.apart.load(Ordering::SeqCst) || broken!(LeasesTogether) {
            let renewed = self.renew_leases(store, actives, lease).await;
            let silent = |error: &Error| error.kind() == ErrorKind::Timeout;
            self.apart.store(renewed.as_ref().is_err_and(silent), Ordering::SeqCst);
            return renewed;
        }
        let each =
            stream::iter(actives).map(|active| self.renew_leases(store, vec![active], lease));
        let renewed: Vec<Result<()>> = each.buffer_unordered(AT_ONCE).collect().await;
        let renewed: Result<()> = renewed.into_iter().collect();
        self.apart.store(renewed.is_err(), Ordering::SeqCst);
        renewed
    }

    /// Renews the leases of these, by one call.
    async fn renew_leases(
        &self,
        store: &dyn JobStore,
        actives: Vec<Arc<Active>>,
        lease: Duration,
    ) -> Result<()> {
        let mut progress = Undelivered::of(&actives);
        let held: Vec<Held> = progress.ride_along();
        let call = store.heartbeat(&held, lease);
        let outcomes = answering(patience_to_renew(lease), call).await?;
        progress.delivered();
        for (active, outcome) in actives.iter().zip(outcomes) {
            match outcome {
                Outcome::Applied(ack) | Outcome::Repeated(ack) => {
                    if let Some(cancel) = ack.cancel
                        && !broken!(HeartbeatCancelIsIgnored)
                    {
                        active.request_cancel(&cancel.reason);
                    }
                }
                // A job that was settled a moment ago is no longer in the map; any other is lost.
                _ if self
                    .held()
                    .get(&active.id)
                    .is_some_and(|there| Arc::ptr_eq(there, active))
                    && !broken!(LossIsNotTold) =>
                {
                    active.lose();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The progress that rides along with a call. What is not delivered is given back, also where the call is dropped.
struct Undelivered<'a>(Vec<(&'a Active, Option<Progress>, u64)>);

impl<'a> Undelivered<'a> {
    fn of(actives: &'a [Arc<Active>]) -> Self {
        let take = |active: &'a Arc<Active>| {
            let (progress, number) = active.take_progress();
            (&**active, progress, number)
        };
        Undelivered(actives.iter().map(take).collect())
    }

    fn ride_along(&self) -> Vec<Held> {
        let held = self.0.iter().map(|(active, progress, _)| {
            let mut held = Held::new(active.id, active.fence);
            held.progress = progress.clone().filter(|_| !broken!(HeartbeatsDropProgress));
            held
        });
        held.collect()
    }

    fn delivered(&mut self) {
        self.0.clear();
    }
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        for (active, progress, number) in self.0.drain(..) {
            active.give_back(progress, number);
        }
    }
}

async fn renew(
    keeper: Weak<Keeper>,
    store: Arc<dyn JobStore>,
    lease: Duration,
    every: Duration,
    mut wait: Duration,
    pulse: Pulse,
) -> End {
    loop {
        tokio::time::sleep(wait).await;
        let Some(keeper) = keeper.upgrade() else { return End::Done };
        let renewed = pulse.during(keeper.beat(&*store, lease)).await;
        wait = match renewed {
            Ok(()) => every,
            Err(error) => {
                tracing::warn!(%error, "leases were not renewed; trying again");
                jittered(every / 4)
            }
        };
    }
}
