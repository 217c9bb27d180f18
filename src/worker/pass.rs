use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    num::NonZeroU32,
    sync::Arc,
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use queue_core::{
    ClaimRequest, Error, JobFilter, JobId, JobStore, Order, QueueName, Result, State,
};
use tokio_util::sync::CancellationToken;

use super::{Worker, serve::give_back};
use crate::{
    JobReport, JobResult, Summary,
    fresh::{Fresh, Handed},
    jitter::repeated,
    run::Taken,
};

/// One pass of a worker: which jobs to claim, and how to run them.
#[derive(Clone, Debug)]
#[must_use]
pub struct Pass {
    limit: u32,
    order: Option<Order>,
    queues: Option<Vec<QueueName>>,
    filter: Option<JobFilter>,
    concurrency: Option<u32>,
    count_remaining: bool,
}

impl Pass {
    /// Up to 10 jobs, all at once, in the worker's order, from the worker's queues.
    pub const fn new() -> Self {
        Pass {
            limit: 10,
            order: None,
            queues: None,
            filter: None,
            concurrency: None,
            count_remaining: false,
        }
    }

    /// Up to so many jobs. 0 is refused by [`Worker::run`].
    pub const fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// In this order, whatever the worker or its queues say.
    pub const fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// From these queues instead of the worker's.
    pub fn queues(mut self, queues: impl IntoIterator<Item = QueueName>) -> Self {
        self.queues = Some(queues.into_iter().collect());
        self
    }

    /// Only jobs that match.
    pub fn filter(mut self, filter: JobFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Only jobs of these kinds. Of none: no job.
    pub fn kinds<K: Into<Cow<'static, str>>>(self, kinds: impl IntoIterator<Item = K>) -> Self {
        let mut filter = self.filter.clone().unwrap_or_default();
        filter.kinds = Some(kinds.into_iter().map(Into::into).collect());
        self.filter(filter)
    }

    /// Only the jobs with these ids. With none: no job.
    pub fn ids(self, ids: impl IntoIterator<Item = JobId>) -> Self {
        let filter = self.filter.clone().unwrap_or_default();
        let mut with_ids = filter;
        with_ids.ids = Some(ids.into_iter().collect());
        if broken!(NoIdsMeanAll) {
            with_ids.ids.take_if(|ids| ids.is_empty());
        }
        self.filter(with_ids)
    }

    /// Only jobs with this label.
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let filter = self.filter.clone().unwrap_or_default();
        self.filter(filter.with_label(key, value))
    }

    /// At most so many jobs at once, in claim order; as many as the limit says when it is not called. A job is claimed when there
    /// is a slot for it, and not before. 0 is refused by [`Worker::run`].
    pub const fn concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = Some(concurrency);
        self
    }

    /// One job after the other, in claim order: a concurrency of 1.
    pub const fn sequential(self) -> Self {
        self.concurrency(1)
    }

    /// Counts what is left at the end. One more trip.
    pub const fn count_remaining(mut self) -> Self {
        self.count_remaining = true;
        self
    }
}

impl Default for Pass {
    fn default() -> Self {
        Self::new()
    }
}

