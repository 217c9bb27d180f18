use std::{sync::Arc, time::Duration};

use queue::{JobState, Pass, State, Task, TaskResult, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use crate::{
    blocking::{Block, renewing},
    scene::{Docs, Fault, Scene, eventually, patience},
};

crate::on_every_store!(
    e12_a_healthy_long_job_is_never_taken_over,
    a_graceful_stop_gives_running_jobs_back_without_using_an_attempt,
    a_graceful_stop_lets_jobs_finish_within_the_grace_time,
    a_worker_that_stops_takes_no_further_job,
    a_heartbeat_carries_the_progress_also_after_one_that_failed,
    a_worker_that_stalled_writes_nothing_into_the_next_attempt,
    a_handler_is_told_that_another_worker_has_its_job,
    a_handler_that_does_not_heed_the_loss_of_its_job_is_dropped,
    running_jobs_are_told_to_stop_although_a_claim_is_never_answered,
    a_lease_that_cannot_be_kept_is_refused,
    a_lease_that_would_never_be_over_is_refused,
);

crate::on_every_store_by_the_clock!(a_cpu_bound_handler_keeps_its_lease);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "long", output = String)]
struct Long;

async fn e12_a_healthy_long_job_is_never_taken_over(scene: Scene) {
    let docs = Docs::default();
    let build = |queue| {
        Worker::new(queue)
            .state(docs.clone())
            .task(|_: Long, State(docs): State<Docs>| async move {
                docs.write("begun");
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok("done".to_owned())
            })
            .lease(Duration::from_millis(600))
            .build()
            .unwrap()
    };
    let handle = scene.queue.enqueue(Long).await.unwrap();
    let (first, second) = (build(scene.queue.clone()), build(scene.sibling().await));
    let running = first.run(Pass::new());
    let polling = async {
        loop {
            let summary = second.run(Pass::new()).await.unwrap();
            assert!(summary.jobs.is_empty(), "taken over: {summary:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::pin!(polling);
    // The first one may be slower to claim than the second: it is given its head start.
    let summary = tokio::select! {
        summary = running => summary.unwrap(),
        () = async { eventually("the job runs", || async { docs.len() == 1 }).await; polling.await } => unreachable!(),
    };
    assert_eq!((summary.succeeded(), docs.len()), (1, 1));
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
}

async fn a_graceful_stop_gives_running_jobs_back_without_using_an_attempt(scene: Scene) {
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state(begun.clone())
        .task(|_: Long, State(begun): State<Arc<Notify>>| async move {
            begun.notify_one();
            std::future::pending::<TaskResult<String>>().await
        })
        .grace(Duration::from_millis(50))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    worker.run_until(async { begun.notified().await }).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Waiting, 0, 0));
    assert!(job.run_at <= scene.queue.store().ping().await.unwrap(), "it is due at once");
}

async fn a_graceful_stop_lets_jobs_finish_within_the_grace_time(scene: Scene) {
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state(begun.clone())
        .task(|_: Long, ctx: queue::JobCtx, State(begun): State<Arc<Notify>>| async move {
            begun.notify_one();
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!ctx.cancelled().is_cancelled());
            Ok("in time".to_owned())
        })
        .grace(Duration::from_secs(20))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    worker.run_until(async { begun.notified().await }).await.unwrap();
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Completed);
    assert_eq!(handle.output().await.unwrap(), "in time");
}

async fn a_worker_that_stops_takes_no_further_job(scene: Scene) {
    let (docs, end) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), end.clone()))
        .task(|_: Long, State((docs, end)): State<(Docs, Arc<Semaphore>)>| async move {
            docs.write("begun");
            end.acquire().await?.forget();
            Ok(String::new())
        })
        .grace(patience())
        .build()
        .unwrap();
    let first = scene.queue.enqueue(Long).await.unwrap();
    let stop = Arc::new(Notify::new());
    let serving = worker.run_until(stop.notified());
    let stopping = async {
        eventually("it runs", || async { docs.len() == 1 }).await;
        stop.notify_one();
        let second = scene.queue.enqueue(Long).await.unwrap();
        // So long one that went on would have for it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        end.add_permits(2);
        second
    };
    let (served, second) = tokio::join!(serving, stopping);
    served.unwrap();
    let state = async |handle: queue::JobHandle<Long>| handle.job().await.unwrap().unwrap().state;
    assert_eq!(
        (state(first).await, state(second).await, docs.len()),
        (JobState::Completed, JobState::Waiting, 1)
    );
}

