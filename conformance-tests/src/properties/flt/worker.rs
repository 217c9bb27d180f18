//! A worker in a storm, which repeats what may have happened and gives up, now and then, what has not.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use queue_core::{
    Ack, BulkChange, ClaimRequest, Effect, Fire, Fired, Held, Inserted, Job, JobFilter, JobId,
    JobPatch, JobQuery, JobUpdate, LogRead, Outcome, Progress, Record, Result, State, States,
    Timestamp, Transition, Version, When,
};

use super::{
    super::scene::{HOUR, Store, complete, entry, fail, job, n, queue, retry, value, wanted_from},
    ledger::{Ledger, PREFIX},
};
use crate::{Case, Checked, Rng, Stop, case::Breaking, check, check_eq, start};

/// How often a call may fail once the fault is over: a pool may hold several connections that ended.
const STALE: usize = 40;
/// And for how long, its patience aside: a server that was restarted is looked for.
const RECOVERY: Duration = Duration::from_secs(2);
/// How much longer than its patience a store may take before it counts as hanging.
const GRACE: Duration = Duration::from_secs(4);

/// A worker rests before every so manieth call: what follows the storm is to take less time than the storm.
const REST: usize = 6;

/// How many jobs a worker holds while it begins others.
const AT_HAND: usize = 2;

/// What became of a call that was repeated until it was answered.
enum Told<T> {
    /// With the answer to a call that no other of its kind came before, as far as the store says.
    First(T),
    /// An earlier one may have happened.
    Repeat(T),
    /// It changed nothing, and is not asked for again.
    Refused,
}

