use std::{collections::VecDeque, num::NonZeroU32, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture, join_all},
    stream::{self, FuturesUnordered},
};
use queue_core::{
    ClaimRequest, Claimed, Job, JobPatch, JobStore, Result, Timestamp, Transition, When,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    claims::{LONGEST_SLEEP, SHORTEST_SLEEP},
};
use crate::{JobReport, Summary, active::Active, jitter::jittered};

/// How often a worker looks for leases that are over.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// How many jobs it takes back at once.
const REAP_LIMIT: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// How long it waits after a claim that failed.
const AFTER_TROUBLE: Duration = Duration::from_millis(250);

impl Worker {
    /// Works until `shutdown` resolves, then stops gracefully: nothing new is claimed, running jobs
    /// may finish within the grace time, and what still runs then is told to stop and given back
    /// at once, without using an attempt.
    ///
    /// Trouble with the store does not end it: it waits, with jitter, and goes on.
    ///
    /// # Errors
    /// Trouble with the store at the very start, when its clock is read.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.serve(shutdown, |_| {}).await
    }

    /// As [`run_until`](Self::run_until), and tells `observe` of every job whose attempt has ended.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    pub async fn serve(
        &self,
        shutdown: impl Future<Output = ()> + Send,
        mut observe: impl FnMut(&JobReport) + Send,
    ) -> Result<()> {
        let io = self.queue().io();
        let clock = StoreClock::read(io.store()).await?;
        let stopped = CancellationToken::new();
        let _reaper = stopped.clone().drop_guard();
        if let Some(handle) = io.handle() {
            handle.spawn(reap_regularly(io.store().clone(), stopped));
        }
        let mut wakeups = io.store().wakeups();
        let mut running = FuturesUnordered::new();
        let mut plan = Plan::new();
        let mut claiming: Option<BoxFuture<'_, (ClaimRequest, Result<Claimed>)>> = None;
        tokio::pin!(shutdown);
        loop {
            let busy = u32::try_from(running.len()).unwrap_or(u32::MAX);
            let free = NonZeroU32::new(self.settings.concurrency.saturating_sub(busy));
            let may_ask = claiming.is_none() && free.is_some();
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(report) = running.next(), if !running.is_empty() => observe(&report),
                Some((request, claimed)) = OptionFuture::from(claiming.as_mut()) => {
                    claiming = None;
                    for job in plan.take_in(&request, claimed, &clock) {
                        let active = self.hold(&job);
                        running.push(self.spawn(job, active));
                    }
                }
                hint = wakeups.next() => match hint {
                    Some(_) => plan.hurry(),
                    // A stream that ended gives no more hints: polling is the truth.
                    None => wakeups = stream::pending().boxed(),
                },
                () = tokio::time::sleep_until(plan.ask_at()), if may_ask => {
                    let request = plan.next_request(free, |free| self.requests(None, None, None, free));
                    claiming = request.map(|request| {
                        let committer = &self.bench.committer;
                        async move {
                            let claimed = committer.claim(request.clone()).await;
                            (request, claimed)
                        }
                        .boxed()
                    });
                }
            }
        }
        if let Some(claiming) = claiming {
            self.give_back(claiming.await.1).await;
        }
        self.wind_down(running, observe).await;
        Ok(())
    }

    /// Gives back what was claimed and will not be started.
    async fn give_back(&self, claimed: Result<Claimed>) {
        let jobs = claimed.map_or_else(|_| Vec::new(), |claimed| claimed.jobs);
        let release = || JobPatch::transition(Transition::Release { when: When::Now });
        let writes = jobs.iter().map(|job| async move {
            let active = Active::new(job);
            active.write(&self.bench.committer, release()).await
        });
        for written in join_all(writes).await {
            if let Err(error) = written {
                tracing::warn!(%error, "a job that was claimed in vain was not given back");
            }
        }
    }

    async fn wind_down(
        &self,
        mut running: FuturesUnordered<impl Future<Output = JobReport>>,
        mut observe: impl FnMut(&JobReport),
    ) {
        let over = tokio::time::sleep(self.settings.grace);
        tokio::pin!(over);
        let mut told = false;
        while !running.is_empty() {
            tokio::select! {
                Some(report) = running.next() => observe(&report),
                () = &mut over, if !told => {
                    told = true;
                    self.bench.keeper.stop_all();
                }
            }
        }
    }

    /// Works until no job of its queues and kinds is waiting or running, by whomever.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn run_until_empty(&self, observe: impl FnMut(&JobReport) + Send) -> Result<()> {
        let empty = async {
            loop {
                match self.live().await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the jobs left could not be counted"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        self.serve(empty, observe).await
    }

    async fn live(&self) -> Result<u64> {
        let mut filter = queue_core::JobFilter::all().with_states(queue_core::States::LIVE);
        filter.queues.clone_from(&self.settings.queues);
        if let queue_core::Kinds::Only(kinds) = self.kinds() {
            filter.kinds = Some(kinds);
        }
        let tallies =
            self.queue().io().call(|store| async move { store.tally(&filter).await }).await?;
        Ok(tallies.iter().map(|tally| tally.count).sum())
    }
}

