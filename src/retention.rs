//! How long jobs that have ended are kept.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    Job, JobFilter, JobQuery, Page, Queues, Result, State, States, Tally, TimeRange, Timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Queue, Worker,
    io::{Io, answering, surviving},
    jitter::jittered,
    time::StoreClock,
};

/// How many jobs one call deletes at most: others are to get their turn in between.
const BATCH: NonZeroU32 = NonZeroU32::new(500).unwrap();
/// How many jobs are read at once to be deleted by their ids. They come with their inputs and outputs.
const PAGE: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// The longest pause before the first sweep of a worker.
const FIRST_SWEEP: Duration = Duration::from_secs(1);

/// Which of the jobs that have ended are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retain {
    /// All of them.
    #[default]
    Forever,
    /// Those that ended no longer ago, by the store's clock.
    For(Duration),
    /// So many, the newest by creation (by id where two were created at once), as in every listing. 0 keeps none.
    Newest(u32),
}

/// How long the jobs of a queue are kept once they have ended. All of them for ever, where nothing else is said.
///
/// Jobs that wait or run are never deleted, whatever is said here. To have a job deleted by the very write that completes
/// it, enqueue it with `.delete_on_complete()`; failed and cancelled jobs stay then as well, until retention deletes them.
///
/// ```
/// use std::time::Duration;
/// use queue::{Retain, Retention};
///
/// let day = Duration::from_secs(86_400);
/// let retention = Retention::new()
///     .completed(Retain::For(day))
///     .failed(Retain::For(30 * day))
///     .cancelled(Retain::Newest(1_000));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retention {
    /// Of the jobs that completed.
    pub completed: Retain,
    /// Of the jobs that failed for good.
    pub failed: Retain,
    /// Of the jobs that were cancelled.
    pub cancelled: Retain,
}

impl Retention {
    /// Everything for ever.
    pub const fn new() -> Self {
        Retention {
            completed: Retain::Forever,
            failed: Retain::Forever,
            cancelled: Retain::Forever,
        }
    }

    /// The same for all jobs, however they ended.
    pub const fn of_all(retain: Retain) -> Self {
        Retention { completed: retain, failed: retain, cancelled: retain }
    }

    /// Keeps completed jobs so.
    #[must_use]
    pub const fn completed(mut self, retain: Retain) -> Self {
        self.completed = retain;
        self
    }

    /// Keeps failed jobs so.
    #[must_use]
    pub const fn failed(mut self, retain: Retain) -> Self {
        self.failed = retain;
        self
    }

    /// Keeps cancelled jobs so.
    #[must_use]
    pub const fn cancelled(mut self, retain: Retain) -> Self {
        self.cancelled = retain;
        self
    }

    fn of(&self, state: State) -> Retain {
        match state {
            State::Completed => self.completed,
            State::Failed => self.failed,
            State::Cancelled => self.cancelled,
            State::Waiting | State::Running if broken!(SweepLive) => self.completed,
            State::Waiting | State::Running => Retain::Forever,
        }
    }
}

/// How many jobs a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// That had completed.
    pub completed: u64,
    /// That had failed.
    pub failed: u64,
    /// That had been cancelled.
    pub cancelled: u64,
}

impl Swept {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.completed + self.failed + self.cancelled
    }

    fn add(&mut self, state: State, count: u64) {
        match state {
            State::Completed => self.completed += count,
            State::Failed => self.failed += count,
            State::Cancelled => self.cancelled += count,
            State::Waiting | State::Running => {}
        }
    }
}