async fn a_heartbeat_carries_the_progress_also_after_one_that_failed(scene: Scene) {
    let end = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .state(end.clone())
        .task(|_: Long, ctx: queue::JobCtx, State(end): State<Arc<Notify>>| async move {
            ctx.progress(40, "half-way, almost");
            end.notified().await;
            Ok(String::new())
        })
        .renew_every(Duration::from_millis(50))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    scene.trips.next("heartbeat", Fault::Break);
    let watching = async {
        eventually("its progress is seen while it runs", || async {
            let job = handle.job().await.unwrap().unwrap();
            let progress = job.progress.map(|progress| (progress.percent, progress.message));
            job.state == JobState::Running
                && progress == Some((40, Some("half-way, almost".to_owned())))
        })
        .await;
        end.notify_one();
    };
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), watching);
    assert_eq!(summary.unwrap().succeeded(), 1);
}

async fn running_jobs_are_told_to_stop_although_a_claim_is_never_answered(scene: Scene) {
    let (begun, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let worker = Worker::new(scene.queue.clone())
        .state((begun.clone(), told.clone()))
        .task(
            |_: Long,
             ctx: queue::JobCtx,
             State((begun, told)): State<(Arc<Notify>, Arc<Notify>)>| async move {
                begun.notify_one();
                ctx.cancelled().cancelled().await;
                told.notify_one();
                Ok(String::new())
            },
        )
        // So long is the claim waited for.
        .lease(Duration::from_secs(600))
        .grace(Duration::from_millis(50))
        .build()
        .unwrap();
    scene.queue.enqueue(Long).await.unwrap();
    let asked = async {
        begun.notified().await;
        scene.trips.next("claim", Fault::Hang);
        scene.queue.enqueue(Long).await.unwrap();
        eventually("a claim hangs", || async { scene.trips.hung() == 1 }).await;
    };
    let stopping = async {
        tokio::select! {
            served = worker.run_until(asked) => served.unwrap(),
            () = told.notified() => {}
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), stopping).await;
    assert!(in_time.is_ok(), "the running job is not told to stop");
}

async fn a_worker_that_stalled_writes_nothing_into_the_next_attempt(scene: Scene) {
    // The first worker cannot renew: its lease is over long before its handler returns.
    let go_on = Arc::new(Notify::new());
    let docs = Docs::default();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    let stalled = Worker::new(scene.queue.clone())
        .state((go_on.clone(), docs.clone()))
        .task(|_: Long, State((go_on, docs)): State<(Arc<Notify>, Docs)>| async move {
            docs.write("first");
            go_on.notified().await;
            Ok("from the zombie".to_owned())
        })
        .lease(Duration::from_secs(3_600))
        .build()
        .unwrap();
    let zombie = tokio::spawn(async move { stalled.run(Pass::new()).await });
    eventually("the job runs", || async { docs.len() == 1 }).await;
    steal(&scene, &handle).await;
    let second = Worker::new(scene.sibling().await)
        .task(|_: Long| async { Ok("from the second".to_owned()) })
        .build()
        .unwrap();
    assert_eq!(second.run(Pass::new()).await.unwrap().succeeded(), 1);
    go_on.notify_one();
    let summary = zombie.await.unwrap().unwrap();
    assert!(matches!(summary.jobs[0].result, queue::JobResult::Lost), "{summary:?}");
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(handle.output().await.unwrap(), "from the second");
    assert_eq!((job.log.len(), job.crashes), (1, 1));
}

async fn a_handler_is_told_that_another_worker_has_its_job(scene: Scene) {
    let (docs, told) = (Docs::default(), Arc::new(Notify::new()));
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), told.clone()))
        .task(
            |_: Long, ctx: queue::JobCtx, State((docs, told)): State<(Docs, Arc<Notify>)>| async move {
                docs.write("begun");
                ctx.cancelled().cancelled().await;
                told.notify_one();
                Ok("too late".to_owned())
            },
        )
        .lease(Duration::from_millis(600))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    let running = tokio::spawn(async move { worker.run(Pass::new()).await });
    eventually("the job runs", || async { docs.len() == 1 }).await;
    let job = handle.job().await.unwrap().unwrap();
    let sibling = scene.sibling().await;
    let store = sibling.store();
    eventually("its lease is over", || async {
        // The worker may renew it in between.
        let held = queue::core::Held::new(job.id, job.fence);
        store.heartbeat(&[held], Duration::from_micros(1)).await.unwrap();
        !store.reap(std::num::NonZeroU32::MIN).await.unwrap().is_empty()
    })
    .await;
    let request = queue::core::ClaimRequest::new(
        queue::core::Queues::default(),
        "another",
        std::num::NonZeroU32::MIN,
        Duration::from_secs(3_600),
    );
    let taken = store.claim(&request).await.unwrap().jobs.remove(0);
    assert_eq!(taken.id, job.id);
    tokio::time::timeout(patience(), told.notified()).await.expect("the handler is told");
    let summary = running.await.unwrap().unwrap();
    assert!(matches!(summary.jobs[0].result, queue::JobResult::Lost), "{summary:?}");
    let now = handle.job().await.unwrap().unwrap();
    assert_eq!(
        (now.state, now.fence, now.holder.as_deref()),
        (JobState::Running, taken.fence, Some("another"))
    );
    assert_eq!((now.log.len(), now.crashes), (0, 1));
}