/// When to ask for jobs, and with which requests: at once after a hint, else when the next one
/// falls due.
struct Plan {
    not_before: Instant,
    wake_at: Instant,
    hurried: bool,
    /// The requests of this round that are still to be made. One whose answer was lost is made again
    /// with its token, so that what it took is found.
    round: VecDeque<ClaimRequest>,
    earliest: Option<Timestamp>,
}

impl Plan {
    fn new() -> Self {
        let now = Instant::now();
        Plan {
            not_before: now,
            wake_at: now,
            hurried: false,
            round: VecDeque::new(),
            earliest: None,
        }
    }

    fn hurry(&mut self) {
        self.hurried = true;
    }

    fn ask_at(&self) -> Instant {
        if self.hurried { self.not_before } else { self.wake_at.max(self.not_before) }
    }

    fn next_request(
        &mut self,
        free: Option<NonZeroU32>,
        requests: impl FnOnce(NonZeroU32) -> Vec<ClaimRequest>,
    ) -> Option<ClaimRequest> {
        let free = free?;
        if self.round.is_empty() {
            self.hurried = false;
            self.earliest = None;
            self.round = requests(free).into();
        }
        let mut request = self.round.pop_front()?;
        // Slots may have been taken since the round began.
        request.limit = request.limit.min(free);
        Some(request)
    }

    fn take_in(
        &mut self,
        request: &ClaimRequest,
        claimed: Result<Claimed>,
        clock: &StoreClock,
    ) -> Vec<Job> {
        let now = Instant::now();
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%error, "claiming failed; trying again");
                self.round.push_front(request.clone());
                self.not_before = now + jittered(AFTER_TROUBLE);
                self.wake_at = self.not_before;
                return Vec::new();
            }
        };
        let full = u32::try_from(claimed.jobs.len()).is_ok_and(|n| n >= request.limit.get());
        self.not_before = if claimed.jobs.is_empty() { now + SHORTEST_SLEEP } else { now };
        self.earliest = [self.earliest, claimed.next_due].into_iter().flatten().min();
        self.wake_at = if full || !self.round.is_empty() {
            now
        } else {
            now + self.earliest.map_or(LONGEST_SLEEP, |due| clock.until(due).min(LONGEST_SLEEP))
        };
        claimed.jobs
    }
}

/// The store's clock, as this process sees it: read once, carried on by its own monotonic clock.
struct StoreClock {
    store: Timestamp,
    read_at: Instant,
}

impl StoreClock {
    async fn read(store: &Arc<dyn JobStore>) -> Result<Self> {
        let now = store.ping().await?;
        Ok(StoreClock { store: now, read_at: Instant::now() })
    }

    fn until(&self, due: Timestamp) -> Duration {
        self.store.plus(self.read_at.elapsed()).until(due)
    }
}

async fn reap_regularly(store: Arc<dyn JobStore>, stopped: CancellationToken) {
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep(jittered(REAP_EVERY)) => {}
        }
        match store.reap(REAP_LIMIT).await {
            Ok(reaped) if reaped.is_empty() => {}
            Ok(reaped) => {
                tracing::info!(jobs = reaped.len(), "took back jobs whose lease was over")
            }
            Err(error) => tracing::warn!(%error, "looking for expired leases failed"),
        }
    }
}

impl Summary {
    /// Adds a job.
    pub fn push(&mut self, report: JobReport) {
        self.jobs.push(report);
    }
}
