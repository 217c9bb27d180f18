use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use queue_core::{
    ClaimRequest, Claimed, Effect, Error, ErrorKind, JobId, JobPatch, JobStore, JobUpdate, Outcome,
    Result, Transition, When,
};
use tokio::sync::{mpsc, oneshot};

use crate::{io::Io, jitter::jittered};

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
/// the contract makes that safe.
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
    Update(JobUpdate, oneshot::Sender<Result<Committed>>),
    Claim(Box<ClaimRequest>, oneshot::Sender<Result<Claimed>>),
}

type ClaimWaiter = (Box<ClaimRequest>, oneshot::Sender<Result<Claimed>>);

impl Committer {
    /// Starts one on the I/O thread. It ends with its last clone, when everything asked of it is done.
    pub(crate) fn start(io: &Io) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let task = Task { store: io.store().clone(), inbox, waiting: VecDeque::new() };
        if let Some(handle) = io.handle() {
            handle.spawn(task.run());
        }
        Committer { requests }
    }

    /// Makes an update and waits until the store has acknowledged it.
    pub(crate) async fn commit(&self, update: JobUpdate) -> Result<Committed> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Update(update, reply), answer).await
    }

    /// Claims jobs. If nobody waits for the answer any more, they are given back.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<Claimed> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Claim(Box::new(request), reply), answer).await
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
    inbox: mpsc::UnboundedReceiver<Request>,
    waiting: VecDeque<Request>,
}

/// What goes into one call.
#[derive(Default)]
struct Batch {
    updates: Vec<JobUpdate>,
    /// For each update, who waits for it: several where changes of one job were merged.
    replies: Vec<Vec<oneshot::Sender<Result<Committed>>>>,
    places: HashMap<JobId, usize>,
    claim: Option<ClaimWaiter>,
}

impl Batch {
    /// Takes a request in, or gives it back for the next call.
    fn add(&mut self, request: Request) -> Option<Request> {
        match request {
            Request::Claim(request, reply) if self.claim.is_none() => {
                self.claim = Some((request, reply));
                None
            }
            Request::Claim(..) => Some(request),
            Request::Update(update, reply) => match self.places.get(&update.id) {
                None if self.updates.len() >= BATCH => Some(Request::Update(update, reply)),
                None => {
                    self.places.insert(update.id, self.updates.len());
                    self.updates.push(update);
                    self.replies.push(vec![reply]);
                    None
                }
                Some(&place) => {
                    let there = &mut self.updates[place];
                    if there.guard != update.guard || there.patch.transition.is_some() {
                        return Some(Request::Update(update, reply));
                    }
                    merge(&mut there.patch, update.patch);
                    self.replies[place].push(reply);
                    None
                }
            },
        }
    }
}

/// Adds a later patch of the same holder to an earlier one.
fn merge(there: &mut JobPatch, later: JobPatch) {
    there.log.extend(later.log);
    there.labels.extend(later.labels);
    there.progress = later.progress.or(there.progress.take());
    there.transition = later.transition;
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.next().await {
            let mut batch = Batch::default();
            let mut later = VecDeque::new();
            later.extend(batch.add(first));
            while let Some(request) =
                self.waiting.pop_front().or_else(|| self.inbox.try_recv().ok())
            {
                later.extend(batch.add(request));
                if later.len() >= BATCH {
                    break;
                }
            }
            later.append(&mut self.waiting);
            self.waiting = later;
            self.write(batch).await;
        }
    }

    async fn next(&mut self) -> Option<Request> {
        match self.waiting.pop_front() {
            Some(request) => Some(request),
            None => self.inbox.recv().await,
        }
    }

    async fn write(&self, batch: Batch) {
        let Batch { updates, replies, claim, .. } = batch;
        let Some((request, waiter)) = claim else {
            return self.settle(updates, replies).await;
        };
        if updates.is_empty() {
            let claimed = self.store.claim(&request).await;
            return self.hand_over(claimed, waiter).await;
        }
        match self.store.update_and_claim(&updates, &request).await {
            Ok((outcomes, claimed)) => {
                answer(outcomes, replies, false);
                self.hand_over(Ok(claimed), waiter).await;
            }
            Err(error) => {
                // The updates must get through; the claim is asked for again by the worker, with the
                // same token, so that what it may have taken is found.
                let repeated = error.effect() == Effect::Unknown;
                let _ = waiter.send(Err(error));
                self.persist(updates, replies, repeated).await;
            }
        }
    }

    async fn hand_over(&self, claimed: Result<Claimed>, waiter: oneshot::Sender<Result<Claimed>>) {
        let Err(unheard) = waiter.send(claimed) else { return };
        let Ok(claimed) = unheard else { return };
        let release = |job: &queue_core::Job| {
            let patch = JobPatch::transition(Transition::Release { when: When::Now });
            JobUpdate::held(job.id, job.fence, patch)
        };
        let updates: Vec<JobUpdate> = claimed.jobs.iter().map(release).collect();
        if updates.is_empty() {
            return;
        }
        if let Err(error) = self.store.update_jobs(&updates).await {
            // They come back when their lease is over.
            tracing::warn!(%error, jobs = updates.len(), "jobs claimed in vain were not given back");
        }
    }

    async fn settle(
        &self,
        updates: Vec<JobUpdate>,
        replies: Vec<Vec<oneshot::Sender<Result<Committed>>>>,
    ) {
        self.persist(updates, replies, false).await;
    }

    /// Writes until the store has answered.
    async fn persist(
        &self,
        updates: Vec<JobUpdate>,
        replies: Vec<Vec<oneshot::Sender<Result<Committed>>>>,
        mut repeated: bool,
    ) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.store.update_jobs(&updates).await {
                Ok(outcomes) => return answer(outcomes, replies, repeated),
                Err(error) if error.is_transient() => {
                    repeated |= error.effect() == Effect::Unknown;
                    tracing::warn!(%error, updates = updates.len(), "the store does not answer; trying again");
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) if updates.len() == 1 => {
                    let waiters = replies.into_iter().flatten();
                    return fail(error, waiters);
                }
                // One bad update must not take the others with it.
                Err(_) => break,
            }
        }
        for (update, waiters) in updates.into_iter().zip(replies) {
            Box::pin(self.persist(vec![update], vec![waiters], repeated)).await;
        }
    }
}

fn answer(
    outcomes: Vec<Outcome>,
    replies: Vec<Vec<oneshot::Sender<Result<Committed>>>>,
    repeated: bool,
) {
    for (outcome, waiters) in outcomes.into_iter().zip(replies) {
        for waiter in waiters {
            // Whoever asked may have been dropped since.
            let _ = waiter.send(Ok(Committed { outcome: outcome.clone(), repeated }));
        }
    }
}

fn fail(error: Error, waiters: impl Iterator<Item = oneshot::Sender<Result<Committed>>>) {
    let again = || Error::new(error.kind(), error.to_string()).with_effect(error.effect());
    for waiter in waiters {
        let _ = waiter.send(Err(again()));
    }
}
