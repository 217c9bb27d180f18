//! Handlers that panic and fail by the thousand.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use queue::{
    Job, JobFilter, JobHandle, JobQuery, JobState, Queue, State, Task, Worker,
    core::{Cursor, JobError},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Notify, watch};

use crate::{
    process::{Order, Process, tell},
    size::{Size, report},
};

mod faults;

use faults::{Broken, BrokenFlow, FAULTS, Faulty};

mod memory {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_panics_and_as_many_errors_cost_a_worker_no_slots() {
        // Its jobs are its memory: no bound for that.
        super::in_a_process("memory:", u64::MAX).await;
    }
}

/// On SQLite with all other tests, on servers when it is asked for.
macro_rules! on_store {
    ($store:ident $(, $ignore:meta)?) => {
        mod $store {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            $(#[$ignore])?
            async fn ten_thousand_panics_and_as_many_errors_cost_a_worker_neither_slots_nor_memory() {
                let scene = crate::scene::Scene::$store(queue::Clock::system()).await;
                super::in_a_process(scene.url(), super::GROWTH).await;
            }
        }
    };
}

#[cfg(feature = "sqlite")]
on_store!(sqlite);
#[cfg(feature = "postgres")]
on_store!(postgres, ignore = "takes a minute");
#[cfg(feature = "mongo")]
on_store!(mongo, ignore = "takes a minute");

const SLOTS: u32 = 32;
/// How long all that may take.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How many jobs are enqueued at once.
const CHUNK: usize = 500;
/// How much a worker may grow between a tenth of the jobs and all of them, and half as much in the second half: it would
/// grow by more if each job left half a kilobyte behind.
const GROWTH: u64 = 8 << 20;

/// What a process is to do: run jobs that panic and fail, then jobs that need all slots at once.
#[derive(Serialize, Deserialize)]
pub struct Fail {
    url: String,
    panics: usize,
    errors: usize,
}

/// What it found.
#[derive(Serialize, Deserialize)]
struct Figures {
    /// After each tenth of the jobs, how much memory was resident.
    resident: Vec<u64>,
    seconds: f64,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "meet")]
struct Meet;

/// In a process of its own, so that its memory is the worker's.
async fn in_a_process(url: &str, growth: u64) {
    let number = |variable| Size::Full.of(variable, 0, 10_000);
    let (panics, errors) = (number("QUEUE_FAULTS_PANICS"), number("QUEUE_FAULTS_ERRORS"));
    let folder = tempfile::tempdir().unwrap();
    let order = Order::Fail(Fail { url: url.to_owned(), panics, errors });
    let said = Process::start(&order, folder.path()).ended_within(PATIENCE).await;
    let figures: Figures = serde_json::from_str(said.last().unwrap()).unwrap();
    let Figures { resident, seconds } = figures;
    let (scheme, _) = url.split_once(':').unwrap();
    let kib: Vec<u64> = resident.iter().map(|bytes| bytes >> 10).collect();
    report(&format!(
        "{scheme}: {panics} panics and {errors} errors in {seconds:.1} s; KiB resident after each tenth: {kib:?}",
    ));
    let grown = |from: usize| resident[9].saturating_sub(resident[from]);
    assert!(grown(0) < growth && grown(4) < growth / 2, "{kib:?}");
}

impl Fail {
    pub async fn carry_out(self) {
        // What panics say would fill a file.
        std::panic::set_hook(Box::new(|_| {}));
        let begun = Instant::now();
        let queue = Queue::connect(&self.url).await.unwrap();
        let meeting = Arc::new(Barrier::new(SLOTS as usize));
        let worker = Worker::new(queue.clone())
            .state(meeting)
            .task(faults::broken)
            .workflow(faults::broken_flow)
            .task(|_: Meet, State(meeting): State<Arc<Barrier>>| async move {
                meeting.wait().await;
                Ok(())
            })
            .concurrency(SLOTS)
            .build()
            .unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (ends, mut ended) = watch::channel(0);
        let serving = tokio::spawn(async move {
            worker.serve(stopped.notified(), |_| ends.send_modify(|ends| *ends += 1)).await
        });
        let mut memory = Vec::new();
        for tenth in 0..10 {
            enqueue(&queue, self.list(tenth)).await;
            until(&mut ended, (tenth + 1) * (self.panics + self.errors) / 10).await;
            memory.push(resident());
        }
        // From here on a panic is this program's own.
        drop(std::panic::take_hook());
        check(&queue, self.panics + self.errors).await;
        for _ in 0..2 {
            meet(&queue).await;
        }
        assert!(!serving.is_finished(), "the worker is alive");
        stop.notify_one();
        serving.await.unwrap().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let figures = Figures { resident: memory, seconds };
        tell(serde_json::to_string(&figures).unwrap());
    }

    /// A tenth of all faults.
    fn list(&self, tenth: usize) -> Vec<Faulty> {
        let of = |panics: bool, count: usize| {
            let kinds: Vec<Faulty> =
                FAULTS.iter().filter(|fault| fault.panics == panics).map(|f| f.kind).collect();
            (count * tenth / 10..count * (tenth + 1) / 10).map(move |n| kinds[n % kinds.len()])
        };
        of(true, self.panics).chain(of(false, self.errors)).collect()
    }
}

/// Enqueues jobs with these faults.
async fn enqueue(queue: &Queue, faults: Vec<Faulty>) {
    for chunk in faults.chunks(CHUNK) {
        let (flows, tasks): (Vec<Faulty>, Vec<Faulty>) =
            chunk.iter().copied().partition(|kind| kind.is_flow());
        queue.enqueue_many(flows.into_iter().map(BrokenFlow)).await.unwrap();
        queue.enqueue_many(tasks.into_iter().map(Broken)).await.unwrap();
    }
}

/// Waits until so many attempts have ended.
async fn until(ended: &mut watch::Receiver<usize>, count: usize) {
    let all = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended >= count)).await;
    all.expect("the jobs end").expect("the worker is alive");
}

/// Every job failed, with the error that its fault leaves behind, and none of a crash.
async fn check(queue: &Queue, count: usize) {
    let mut query = JobQuery::new(JobFilter::all().with_states(JobState::Failed));
    query.limit = queue::core::MAX_PAGE;
    let mut found = 0;
    loop {
        let page = queue.find(query.clone()).await.unwrap();
        found += page.items.len();
        page.items.iter().for_each(check_one);
        let next: Option<Cursor> = page.next;
        query.after = next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(found, count, "all jobs failed");
}

fn check_one(job: &Job) {
    let kind: Faulty = job.input.to().unwrap();
    let fault = FAULTS.iter().find(|fault| fault.kind == kind).unwrap();
    let error: JobError = job.error.as_ref().unwrap().to().unwrap();
    assert_eq!((job.crashes, error.is_final), (0, true), "{job:?}");
    assert_eq!(error.name, if fault.panics { "panic" } else { "task-failed" }, "{kind:?} {error}");
    assert!(error.message.contains(fault.says), "{kind:?}: {error}");
}

/// As many jobs as there are slots, each of which waits for all others.
async fn meet(queue: &Queue) {
    let handles = queue.enqueue_many((0..SLOTS).map(|_| Meet)).await.unwrap();
    let met = try_join_all(handles.iter().map(JobHandle::output));
    let met = tokio::time::timeout(Duration::from_secs(30), met).await;
    met.expect("a slot was lost: not all jobs run at once").unwrap();
}

/// How much memory of this process is resident, in bytes.
fn resident() -> u64 {
    const PAGE: u64 = 4_096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE
}
