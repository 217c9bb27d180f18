use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::try_join_all;
use queue::{Pass, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};

use crate::scene::{Lock, Scene};

crate::on_every_store!(
    e23_a_job_with_one_task_costs_three_trips,
    a_workflow_of_n_steps_costs_at_most_n_plus_three_trips,
    a_pass_of_one_slot_costs_two_trips_for_each_job,
    parallel_steps_share_their_trips,
    every_entry_is_sent_once,
    e24_a_task_error_is_one_write,
    e24_a_workflow_error_is_one_write,
    e24_a_cancel_from_inside_is_one_write,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "one", output = u32)]
struct One(How);

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum How {
    Well,
    Badly,
    Cancelled,
}

async fn one(One(how): One) -> TaskResult<u32> {
    match how {
        How::Well => Ok(1),
        How::Badly => Err(TaskError::new("no")),
        How::Cancelled => Err(TaskError::cancel("no")),
    }
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow {
    steps: u32,
    ends: How,
}

async fn flow(Flow { steps, ends }: Flow, wf: Wf) -> TaskResult<u32> {
    for n in 0..steps {
        wf.task(format!("step-{n}"), One(How::Well)).await?;
    }
    one(One(ends)).await
}

fn worker(scene: &Scene) -> Worker {
    Worker::new(scene.queue.clone()).task(one).workflow(flow).build().unwrap()
}

/// What `work` costs the database at most: a job with one task and what is said in addition.
async fn within_budget<T>(scene: &Scene, more: u32, work: impl Future<Output = T>) -> T {
    let before = scene.statements().await;
    let done = work.await;
    if let (Some(before), Some(after)) = (before, scene.statements().await) {
        let (spent, budget) = (after - before, scene.budget + u64::from(more));
        assert!(spent <= budget, "{spent} statements, {budget} would do");
    }
    done
}

async fn e23_a_job_with_one_task_costs_three_trips(scene: Scene) {
    let worker = worker(&scene);
    let summary = within_budget(&scene, 0, async {
        scene.queue.enqueue(One(How::Well)).await.unwrap();
        worker.run(Pass::new().limit(1)).await.unwrap()
    })
    .await;
    assert_eq!(summary.succeeded(), 1);
    assert_eq!(scene.trips.total(), 3, "{:?}", scene.trips);
}

async fn a_workflow_of_n_steps_costs_at_most_n_plus_three_trips(scene: Scene) {
    const STEPS: u32 = 12;
    let worker = worker(&scene);
    let summary = within_budget(&scene, STEPS, async {
        scene.queue.enqueue(Flow { steps: STEPS, ends: How::Well }).await.unwrap();
        worker.run(Pass::new().limit(1)).await.unwrap()
    })
    .await;
    assert_eq!(summary.succeeded(), 1);
    assert_eq!(scene.trips.total(), STEPS as usize + 3, "{:?}", scene.trips);
}

async fn a_pass_of_one_slot_costs_two_trips_for_each_job(scene: Scene) {
    let worker = worker(&scene);
    for (pass, trips) in [
        (Pass::new().sequential().limit(6), 6 + 6),
        // It asks once more, in vain.
        (Pass::new().sequential(), 6 + 6 + 1),
        (Pass::new().concurrency(8).limit(9), 1 + 6),
    ] {
        scene.queue.enqueue_many([(); 6].map(|()| One(How::Well))).await.unwrap();
        scene.trips.clear();
        assert_eq!(worker.run(pass.clone()).await.unwrap().succeeded(), 6);
        assert!(scene.trips.total() <= trips, "{pass:?}: {:?}", scene.trips);
    }
}

async fn parallel_steps_share_their_trips(scene: Scene) {
    const STEPS: u32 = 100;
    let trips = scene.trips.clone();
    let worker = Worker::new(scene.queue.clone())
        .workflow(move |input: Flow, wf: Wf| {
            let trips = trips.clone();
            async move {
                // A store that answers at once leaves no time for writes to gather.
                trips.lock(Lock::Writes(wf.ctx().id()));
                let ended = AtomicU32::new(0);
                let step = |n| {
                    wf.run(format!("{n}"), || async {
                        ended.fetch_add(1, Ordering::SeqCst);
                        Ok::<(), TaskError>(())
                    })
                };
                let steps = try_join_all((0..input.steps).map(|n| step(n).into_future()));
                let unlock = async {
                    while ended.load(Ordering::SeqCst) < input.steps {
                        tokio::task::yield_now().await;
                    }
                    trips.unlock();
                };
                futures::join!(steps, unlock).0?;
                Ok(0)
            }
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Flow { steps: STEPS, ends: How::Well }).await.unwrap();
    worker.run(Pass::new()).await.unwrap();
    let appends = scene.trips.of("update_jobs");
    // The first that ended, those that ended while it was written, and the end of the job.
    assert!(appends <= 3, "{appends} trips for {STEPS} parallel steps");
}

async fn every_entry_is_sent_once(scene: Scene) {
    let handle = scene.queue.enqueue(Flow { steps: 12, ends: How::Well }).await.unwrap();
    assert_eq!(worker(&scene).run(Pass::new()).await.unwrap().succeeded(), 1);
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(
        (job.log_len, scene.trips.entries()),
        (12, 12),
        "the final write brings no log again"
    );
}

async fn e24_a_task_error_is_one_write(scene: Scene) {
    scene.queue.enqueue(One(How::Badly)).await.unwrap();
    one_write(&scene, 1).await;
}

async fn e24_a_workflow_error_is_one_write(scene: Scene) {
    scene.queue.enqueue(Flow { steps: 0, ends: How::Badly }).await.unwrap();
    one_write(&scene, 1).await;
}

async fn e24_a_cancel_from_inside_is_one_write(scene: Scene) {
    scene.queue.enqueue(One(How::Cancelled)).await.unwrap();
    scene.queue.enqueue(Flow { steps: 0, ends: How::Cancelled }).await.unwrap();
    one_write(&scene, 2).await;
}

/// Each of the jobs waiting costs one write after its claim.
async fn one_write(scene: &Scene, jobs: usize) {
    let worker = worker(scene);
    scene.trips.clear();
    for _ in 0..jobs {
        worker.run(Pass::new().limit(1)).await.unwrap();
    }
    assert_eq!(scene.trips.of("update_jobs"), jobs, "{:?}", scene.trips);
    assert_eq!(scene.trips.total(), 2 * jobs, "{:?}", scene.trips);
}
