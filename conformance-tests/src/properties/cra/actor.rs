//! One of several that work at once, each on jobs of its own, and know by the specification what must be there.

use std::collections::HashMap;

use queue_core::{
    ClaimRequest, Clock, Effect, Job, JobFilter, JobId, JobQuery, LogRead, MAX_PAGE, OnConflict,
    QueueName, Reach, Reaped, Record, ScheduleStat, State, Timestamp,
    spec::{Latitude, Op, Spec, Verdict, World},
};

use super::{deeds::Deeds, site::Pace};
use crate::{
    Checked, Rng, Stop, check, check_eq,
    properties::scene::{Store, queue},
};

/// How often in a row a call may be told that the store is busy.
const BUSY: usize = 2;

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Called {
    Answered,
    /// Nobody knows: its process was killed.
    Lost,
}

/// What a store shows of the jobs, records and schedules of one actor.
struct Seen {
    jobs: HashMap<JobId, Job>,
    records: Vec<Record>,
    schedules: Vec<ScheduleStat>,
}

pub(super) struct Actor {
    name: String,
    pub(super) queue: QueueName,
    clock: Clock,
    spec: Spec,
    deeds: Deeds,
    ids: Vec<JobId>,
    /// The call of which nobody knows whether it happened.
    lost: Option<Op>,
    pub(super) acknowledged: usize,
    /// Lost calls that had happened, and those that had not (or not all of).
    pub(super) happened: (usize, usize),
}

impl Actor {
    pub(super) fn new(name: &str, store: &Store, clock: &Clock, rng: Rng) -> Checked<Actor> {
        let limits = store.info().capabilities;
        Ok(Actor {
            name: name.to_owned(),
            queue: queue(name)?,
            clock: clock.clone(),
            spec: Spec::new(World::new(limits)),
            deeds: Deeds::new(name, rng)?,
            ids: Vec::new(),
            lost: None,
            acknowledged: 0,
            happened: (0, 0),
        })
    }

    pub(super) const fn world(&self) -> &World {
        self.spec.world()
    }

    /// Works until `enough`, or until a call is lost.
    pub(super) async fn work(
        &mut self,
        store: &Store,
        pace: &Pace,
        mut enough: impl FnMut() -> bool,
    ) -> Checked<Called> {
        let mut called = Called::Answered;
        while called == Called::Answered && !enough() {
            let op = self.deeds.next(self.spec.world(), self.clock.now());
            called = self.call(store, op, pace).await?;
        }
        Ok(called)
    }

    /// Calls the store, and checks the answer.
    pub(super) async fn call(&mut self, store: &Store, op: Op, pace: &Pace) -> Checked<Called> {
        self.ids.extend(ids_of(&op));
        for _ in 0..=BUSY {
            let answer = op.run(&**store).await;
            match &answer {
                Err(error) if error.effect() == Effect::Unknown => {
                    self.lost = Some(op);
                    return Ok(Called::Lost);
                }
                Err(error) if error.is_transient() => continue,
                _ => {}
            }
            self.check(&op, &answer, "a call")?;
            pace.acknowledge();
            self.acknowledged += 1;
            return Ok(Called::Answered);
        }
        Err(Stop::fail(format!("the store was busy {} times in a row: {op:?}", BUSY + 1)))
    }

    fn check(
        &mut self,
        op: &Op,
        answer: &queue_core::Result<queue_core::spec::Answer>,
        what: &str,
    ) -> Checked {
        match self.spec.check(op, self.clock.now(), answer, Latitude::Contended) {
            Verdict::Accept => Ok(()),
            Verdict::Reject(why) => {
                Err(Stop::fail(format!("{what} was answered wrongly\n{op:?}\n{why}")))
            }
        }
    }

