use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use queue_core::{Held, JobId, JobStore, Outcome, Result};

use crate::{
    active::Active,
    io::{Io, surviving},
    jitter::jittered,
};

/// Renews the leases of all jobs that a worker holds, with one call per interval, from the I/O thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    held: Mutex<HashMap<JobId, Arc<Active>>>,
}

impl Keeper {
    /// Starts one. It ends when it is dropped.
    pub(crate) fn start(io: &Io, lease: Duration, every: Duration) -> Arc<Self> {
        let keeper = Arc::new(Keeper { held: Mutex::default() });
        if let Some(handle) = io.handle() {
            handle.spawn(renew(Arc::downgrade(&keeper), io.store().clone(), lease, every));
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
        let progress: Vec<_> = actives.iter().map(|active| active.take_progress()).collect();
        let held = actives.iter().zip(&progress).map(|(active, (progress, _))| {
            let mut held = Held::new(active.id, active.fence);
            held.progress = progress.clone();
            held
        });
        let held: Vec<Held> = held.collect();
        let outcomes = surviving(store.heartbeat(&held, lease)).await.inspect_err(|_| {
            for (active, (progress, number)) in actives.iter().zip(progress) {
                active.give_back(progress, number);
            }
        })?;
        for (active, outcome) in actives.iter().zip(outcomes) {
            match outcome {
                Outcome::Applied(ack) | Outcome::Repeated(ack) => {
                    if let Some(cancel) = ack.cancel {
                        active.request_cancel(&cancel.reason);
                    }
                }
                // A job that was settled a moment ago is no longer in the map; any other is lost.
                _ if self
                    .held()
                    .get(&active.id)
                    .is_some_and(|there| Arc::ptr_eq(there, active)) =>
                {
                    active.lose();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

async fn renew(keeper: Weak<Keeper>, store: Arc<dyn JobStore>, lease: Duration, every: Duration) {
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        let Some(keeper) = keeper.upgrade() else { return };
        wait = match keeper.beat(&*store, lease).await {
            Ok(()) => every,
            Err(error) => {
                tracing::warn!(%error, "leases were not renewed; trying again");
                jittered(every / 4)
            }
        };
    }
}
