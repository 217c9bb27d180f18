//! Handlers that block every thread of the runtime on which they run.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use queue::{JobCtx, JobFilter, JobQuery, JobState, Pass, Queue, State, Task, Worker};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};

use crate::scene::{Scene, Trips, eventually};

crate::on_every_store!(
    handlers_that_block_the_only_worker_thread_for_three_leases_keep_their_leases,
    handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases,
    jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases,
);

const LEASE: Duration = Duration::from_secs(1);
/// As many as the runtime has threads, and one more, which waits for its turn.
const JOBS: u32 = 2;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "blocks")]
struct Blocks;

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

/// The jobs are all claimed at once, and block one after the other: the last is held for twice the time before it starts.
async fn keep_their_leases(scene: Scene, runtime: fn() -> std::io::Result<Runtime>) {
    let handles = scene.queue.enqueue_many((0..JOBS).map(|_| Blocks)).await.unwrap();
    let (queue, over) = (scene.queue.clone(), Arc::new(Notify::new()));
    let done = over.clone();
    let blocked = std::thread::spawn(move || {
        let succeeded = runtime().unwrap().block_on(work(queue));
        done.notify_one();
        succeeded
    });
    nothing_is_reaped(&scene, &over).await;
    assert_eq!(blocked.join().unwrap(), JOBS as usize);
    for handle in handles {
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
    }
}

async fn nothing_is_reaped(scene: &Scene, over: &Notify) {
    let sibling = scene.sibling().await;
    let reaping = async {
        loop {
            let reaped = sibling.store().reap(NonZeroU32::MAX).await.unwrap();
            assert!(reaped.is_empty(), "{reaped:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = over.notified() => {}
        () = reaping => unreachable!(),
    }
}

async fn work(queue: Queue) -> usize {
    let worker = Worker::new(queue)
        .state(())
        .task(|_: Blocks, State(()): State<()>| async {
            // Not the runtime's sleep: nothing else runs on this thread meanwhile.
            std::thread::sleep(3 * LEASE);
            Ok(())
        })
        .lease(LEASE)
        .build()
        .unwrap();
    worker.run(Pass::new()).await.unwrap().succeeded()
}

/// The worker's next claim is answered while a handler blocks the only thread, so that nobody takes the answer.
async fn jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases(scene: Scene) {
    let first = scene.queue.enqueue(Blocks).await.unwrap();
    let (trips, queue, over) = (scene.trips.clone(), scene.queue.clone(), Arc::new(Notify::new()));
    let done = over.clone();
    let blocked = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(queue, trips));
        done.notify_one();
    });
    nothing_is_reaped(&scene, &over).await;
    blocked.join().unwrap();
    let jobs = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap().items;
    assert_eq!((jobs.len(), jobs[1].id), (2, first.id()));
    for job in jobs {
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
    }
}

/// The first job enqueues the second, and blocks when the worker has asked for it.
async fn serve(queue: Queue, trips: Arc<Trips>) {
    let (own, slow) = (queue.clone(), trips.clone());
    let worker = Worker::new(queue)
        .state(())
        .task(move |_: Blocks, State(()): State<()>, ctx: JobCtx| {
            let (queue, trips) = (own.clone(), trips.clone());
            async move {
                if queue.tally(JobFilter::all()).await?.iter().map(|it| it.count).sum::<u64>() == 1
                {
                    let asked = trips.of("claim");
                    queue.enqueue(Blocks).await?;
                    eventually("it asks for it", || async { trips.of("claim") > asked }).await;
                    std::thread::sleep(3 * LEASE);
                }
                assert!(!ctx.cancelled().is_cancelled(), "it still has the job");
                Ok(())
            }
        })
        .concurrency(2)
        .lease(LEASE)
        .build()
        .unwrap();
    slow.delay("claim", Duration::from_millis(200));
    worker.run_until_empty(|_| {}).await.unwrap();
}