impl Queue {
    /// Deletes the jobs of these queues that have ended and are not to be kept, with their logs, and says how many.
    ///
    /// It asks for the time and the counts (two trips), and then deletes in calls of at most 500 jobs: one call for each queue
    /// and outcome of which there are jobs, and one more for each full batch; for [`Retain::Newest`] a read goes before it.
    /// What has been deleted stays so if it breaks off.
    ///
    /// Any number of sweeps may go on at once, and jobs may end meanwhile: a job is deleted by one of them, and none deletes a
    /// job that was among the newest to be kept when it looked. A queue may therefore hold more jobs than
    /// [`Retain::Newest`] says until the next sweep, but a sweep leaves fewer only if newer ones are deleted by hand.
    ///
    /// # Errors
    /// Trouble with the store; the call can be repeated.
    pub async fn sweep(&self, queues: impl Into<Queues>, retention: Retention) -> Result<Swept> {
        let policies = vec![(queues.into(), retention)];
        let store = Patient { io: self.io().clone(), patience: Duration::MAX };
        self.io().call(|_| async move { sweep(&store, &policies).await }).await
    }
}

impl Worker {
    /// As [`Queue::sweep`], with what the worker was told by
    /// [`retention`](crate::WorkerBuilder::retention). A worker that serves does so by itself.
    ///
    /// # Errors
    /// As [`Queue::sweep`].
    pub async fn sweep(&self) -> Result<Swept> {
        let policies = self.settings().sweeping.policies.clone();
        let store = Patient { io: self.queue().io().clone(), patience: Duration::MAX };
        self.queue().io().call(|_| async move { sweep(&store, &policies).await }).await
    }

    /// What keeps sweeping while the worker serves, if there is anything to sweep. It waits for one call only so long.
    pub(crate) fn sweeping(
        &self,
        patience: Duration,
        clock: StoreClock,
        over: CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let sweeping = self.settings().sweeping.clone();
        let store = Patient { io: self.queue().io().clone(), patience };
        (!sweeping.policies.is_empty()).then(|| sweeping.go_on(store, clock, over))
    }
}

/// When a worker sweeps, and what.
#[derive(Clone, Debug)]
pub(crate) struct Sweeping {
    /// A setting that names the queue counts before one for all queues, and a later one before an earlier one.
    pub(crate) policies: Vec<(Queues, Retention)>,
    pub(crate) every: Duration,
}

impl Sweeping {
    /// Sweeps again and again until it is over. Workers need not agree on who does.
    async fn go_on(self, store: Patient, clock: StoreClock, over: CancellationToken) {
        let mut wait = self.every.min(FIRST_SWEEP);
        loop {
            let due = clock.now().plus(jittered(wait));
            wait = self.every;
            let sweep = async {
                clock.sleep_until(due).await;
                surviving(sweep(&store, &self.policies)).await
            };
            // What a sweep that breaks off has left is found by the next one, of anybody.
            match over.run_until_cancelled(sweep).await {
                None => return,
                Some(Ok(swept)) if swept.total() == 0 => {}
                Some(Ok(Swept { completed, failed, cancelled })) => {
                    tracing::info!(completed, failed, cancelled, "deleted what was not to be kept");
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "deleting what is not to be kept failed")
                }
            }
        }
    }
}

/// A store whose calls are waited for only so long. One that takes longer goes on to its end all the same: the next sweep has less
/// to do.
struct Patient {
    io: Io,
    patience: Duration,
}

impl Patient {
    async fn ping(&self) -> Result<Timestamp> {
        let call = self.io.call(|store| async move { store.ping().await });
        answering(self.patience, call).await
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        let filter = filter.clone();
        let call = self.io.call(|store| async move { store.tally(&filter).await });
        answering(self.patience, call).await
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        let query = query.clone();
        let call = self.io.call(|store| async move { store.find(&query).await });
        answering(self.patience, call).await
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        let filter = filter.clone();
        let call = self.io.call(move |store| async move { store.delete(&filter, limit).await });
        answering(self.patience, call).await
    }
}

