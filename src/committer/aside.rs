use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    slice::from_ref,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use queue_core::{
    Effect, Error, ErrorKind, Guard, JobId, JobPatch, JobStore, JobUpdate, Outcome, Result,
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{FIRST_WAIT, LONGEST_WAIT, Reply, Request, Waiters, fail};
use crate::{io::answering, jitter::jittered};

/// How many updates are tried at once.
const AT_ONCE: usize = 16;

/// Updates that go to the store by themselves, apart from the batches, until they are answered.
///
/// When a call is not answered in time, one of its updates may be the reason: a row that somebody's transaction has locked. The
/// others are not to wait for that one. Further requests for a job are held back while it is here, so that its writes
/// stay in order.
pub(super) struct Aside {
    store: Arc<dyn JobStore>,
    patience: Duration,
    permits: Arc<Semaphore>,
    tried: JoinSet<JobId>,
    held_back: HashMap<JobId, VecDeque<Request>>,
}

impl Aside {
    pub(super) fn new(store: Arc<dyn JobStore>, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        Aside { store, patience, permits, tried: JoinSet::new(), held_back: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held_back.is_empty()
    }

    /// Repeats an update until it is answered.
    pub(super) fn put(&mut self, update: JobUpdate, waiters: Waiters, repeated: bool) {
        let id = update.id;
        self.spawn(id, |tries| tries.settle(update, waiters, repeated).boxed());
    }

    /// Makes the changes that were one update one after the other: together they were too large.
    pub(super) fn split(
        &mut self,
        id: JobId,
        guard: Guard,
        parts: Vec<(JobPatch, Reply)>,
        repeated: bool,
    ) {
        self.spawn(id, |tries| tries.settle_parts(id, guard, parts, repeated).boxed());
    }

    fn spawn(&mut self, id: JobId, work: impl FnOnce(Tries) -> BoxFuture<'static, ()>) {
        let tries = Tries {
            store: self.store.clone(),
            patience: self.patience,
            permits: self.permits.clone(),
        };
        self.held_back.entry(id).or_default();
        self.tried.spawn(AssertUnwindSafe(work(tries)).catch_unwind().map(move |_| id));
    }

    /// Holds a request back if its job is here.
    pub(super) fn admit(&mut self, request: Request) -> Option<Request> {
        if let Request::Update(update, _) = &request
            && let Some(held_back) = self.held_back.get_mut(&update.id)
        {
            held_back.push_back(request);
            return None;
        }
        Some(request)
    }

    /// Waits until an update is answered; answers what was held back for it.
    pub(super) async fn next(&mut self) -> VecDeque<Request> {
        match self.tried.join_next().await {
            Some(Ok(id)) => self.release(id),
            // None of them is aborted, and their panics are caught.
            Some(Err(_)) | None => VecDeque::new(),
        }
    }

    /// As [`next`](Self::next), without waiting.
    pub(super) fn next_now(&mut self) -> Option<VecDeque<Request>> {
        let id = self.tried.try_join_next()?.ok()?;
        Some(self.release(id))
    }

    fn release(&mut self, id: JobId) -> VecDeque<Request> {
        self.held_back.remove(&id).unwrap_or_default()
    }
}

/// What one update is tried with.
struct Tries {
    store: Arc<dyn JobStore>,
    patience: Duration,
    permits: Arc<Semaphore>,
}

impl Tries {
    async fn settle(self, update: JobUpdate, waiters: Waiters, repeated: bool) {
        let (answer, repeated) = self.repeat(&update, repeated).await;
        match (waiters, answer) {
            (Waiters::Merged(parts), Ok(Outcome::TooLarge { .. })) => {
                self.settle_parts(update.id, update.guard, parts, repeated).await;
            }
            (waiters, answer) => reply(waiters, answer, repeated),
        }
    }

    async fn settle_parts(
        self,
        id: JobId,
        guard: Guard,
        parts: Vec<(JobPatch, Reply)>,
        repeated: bool,
    ) {
        for (patch, waiter) in parts {
            let part = JobUpdate::new(id, guard, patch);
            let (answer, repeated) = self.repeat(&part, repeated).await;
            reply(Waiters::One(waiter), answer, repeated);
        }
    }

    async fn repeat(&self, update: &JobUpdate, mut repeated: bool) -> (Result<Outcome>, bool) {
        let mut wait = FIRST_WAIT;
        loop {
            // Never closed.
            let permit = self.permits.acquire().await;
            let call = self.store.update_jobs(from_ref(update));
            let answer = answering(self.patience, call).await;
            drop(permit);
            match answer {
                Ok(outcomes) => {
                    let none =
                        || Error::new(ErrorKind::Backend, "the store did not answer for the job");
                    return (outcomes.into_iter().next().ok_or_else(none), repeated);
                }
                Err(error) if error.is_transient() => {
                    repeated |= error.effect() == Effect::Unknown;
                    tracing::warn!(job = %update.id, %error, "a write is not answered; trying again");
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) => return (Err(error), repeated),
            }
        }
    }
}

fn reply(waiters: Waiters, answer: Result<Outcome>, repeated: bool) {
    match answer {
        Ok(outcome) => waiters.answer(&outcome, repeated),
        Err(error) => fail(&error, waiters.replies().into_iter()),
    }
}