impl Worker {
    /// Makes one pass: claims up to the limit, runs what it got, and says what became of each job. It claims as many jobs as it
    /// has slots for, and further ones as slots become free, until it has reached the limit or finds no more.
    ///
    /// If the future is dropped, jobs that were started go on, and the others are given back.
    ///
    /// A job that is to be retried is not run again in the same pass, even if it is due at once. If it goes before the others even
    /// so (by its priority, in LIFO order, or before jobs that fell due later), it is held until the pass has claimed all that it
    /// takes, and then given back: until then it keeps its place in its lane, a request to cancel it waits, and a crash of the
    /// process counts as one of the job.
    /// Jobs whose lease is over are taken back first if there is room for them.
    ///
    /// # Errors
    /// `Invalid` for a limit or a concurrency of 0; trouble with the store before anything was claimed. After that it ends the
    /// claiming, or makes a job [`Lost`](crate::JobResult::Lost).
    pub async fn run(&self, pass: Pass) -> Result<Summary> {
        if broken!(PassesEnqueueSchedules) {
            let _ = self.handle_schedules().await?;
        }
        let unlimited = broken!(LimitZeroIsUnlimited).then_some(NonZeroU32::MAX);
        let limit = NonZeroU32::new(pass.limit)
            .or(unlimited)
            .ok_or_else(|| Error::invalid("the limit of a pass must be at least 1"))?;
        if pass.concurrency == Some(0) {
            return Err(Error::invalid("the concurrency of a pass must be at least 1"));
        }
        let most = pass.concurrency.filter(|_| !broken!(PassConcurrencyIsIgnored));
        let slots = most.map_or(limit.get(), |most| most.min(limit.get())) as usize;
        let limit = limit.get() as usize;
        let requests = self.requests(
            pass.queues.as_deref(),
            pass.order,
            pass.filter.as_ref(),
            NonZeroU32::MIN,
        );
        let mut asked =
            Asked { requests: requests.into(), jobs: HashSet::new(), again: Vec::new() };
        let (mut taken, mut running) = (VecDeque::new(), FuturesUnordered::new());
        let (mut begun, mut jobs) = (0, Vec::new());
        loop {
            // A store may have answered with more than it was asked for.
            let (free, left) = (slots - running.len(), limit.saturating_sub(asked.jobs.len()));
            let room = if broken!(PassesClaimBeyondTheirSlots) { left } else { free.min(left) };
            self.claim_for(&mut asked, &mut taken, room).await?;
            for taken in taken.drain(..free.min(taken.len())) {
                let place = begun;
                running.push(taken.spawn().map(move |report| Some((place, report?))));
                begun += 1;
            }
            if asked.requests.is_empty() || asked.jobs.len() >= limit {
                give_back(std::mem::take(&mut asked.again)).await;
            }
            // A job that takes long holds up no slot but its own, so they end in any order.
            match running.next().await {
                Some(report) => jobs.extend(report),
                None => break,
            }
        }
        jobs.sort_by_key(|(place, _)| *place);
        let jobs: Vec<JobReport> = jobs.into_iter().map(|(_, report)| report).collect();
        if broken!(OneBadJobRejectsTheRun) {
            refuse_unknown(&jobs)?;
        }
        let mut remaining = if pass.count_remaining { self.remaining(&pass).await } else { None };
        if broken!(NothingRemains) {
            remaining = remaining.and(Some(jobs.len() as u64));
        }
        Ok(Summary { jobs, remaining })
    }

