//! Defects that such systems ship with in the layer below the engine: the rules of jobs, lanes, keys and logs. A store is wrapped
//! so that the engine and its callers meet them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    num::NonZeroU32,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use queue_core::{
    BulkChange, EntryId, Error, ErrorKind, Guard, Inserted, Job, JobFilter, JobId, JobPatch,
    JobQuery, JobStore, JobUpdate, LogEntry, LogRead, NewJob, OnConflict, Outcome, Payload, Result,
    Seq, State, StoreInfo, Timestamp, Transition, Unique, Wakeup, When, async_trait,
    spec::{Answer, ByOp, Op, RunOp},
};

/// The store, or one that is broken around it.
pub(crate) fn around(store: Arc<dyn JobStore>) -> Arc<dyn JobStore> {
    let is_broken = broken!(CancelReopens)
        || broken!(PoisonIsRecovered)
        || broken!(CrashesUseRetries)
        || broken!(DueIsLater)
        || broken!(StopUsesAnAttempt)
        || broken!(TheLastEntryWins)
        || broken!(EntriesAreDoubled)
        || broken!(OrderIsAlwaysOne)
        || broken!(LogIsSentAgain)
        || broken!(CancelIsNotTold)
        || broken!(CancelIsCleared)
        || broken!(LanesWithinAWorker)
        || broken!(SupersedeTakesTheStarted)
        || broken!(BackoffHoldsTheLane)
        || broken!(UniqueLooksFirst)
        || broken!(SupersedeLooksFirst)
        || broken!(SupersedeDeletesTheFailed)
        || broken!(ConflictsAreShown)
        || broken!(AcknowledgesBeforeItWrites);
    if is_broken { Arc::new(ByOp(Defective(store))) } else { store }
}

/// What the wrappers of one process know together, as a database would.
#[derive(Default)]
struct Known {
    /// The jobs that were enqueued with a key.
    keyed: HashMap<String, Vec<JobId>>,
    /// Jobs that had ended when somebody asked to cancel them.
    reopened: HashSet<JobId>,
    /// Jobs that were given back by their holders.
    given_back: HashSet<JobId>,
    /// The lanes of jobs that wait for their backoff.
    lanes: BTreeSet<String>,
}

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Defective(Arc<dyn JobStore>);

#[async_trait]
impl RunOp for Defective {
    fn info(&self) -> StoreInfo {
        self.0.info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        self.0.ping().await
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        self.0.wakeups()
    }

    async fn run(&self, mut op: Op) -> Result<Answer> {
        match &mut op {
            Op::Insert(jobs) => {
                if broken!(UniqueLooksFirst) || broken!(SupersedeLooksFirst) {
                    return self.look_first(jobs).await;
                }
                if broken!(AcknowledgesBeforeItWrites) {
                    return Ok(self.write_later(jobs));
                }
                self.before_insert(jobs).await?;
            }
            Op::Update(_) if broken!(ConflictsAreShown) && meets_another() => {
                return Err(Error::new(ErrorKind::Contention, "WriteConflict"));
            }
            Op::Update(updates) | Op::UpdateAndClaim(updates, _) => {
                self.before_update(updates).await?;
            }
            Op::UpdateWhere(filter, BulkChange::Cancel { .. }) if broken!(CancelReopens) => {
                let jobs = self.0.find(&JobQuery::new(filter.clone())).await?.items;
                let ended = jobs.iter().filter(|job| job.state.is_final()).map(|job| job.id);
                known().reopened.extend(ended);
            }
            _ => {}
        }
        let mut answer = op.run(&*self.0).await?;
        match &mut answer {
            Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed) => {
                self.after_claim(&mut claimed.jobs).await?;
            }
            _ => {}
        }
        match &mut answer {
            Answer::Outcomes(outcomes) | Answer::OutcomesAndClaimed(outcomes, _) => {
                if broken!(CancelIsNotTold) {
                    outcomes.iter_mut().for_each(untold);
                }
            }
            _ => {}
        }
        for job in jobs_of(&mut answer) {
            shown(job);
        }
        Ok(answer)
    }
}

impl Defective {
    async fn before_insert(&self, jobs: &mut [NewJob]) -> Result<()> {
        for job in jobs {
            if broken!(PoisonIsRecovered) {
                job.max_crashes = u32::MAX;
            }
            if broken!(LanesWithinAWorker) {
                job.lane = None;
            }
            let supersedes = |it: &Unique| it.on_conflict == OnConflict::Supersede;
            if broken!(SupersedeTakesTheStarted)
                && let Some(unique) = job.unique.take_if(|it| supersedes(it))
            {
                self.supersede(JobFilter::ids(add(&unique.key, job.id))).await?;
            }
            if broken!(SupersedeDeletesTheFailed)
                && let Some(unique) = job.unique.as_ref().filter(|it| supersedes(it))
            {
                let failed = JobFilter::ids(add(&unique.key, job.id)).with_states(State::Failed);
                self.0.delete(&failed, NonZeroU32::MIN).await?;
            }
        }
        Ok(())
    }

    async fn supersede(&self, which: JobFilter) -> Result<()> {
        let cancel = BulkChange::Cancel { reason: "superseded".to_owned() };
        self.0.update_where(&which, &cancel).await?;
        Ok(())
    }