    /// Finds out what became of a lost call, repeats it, and checks that everything is there. `true` if a call was lost.
    pub(super) async fn recover(&mut self, store: &Store) -> Checked<bool> {
        let Some(op) = self.lost.take() else {
            self.verify(store, "after a crash").await?;
            return Ok(false);
        };
        let seen = self.look(store).await?;
        let now = self.clock.now();
        let before = self.spec.world().clone();
        // After its repeat it has happened, whole.
        let mut whole = self.spec.clone();
        let _ = whole.answer(&op, now)?;
        let halfway = match &op {
            Op::UpdateAndClaim(updates, request) => {
                self.adopt(&Op::Update(updates.clone()), now, &seen)?;
                self.adopt_claim(request, now, &seen)?;
                false
            }
            Op::Claim(request) => {
                self.adopt_claim(request, now, &seen)?;
                false
            }
            _ => self.adopt(&op, now, &seen)?,
        };
        match before == *self.spec.world() {
            true => self.happened.1 += 1,
            false => self.happened.0 += 1,
        }
        let again = op.run(&**store).await;
        const WHEN: &str = "after a crash, and the repeat of the call that was lost in it";
        if halfway {
            // Which of its writes found the other done is the store's to say.
            drop(again?);
            self.spec = whole;
            self.verify(store, WHEN).await?;
            return Ok(true);
        }
        // Or else it had begun, and nothing of it was to be seen yet, or a server carried it out after the look: then the
        // repeat was its second time. The answers may be the same in either case; what is there is not.
        let is_late = (is_in_steps(&op) || is_served(store))
            && whole.check(&op, now, &again, Latitude::Contended).is_accept();
        let checked = self.check(&op, &again, "the repeat of a call that was lost in a crash");
        let found = match checked {
            Ok(()) => self.verify(store, WHEN).await,
            refused => refused,
        };
        if is_late && found.is_err() {
            self.spec = whole;
            self.verify(store, WHEN).await?;
        } else {
            found?;
        }
        Ok(true)
    }

    /// Takes over those jobs of a lost operation that show that it has happened. `true` if it was left halfway in a manner
    /// that its repeat finishes: a job is superseded, or a slot counted, and the new job is not there yet.
    fn adopt(&mut self, op: &Op, now: Timestamp, seen: &Seen) -> Checked<bool> {
        let old = self.spec.world().clone();
        let mut whole = self.spec.clone();
        whole.answer(op, now)?;
        let new = whole.world();
        let mut happened = Vec::new();
        let mut missing = Vec::new();
        for id in self.ids.iter().filter(|id| old.job(**id) != new.job(**id)) {
            let (was, is, shown) = (read(&old, *id), read(new, *id), seen.jobs.get(id));
            if is.as_ref() == shown {
                happened.push(*id);
            } else if was.as_ref() == shown {
                missing.push(*id);
            } else {
                return Err(Stop::fail(format!(
                    "job {id} is neither as it was nor as the call that was lost in a crash makes it\n{op:?}\n\
                     before: {was:?}\n after: {is:?}\n found: {shown:?}"
                )));
            }
        }
        let counted = match op {
            Op::Fire(_) | Op::PutRecord(..) => Some(self.is_counted(&old, new, seen)?),
            _ => None,
        };
        if let Some(job) = pair(op) {
            let is_there = happened.contains(&job);
            check!(
                !is_there || missing.is_empty(),
                "job {job} is there, and {missing:?}, in whose place it is, as well\n{op:?}"
            );
            let is_begun = !happened.is_empty() || counted == Some(true);
            let is_whole = missing.is_empty() && counted != Some(false);
            if is_begun && is_whole {
                self.spec = whole;
            }
            return Ok(is_begun && !is_whole);
        }
        if counted == Some(true) {
            self.spec = whole;
            return Ok(false);
        }
        let mut world = old;
        for id in &happened {
            world.take(*id);
        }
        for stored in happened.iter().filter_map(|id| new.job(*id)) {
            world.place(stored.clone());
        }
        self.spec = Spec::new(world);
        Ok(false)
    }

    /// Whether the record or the statistics of a schedule are as after the operation.
    fn is_counted(&self, old: &World, new: &World, seen: &Seen) -> Checked<bool> {
        let shown = (&seen.records, &seen.schedules);
        let [was, is] = [old, new].map(|world| (world.records(""), world.schedules()));
        check!(
            shown == (&was.0, &was.1) || shown == (&is.0, &is.1),
            "records and schedules of {} are neither as they were nor as the lost call makes them: {shown:?}",
            self.name
        );
        Ok(shown == (&is.0, &is.1))
    }