async fn a_handler_that_does_not_heed_the_loss_of_its_job_is_dropped(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(|_: Long, State(docs): State<Docs>| async move {
            docs.write("begun");
            std::future::pending::<TaskResult<String>>().await
        })
        .lease(Duration::from_millis(600))
        .renew_every(Duration::from_millis(20))
        .lost_grace(Duration::from_millis(20))
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    let stealing = async {
        eventually("the job runs", || async { docs.len() == 1 }).await;
        let job = handle.job().await.unwrap().unwrap();
        let sibling = scene.sibling().await;
        eventually("it is taken back", || async {
            let held = queue::core::Held::new(job.id, job.fence);
            sibling.store().heartbeat(&[held], Duration::from_micros(1)).await.unwrap();
            !sibling.store().reap(std::num::NonZeroU32::MIN).await.unwrap().is_empty()
        })
        .await;
    };
    let running = tokio::time::timeout(patience(), worker.run(Pass::new()));
    let (summary, ()) = tokio::join!(running, stealing);
    let summary = summary.expect("the handler is dropped").unwrap();
    assert!(matches!(summary.jobs[0].result, queue::JobResult::Lost), "{summary:?}");
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Waiting);
}

/// Ends the lease of the running job as if its holder had been silent for that long.
async fn steal(scene: &Scene, handle: &queue::JobHandle<Long>) {
    let store = scene.queue.store();
    let job = handle.job().await.unwrap().unwrap();
    let held = queue::core::Held::new(job.id, job.fence);
    let outcome = store.heartbeat(&[held], Duration::from_micros(1)).await.unwrap();
    assert!(outcome[0].is_saved());
    let reaped = store.reap(std::num::NonZeroU32::MIN).await.unwrap();
    assert_eq!(reaped.len(), 1);
}

async fn a_lease_that_cannot_be_kept_is_refused(scene: Scene) {
    let built = Worker::new(scene.queue.clone())
        .lease(Duration::from_secs(1))
        .renew_every(Duration::from_secs(2))
        .build();
    let error = built.unwrap_err().to_string();
    assert!(error.contains("renew at least twice in a lease"), "{error}");
    let error = Worker::new(scene.queue.clone()).renew_every(Duration::MAX).build().unwrap_err();
    assert!(error.to_string().contains("renew at least twice in a lease"), "{error}");
}

async fn a_lease_that_would_never_be_over_is_refused(scene: Scene) {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
    let build = |lease| {
        Worker::new(scene.queue.clone())
            .task(|_: Long| async { Ok(String::new()) })
            .lease(lease)
            .build()
    };
    for lease in [Duration::MAX, YEAR + Duration::from_micros(1)] {
        let error = build(lease).unwrap_err().to_string();
        assert!(error.contains("may be at most 365 days"), "{error}");
    }
    // The longest that is taken serves.
    let worker = build(YEAR).unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    worker.run_until_empty(|_| {}).await.unwrap();
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Completed);
}

async fn a_cpu_bound_handler_keeps_its_lease(scene: Scene) {
    let block = Block::default();
    let worker = renewing(scene.queue.clone())
        .state(block.clone())
        .task(|_: Long, State(block): State<Block>| async move {
            block.block();
            Ok("computed".to_owned())
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Long).await.unwrap();
    let (summary, ()) = tokio::join!(worker.run(Pass::new()), block.for_three_leases(&scene));
    assert_eq!(summary.unwrap().succeeded(), 1);
    assert_eq!(handle.job().await.unwrap().unwrap().crashes, 0);
}