    /// Makes passes until no job is due any more.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn drain(&self, pass: Pass) -> Result<Summary> {
        let mut all = Summary::default();
        loop {
            let summary = self.run(pass.clone()).await?;
            let nothing_due = summary.jobs.is_empty();
            // Also the last one: it says what remains.
            all.extend(summary);
            if nothing_due {
                return Ok(all);
            }
        }
    }

    /// Claims for so many slots, of one request after the other: the next one's turn is when the first has no more.
    async fn claim_for(
        &self,
        asked: &mut Asked,
        taken: &mut VecDeque<Taken>,
        slots: usize,
    ) -> Result<()> {
        let enough = taken.len() + slots;
        while let Some(room) = room(enough, taken.len())
            && let Some(request) = asked.requests.front()
        {
            let mut jobs = Vec::new();
            let claimed = self.claim_into(&mut jobs, request.clone(), room).await;
            if jobs.len() < room.get() as usize {
                asked.requests.pop_front();
            }
            for fresh in jobs {
                let is_new = fresh.job().is_some_and(|job| asked.jobs.insert(job.id));
                match is_new || broken!(PassesRunRetriesAtOnce) {
                    true => taken.push_back(Taken::new(self.bench.clone(), fresh)),
                    false => asked.again.push(fresh),
                }
            }
            match claimed {
                Ok(()) => {}
                Err(error) if asked.jobs.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, jobs = asked.jobs.len(), "a pass runs what it could claim");
                    asked.requests.clear();
                }
            }
        }
        Ok(())
    }

    async fn claim_into(
        &self,
        jobs: &mut Vec<Fresh>,
        mut request: ClaimRequest,
        limit: NonZeroU32,
    ) -> Result<()> {
        request.limit = limit;
        request.token = queue_core::Uuid::now_v7();
        let claimed = self.claim_surely(&request).await?;
        let claimed_at = claimed.jobs.first().and_then(|fresh| fresh.job()?.started_at);
        jobs.extend(claimed.jobs);
        // Something is to be had that this claim could not take: a lease that is over, or a job that
        // somebody was writing at that moment. One more try; a pass does not wait.
        let Some(free) = room(limit.get() as usize, jobs.len()) else { return Ok(()) };
        let Some(due) = claimed.next_due else { return Ok(()) };
        let io = self.queue().io();
        // The store's clock decides. A job that was just claimed says what it shows.
        let now = match claimed_at {
            Some(now) => now,
            None => io.call(|store| async move { store.ping().await }).await?,
        };
        if due <= now {
            io.call(|store| async move { store.reap(free).await }).await?;
            request.limit = free;
            request.token = queue_core::Uuid::now_v7();
            jobs.extend(self.claim_surely(&request).await?.jobs);
        }
        Ok(())
    }

    /// Claims, and asks again with the same token if the answer was lost: what the first try took
    /// would otherwise be held by nobody until its lease is over.
    async fn claim_surely(&self, request: &ClaimRequest) -> Result<Handed> {
        // A pass is not stopped.
        let claim = || self.bench.committer.claim(request.clone(), CancellationToken::new());
        repeated(claim).await
    }

    /// `None` if the store could not say: what the pass did is worth more than the count.
    async fn remaining(&self, pass: &Pass) -> Option<u64> {
        let mut filter = pass.filter.clone().unwrap_or_default().with_states(State::Waiting);
        // As in the claim, the filter is on top of the queues and kinds that the worker takes.
        let queues = pass.queues.clone().or_else(|| self.settings.queues.clone());
        filter.queues = both(filter.queues, queues);
        if let queue_core::Kinds::Only(kinds) = self.kinds() {
            filter.kinds = both(filter.kinds, Some(kinds));
        }
        let count =
            |store: Arc<dyn JobStore>| async move { repeated(|| store.tally(&filter)).await };
        match self.queue().io().call(count).await {
            Ok(tallies) => Some(tallies.iter().map(|tally| tally.count).sum()),
            Err(error) => {
                tracing::warn!(%error, "the jobs that remain could not be counted");
                None
            }
        }
    }
}

/// What a pass asks for and what it has got.
struct Asked {
    /// The requests that may have more, in their order.
    requests: VecDeque<ClaimRequest>,
    /// All jobs that it claimed.
    jobs: HashSet<JobId>,
    /// Those that it claimed anew: a retry that was due at once. They are held until the pass claims no more, or each further
    /// claim would find them again.
    again: Vec<Fresh>,
}

/// What a broken engine makes of a pass.
fn refuse_unknown(jobs: &[JobReport]) -> Result<()> {
    let unknown = |job: &JobReport| matches!(&job.result, JobResult::Failed { error } if error.name == "unknown-task");
    match jobs.iter().find(|job| unknown(job)) {
        Some(job) => Err(Error::invalid(format!("{:?} cannot be run", job.kind))),
        None => Ok(()),
    }
}

/// What is in both lists, of which `None` has everything.
fn both<T: PartialEq>(one: Option<Vec<T>>, other: Option<Vec<T>>) -> Option<Vec<T>> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.retain(|there| other.contains(there));
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

fn room(enough: usize, there: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(enough.saturating_sub(there)).unwrap_or(u32::MAX))
}
