//! Handlers that block every thread of the runtime on which they run.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use queue::{
    JobCtx, JobFilter, JobQuery, JobState, Pass, Queue, State, Task, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::scene::{Lock, Scene, Trips, eventually};

crate::on_every_store_by_the_clock!(
    handlers_that_block_the_only_worker_thread_for_three_leases_keep_their_leases,
    handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases,
    jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases,
);

/// By the store's clock, which the tests move. A worker's patience with calls is as long, and real.
const LEASE: Duration = Duration::from_secs(60);
/// As many as the runtime has threads, and one more, which waits for its turn.
const JOBS: usize = 2;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "blocks")]
struct Blocks;

/// Where handlers block until the test lets them go.
#[derive(Clone, Debug, Default)]
pub struct Block {
    begun: Arc<AtomicUsize>,
    free: Arc<AtomicUsize>,
}

impl Block {
    /// Blocks the thread: nothing else runs on it meanwhile.
    pub fn block(&self) {
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        while self.free.load(Ordering::SeqCst) <= number {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until one more blocks, moves the clock by three leases, and lets it go. No lease may be over.
    pub async fn for_three_leases(&self, scene: &Scene) {
        let free = self.free.load(Ordering::SeqCst);
        eventually("it blocks", || async { self.begun.load(Ordering::SeqCst) > free }).await;
        let sibling = scene.sibling().await;
        for _ in 0..4 {
            let before = scene.trips.of("heartbeat");
            // One more has begun after it: the first has been answered.
            eventually("leases are renewed", || async {
                scene.trips.of("heartbeat") >= before + 2
            })
            .await;
            scene.clock.advance(LEASE * 3 / 4);
            let reaped = sibling.store().reap(NonZeroU32::MAX).await.unwrap();
            assert!(reaped.is_empty(), "{reaped:?}");
        }
        self.free.fetch_add(1, Ordering::SeqCst);
    }
}

/// A worker whose leases are over after [`LEASE`] by the store's clock.
pub fn renewing(queue: Queue) -> WorkerBuilder {
    Worker::new(queue).lease(LEASE).renew_every(Duration::from_millis(10))
}

async fn handlers_that_block_the_only_worker_thread_for_three_leases_keep_their_leases(
    scene: Scene,
) {
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
    keep_their_leases(scene, runtime).await;
}

async fn handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases(
    scene: Scene,
) {
    let runtime = || Builder::new_current_thread().enable_all().build();
    keep_their_leases(scene, runtime).await;
}

/// The jobs are all claimed at once, and block one after the other: the last is held for twice the time.
async fn keep_their_leases(scene: Scene, runtime: fn() -> std::io::Result<Runtime>) {
    scene.queue.enqueue_many((0..JOBS).map(|_| Blocks)).await.unwrap();
    let (queue, block) = (scene.queue.clone(), Block::default());
    let held = block.clone();
    let blocked = std::thread::spawn(move || runtime().unwrap().block_on(work(queue, held)));
    for _ in 0..JOBS {
        block.for_three_leases(&scene).await;
    }
    assert_eq!(joined(blocked).await, JOBS);
    assert_all_completed(&scene).await;
}

async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
}

async fn assert_all_completed(scene: &Scene) {
    let jobs = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap().items;
    assert_eq!(jobs.len(), JOBS);
    for job in jobs {
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
    }
}

async fn work(queue: Queue, block: Block) -> usize {
    let worker = renewing(queue)
        .state(block)
        .task(|_: Blocks, State(block): State<Block>| async move {
            block.block();
            Ok(())
        })
        .build()
        .unwrap();
    worker.run(Pass::new()).await.unwrap().succeeded()
}

/// The worker's next claim is answered while a handler blocks the only thread, so that nobody takes the answer.
async fn jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases(scene: Scene) {
    scene.queue.enqueue(Blocks).await.unwrap();
    let (trips, queue, block) = (scene.trips.clone(), scene.queue.clone(), Block::default());
    let held = block.clone();
    let blocked = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(queue, trips, held));
    });
    eventually("it blocks", || async { block.begun.load(Ordering::SeqCst) > 0 }).await;
    scene.trips.unlock();
    let running = JobFilter::all().with_states(JobState::Running);
    eventually("the other is claimed", || async {
        let running = scene.queue.tally(running.clone()).await.unwrap();
        running.iter().map(|tally| tally.count).sum::<u64>() == JOBS as u64
    })
    .await;
    block.for_three_leases(&scene).await;
    joined(blocked).await;
    assert_all_completed(&scene).await;
}

/// The first job enqueues the second, and blocks when the worker has asked for it.
async fn serve(queue: Queue, trips: Arc<Trips>, block: Block) {
    let own = queue.clone();
    let worker = renewing(queue)
        .state(block)
        .task(move |_: Blocks, State(block): State<Block>, ctx: JobCtx| {
            let (queue, trips) = (own.clone(), trips.clone());
            async move {
                if block.begun.load(Ordering::SeqCst) == 0 {
                    trips.lock(Lock::Claims);
                    queue.enqueue(Blocks).await?;
                    eventually("it asks for it", || async { trips.hung() > 0 }).await;
                    block.block();
                }
                assert!(!ctx.cancelled().is_cancelled(), "it still has the job");
                Ok(())
            }
        })
        .concurrency(2)
        .build()
        .unwrap();
    worker.run_until_empty(|_| {}).await.unwrap();
}
