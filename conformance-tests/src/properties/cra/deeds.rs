//! What an actor does next: seeded, and always something that makes sense by what it knows.

use std::time::Duration;

use queue_core::{
    BulkChange, ClaimRequest, EntryKind, Fire, Guard, Held, Job, JobFilter, JobId, JobPatch,
    JobUpdate, Keep, Lane, LogRead, NewEntry, NewJob, Payload, Progress, QueueName, Queues, Record,
    States, Timestamp, Transition, Unique, When,
    spec::{Op, World},
};

use crate::{
    Checked, Rng,
    properties::scene::{n, queue, secs, value},
};

/// How much a payload of the larger kind has, in bytes: more than a page of any store.
const LARGE: usize = 20_000;

pub(super) struct Deeds {
    name: String,
    queue: QueueName,
    rng: Rng,
    count: usize,
}

impl Deeds {
    pub(super) fn new(name: &str, rng: Rng) -> Checked<Deeds> {
        Ok(Deeds { name: name.to_owned(), queue: queue(name)?, rng, count: 0 })
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    fn payload(&mut self) -> Payload {
        self.count += 1;
        match self.one_in(12) {
            true => value(format!("{}{}", self.count, "x".repeat(LARGE))),
            false => value(self.count),
        }
    }

    pub(super) fn next(&mut self, world: &World, now: Timestamp) -> Op {
        let held: Vec<Job> = self.held(world);
        match self.rng.below(100) {
            0..=21 => self.insert(),
            22..=41 => Op::Claim(self.request()),
            42..=63 if !held.is_empty() => Op::Update(self.updates(&held, Ends::Any)),
            64..=69 => self.edit(world),
            70..=75 if !held.is_empty() => {
                let updates = self.updates(&held, Ends::ForGood);
                Op::UpdateAndClaim(updates, self.request())
            }
            76..=79 if !held.is_empty() => {
                let lease = secs(20 + self.rng.below(40) as u64);
                Op::Heartbeat(held.iter().map(|job| Held::new(job.id, job.fence)).collect(), lease)
            }
            80..=85 => self.change(),
            86..=88 => {
                let ended = JobFilter::queue(self.queue.clone()).with_states(States::FINAL);
                Op::Delete(ended, n(3))
            }
            89..=93 => self.fire(now),
            94..=99 => self.put(world),
            _ => self.insert(),
        }
    }

    fn held(&self, world: &World) -> Vec<Job> {
        let ids: Vec<JobId> = world.running().collect();
        world.get(&ids, LogRead::None).into_iter().flatten().collect()
    }

    fn job(&mut self) -> NewJob {
        let mut job = NewJob::new(["mail", "resize"][self.rng.below(2)], self.payload());
        job.queue = self.queue.clone();
        job.priority = [0, 0, 3][self.rng.below(3)];
        job.labels.insert("part".to_owned(), self.rng.below(4).to_string());
        if self.one_in(6) {
            job.when = When::After(secs(10));
        }
        if self.one_in(5) {
            job.keep = Keep::UnlessCompleted;
        }
        if self.one_in(4) {
            job.lane = Some(Lane::with_limit(format!("{} lane", self.name), n(2)));
        }
        job
    }

    fn insert(&mut self) -> Op {
        let mut job = self.job();
        let key = format!("{} {}", self.name, self.rng.below(3));
        match self.rng.below(5) {
            0 => job.unique = Some(Unique::new(key)),
            1 | 2 => job.unique = Some(Unique::supersede(format!("s {key}"))),
            _ => {
                // Several at a time have no keys: each of them is for itself.
                let more = self.rng.below(3);
                let jobs = (0..more).map(|_| self.job()).collect::<Vec<_>>();
                return Op::Insert([vec![job], jobs].concat());
            }
        }
        Op::Insert(vec![job])
    }

    fn request(&mut self) -> ClaimRequest {
        let limit = n(u32::try_from(1 + self.rng.below(3)).unwrap_or(1));
        let lease = secs([20, 60][self.rng.below(2)]);
        ClaimRequest::new(Queues::from(self.queue.clone()), "actor", limit, lease)
    }

    fn entries(&mut self) -> Vec<NewEntry> {
        let count = self.rng.below(4);
        (0..count).map(|_| NewEntry::new(EntryKind::Step, self.payload())).collect()
    }

    fn updates(&mut self, held: &[Job], ends: Ends) -> Vec<JobUpdate> {
        let mut held = held.to_vec();
        self.rng.shuffle(&mut held);
        let some = 1 + self.rng.below(3);
        held.iter().take(some).map(|job| self.update(job, ends)).collect()
    }

    fn update(&mut self, job: &Job, ends: Ends) -> JobUpdate {
        let mut patch = JobPatch::append(self.entries());
        if self.one_in(2) {
            let percent = u8::try_from(self.rng.below(100)).unwrap_or(0);
            patch = patch.with_progress(Progress::with_message(percent, "on the way"));
        }
        if self.one_in(3) {
            patch = patch.with_label("seen", self.count.to_string());
        }
        let when = When::After(Duration::from_secs(self.rng.below(2) as u64 * 5));
        patch.transition = match (self.rng.below(8), ends) {
            (0 | 1, _) => Some(Transition::Complete { output: Some(self.payload()) }),
            (2, _) => Some(Transition::Fail { error: self.payload() }),
            (3, Ends::Any) => Some(Transition::Retry { when, error: self.payload() }),
            (4, Ends::Any) => Some(Transition::Release { when }),
            _ => None,
        };
        JobUpdate::held(job.id, job.fence, patch)
    }

    /// By somebody who holds nothing.
    fn edit(&mut self, world: &World) -> Op {
        let jobs: Vec<_> = world.jobs().map(|stored| &stored.row).collect();
        let Some(row) = self.rng.pick(&jobs) else { return self.insert() };
        let guard = match self.one_in(2) {
            true => Guard::Version(row.control.version),
            false => Guard::None,
        };
        let patch = JobPatch::append(self.entries()).with_label("edit", self.count.to_string());
        Op::Update(vec![JobUpdate::new(row.id, guard, patch)])
    }

    fn change(&mut self) -> Op {
        let mut filter = JobFilter::queue(self.queue.clone());
        filter.labels.insert("part".to_owned(), self.rng.below(4).to_string());
        let change = match self.rng.below(4) {
            0 => BulkChange::Cancel { reason: "no longer wanted".to_owned() },
            1 => BulkChange::Wake,
            _ => BulkChange::Priority(i16::try_from(self.rng.below(7)).unwrap_or(0)),
        };
        Op::UpdateWhere(filter, change)
    }

    fn fire(&mut self, now: Timestamp) -> Op {
        self.count += 1;
        let slot = now.plus(secs(self.count as u64));
        if self.one_in(5) {
            return Op::Fire(Box::new(Fire::skip(self.name.as_str(), slot, None)));
        }
        let mut job = self.job();
        if self.one_in(2) {
            job.unique = Some(Unique::supersede(format!("s {} 0", self.name)));
        }
        Op::Fire(Box::new(Fire::new(self.name.as_str(), slot, job)))
    }

    fn put(&mut self, world: &World) -> Op {
        let key = format!("{} {}", self.name, self.rng.below(2));
        let known = world.records(&key).into_iter().next();
        let record = match known.is_some() && self.one_in(3) {
            true => Record::removal(key),
            false => Record::new(key, self.payload()),
        };
        let expect = known.filter(|_| self.one_in(2)).map(|known| known.version);
        Op::PutRecord(record, expect)
    }
}

/// Which transitions an update may have.
#[derive(Clone, Copy)]
enum Ends {
    Any,
    /// Those after which nobody can claim the job.
    ForGood,
}