pub(super) struct Worker {
    number: usize,
    store: Store,
    ledger: Arc<Ledger>,
    limit: Duration,
    lease: Duration,
    rng: Rng,
    version: Version,
    slot: Timestamp,
    own: Vec<JobId>,
    at_hand: VecDeque<Job>,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        case: &Case<'_>,
        breaking: &Breaking,
        ledger: Arc<Ledger>,
        seed: u64,
    ) -> Self {
        Worker {
            number,
            store: case.store().clone(),
            ledger,
            limit: breaking.patience() + GRACE,
            lease: HOUR,
            rng: Rng::new(seed),
            version: Version(0),
            slot: start(),
            own: Vec::new(),
            at_hand: VecDeque::new(),
        }
    }

    /// A little of everything.
    pub(super) async fn shift(&mut self) -> Checked {
        self.enqueue().await?;
        let claimed = self.claim().await?;
        // Some are always at hand, so that their ends meet the fault as well as their beginnings.
        let is_refused = claimed.is_empty();
        self.at_hand.extend(claimed);
        while self.at_hand.len() > AT_HAND || (is_refused && !self.at_hand.is_empty()) {
            if let Some(job) = self.at_hand.pop_front() {
                self.work(job).await?;
            }
        }
        match self.rng.below(4) {
            0 => self.fire().await?,
            1 => self.put_record().await?,
            2 => self.prioritize().await?,
            _ => self.look().await?,
        }
        Ok(())
    }

    /// Ends what it holds.
    pub(super) async fn rest(&mut self) -> Checked {
        while let Some(job) = self.at_hand.pop_front() {
            self.work(job).await?;
        }
        Ok(())
    }

    /// Repeats a call until it is answered; or gives it up, some of the time, where that may be.
    async fn insist<T, F>(
        &mut self,
        what: &'static str,
        may_give_up: bool,
        mut unknown: impl FnMut(),
        call: impl Fn(Store) -> F,
    ) -> Checked<Told<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut is_repeat, mut stale, mut since) = (false, 0, None);
        // Before any of its calls: all rest most of the time, and a fault that comes then meets what follows.
        if self.rng.below(REST) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        loop {
            self.ledger.call(what);
            let was_mended = self.ledger.is_mended();
            let Ok(answered) = tokio::time::timeout(self.limit, call(self.store.clone())).await
            else {
                return Err(Stop::fail(format!(
                    "{what} has not ended after {:?}, though the store says that it gives up earlier",
                    self.limit
                )));
            };
            let error = match answered {
                Ok(answer) => {
                    self.ledger.count(|counts| counts.answered += 1);
                    return Ok(if is_repeat { Told::Repeat(answer) } else { Told::First(answer) });
                }
                Err(error) => error,
            };
            self.ledger.check_error(what, &error)?;
            let is_unknown = error.effect() == Effect::Unknown;
            self.ledger.count(|counts| {
                counts.errors += 1;
                counts.unknown += usize::from(is_unknown);
            });
            if is_unknown {
                is_repeat = true;
                unknown();
            } else if may_give_up && !is_repeat && self.rng.below(2) == 0 {
                return Ok(Told::Refused);
            }
            if was_mended {
                stale += 1;
                let since = since.get_or_insert_with(Instant::now);
                check!(
                    stale <= STALE || since.elapsed() < self.limit - GRACE + RECOVERY,
                    "{what} still fails when the fault is over, after {stale} tries: {error}"
                );
            }
            self.ledger.count(|counts| counts.repeated += 1);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn enqueue(&mut self) -> Checked {
        let mut jobs: Vec<_> = (0..1 + self.rng.below(3)).map(|_| job("storm")).collect();
        for job in &mut jobs {
            job.queue = queue("storm")?;
        }
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let jobs = Arc::new(jobs);
        // Before the call: others may claim them before its answer is here.
        self.ledger.told().inserted.extend(&ids);
        let told = self
            .insist(
                "an insert",
                true,
                || {},
                |store| {
                    let jobs = jobs.clone();
                    async move { store.insert(&jobs).await }
                },
            )
            .await?;
        let (answers, is_repeat) = match told {
            Told::First(answers) => (answers, false),
            Told::Repeat(answers) => (answers, true),
            Told::Refused => {
                let mut told = self.ledger.told();
                told.inserted.retain(|id| !ids.contains(id));
                told.refused_jobs.extend(ids);
                return Ok(());
            }
        };
        check_eq!(answers.len(), ids.len(), "answers of an insert");
        for (id, answer) in ids.iter().zip(answers) {
            let is_fit = match answer {
                Inserted::New(new) => new == *id,
                Inserted::Existing(old) => old == *id && is_repeat,
            };
            check!(is_fit, "an insert of {id} answered {answer:?} (it is a repeat: {is_repeat})");
        }
        self.own = ids;
        Ok(())
    }

    async fn claim(&mut self) -> Checked<Vec<Job>> {
        let mut request: ClaimRequest = wanted_from(&["storm"], 1 + self.rng.below(3) as u32)?;
        request.lease = self.lease;
        let request = Arc::new(request);
        let (token, ledger) = (request.token, self.ledger.clone());
        let told = self
            .insist(
                "a claim",
                true,
                move || ledger.told().late_tokens.extend([token]),
                |store| {
                    let request = request.clone();
                    async move { store.claim(&request).await }
                },
            )
            .await?;
        let jobs = match told {
            Told::First(claimed) | Told::Repeat(claimed) => claimed.jobs,
            Told::Refused => return Ok(Vec::new()),
        };
        check!(jobs.len() <= request.limit.get() as usize, "a claim took more than its limit");
        let mut told = self.ledger.told();
        for job in &jobs {
            let id = job.id;
            check_eq!((job.state, job.fence.nonce), (State::Running, token), "a claimed job");
            check!(!told.ends.contains_key(&id), "job {id} was claimed after it had ended");
            check!(told.inserted.contains(&id), "job {id} was claimed, and its insert was refused");
            let other = told.held.insert(id, job.fence);
            check!(other.is_none(), "job {id} was claimed while another holds it");
            let log: Vec<_> = job.log.iter().map(|entry| entry.id).collect();
            let known = told.entries.get(&id).cloned().unwrap_or_default();
            check_eq!(log, known, "the log of job {id} when it was claimed");
        }
        Ok(jobs)
    }

    /// Makes a change as the holder. Answers whether it was made; a job that is in other hands after an unknown
    /// effect was given back by it.
    async fn change(
        &mut self,
        what: &'static str,
        update: JobUpdate,
        may_give_up: bool,
    ) -> Checked<Option<Outcome>> {
        let (id, ends) = (update.id, update.patch.transition.is_some());
        let gives_back = matches!(update.patch.transition, Some(Transition::Retry { .. }));
        let update = Arc::new([update]);
        let told = self
            .insist(
                what,
                may_give_up,
                || {},
                |store| {
                    let update = update.clone();
                    async move { store.update_jobs(&*update).await }
                },
            )
            .await?;
        let (answers, is_repeat) = match told {
            Told::First(answers) => (answers, false),
            Told::Repeat(answers) => (answers, true),
            Told::Refused => return Ok(None),
        };
        let outcome = answers.into_iter().next();
        let is_fit = match &outcome {
            Some(Outcome::Applied(_)) => true,
            Some(Outcome::Repeated(_)) => is_repeat && ends,
            Some(Outcome::Fenced | Outcome::Illegal { .. }) => is_repeat && gives_back,
            _ => false,
        };
        check!(is_fit, "{what} of job {id} answered {outcome:?} (it is a repeat: {is_repeat})");
        Ok(outcome)
    }

    async fn work(&mut self, job: Job) -> Checked {
        let (id, fence) = (job.id, job.fence);
        for _ in 0..self.rng.below(3) {
            let line = entry(self.rng.below(1_000));
            let mut patch = JobPatch::append([line.clone()]);
            if self.rng.below(2) == 0 {
                patch = patch.with_progress(Progress::new(self.rng.below(100) as u8));
            }
            let update = JobUpdate::held(id, fence, patch);
            match self.change("an append", update, true).await? {
                Some(_) => self.ledger.told().entries.entry(id).or_default().push(line.id),
                None => drop(self.ledger.told().refused_entries.insert(line.id)),
            }
        }
        if self.rng.below(3) == 0 {
            self.beat(&job).await?;
        }
        let (transition, end) = match self.rng.below(5) {
            0 if job.attempt < 3 => (retry(When::Now), None),
            1 => (fail(), Some(State::Failed)),
            _ => (complete(), Some(State::Completed)),
        };
        let mut patch = JobPatch::transition(transition);
        if let Some(end) = end {
            let last = entry("last");
            let id_of_last = last.id;
            patch = patch.with_log([last]);
            self.change("a settle", JobUpdate::held(id, fence, patch), false).await?;
            let mut told = self.ledger.told();
            told.entries.entry(id).or_default().push(id_of_last);
            told.held.remove(&id);
            let before = told.ends.insert(id, end);
            check!(before.is_none(), "job {id} ended twice");
        } else {
            // Before the call: others may hold it before its answer is here.
            self.ledger.told().held.remove(&id);
            self.change("a retry", JobUpdate::held(id, fence, patch), false).await?;
        }
        Ok(())
    }

    async fn beat(&mut self, job: &Job) -> Checked {
        let (held, lease) = (Arc::new([Held::new(job.id, job.fence)]), self.lease);
        let told = self
            .insist(
                "a heartbeat",
                true,
                || {},
                |store| {
                    let held = held.clone();
                    async move { store.heartbeat(&*held, lease).await }
                },
            )
            .await?;
        if let Told::First(answers) | Told::Repeat(answers) = told {
            check_eq!(answers, [Outcome::Applied(Ack::holder(None))], "a heartbeat of the holder");
        }
        Ok(())
    }

    async fn fire(&mut self) -> Checked {
        let schedule = format!("storm {}", self.number);
        self.slot = self.slot.plus(Duration::from_secs(1));
        let mut scheduled = job("fired");
        scheduled.queue = queue("fired")?;
        let fire = Arc::new(Fire::new(schedule.clone(), self.slot, scheduled));
        let id = JobId::for_slot(&schedule, self.slot);
        let told = self
            .insist(
                "a fire",
                true,
                || {},
                |store| {
                    let fire = fire.clone();
                    async move { store.fire(&fire).await }
                },
            )
            .await?;
        match told {
            Told::Refused => {
                self.ledger.told().refused_jobs.push(id);
                return Ok(());
            }
            Told::First(fired) => check_eq!(fired, Fired::Enqueued(id), "a slot fired"),
            Told::Repeat(fired) => {
                let already = Fired::Already { last_slot: self.slot };
                let is_fit = fired == Fired::Enqueued(id) || fired == already;
                check!(is_fit, "a slot fired again answered {fired:?}");
            }
        }
        let mut told = self.ledger.told();
        let stat = told.fired.entry(schedule).or_insert((0, self.slot));
        *stat = (stat.0 + 1, self.slot);
        Ok(())
    }

    async fn put_record(&mut self) -> Checked {
        let body = value(self.rng.below(1_000_000));
        let record = Arc::new(Record::new(format!("{PREFIX}{}", self.number), body.clone()));
        let (expect, next) = (self.version, Version(self.version.0 + 1));
        let told = self
            .insist(
                "a put of a record",
                true,
                || {},
                |store| {
                    let record = record.clone();
                    async move { store.put_record(&record, Some(expect)).await }
                },
            )
            .await?;
        let outcome = match told {
            Told::Refused => return Ok(()),
            Told::Repeat(Outcome::Conflict { actual }) if actual == next => None,
            Told::First(outcome) | Told::Repeat(outcome) => Some(outcome),
        };
        if let Some(outcome) = outcome {
            check_eq!(outcome, Outcome::Applied(Ack::editor(next)), "a put that expects {expect}");
        }
        self.version = next;
        self.ledger.told().records.insert(record.key.clone(), (next, body));
        Ok(())
    }

    async fn prioritize(&mut self) -> Checked {
        let filter = Arc::new(JobFilter::ids(self.own.iter().copied()));
        let change = BulkChange::Priority(self.rng.below(5) as i16);
        let told = self
            .insist(
                "a bulk change",
                true,
                || {},
                |store| {
                    let (filter, change) = (filter.clone(), change.clone());
                    async move { store.update_where(&filter, &change).await }
                },
            )
            .await?;
        if let Told::First(counts) | Told::Repeat(counts) = told {
            let met = counts.changed + counts.signalled + counts.finished;
            check_eq!(met, self.own.len() as u64, "jobs that a bulk change met");
        }
        Ok(())
    }

    /// That what was acknowledged can be read.
    async fn look(&mut self) -> Checked {
        let ids = Arc::new(self.own.clone());
        let known: Vec<_> = {
            let told = self.ledger.told();
            ids.iter().map(|id| told.entries.get(id).cloned().unwrap_or_default()).collect()
        };
        let told = self
            .insist(
                "a get",
                true,
                || {},
                |store| {
                    let ids = ids.clone();
                    async move { store.get(&ids, LogRead::All).await }
                },
            )
            .await?;
        let (Told::First(jobs) | Told::Repeat(jobs)) = told else { return Ok(()) };
        check_eq!(jobs.len(), ids.len(), "answers of a get");
        for ((id, job), known) in ids.iter().zip(jobs).zip(known) {
            let Some(job) = job else {
                return Err(Stop::fail(format!(
                    "job {id}, whose insert was acknowledged, is gone"
                )));
            };
            let there = |id| job.log.iter().any(|entry| entry.id == id);
            check!(known.into_iter().all(there), "entries of job {id} are gone: {:?}", job.log);
        }
        Ok(())
    }

    /// Ends what is left when the storm is over. Answers how many jobs were taken by claims that came late, when nobody waited
    /// for their answer any more: their lease must run out.
    pub(super) async fn finish(&mut self, case: &Case<'_>) -> Checked<usize> {
        loop {
            loop {
                let jobs = self.claim().await?;
                if jobs.is_empty() {
                    break;
                }
                for job in jobs {
                    self.work(job).await?;
                }
            }
            let live = JobFilter::queue(queue("storm")?).with_states(States::LIVE);
            let mut query = JobQuery::new(live);
            query.limit = n(1_000);
            let query = Arc::new(query);
            let told = self
                .insist(
                    "a find",
                    false,
                    || {},
                    |store| {
                        let query = query.clone();
                        async move { store.find(&query).await }
                    },
                )
                .await?;
            let (Told::First(page) | Told::Repeat(page)) = told else { continue };
            {
                let mut told = self.ledger.told();
                for job in &page.items {
                    let (id, token) = (job.id, job.fence.nonce);
                    let is_known = told.inserted.contains(&id);
                    check!(is_known, "job {id} is there, and its insert was refused or never made");
                    check!(
                        job.state == State::Waiting || told.late_tokens.contains(&token),
                        "job {id} is held by a claim that nobody made, or that changed nothing by its own word"
                    );
                    if job.state == State::Running {
                        told.taken_late.insert(id);
                    }
                }
                if page.items.is_empty() || !case.is_clocked() {
                    return Ok(told.taken_late.len());
                }
            }
            case.advance(self.lease)?;
            super::super::scene::reap_all(&self.store).await?;
        }
    }
}
