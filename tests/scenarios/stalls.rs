//! A store that is silent for a time, in one call or in all, and what handlers do to the engine's own loops.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use futures::future::select;
use queue::{
    Backoff, JobFilter, JobHandle, JobState, JobStates, Overlap, Pass, Queue, Retain, Retention,
    Schedule, State, StepEntry, StepState, Task, TaskError, Wf, Worker, WorkerBuilder,
    core::{ClaimRequest, JobStoreExt, Queues, Uuid},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tracing::field::{Field, Visit};

use crate::scene::{Docs, Fault, Lock, Scene, eventually};

crate::on_every_store!(
    a_write_that_is_never_answered_holds_up_no_other_job,
    a_claim_that_is_never_answered_is_found_again,
    a_renewal_that_is_never_answered_costs_no_lease,
    a_lease_that_cannot_be_renewed_takes_no_other_with_it,
    a_look_for_expired_leases_that_never_ends_is_made_again,
    hints_are_listened_to_again_when_their_stream_ends,
    a_store_that_is_silent_for_a_while_loses_and_doubles_nothing,
    a_worker_whose_runtime_is_blocked_is_reported,
    a_store_that_blocks_the_engine_s_thread_is_reported,
    a_handler_whose_future_panics_when_it_is_dropped_fails_its_job,
    a_sweep_that_is_never_answered_is_made_again,
);

crate::on_every_store_by_the_clock!(a_schedule_whose_call_is_never_answered_fires_all_the_same);

/// For tests in which a call is never answered: it is given up after as long.
const SHORT: Duration = Duration::from_secs(1);
/// The same where no lease matters: no call is given up sooner.
const SHORTEST: Duration = Duration::from_millis(500);
/// For tests of leases: long enough for a call that renews them to be given up, and another to be made.
const LEASE: Duration = Duration::from_millis(1_500);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "held")]
struct Held;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "bomb")]
struct WithBomb;

/// A worker whose jobs last until they are let go, and the name under which it is reported.
fn worker(queue: Queue, docs: &Docs, go: &Arc<Semaphore>) -> (WorkerBuilder, String) {
    let name = format!("worker {}", Uuid::now_v7());
    let worker = Worker::new(queue)
        .name(name.clone())
        .grace(Duration::from_millis(50))
        .state((docs.clone(), go.clone()))
        .task(|_: Held, State((docs, go)): State<(Docs, Arc<Semaphore>)>| async move {
            docs.write("begun");
            drop(go.acquire().await?);
            Ok(())
        });
    (worker, name)
}

/// Runs the worker while `work` is done.
async fn while_serving(worker: Worker, work: impl Future<Output = ()>) {
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { worker.run_until(stopped.notified()).await });
    work.await;
    stop.notify_one();
    serving.await.unwrap().unwrap();
}

async fn state(handle: &JobHandle<Held>) -> JobState {
    handle.job().await.unwrap().unwrap().state
}

async fn completed(handle: &JobHandle<Held>) {
    eventually("it completes", || async { state(handle).await == JobState::Completed }).await;
}

/// It completed in one attempt, and its log has one entry.
async fn assert_once(handle: &JobHandle<Held>) {
    let job = handle.job().await.unwrap().unwrap();
    let steps: Vec<_> = job.log.iter().filter_map(StepEntry::from_entry).collect();
    assert_eq!((job.state, job.attempt, steps.len()), (JobState::Completed, 1, 1), "{job:?}");
    assert_eq!(steps[0].state, StepState::Completed);
}

async fn a_write_that_is_never_answered_holds_up_no_other_job(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let worker = worker(scene.queue.clone(), &docs, &go).0.lease(SHORT).build().unwrap();
    let locked = scene.queue.enqueue(Held).await.unwrap();
    scene.trips.lock(Lock::Writes(locked.id()));
    while_serving(worker, async {
        eventually("its end is written", || async { scene.trips.hung() > 0 }).await;
        let others = scene.queue.enqueue_many((0..10).map(|_| Held)).await.unwrap();
        for other in &others {
            completed(other).await;
        }
        assert_eq!(state(&locked).await, JobState::Running);
        scene.trips.unlock();
        completed(&locked).await;
        for handle in others.iter().chain([&locked]) {
            assert_once(handle).await;
        }
    })
    .await;
    let job = locked.job().await.unwrap().unwrap();
    assert_eq!(job.crashes, 0, "its lease was renewed all the time");
}

async fn a_claim_that_is_never_answered_is_found_again(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let worker = worker(scene.queue.clone(), &docs, &go).0.lease(SHORT).build().unwrap();
    let handle = scene.queue.enqueue(Held).await.unwrap();
    scene.trips.next("claim", Fault::Silence);
    while_serving(worker, completed(&handle)).await;
    assert_once(&handle).await;
    assert!(scene.trips.hung() > 0, "a claim hung");
}

