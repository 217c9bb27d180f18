use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture, join_all},
    stream::FuturesUnordered,
};
use queue_core::{
    ClaimRequest, Effect, Error, ErrorKind, JobFilter, JobStore, Kinds, Result, States,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Worker, plan::Plan};
use crate::{
    JobReport,
    fresh::{Fresh, Handed},
    io::{answering, surviving},
    jitter::jittered,
    run::Taken,
    supervise::{End, Pulse, Who, patience, supervise, watch},
    time::StoreClock,
};

/// How often a worker looks for leases that are over.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// How many jobs it takes back at once.
const REAP_LIMIT: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// The pause before a claim whose answer was lost is asked for again while the worker stops.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How often a worker that works until nothing is left looks whether that is so.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// The jobs that run: what became of each, and whether it held a lane.
type Running = FuturesUnordered<BoxFuture<'static, (Option<JobReport>, bool)>>;

impl Worker {
    /// Works until `shutdown` resolves, then stops gracefully: nothing new is claimed, running jobs
    /// may finish within the grace time, and what still runs then is told to stop and given back
    /// at once, without using an attempt. If the store does not answer, it stops all the same one
    /// lease after the grace time: what it held comes back by itself then.
    ///
    /// Trouble with the store does not end it: it waits, with jitter, and goes on.
    ///
    /// # Errors
    /// Trouble with the store at the very start, when its clock is read.
    #[doc(alias = "auto_run")]
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
        observe: impl FnMut(&JobReport) + Send,
    ) -> Result<()> {
        let (ticking, over) = self.start_scheduling();
        let shutdown = async move {
            shutdown.await;
            over.cancel();
            if broken!(ClaimsWhileStopping) {
                tokio::time::sleep(self.settings.grace).await;
            }
        };
        let served = self.serve_jobs(shutdown, observe).await;
        ticking.stop(self.settings.grace).await;
        served
    }

    async fn serve_jobs(
        &self,
        shutdown: impl Future<Output = ()> + Send,
        mut observe: impl FnMut(&JobReport) + Send,
    ) -> Result<()> {
        let io = self.queue().io();
        let (worker, patience) = (&self.settings.holder, patience(self.settings.lease));
        let clock = answering(patience, StoreClock::read(io)).await?;
        clock.note(&self.bench.readings);
        let over = CancellationToken::new();
        let _reaper = over.clone().drop_guard();
        if let Some(handle) = io.handle() {
            if let Some(sweeping) = self.sweeping(patience, clock.clone(), over.clone()) {
                handle.spawn(sweeping);
            }
            let (store, clock) = (io.store().clone(), clock.clone());
            let who = Who { worker: worker.clone(), does: "takes back jobs whose lease is over" };
            supervise(handle, who, patience, over, move |pulse| {
                reap_regularly(store.clone(), clock.clone(), pulse)
            });
        }
        let (hints, _listening) = io.hints(worker.clone());
        let mut watched = watch(io.handle(), worker.clone(), patience);
        // Without hints from the store, what this worker itself has just freed or put back would be
        // found by polling only.
        let blind = io.is_blind();
        let stop = CancellationToken::new();
        let mut running: Running = FuturesUnordered::new();
        let mut plan = Plan::new();
        let mut seen = clock.now();
        let mut claiming: Option<BoxFuture<'_, (ClaimRequest, Result<Handed>)>> = None;
        tokio::pin!(shutdown);
        loop {
            let busy = match broken!(ClaimsBeyondFreeSlots) {
                true => 0,
                false => u32::try_from(running.len()).unwrap_or(u32::MAX),
            };
            let slots = self.settings.concurrency + u32::from(broken!(SequentialIsParallel));
            let free = NonZeroU32::new(slots.saturating_sub(busy));
            let free = if broken!(ClaimsAhead) { NonZeroU32::new(100) } else { free };
            let may_ask = claiming.is_none() && free.is_some();
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                () = watched.goes_on() => {}
                Some((report, laned)) = running.next(), if !running.is_empty() => {
                    report.iter().for_each(&mut observe);
                    // The store hints at what this has freed or put back, but hints may be lost.
                    if blind || laned || report.is_some_and(|report| report.is_due_again()) {
                        plan.hurry();
                    }
                }
                Some((request, claimed)) = OptionFuture::from(claiming.as_mut()) => {
                    claiming = None;
                    for fresh in plan.take_in(&request, claimed, &clock) {
                        let laned = fresh.job().is_some_and(|job| job.lane.is_some());
                        let taken = Taken::new(self.bench.clone(), fresh);
                        running.push(taken.spawn().map(move |report| (report, laned)).boxed());
                    }
                }
                () = hints.notified(), if !plan.is_hurried() => plan.hurry(),
                () = clock.moved_from(seen) => {
                    seen = clock.now();
                    plan.hurry();
                }
                () = tokio::time::sleep_until(plan.ask_at()), if may_ask => {
                    let requests = |free| self.requests(None, None, None, free);
                    claiming = plan.next_request(free, requests).map(|request| {
                        let stop = stop.clone();
                        async move { self.ask(request, stop).await }.boxed()
                    });
                }
            }
        }
        // From here on it only waits.
        drop(watched);
        let unfinished = async {
            let mut unanswered = match claiming {
                Some(claiming) => Some(claiming.await),
                None => plan.unanswered().map(|request| (request, Err(unheard()))),
            };
            // An answer that was lost may have taken jobs: the same token finds them.
            while let Some((request, claimed)) = unanswered.take() {
                match claimed {
                    Ok(handed) => give_back(handed.jobs).await,
                    Err(error) if error.is_transient() => {
                        tokio::time::sleep(jittered(ASK_AGAIN)).await;
                        unanswered = Some(self.ask(request, stop.clone()).await);
                    }
                    Err(_) => {}
                }
            }
        };
        let unfinished = async {
            if timeout(self.settings.lease, unfinished).await.is_err() {
                tracing::warn!("the store did not answer a claim while the worker stopped");
            }
        };
        // The grace time of what runs does not wait for the answer to a claim.
        tokio::join!(unfinished, self.wind_down(running, observe, &stop));
        Ok(())
    }

    async fn ask(
        &self,
        request: ClaimRequest,
        stop: CancellationToken,
    ) -> (ClaimRequest, Result<Handed>) {
        let claimed = self.bench.committer.claim(request.clone(), stop).await;
        (request, claimed)
    }

    async fn wind_down(
        &self,
        mut running: Running,
        mut observe: impl FnMut(&JobReport),
        stop: &CancellationToken,
    ) {
        let mut ended = async || {
            while let Some((report, _)) = running.next().await {
                report.iter().for_each(&mut observe);
            }
        };
        let grace = if broken!(GraceIsSkipped) { Duration::ZERO } else { self.settings.grace };
        if timeout(grace, ended()).await.is_ok() {
            return;
        }
        stop.cancel();
        if timeout(self.settings.lease, ended()).await.is_err() {
            tracing::warn!("the store did not take back all jobs while the worker stopped");
        }
    }

    /// Works until no job of its queues and kinds is waiting or running, by whomever. It only runs jobs, and handles no schedules.
    ///
    /// # Errors
    /// Trouble with the store at the very start.
    pub async fn run_until_empty(&self, observe: impl FnMut(&JobReport) + Send) -> Result<()> {
        let empty = async {
            loop {
                match self.live().await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "the jobs left could not be counted"),
                }
                tokio::time::sleep(COUNT_EVERY).await;
            }
        };
        self.serve_jobs(empty, observe).await
    }

    async fn live(&self) -> Result<u64> {
        let mut filter = JobFilter::all().with_states(States::LIVE);
        filter.queues.clone_from(&self.settings.queues);
        if let Kinds::Only(kinds) = self.kinds() {
            filter.kinds = Some(kinds);
        }
        let patience = patience(self.settings.lease);
        let count = |store: Arc<dyn JobStore>| async move {
            answering(patience, store.tally(&filter)).await
        };
        let tallies = self.queue().io().call(count).await?;
        Ok(tallies.iter().map(|tally| tally.count).sum())
    }
}

/// Gives back what was claimed and will not be started, each to its place in the queue.
pub(super) async fn give_back(jobs: Vec<Fresh>) {
    for released in join_all(jobs.into_iter().map(Fresh::give_back)).await {
        if let Err(error) = released {
            tracing::warn!(%error, "a job that was claimed in vain was not given back");
        }
    }
}

/// Stands for the answer that was lost.
fn unheard() -> Error {
    Error::new(ErrorKind::Unavailable, "the answer was lost").with_effect(Effect::Unknown)
}

async fn reap_regularly(store: Arc<dyn JobStore>, clock: StoreClock, pulse: Pulse) -> End {
    let mut seen = clock.now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(jittered(REAP_EVERY)) => {}
            () = clock.moved_from(seen) => seen = clock.now(),
        }
        match pulse.during(surviving(store.reap(REAP_LIMIT))).await {
            Ok(reaped) if reaped.is_empty() => {}
            Ok(reaped) => {
                tracing::info!(jobs = reaped.len(), "took back jobs whose lease was over")
            }
            Err(error) => tracing::warn!(%error, "looking for expired leases failed"),
        }
    }
}
