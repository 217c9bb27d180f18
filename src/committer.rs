use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use queue_core::{
    ClaimRequest, Claimed, Clock, Effect, Error, ErrorKind, Job, JobId, JobPatch, JobStore,
    JobUpdate, Outcome, Result,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    fresh::{Fresh, Handed, unstarted},
    io::{Io, answering},
    jitter::jittered,
    keeper::Keeper,
    supervise::discard,
    time::{Readings, StoreClock},
};

mod aside;

use aside::Aside;

/// How many updates go into one call at most.
const BATCH: usize = 1_000;
/// The waits between the tries of a call that failed for a passing reason.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Groups the writes of all running jobs into few calls of the store.
///
/// It writes at once when nothing is in flight, and gathers while something is: no timer, so the
/// latency is the lowest when there is little to do, and batches appear under load. A claim that is asked for meanwhile
/// shares the trip. Updates whose call failed for a passing reason are repeated until the store answers;
/// the contract makes that safe. A call that is not answered in time holds up nobody else: its updates are repeated one by one,
/// apart from the others.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    requests: mpsc::UnboundedSender<Request>,
}

/// The outcome of an update, and whether it may have been applied by an earlier try.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) outcome: Outcome,
    pub(crate) repeated: bool,
}

#[derive(Debug)]
enum Request {
    Update(JobUpdate, Reply),
    Claim(Box<ClaimRequest>, Claimer),
}

/// Whoever asked for a claim.
#[derive(Debug)]
struct Claimer {
    reply: oneshot::Sender<Result<Handed>>,
    /// Cancelled when it stops.
    stop: CancellationToken,
}

impl Committer {
    /// Starts one on the I/O thread. It ends with its last clone, when everything asked of it is done. `patience` is how long it
    /// waits for one call; `keeper` renews the leases of what it claims.
    pub(crate) fn start(
        io: &Io,
        keeper: Arc<Keeper>,
        readings: Arc<Readings>,
        patience: Duration,
    ) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let store = io.store().clone();
        let aside = Aside::new(store.clone(), patience);
        let claims =
            Claims { keeper, clock: io.clock().clone(), readings, requests: requests.downgrade() };
        let mut task = Task { store, patience, inbox, waiting: VecDeque::new(), aside, claims };
        if let Some(handle) = io.handle() {
            handle.spawn(async move {
                while let Err(content) = AssertUnwindSafe(task.run()).catch_unwind().await {
                    discard(content);
                    tracing::error!("what writes for the running jobs panicked; it is begun anew");
                }
            });
        }
        Committer { requests }
    }

    /// Makes an update and waits until the store has acknowledged it.
    pub(crate) async fn commit(&self, update: JobUpdate) -> Result<Committed> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Update(update, reply), answer).await
    }

    /// Claims jobs. If nobody waits for the answer any more, they are given back. `stop` is cancelled when whoever claims them
    /// stops.
    pub(crate) async fn claim(
        &self,
        request: ClaimRequest,
        stop: CancellationToken,
    ) -> Result<Handed> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Claim(Box::new(request), Claimer { reply, stop }), answer).await
    }

    /// Makes an update that nobody waits for.
    pub(crate) fn commit_unheard(&self, update: JobUpdate) {
        // An error says that the queue is shut down; then the lease of the job runs out.
        let _ = self.requests.send(Request::Update(update, oneshot::channel().0));
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        let gone = || {
            Err(Error::new(ErrorKind::Unavailable, "the queue is shut down")
                .with_effect(Effect::Unknown))
        };
        match self.requests.send(request) {
            Ok(()) => answer.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }
}

struct Task {
    store: Arc<dyn JobStore>,
    patience: Duration,
    inbox: mpsc::UnboundedReceiver<Request>,
    waiting: VecDeque<Request>,
    aside: Aside,
    claims: Claims,
}

/// What it takes to hold jobs that were claimed.
struct Claims {
    keeper: Arc<Keeper>,
    clock: Clock,
    readings: Arc<Readings>,
    /// Where they are given back.
    requests: mpsc::WeakUnboundedSender<Request>,
}

type Reply = oneshot::Sender<Result<Committed>>;

/// Who waits for an update: one caller, or several whose changes of one job were merged, each then
/// with its own part.
enum Waiters {
    One(Reply),
    Merged(Vec<(JobPatch, Reply)>),
}

