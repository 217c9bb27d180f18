//! Handlers that block every thread of the runtime on which they run.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use queue::{JobState, Pass, Queue, State, Task, Worker};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};

use crate::scene::Scene;

crate::on_every_store!(
    handlers_that_block_the_only_worker_thread_for_three_leases_keep_their_leases,
    handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases,
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
    assert_eq!(blocked.join().unwrap(), JOBS as usize);
    for handle in handles {
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
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
