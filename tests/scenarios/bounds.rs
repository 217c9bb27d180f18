//! What a worker takes of what there is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue::{
    JobFilter, JobResult, JobState, State, Task, TaskResult, Wf, Worker, core::JobStoreExt,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::scene::{Scene, eventually};

crate::on_every_store!(
    a_worker_claims_no_more_jobs_than_it_has_free_slots,
    short_sleeps_do_not_keep_the_worker_busy,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "slow")]
struct Slow;

#[derive(Clone)]
struct Slots {
    begun: Arc<AtomicUsize>,
    go_on: Arc<Semaphore>,
}

async fn slow(_: Slow, State(slots): State<Slots>) -> TaskResult<()> {
    slots.begun.fetch_add(1, Ordering::SeqCst);
    slots.go_on.acquire().await?.forget();
    Ok(())
}

async fn a_worker_claims_no_more_jobs_than_it_has_free_slots(scene: Scene) {
    let slots = Slots { begun: Arc::default(), go_on: Arc::new(Semaphore::new(0)) };
    let worker = Worker::new(scene.queue.clone())
        .state(slots.clone())
        .task(slow)
        .concurrency(3)
        .build()
        .unwrap();
    let running = JobFilter::all().with_states(JobState::Running);
    let held = async || scene.queue.store().count(&running).await.unwrap();
    scene.queue.enqueue_many((0..10).map(|_| Slow)).await.unwrap();
    let watching = async {
        for done in 0..=7 {
            eventually("every slot is taken", || async {
                slots.begun.load(Ordering::SeqCst) == done + 3
            })
            .await;
            // Jobs come in all the time, and with them hints to look.
            scene.queue.enqueue(Slow).await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!(held().await, 3);
            slots.go_on.add_permits(1);
        }
        slots.go_on.add_permits(100);
        eventually("all are done", || async {
            let live = JobFilter::all().with_states(queue::JobStates::LIVE);
            scene.queue.store().count(&live).await.unwrap() == 0
        })
        .await;
    };
    worker.run_until(watching).await.unwrap();
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "naps")]
struct Naps;

async fn short_sleeps_do_not_keep_the_worker_busy(scene: Scene) {
    const NAPS: usize = 5;
    let worker = Worker::new(scene.queue.clone())
        .workflow(|_: Naps, wf: Wf| async move {
            for n in 0..NAPS {
                wf.sleep(format!("nap-{n}"), Duration::from_millis(60)).await?;
            }
            Ok(())
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Naps).await.unwrap();
    let mut looks = 0;
    let observe = |report: &queue::JobReport| {
        looks += usize::from(matches!(report.result, JobResult::Sleeping { .. }));
    };
    let done = async { handle.output().await.unwrap() };
    worker.serve(done, observe).await.unwrap();
    assert_eq!(looks, NAPS, "one look for each sleep");
    let claims = scene.trips.of("claim") + scene.trips.of("update_and_claim");
    // A claim that finds each job, one that finds when it is due, and a few that come by a little early.
    assert!(claims <= 8 * NAPS, "{claims} claims for {NAPS} sleeps");
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.attempt, job.log_len), (1, 2 * NAPS as u64));
}