async fn a_renewal_that_is_never_answered_costs_no_lease(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let worker = worker(scene.queue.clone(), &docs, &go)
        .0
        .lease(LEASE)
        .renew_every(LEASE / 30)
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Held).await.unwrap();
    scene.trips.next("heartbeat", Fault::Hang);
    while_serving(worker, async {
        let sibling = scene.sibling().await;
        let renewed = eventually("further renewals", || async {
            let reaped = sibling.store().reap(NonZeroU32::MAX).await.unwrap();
            assert!(reaped.is_empty(), "{reaped:?}");
            scene.trips.of("heartbeat") >= 5
        });
        renewed.await;
        go.add_permits(1);
        completed(&handle).await;
    })
    .await;
    assert_once(&handle).await;
    assert_eq!((docs.len(), handle.job().await.unwrap().unwrap().crashes), (1, 0));
}

async fn a_lease_that_cannot_be_renewed_takes_no_other_with_it(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let worker = worker(scene.queue.clone(), &docs, &go)
        .0
        .lease(LEASE)
        .renew_every(LEASE / 30)
        .build()
        .unwrap();
    let handles = scene.queue.enqueue_many((0..3).map(|_| Held)).await.unwrap();
    let (locked, others) = handles.split_first().unwrap();
    scene.trips.lock(Lock::Renewals(locked.id()));
    // A pass: what is lost does not come back to it.
    let serving = Box::pin(worker.run(Pass::new()));
    let judged = async {
        eventually("they run", || async { docs.len() == 3 }).await;
        let sibling = scene.sibling().await;
        let store = sibling.store();
        eventually("the lease that is not renewed is over", || async {
            let job = store.get_one(locked.id()).await.unwrap().unwrap();
            job.lease_until.unwrap() < store.ping().await.unwrap()
        })
        .await;
        for other in others {
            let job = store.get_one(other.id()).await.unwrap().unwrap();
            assert!(job.lease_until.unwrap() > store.ping().await.unwrap(), "{job:?}");
        }
    };
    // Until here nobody has let a job go.
    match select(serving, Box::pin(judged)).await {
        futures::future::Either::Left(_) => panic!("no job is done"),
        futures::future::Either::Right(((), serving)) => {
            scene.trips.unlock();
            go.add_permits(3);
            serving.await.unwrap();
        }
    }
    for other in others {
        assert_once(other).await;
    }
}

async fn a_look_for_expired_leases_that_never_ends_is_made_again(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let (worker, name) = worker(scene.queue.clone(), &docs, &go);
    let handle = scene.queue.enqueue(Held).await.unwrap();
    let request = ClaimRequest::new(Queues::All, "gone", NonZeroU32::MIN, Duration::from_micros(1));
    assert_eq!(scene.sibling().await.store().claim(&request).await.unwrap().jobs.len(), 1);
    scene.trips.next("reap", Fault::Hang);
    let reports = reports();
    while_serving(worker.lease(SHORTEST).build().unwrap(), async {
        completed(&handle).await;
    })
    .await;
    assert!(reports.have(&name, "takes back jobs whose lease is over waits for the store in vain"));
}

async fn hints_are_listened_to_again_when_their_stream_ends(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let (worker, name) = worker(scene.queue.clone(), &docs, &go);
    scene.trips.cut_hints(2);
    let reports = reports();
    while_serving(worker.build().unwrap(), async {
        eventually("a third stream", || async { scene.trips.streams() == 3 }).await;
    })
    .await;
    for why in ["hints was cut off", "hints panicked"] {
        assert!(reports.have(&name, why), "{why}");
    }
}

async fn a_store_that_is_silent_for_a_while_loses_and_doubles_nothing(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let worker = worker(scene.queue.clone(), &docs, &go).0.lease(SHORT).build().unwrap();
    let handles = scene.queue.enqueue_many((0..5).map(|_| Held)).await.unwrap();
    while_serving(worker, async {
        eventually("they run", || async { docs.len() == 5 }).await;
        scene.trips.lock(Lock::All);
        go.add_permits(5);
        // Each of them is told apart once its batch was given up.
        eventually("calls are given up", || async { scene.trips.hung() >= 10 }).await;
        scene.trips.unlock();
        for handle in &handles {
            completed(handle).await;
        }
    })
    .await;
    for handle in &handles {
        assert_once(handle).await;
    }
}