    /// Looks whether the key is free, and then inserts.
    async fn look_first(&self, jobs: &[NewJob]) -> Result<Answer> {
        let mut inserted = Vec::with_capacity(jobs.len());
        for job in jobs {
            let mut job = job.clone();
            let unique = job.unique.take();
            let there = unique.as_ref().and_then(|it| known().keyed.get(&it.key).cloned());
            tokio::time::sleep(Duration::from_millis(1)).await;
            match (there.unwrap_or_default(), &unique) {
                (there, Some(Unique { on_conflict: OnConflict::Supersede, .. })) => {
                    self.supersede(JobFilter::ids(there).with_states(State::Waiting)).await?;
                }
                (there, _) if there.is_empty() => {}
                (there, _) => {
                    inserted.extend(there.last().copied().map(Inserted::Existing));
                    continue;
                }
            }
            inserted.extend(self.0.insert(std::slice::from_ref(&job)).await?);
            if let Some(unique) = unique {
                add(&unique.key, job.id);
            }
        }
        Ok(Answer::Inserted(inserted))
    }

    fn write_later(&self, jobs: &[NewJob]) -> Answer {
        let (store, jobs) = (self.0.clone(), jobs.to_vec());
        let inserted = jobs.iter().map(|job| Inserted::New(job.id)).collect();
        tokio::spawn(async move { store.insert(&jobs).await });
        Answer::Inserted(inserted)
    }

    async fn before_update(&self, updates: &mut Vec<JobUpdate>) -> Result<()> {
        for JobUpdate { id, patch, .. } in updates {
            match &mut patch.transition {
                Some(transition @ Transition::Release { .. }) if broken!(StopUsesAnAttempt) => {
                    let error = Payload::null();
                    *transition = Transition::Retry { when: When::Now, error };
                }
                Some(Transition::Retry { .. } | Transition::Release { .. })
                    if broken!(CancelIsCleared) =>
                {
                    known().given_back.insert(*id);
                }
                Some(Transition::Retry { when: When::At(_) | When::After(_), .. })
                    if broken!(BackoffHoldsTheLane) =>
                {
                    let jobs = self.0.get(&[*id], LogRead::None).await?;
                    let lanes = jobs.into_iter().flatten().filter_map(|job| Some(job.lane?.key));
                    known().lanes.extend(lanes);
                }
                _ => {}
            }
            if broken!(TheLastEntryWins) {
                patch.log = patch.log.pop().into_iter().collect();
            }
            if broken!(EntriesAreDoubled) {
                let again: Vec<_> = patch.log.clone();
                patch.log.extend(again.into_iter().map(|mut entry| {
                    entry.id = EntryId::new();
                    entry
                }));
            }
            if broken!(LogIsSentAgain) && patch.transition.is_some() {
                let jobs = self.0.get(&[*id], LogRead::All).await?;
                let there = jobs.into_iter().flatten().flat_map(|job| job.log).map(as_new);
                patch.log.splice(0..0, there.collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    async fn after_claim(&self, jobs: &mut Vec<Job>) -> Result<()> {
        let now = self.0.ping().await?;
        let mut kept = Vec::with_capacity(jobs.len());
        for mut job in jobs.drain(..) {
            let too_early = broken!(DueIsLater) && job.run_at >= now;
            let lane = job.lane.as_ref().map(|lane| &lane.key);
            let barred = broken!(BackoffHoldsTheLane)
                && job.attempt == 1
                && lane.is_some_and(|key| known().lanes.contains(key));
            if too_early || barred {
                let release = Transition::Release { when: When::At(job.run_at) };
                let guard = Guard::Fence(job.fence);
                let update = JobUpdate::new(job.id, guard, JobPatch::transition(release));
                self.0.update_jobs(&[update]).await?;
                continue;
            }
            if broken!(CrashesUseRetries) {
                job.attempt += job.crashes;
            }
            if broken!(CancelIsNotTold) {
                job.cancel = None;
            }
            kept.push(job);
        }
        *jobs = kept;
        Ok(())
    }
}

/// Notes a job of this key, and answers the earlier ones.
fn add(key: &str, job: JobId) -> Vec<JobId> {
    let mut known = known();
    let of_key = known.keyed.entry(key.to_owned()).or_default();
    let earlier = of_key.clone();
    of_key.push(job);
    earlier
}

/// Whether this write of the process meets another one: it is the first, the sixth..
fn meets_another() -> bool {
    static WRITES: AtomicUsize = AtomicUsize::new(0);
    WRITES.fetch_add(1, Ordering::SeqCst).is_multiple_of(5)
}

fn as_new(entry: LogEntry) -> queue_core::NewEntry {
    let mut new = queue_core::NewEntry::new(entry.kind, entry.body);
    new.id = entry.id;
    new
}

fn untold(outcome: &mut Outcome) {
    if let Outcome::Applied(ack) | Outcome::Repeated(ack) = outcome {
        ack.cancel = None;
    }
}

fn jobs_of(answer: &mut Answer) -> Vec<&mut Job> {
    match answer {
        Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed) => {
            claimed.jobs.iter_mut().collect()
        }
        Answer::Jobs(jobs) => jobs.iter_mut().flatten().collect(),
        Answer::Page(page) => page.items.iter_mut().collect(),
        _ => Vec::new(),
    }
}

/// How a job looks to those who read it.
fn shown(job: &mut Job) {
    if broken!(OrderIsAlwaysOne) {
        job.log.iter_mut().for_each(|entry| entry.seq = Seq(1));
    }
    if known().reopened.contains(&job.id) {
        job.state = State::Cancelled;
    }
    if job.state == State::Cancelled && known().given_back.contains(&job.id) {
        (job.state, job.cancel) = (State::Waiting, None);
    }
}
