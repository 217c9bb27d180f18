//! Producers and workers that repeat what got no answer, and what must be there when they are through.
#![allow(dead_code)] // each test file uses a part of it

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use queue_core::{
    ClaimRequest, EntryId, EntryKind, Job, JobId, JobPatch, JobStore, JobUpdate, LogRead, NewEntry,
    NewJob, Outcome, Payload, Queues, Result, State, Transition,
};
use tokio::task::JoinHandle;

/// So long a caller repeats a call before the store counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(3_600);

/// Repeats a call until it is answered. Only errors that promise to pass are forgiven.
pub async fn insist<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_transient(), "this is not trouble that passes: {error}");
                assert!(Instant::now() < deadline, "still after {PATIENCE:?}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Told {
    inserted: BTreeSet<JobId>,
    /// By job: the entry that was acknowledged and the claim that it was done under.
    settled: BTreeMap<JobId, (EntryId, queue_core::Fence)>,
}

/// The load on a store, under way.
pub struct Load {
    store: Arc<dyn JobStore>,
    told: Arc<Mutex<Told>>,
    settled: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    producing: Arc<AtomicBool>,
}

impl Load {
    pub fn on(store: Arc<dyn JobStore>) -> Load {
        let mut load = Load {
            store,
            told: Arc::default(),
            settled: Arc::default(),
            stop: Arc::default(),
            producers: Vec::new(),
            workers: Vec::new(),
            producing: Arc::new(AtomicBool::new(true)),
        };
        load.producers = (0..2).map(|_| load.produce()).collect();
        load.workers = (0..3).map(|worker| load.work(format!("worker-{worker}"))).collect();
        load
    }

    fn produce(&self) -> JoinHandle<()> {
        let (store, told, stop) = (self.store.clone(), self.told.clone(), self.stop.clone());
        let (settled, waiting) = (self.settled.clone(), 50);
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                // The workers are not to be left behind: what is inserted is to be worked off at the end.
                if told.lock().unwrap().inserted.len() > settled.load(Ordering::SeqCst) + waiting {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let jobs =
                    [NewJob::new("task", Payload::null()), NewJob::new("task", Payload::null())];
                insist(|| store.insert(&jobs)).await;
                told.lock().unwrap().inserted.extend(jobs.iter().map(|job| job.id));
            }
        })
    }

    fn work(&self, holder: String) -> JoinHandle<()> {
        let (store, told, producing) =
            (self.store.clone(), self.told.clone(), self.producing.clone());
        let settled = self.settled.clone();
        tokio::spawn(async move {
            for limit in [1, 3].into_iter().cycle() {
                let were_producing = producing.load(Ordering::SeqCst);
                let limit = NonZeroU32::new(limit).unwrap();
                let request = ClaimRequest::new(Queues::All, holder.as_str(), limit, LEASE);
                let claimed = insist(|| store.claim(&request)).await;
                if claimed.jobs.is_empty() {
                    let now = insist(|| store.ping()).await;
                    // What is due now another worker may just have left.
                    if !were_producing && claimed.next_due.is_none_or(|due| due > now) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                for job in claimed.jobs {
                    let entry = finish(&*store, &job).await;
                    let before = told.lock().unwrap().settled.insert(job.id, (entry, job.fence));
                    assert!(before.is_none(), "{} was done twice: {before:?}", job.id);
                    settled.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    }

    /// Until so many more jobs have been acknowledged as done.
    pub async fn until_done(&self, more: usize) {
        let goal = self.settled.load(Ordering::SeqCst) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.settled.load(Ordering::SeqCst) < goal {
            assert!(Instant::now() < deadline, "nothing gets done any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it, and compares what is stored with what was acknowledged. Gives how many jobs that were.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for producer in self.producers {
            producer.await.unwrap();
        }
        self.producing.store(false, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let done: BTreeSet<JobId> = told.settled.keys().copied().collect();
        assert_eq!(done, told.inserted, "what was inserted and what was done");
        let ids: Vec<JobId> = done.into_iter().collect();
        let stored = self.store.get(&ids, LogRead::All).await.unwrap();
        for (id, job) in ids.iter().zip(stored) {
            let job = job.unwrap_or_else(|| panic!("{id} was acknowledged and is gone"));
            let (entry, fence) = told.settled[id];
            let log: Vec<EntryId> = job.log.iter().map(|entry| entry.id).collect();
            assert_eq!((job.state, log), (State::Completed, vec![entry]), "{job:?}");
            assert_eq!((job.attempt, job.fence), (1, fence), "claimed once: {job:?}");
        }
        ids.len()
    }
}

/// Appends a step and completes the job.
async fn finish(store: &dyn JobStore, job: &Job) -> EntryId {
    let entry = NewEntry::new(EntryKind::Step, Payload::from_value("done").unwrap());
    let append = JobPatch::append([entry.clone()]);
    let complete = JobPatch::transition(Transition::Complete { output: None });
    for patch in [append, complete] {
        let update = [JobUpdate::held(job.id, job.fence, patch)];
        let outcomes = insist(|| store.update_jobs(&update)).await;
        assert!(
            matches!(outcomes[..], [Outcome::Applied(_) | Outcome::Repeated(_)]),
            "{outcomes:?}"
        );
    }
    entry.id
}