async fn a_worker_whose_runtime_is_blocked_is_reported(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "blocks")]
    struct Blocks;
    let name = format!("blocked {}", Uuid::now_v7());
    let (queue, holder, reports) = (scene.queue.clone(), name.clone(), reports());
    let handle = queue.enqueue(Blocks).await.unwrap();
    let blocked = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let worker = Worker::new(queue)
            .name(holder.clone())
            .lease(SHORTEST)
            .state(holder)
            .task(move |_: Blocks, State(holder): State<String>| async move {
                let deadline = std::time::Instant::now() + Duration::from_secs(30);
                while !reports.have(&holder, "a handler blocks the threads of its runtime") {
                    assert!(std::time::Instant::now() < deadline, "it is not reported");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            })
            .build()
            .unwrap();
        runtime.block_on(worker.run_until_empty(|_| {}))
    };
    tokio::task::spawn_blocking(blocked).await.unwrap().unwrap();
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Completed);
}

async fn a_store_that_blocks_the_engine_s_thread_is_reported(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let (worker, name) = worker(scene.queue.clone(), &docs, &go);
    let handle = scene.queue.enqueue(Held).await.unwrap();
    let reports = reports();
    while_serving(worker.lease(SHORTEST).build().unwrap(), async {
        completed(&handle).await;
        scene.trips.block(true);
        let reported = eventually("a report", || async {
            reports.have(&name, "a call of the store blocks it")
        });
        reported.await;
        scene.trips.block(false);
    })
    .await;
}

async fn a_handler_whose_future_panics_when_it_is_dropped_fails_its_job(scene: Scene) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let worker = Worker::new(scene.queue.clone())
        .workflow(|_: WithBomb, wf: Wf| async move {
            let _bomb = Bomb;
            // The body is dropped while this step waits for its retry.
            let fails = wf.run("fails", || async { Err::<(), _>(TaskError::new("once more")) });
            fails.retries(1).backoff(Backoff::fixed(Duration::from_secs(60))).await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(WithBomb).await.unwrap();
    let summary = worker.run(Pass::new()).await.unwrap();
    assert_eq!(summary.failed(), 1, "{summary:?}");
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.crashes), (JobState::Failed, 0));
    assert!(job.error.unwrap().as_str().contains("panicked: dropped"));
    assert_eq!(job.log.iter().filter_map(StepEntry::from_entry).count(), 1, "the failure is kept");
}

async fn a_sweep_that_is_never_answered_is_made_again(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let worker = worker(scene.queue.clone(), &docs, &go)
        .0
        .lease(SHORTEST)
        .retention(Queues::All, Retention::of_all(Retain::Newest(0)))
        .sweep_every(Duration::from_millis(50))
        .build()
        .unwrap();
    while_serving(worker, async {
        for (hung, method) in ["tally", "find", "delete"].into_iter().enumerate() {
            scene.trips.next(method, Fault::Hang);
            let handle = scene.queue.enqueue(Held).await.unwrap();
            eventually(method, || async { scene.trips.hung() > hung }).await;
            eventually("a further sweep", || async { handle.job().await.unwrap().is_none() }).await;
        }
    })
    .await;
}

async fn a_schedule_whose_call_is_never_answered_fires_all_the_same(scene: Scene) {
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(1)));
    let schedule = Schedule::cron("* * * * * *", Held).named("s").overlap(Overlap::SkipWhileAny);
    let (worker, _) = worker(scene.queue.clone(), &docs, &go);
    let worker = worker.lease(SHORTEST).scheduled(schedule).build().unwrap();
    // Not by way of the store whose calls hang.
    let others = scene.sibling().await;
    let fired = async || {
        let known = others.schedules().await.unwrap();
        known.first().map(|info| info.fired)
    };
    scene.trips.next("put_record", Fault::Hang);
    while_serving(worker, async {
        eventually("it is known", || async { fired().await == Some(0) }).await;
        for (slot, method) in (1..).zip(["schedules", "records", "tally", "fire"]) {
            let live = JobFilter::all().with_states(JobStates::LIVE);
            eventually("the last job has ended", || async {
                others.tally(live.clone()).await.unwrap().iter().all(|tally| tally.count == 0)
            })
            .await;
            scene.trips.next(method, Fault::Hang);
            scene.clock.advance(Duration::from_secs(1));
            eventually(method, || async { fired().await == Some(slot) }).await;
        }
    })
    .await;
    assert_eq!(scene.trips.hung(), 5, "each of them hung");
}

/// What the engine reports, in this whole process.
#[derive(Clone, Debug, Default)]
struct Reports(Arc<Mutex<Vec<String>>>);

/// Collects from now on.
fn reports() -> Reports {
    static REPORTS: OnceLock<Reports> = OnceLock::new();
    let collect = || {
        let reports = Reports::default();
        tracing::subscriber::set_global_default(reports.clone()).expect("there is no other");
        reports
    };
    REPORTS.get_or_init(collect).clone()
}

impl Reports {
    fn have(&self, worker: &str, what: &str) -> bool {
        let reports = self.0.lock().unwrap();
        reports.iter().any(|report| report.contains(worker) && report.contains(what))
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{value:?} ");
    }
}

impl tracing::Subscriber for Reports {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR && metadata.target().starts_with("queue")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
