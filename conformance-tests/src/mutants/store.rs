use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use queue_core::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Claimed, Clock, Fire, Fired, Held,
    Inserted, Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page,
    Reach, Reaped, Record, Result, ScheduleStat, StoreInfo, Tally, Timestamp, Version, Wakeup,
    broadcast_wakeups, check_prefix,
    spec::{Answer, ByOp, Op, RunOp, World},
};

use super::flaw::{Around, Flaw, Hook, Shared, Way};

/// The reference machine with one flaw. Clones share the jobs.
#[derive(Clone)]
pub struct BrokenStore(Arc<Inner>);

struct Inner {
    shared: Shared,
    flaw: Flaw,
}

impl BrokenStore {
    /// An empty store with this flaw that runs by this clock.
    pub fn new(mut flaw: Flaw, clock: Clock) -> Self {
        let changing = std::mem::take(&mut flaw.changing);
        let shared = Shared::new(World::new(Self::capabilities()), clock, changing);
        BrokenStore(Arc::new(Inner { shared, flaw }))
    }

    /// A small limit for payloads, so that exceeding it is cheap.
    const fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::new(Reach::Process);
        capabilities.max_payload_bytes = 2 * 1024 * 1024;
        capabilities
    }

    fn read(&self, mut job: Job) -> Job {
        if let Some(spoil) = &self.0.flaw.reading.0 {
            spoil(&mut job);
        }
        job
    }

    fn spoil<T: Clone>(hook: Option<&(dyn Fn(&mut T) + Send + Sync)>, items: &[T]) -> Vec<T> {
        let mut items = items.to_vec();
        if let Some(spoil) = hook {
            items.iter_mut().for_each(spoil);
        }
        items
    }
}

impl fmt::Debug for BrokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BrokenStore").field(&self.0.flaw).finish()
    }
}

/// Calls what the flaw put in the place of an operation, or else the operation itself.
macro_rules! either {
    ($store:ident.$call:ident($($arg:expr),*), |$world:ident, $now:ident| $sound:expr) => {{
        // A caller that loops on a store which never ends its loop must still reach its time limit.
        tokio::task::consume_budget().await;
        match &$store.0.flaw.$call.0 {
            Some(flawed) => flawed(&$store.0.shared, $($arg),*).await,
            None => $store.0.shared.step(|$world, $now| {
                let _ = $now;
                $sound
            }),
        }
    }};
}

#[async_trait]
impl JobStore for BrokenStore {
    fn info(&self) -> StoreInfo {
        let mut capabilities = Self::capabilities();
        if !self.0.flaw.is_mute {
            capabilities.wakeups = Some(Reach::Process);
        }
        StoreInfo::new("broken", capabilities)
    }

    async fn ping(&self) -> Result<Timestamp> {
        Ok(self.0.shared.now())
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
        let jobs = Self::spoil(self.0.flaw.writing.0.as_deref(), jobs);
        either!(self.insert(&jobs), |world, now| world.insert(&jobs, now))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed> {
        let mut claimed = either!(self.claim(request), |world, now| world.claim(request, now))?;
        if self.0.shared.changing.0.is_some() {
            let ids: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
            let spoiled = self.0.shared.step(|world, _| world.get(&ids, request.log));
            claimed.jobs = spoiled.into_iter().flatten().collect();
        }
        claimed.jobs = claimed.jobs.into_iter().map(|job| self.read(job)).collect();
        Ok(claimed)
    }

    async fn update_jobs(&self, updates: &[JobUpdate]) -> Result<Vec<Outcome>> {
        let updates = Self::spoil(self.0.flaw.patching.0.as_deref(), updates);
        either!(self.update(&updates), |world, now| world.update(&updates, now))
    }

    async fn update_and_claim(
        &self,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> Result<(Vec<Outcome>, Claimed)> {
        if let Some(flawed) = &self.0.flaw.both.0 {
            return flawed(&self.0.shared, updates, request).await;
        }
        request.check()?;
        let outcomes = self.update_jobs(updates).await?;
        Ok((outcomes, self.claim(request).await?))
    }

    async fn heartbeat(&self, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
        either!(self.heartbeat(held, &lease), |world, now| world.heartbeat(held, lease, now))
    }

    async fn reap(&self, limit: NonZeroU32) -> Result<Vec<Reaped>> {
        either!(self.reap(&limit), |world, now| Ok(world.reap(limit, now)))
    }

    async fn update_where(&self, filter: &JobFilter, change: &BulkChange) -> Result<BulkOutcome> {
        either!(self.update_where(filter, change), |world, now| world
            .update_where(filter, change, now))
    }

    async fn delete(&self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        either!(self.delete(filter, &limit), |world, now| world.delete(filter, limit))
    }

    async fn get(&self, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
        let jobs: Vec<Option<Job>> =
            either!(self.get(ids, &log), |world, now| Ok(world.get(ids, log)))?;
        Ok(jobs.into_iter().map(|job| job.map(|job| self.read(job))).collect())
    }

    async fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        let page = either!(self.find(query), |world, now| world.find(query))?;
        Ok(Page::new(page.items.into_iter().map(|job| self.read(job)).collect(), page.next))
    }

    async fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        either!(self.tally(filter), |world, now| world.tally(filter))
    }

    async fn fire(&self, fire: &Fire) -> Result<Fired> {
        either!(self.fire(fire), |world, now| world.fire(fire, now))
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStat>> {
        either!(self.schedules(), |world, now| Ok(world.schedules()))
    }

    async fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        either!(self.records(prefix), |world, now| {
            check_prefix(prefix)?;
            Ok(world.records(prefix))
        })
    }

    async fn put_record(&self, record: &Record, expect: Option<Version>) -> Result<Outcome> {
        either!(self.put_record(record, &expect), |world, now| world
            .put_record(record, expect, now))
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        let heard = match self.0.flaw.is_mute {
            true => stream::pending().boxed(),
            false => broadcast_wakeups(self.0.shared.hints.subscribe()),
        };
        match &self.0.flaw.hearing.0 {
            Some(spoil) => spoil(heard),
            None => heard,
        }
    }
}

/// A store whose calls a flaw makes in its own way.
#[derive(Debug)]
pub(super) struct Spoiled {
    way: Way,
    around: Arc<Hook<Around>>,
}

impl Spoiled {
    /// The way to a store, if a flaw spoils it.
    pub(super) fn over(way: Way, around: &Arc<Hook<Around>>) -> Arc<dyn JobStore> {
        match around.0 {
            Some(_) => Arc::new(ByOp(Spoiled { way, around: around.clone() })),
            None => way.broken,
        }
    }
}

#[async_trait]
impl RunOp for Spoiled {
    fn info(&self) -> StoreInfo {
        self.way.broken.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        self.way.broken.ping().await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.way.broken.wakeups()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        match &self.around.0 {
            Some(around) => around(self.way.clone(), op).await,
            None => op.run(&*self.way.broken).await,
        }
    }
}