/// What goes into one call.
#[derive(Default)]
struct Batch {
    updates: Vec<JobUpdate>,
    /// For each update, who waits for it.
    waiters: Vec<Waiters>,
    places: HashMap<JobId, usize>,
    claim: Option<(Box<ClaimRequest>, Claimer)>,
}

impl Batch {
    const fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.claim.is_none()
    }

    /// Takes a request in, or gives it back for the next call.
    fn add(&mut self, request: Request) -> Option<Request> {
        match request {
            Request::Claim(request, claimer) if self.claim.is_none() => {
                self.claim = Some((request, claimer));
                None
            }
            Request::Claim(..) => Some(request),
            Request::Update(update, reply) => match self.places.get(&update.id) {
                None if self.updates.len() >= BATCH => Some(Request::Update(update, reply)),
                None => {
                    self.places.insert(update.id, self.updates.len());
                    self.updates.push(update);
                    self.waiters.push(Waiters::One(reply));
                    None
                }
                Some(&place) => {
                    let there = &mut self.updates[place];
                    if there.guard != update.guard || there.patch.transition.is_some() {
                        return Some(Request::Update(update, reply));
                    }
                    self.waiters[place].add(&there.patch, &update.patch, reply);
                    merge(&mut there.patch, update.patch);
                    None
                }
            },
        }
    }
}

impl Waiters {
    fn add(&mut self, there: &JobPatch, later: &JobPatch, reply: Reply) {
        let mut parts = match std::mem::replace(self, Waiters::Merged(Vec::new())) {
            Waiters::One(first) => vec![(there.clone(), first)],
            Waiters::Merged(parts) => parts,
        };
        parts.push((later.clone(), reply));
        *self = Waiters::Merged(parts);
    }

    fn answer(self, outcome: &Outcome, repeated: bool) {
        for reply in self.replies() {
            // Whoever asked may have been dropped since.
            let _ = reply.send(Ok(Committed { outcome: outcome.clone(), repeated }));
        }
    }

    fn replies(self) -> Vec<Reply> {
        match self {
            Waiters::One(reply) => vec![reply],
            Waiters::Merged(parts) => parts.into_iter().map(|(_, reply)| reply).collect(),
        }
    }
}

/// Adds a later patch of the same holder to an earlier one.
fn merge(there: &mut JobPatch, later: JobPatch) {
    for entry in later.log {
        // What was put aside rides with every write until one is acknowledged.
        if there.log.iter().all(|known| known.id != entry.id) {
            there.log.push(entry);
        }
    }
    there.labels.extend(later.labels);
    there.progress = later.progress.or(there.progress.take());
    there.transition = later.transition;
}

impl Task {
    async fn run(&mut self) {
        while let Some(first) = self.next().await {
            let mut batch = Batch::default();
            let mut later = VecDeque::new();
            later.extend(self.aside.admit(first).and_then(|request| batch.add(request)));
            while let Some(request) =
                self.waiting.pop_front().or_else(|| self.inbox.try_recv().ok())
            {
                later.extend(self.aside.admit(request).and_then(|request| batch.add(request)));
                if later.len() >= BATCH {
                    break;
                }
            }
            later.append(&mut self.waiting);
            self.waiting = later;
            if !batch.is_empty() {
                self.write(batch).await;
            }
        }
    }

    async fn next(&mut self) -> Option<Request> {
        while let Some(held_back) = self.aside.next_now() {
            self.waiting.extend(held_back);
        }
        loop {
            if let Some(request) = self.waiting.pop_front() {
                return Some(request);
            }
            if self.aside.is_empty() {
                return self.inbox.recv().await;
            }
            tokio::select! {
                held_back = self.aside.next() => self.waiting.extend(held_back),
                Some(request) = self.inbox.recv() => return Some(request),
            }
        }
    }

