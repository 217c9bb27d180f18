//! Histories by hand: calls to a memory store, with the times that the test says.

use std::{num::NonZeroU32, ops::Range, sync::Arc, time::Duration};

use conformance_tests::{
    history::{History, Recorder},
    start,
};
use queue_core::{
    ClaimRequest, Clock, EntryKind, Guard, Job, JobId, JobPatch, JobStore, JobUpdate, MemoryStore,
    NewEntry, NewJob, Payload, Queues, Transition, Uuid, When,
    spec::{Answer, Op},
};

pub struct Script {
    recorder: Recorder,
    store: Arc<dyn JobStore>,
    times: Vec<Range<u64>>,
    so_far: Option<History>,
}

impl Script {
    pub fn new() -> Self {
        let clock = Clock::manual(start());
        let memory = MemoryStore::with_clock(clock.clone());
        let recorder = Recorder::new(memory.info(), Some(clock));
        let store = recorder.wrap(Arc::new(memory));
        Script { recorder, store, times: Vec::new(), so_far: None }
    }

    /// Makes a call, which is said to take this long, in microseconds; its place in the history.
    pub async fn call(&mut self, micros: Range<u64>, op: Op) -> usize {
        let _ = op.run(&*self.store).await.unwrap();
        self.times.push(micros);
        let new = self.recorder.take();
        match &mut self.so_far {
            None => self.so_far = Some(new),
            Some(history) => history.calls.extend(new.calls),
        }
        self.times.len() - 1
    }

    /// Claims, and answers with the first job.
    pub async fn claim(&mut self, micros: Range<u64>, limit: u32) -> Job {
        let place = self.call(micros, claim_as(Uuid::now_v7(), limit)).await;
        match &self.history().calls[place].answer {
            Some(conformance_tests::history::Answered::Ok(Answer::Claimed(claimed))) => {
                claimed.jobs[0].clone()
            }
            other => panic!("not a claim: {other:?}"),
        }
    }

    /// Says that a call took place at another time.
    pub fn at(&mut self, place: usize, micros: Range<u64>) {
        self.times[place] = micros;
    }

    pub fn op(&self, place: usize) -> Op {
        self.history().calls[place].op.clone()
    }

    /// The calls with their times, in the order of their begins.
    pub fn history(&self) -> History {
        let mut history = self.so_far.clone().unwrap();
        for (call, micros) in history.calls.iter_mut().zip(&self.times) {
            (call.begin, call.end) = (micros.start * 1_000, Some(micros.end * 1_000));
        }
        history.calls.sort_by_key(|call| call.begin);
        history
    }
}

/// A job whose id has this number.
pub fn job(number: u128) -> NewJob {
    let mut job = NewJob::new("plain", Payload::null());
    job.id = JobId::from_uuid(Uuid::from_u128(number));
    job
}

pub fn entry(body: &str) -> NewEntry {
    NewEntry::new(EntryKind::Line, Payload::from_value(body).unwrap())
}

pub fn claim_as(token: Uuid, limit: u32) -> Op {
    let limit = NonZeroU32::new(limit).unwrap();
    let mut request = ClaimRequest::new(Queues::All, "worker", limit, Duration::from_secs(30));
    request.token = token;
    Op::Claim(request)
}

pub fn update(job: &Job, guard: Guard, patch: JobPatch) -> Op {
    Op::Update(vec![JobUpdate::new(job.id, guard, patch)])
}

/// The job given back by its holder.
pub fn released(job: &Job) -> Op {
    let end = JobPatch::transition(Transition::Release { when: When::Now });
    update(job, Guard::Fence(job.fence), end)
}