    /// Takes over the jobs that a lost claim has taken.
    fn adopt_claim(&mut self, request: &ClaimRequest, now: Timestamp, seen: &Seen) -> Checked {
        let is_taken = |job: &Job| job.state == State::Running && job.fence.nonce == request.token;
        let mut taken: Vec<JobId> =
            seen.jobs.values().filter(|job| is_taken(job)).map(|job| job.id).collect();
        let mut world = self.spec.world().clone();
        let mut everything = request.clone();
        everything.limit = std::num::NonZeroU32::MAX;
        let mut picked = world.pick(&everything, now);
        picked.retain(|(id, _)| taken.contains(id));
        taken.retain(|id| picked.iter().all(|(other, _)| id != other));
        check!(taken.is_empty(), "a lost claim took {taken:?}, which were not to be had");
        world.claim_these(&picked, request, now);
        self.spec = Spec::new(world);
        Ok(())
    }

    /// Checks that the store holds exactly what was acknowledged.
    pub(super) async fn verify(&self, store: &Store, when: &str) -> Checked {
        let world = self.spec.world();
        let seen = self.look(store).await?;
        for id in &self.ids {
            let (expected, shown) = (read(world, *id), seen.jobs.get(id));
            check_eq!(shown, expected.as_ref(), "job {id} of {} {when}", self.name);
        }
        check_eq!(seen.records, world.records(""), "the records of {} {when}", self.name);
        check_eq!(seen.schedules, world.schedules(), "the schedules of {} {when}", self.name);
        let filter = JobFilter::queue(self.queue.clone());
        check_eq!(
            store.tally(&filter).await?,
            world.tally(&filter)?,
            "the tally of {} {when}",
            self.name
        );
        let mut query = JobQuery::new(filter);
        query.limit = MAX_PAGE;
        let (shown, expected) = (store.find(&query).await?, world.find(&query)?);
        check_eq!(shown.items, expected.items, "the jobs of {} {when}", self.name);
        Ok(())
    }

    async fn look(&self, store: &Store) -> Checked<Seen> {
        let mut jobs = HashMap::new();
        for ids in self.ids.chunks(400) {
            let found = store.get(ids, LogRead::All).await?;
            jobs.extend(found.into_iter().flatten().map(|job| (job.id, job)));
        }
        let mut schedules = store.schedules().await?;
        schedules.retain(|stat| stat.schedule == self.name);
        let records = store.records(&self.name).await?;
        Ok(Seen { jobs, records, schedules })
    }

    /// The jobs that a reap takes back now.
    pub(super) fn reap(&mut self) -> Vec<Reaped> {
        let mut world = self.spec.world().clone();
        let reaped = world.reap(std::num::NonZeroU32::MAX, self.clock.now());
        self.spec = Spec::new(world);
        reaped
    }
}

fn read(world: &World, id: JobId) -> Option<Job> {
    world.get(&[id], LogRead::All).into_iter().flatten().next()
}

/// The jobs that an operation may bring into being.
fn ids_of(op: &Op) -> Vec<JobId> {
    match op {
        Op::Insert(jobs) => jobs.iter().map(|job| job.id).collect(),
        Op::Fire(fire) => fire.job.iter().map(|job| job.id).collect(),
        _ => Vec::new(),
    }
}

/// Whether what a killed process has asked for may still be carried out by somebody else.
fn is_served(store: &Store) -> bool {
    store.info().capabilities.reach == Reach::Network
}

/// Whether a store may make it in several steps, the first of which is not seen, if a repeat or a reap makes the others.
fn is_in_steps(op: &Op) -> bool {
    matches!(op, Op::Fire(_)) || pair(op).is_some()
}

/// The new job of an operation whose parts are one: a slot and its job, a superseding job and the superseded.
fn pair(op: &Op) -> Option<JobId> {
    match op {
        Op::Fire(fire) => fire.job.as_ref().map(|job| job.id),
        Op::Insert(jobs) => match jobs.as_slice() {
            [job] if job.unique.as_ref()?.on_conflict == OnConflict::Supersede => Some(job.id),
            _ => None,
        },
        _ => None,
    }
}