async fn sweep(store: &Patient, policies: &[(Queues, Retention)]) -> Result<Swept> {
    let mut swept = Swept::default();
    if policies.iter().all(|(_, retention)| *retention == Retention::new()) {
        return Ok(swept);
    }
    let mut ended = JobFilter::all().with_states(swept_states());
    ended.queues = named(policies);
    let now = store.ping().await?;
    for tally in store.tally(&ended).await? {
        let Some(retention) = policy(policies, &tally) else { continue };
        let deleted = match retention.of(tally.state) {
            Retain::Forever => 0,
            Retain::For(time) => {
                let mut expired = of(&tally);
                expired.finished = TimeRange::before(now.minus(time));
                delete_all(store, &expired).await?
            }
            Retain::Newest(count) if tally.count <= u64::from(count) => 0,
            Retain::Newest(count) => match broken!(SweepByCount) {
                true => delete_oldest(store, &tally, count).await?,
                false => delete_beyond(store, &tally, count).await?,
            },
        };
        swept.add(tally.state, deleted);
    }
    Ok(swept)
}

fn swept_states() -> States {
    if broken!(SweepLive) { States::ALL } else { States::FINAL }
}

/// The queues that are named; `None` if all are meant.
fn named(policies: &[(Queues, Retention)]) -> Option<Vec<queue_core::QueueName>> {
    let mut names = Vec::new();
    for (queues, _) in policies {
        match queues {
            Queues::All => return None,
            Queues::Only(queues) => names.extend(queues.iter().cloned()),
        }
    }
    Some(names)
}

fn policy<'a>(policies: &'a [(Queues, Retention)], tally: &Tally) -> Option<&'a Retention> {
    let last = |all: bool| {
        let meant = |(queues, _): &&(Queues, Retention)| {
            matches!(queues, Queues::All) == all && queues.contains(&tally.queue)
        };
        policies.iter().rev().find(meant)
    };
    let own = if broken!(QueueRetentionIsIgnored) { None } else { last(false) };
    own.or_else(|| last(true)).map(|(_, retention)| retention)
}

/// The jobs of a queue that ended so.
fn of(tally: &Tally) -> JobFilter {
    JobFilter::queue(tally.queue.clone()).with_states(tally.state)
}

/// Deletes all matching jobs, batch by batch.
async fn delete_all(store: &Patient, filter: &JobFilter) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let count = store.delete(filter, BATCH).await?;
        deleted += count;
        if count < u64::from(BATCH.get()) {
            return Ok(deleted);
        }
    }
}

/// Deletes all but the newest.
///
/// Not by their number: two sweeps that counted the same would delete twice as many. What lies beyond the newest is read,
/// and only that is deleted; jobs that end meanwhile can but move it further beyond.
async fn delete_beyond(store: &Patient, tally: &Tally, newest: u32) -> Result<u64> {
    let mut query = JobQuery::new(of(tally));
    query.offset = newest.into();
    query.limit = PAGE;
    let mut deleted = 0;
    loop {
        let page = store.find(&query).await?;
        let Some(oldest) = page.items.last() else { return Ok(deleted) };
        let mut count = 0;
        if page.next.is_some() {
            count += delete_all(store, &older(tally, oldest.created_at)).await?;
        }
        let mut beyond = of(tally);
        beyond.ids = Some(page.items.iter().map(|job| job.id).collect());
        count += store.delete(&beyond, PAGE).await?;
        deleted += count;
        // Another sweep is deleting the same.
        if count == 0 {
            return Ok(deleted);
        }
    }
}

/// The tempting way, which the tests know to be wrong.
async fn delete_oldest(store: &Patient, tally: &Tally, newest: u32) -> Result<u64> {
    let more = u32::try_from(tally.count.saturating_sub(newest.into())).unwrap_or(u32::MAX);
    match NonZeroU32::new(more) {
        Some(more) => store.delete(&of(tally), more).await,
        None => Ok(0),
    }
}

fn older(tally: &Tally, than: Timestamp) -> JobFilter {
    let mut older = of(tally);
    older.created = TimeRange::before(than);
    older
}