    /// A call of the store that is waited for no longer than the others may wait.
    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        answering(self.patience, call).await
    }

    async fn write(&mut self, batch: Batch) {
        let Batch { updates, waiters, claim, .. } = batch;
        let Some((request, claimer)) = claim else {
            return self.persist(updates, waiters, false).await;
        };
        if updates.is_empty() {
            let claimed = self.call(self.store.claim(&request)).await;
            return self.hand_over(claimed, claimer).await;
        }
        match self.call(self.store.update_and_claim(&updates, &request)).await {
            Ok((outcomes, claimed)) => {
                // First: their leases have begun.
                self.hand_over(Ok(claimed), claimer).await;
                self.answer(updates, outcomes, waiters, false);
            }
            Err(error) => {
                // The updates must get through; the claim is asked for again by the worker, with the
                // same token, so that what it may have taken is found. Where the two are two calls,
                // the error may be the second one's, and the first may have been made.
                let _ = claimer.reply.send(Err(error));
                self.persist(updates, waiters, true).await;
            }
        }
    }

    async fn hand_over(&self, claimed: Result<Claimed>, claimer: Claimer) {
        let Claimer { reply, stop } = claimer;
        let claimed = match claimed {
            Ok(claimed) => claimed,
            // It may not be waited for any more.
            Err(error) => return drop(reply.send(Err(error))),
        };
        let Claims { keeper, clock, readings, requests } = &self.claims;
        let Some(requests) = requests.upgrade() else {
            // The worker is gone.
            return self.give_back(&claimed.jobs).await;
        };
        let committer = Committer { requests };
        let hold = |job: Job| {
            let clock = StoreClock::of_claim(clock, &job, readings);
            Fresh::new(job, clock, stop.clone(), keeper.clone(), committer.clone())
        };
        let jobs = claimed.jobs.into_iter().map(hold).collect();
        // What is not heard is dropped, and so given back.
        let _ = reply.send(Ok(Handed { jobs, next_due: claimed.next_due }));
    }

    async fn give_back(&self, jobs: &[Job]) {
        let updates: Vec<JobUpdate> = jobs.iter().map(unstarted).collect();
        if updates.is_empty() {
            return;
        }
        if let Err(error) = self.call(self.store.update_jobs(&updates)).await {
            // They come back when their lease is over.
            tracing::warn!(%error, jobs = updates.len(), "jobs claimed in vain were not given back");
        }
    }

    /// Writes until the store has answered, or puts aside what it does not answer.
    async fn persist(
        &mut self,
        updates: Vec<JobUpdate>,
        waiters: Vec<Waiters>,
        mut repeated: bool,
    ) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.call(self.store.update_jobs(&updates)).await {
                Ok(outcomes) => return self.answer(updates, outcomes, waiters, repeated),
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    tracing::warn!(%error, updates = updates.len(), "writes are not answered; each is repeated apart from the others");
                    repeated |= error.effect() == Effect::Unknown;
                    let each = updates.into_iter().zip(waiters);
                    return each
                        .for_each(|(update, waiters)| self.aside.put(update, waiters, repeated));
                }
                Err(error) if error.is_transient() => {
                    repeated |= error.effect() == Effect::Unknown;
                    tracing::warn!(%error, updates = updates.len(), "the store does not answer; trying again");
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) if updates.len() == 1 => {
                    return fail(&error, waiters.into_iter().flat_map(Waiters::replies));
                }
                // One bad update must not take the others with it.
                Err(error) => {
                    repeated |= error.effect() == Effect::Unknown;
                    break;
                }
            }
        }
        for (update, waiter) in updates.into_iter().zip(waiters) {
            Box::pin(self.persist(vec![update], vec![waiter], repeated)).await;
        }
    }

    fn answer(
        &mut self,
        updates: Vec<JobUpdate>,
        outcomes: Vec<Outcome>,
        waiters: Vec<Waiters>,
        repeated: bool,
    ) {
        for ((update, outcome), waiters) in updates.into_iter().zip(outcomes).zip(waiters) {
            match (waiters, &outcome) {
                // Nothing was changed. One part of several may be the reason, and the others are
                // not to suffer for it.
                (Waiters::Merged(parts), Outcome::TooLarge { .. }) => {
                    self.aside.split(update.id, update.guard, parts, repeated);
                }
                (waiters, _) => waiters.answer(&outcome, repeated),
            }
        }
    }
}

fn fail(error: &Error, waiters: impl Iterator<Item = Reply>) {
    let again = || Error::new(error.kind(), error.to_string()).with_effect(error.effect());
    for waiter in waiters {
        let _ = waiter.send(Err(again()));
    }
}
