//! Ways in which an engine of this kind breaks: each of these hung, stranded a job or told a lie once.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::join};
use queue::{
    Backoff, JobResult, JobState, Order, Pass, Queue, QueueName, State, StepEntry, StepState, Task,
    TaskError, TaskResult, Wf, Worker,
    core::{ClaimRequest, JobStoreExt, Queues},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use crate::scene::{Docs, Fault, Lock, Scene, eventually};

crate::on_every_store!(
    a_final_failure_is_shown_while_a_sibling_waits_for_a_nested_step,
    a_handler_that_heeds_the_stop_has_not_failed,
    a_step_that_heeds_the_stop_runs_again,
    a_pass_that_is_dropped_gives_back_what_it_did_not_start,
    a_pass_runs_what_it_claimed_when_a_later_claim_fails,
    one_result_too_large_does_not_fail_its_siblings,
    queues_of_mixed_order_do_not_stall_the_worker,
    an_attempt_that_lost_its_job_to_its_own_worker_is_told,
    a_caught_failure_does_not_hide_the_error_of_the_body,
    a_fatal_step_is_not_run_again,
    an_exhausted_step_lets_its_siblings_settle,
    a_worker_stops_although_the_store_is_down,
    an_error_of_any_size_can_be_stored,
    a_stop_keeps_the_wait_of_a_failed_step,
    a_claim_whose_answer_was_lost_is_given_back_at_the_stop,
    a_panic_in_the_store_does_not_end_the_renewal_of_leases,
    lanes_go_on_without_hints,
    a_step_that_outlives_the_one_around_it_is_logged,
    a_handler_cannot_cancel_its_job_by_its_token,
    a_worker_that_stops_serving_does_not_stop_its_passes,
    a_count_that_fails_keeps_the_summary,
    a_pass_takes_back_expired_jobs,
    a_step_that_cancels_the_job_is_final_whatever_the_body_makes_of_it,
    a_cancel_from_inside_counts_although_the_worker_stops,
    a_refused_write_does_not_lose_the_failure_that_rode_along,
    a_job_that_is_given_back_keeps_its_place,
    a_shared_step_is_waited_for_after_the_one_around_it_has_ended,
    a_stop_with_a_claim_in_flight_gives_its_jobs_back,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "flow", output = u32)]
struct Flow;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "patient-flow", output = u32, retries = 3)]
struct PatientFlow;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "job", output = u32)]
struct Simple;

const LONG: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

fn quick(queue: Queue) -> queue::WorkerBuilder {
    Worker::new(queue).task(|_: Simple| async { Ok(1) })
}

/// A test that hangs must fail.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}

fn steps(job: &queue::Job) -> Vec<(String, StepState)> {
    job.log
        .iter()
        .filter_map(StepEntry::from_entry)
        .map(|entry| (entry.step, entry.state))
        .collect()
}

async fn ran<T: Task>(worker: Worker, job: T) -> queue::Job {
    let handle = worker.queue().enqueue(job).await.unwrap();
    soon("drain", worker.drain(Pass::new())).await.unwrap();
    handle.job().await.unwrap().unwrap()
}

async fn fails() -> TaskResult<u32> {
    Err(TaskError::new("no"))
}

async fn a_final_failure_is_shown_while_a_sibling_waits_for_a_nested_step(scene: Scene) {
    let worker = Worker::new(scene.queue.clone())
        .workflow(|_: Flow, wf: Wf| async move {
            let fails = wf.run("fails", fails).into_future();
            let inner = wf.clone();
            let nests = wf.run("nests", || async move {
                tokio::time::sleep(5 * TICK).await;
                inner.run("nested", || async { Ok::<_, TaskError>(1) }).await
            });
            let (failed, nested) = join(fails, nests.into_future()).await;
            assert!(failed.is_err());
            nested
        })
        .build()
        .unwrap();
    assert_eq!(ran(worker, Flow).await.state, JobState::Completed);
}

async fn a_handler_that_heeds_the_stop_has_not_failed(scene: Scene) {
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .task(|_: Simple, ctx: queue::JobCtx| async move {
            ctx.cancelled().cancelled().await;
            fails().await
        })
        .workflow(|_: Flow, wf: Wf| async move {
            wf.ctx().cancelled().cancelled().await;
            fails().await
        })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(Simple).await.unwrap();
    let flow = scene.queue.enqueue(Flow).await.unwrap();
    let both_run = async {
        let store = scene.sibling().await;
        let running = queue::JobFilter::all().with_states(JobState::Running);
        eventually("both run", || async { store.store().count(&running).await.unwrap() == 2 })
            .await;
    };
    worker.run_until(both_run).await.unwrap();
    for id in [task.id(), flow.id()] {
        let job = scene.queue.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.log.len()), (JobState::Waiting, 0, 0));
    }
}

async fn a_step_that_heeds_the_stop_runs_again(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let ctx = wf.ctx().clone();
            wf.run("step", || async {
                docs.write("step");
                if docs.len() > 1 {
                    return Ok(7);
                }
                ctx.cancelled().cancelled().await;
                fails().await
            })
            .await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    let begun = eventually("the step runs", || async { docs.len() == 1 });
    worker.run_until(begun).await.unwrap();
    soon("the second run", worker.run(Pass::new())).await.unwrap();
    assert_eq!(handle.output().await.unwrap(), 7);
}

async fn a_pass_that_is_dropped_gives_back_what_it_did_not_start(scene: Scene) {
    let (begun, end) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let worker = Worker::new(scene.queue.clone())
        .state((begun.clone(), end.clone()))
        .task(|_: Simple, State((begun, end)): State<(Arc<Notify>, Arc<Semaphore>)>| async move {
            begun.notify_one();
            end.acquire().await?.forget();
            Ok(1)
        })
        .build()
        .unwrap();
    let handles = scene.queue.enqueue_many([Simple, Simple, Simple]).await.unwrap();
    let sibling = scene.sibling().await;
    let running = queue::JobFilter::all().with_states(JobState::Running);
    let held = async || sibling.store().count(&running).await.unwrap();
    tokio::select! {
        summary = worker.run(Pass::new().sequential()) => panic!("{summary:?}"),
        () = begun.notified() => {}
    }
    assert_eq!(held().await, 1, "the first goes on");
    // The store has given out the others, and nobody hears it any more.
    scene.trips.delay_answer("claim", 20 * TICK);
    tokio::select! {
        summary = worker.run(Pass::new()) => panic!("{summary:?}"),
        () = eventually("they are claimed", async || held().await == 3) => {}
    }
    end.add_permits(3);
    // They are free at once, not when their lease is over.
    let other = quick(scene.sibling().await).build().unwrap();
    eventually("all are done", || async {
        other.run(Pass::new()).await.unwrap();
        let mut done = 0;
        for handle in &handles {
            let job = handle.job().await.unwrap().unwrap();
            assert_eq!(job.crashes, 0);
            done += usize::from(job.state == JobState::Completed);
        }
        done == 3
    })
    .await;
}

async fn a_pass_runs_what_it_claimed_when_a_later_claim_fails(scene: Scene) {
    let other = QueueName::new("other").unwrap();
    let worker = quick(scene.queue.clone())
        .queues([QueueName::default(), other.clone()])
        .queue_order(other, Order::Lifo)
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    scene.trips.after(1, "claim", Fault::Break);
    let summary = worker.run(Pass::new()).await;
    assert_eq!(summary.unwrap().succeeded(), 1);
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Completed);
}

async fn one_result_too_large_does_not_fail_its_siblings(scene: Scene) {
    let limit = usize::try_from(scene.queue.store().info().capabilities.max_payload_bytes).unwrap();
    let trips = scene.trips.clone();
    // While the first write is in flight, those of the other steps gather and are merged.
    let worker = Worker::new(scene.queue.clone())
        .workflow(move |_: Flow, wf: Wf| {
            let trips = trips.clone();
            async move {
                let ended = AtomicU32::new(0);
                trips.lock(Lock::Writes(wf.ctx().id()));
                let first = wf.run("first", || async { Ok::<_, TaskError>(0) }).into_future();
                let later = |id: &'static str, bytes: usize| {
                    let (trips, ended) = (&trips, &ended);
                    let step = wf.run(id, move || async move {
                        eventually("the first is written", || async { trips.hung() > 0 }).await;
                        ended.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, TaskError>("x".repeat(bytes))
                    });
                    step.into_future()
                };
                let (one, large, two) = (later("one", 1), later("large", limit), later("two", 1));
                let unlock = async {
                    while ended.load(Ordering::SeqCst) < 3 {
                        tokio::task::yield_now().await;
                    }
                    trips.unlock();
                };
                let (first, one, large, two, ()) = futures::join!(first, one, large, two, unlock);
                assert!(large.is_err());
                Ok(first? + (one?.len() + two?.len()) as u32)
            }
        })
        .build()
        .unwrap();
    let job = ran(worker, Flow).await;
    assert_eq!(
        job.output.map(|output| output.to_string()),
        Some("2".to_owned()),
        "{:?}",
        job.error
    );
}

async fn queues_of_mixed_order_do_not_stall_the_worker(scene: Scene) {
    let other = QueueName::new("other").unwrap();
    let worker = quick(scene.queue.clone())
        .queues([QueueName::default(), other.clone()])
        .queue_order(other, Order::Lifo)
        .concurrency(1)
        .build()
        .unwrap();
    scene.trips.silence();
    scene.queue.enqueue_many((0..20).map(|_| Simple)).await.unwrap();
    // Twenty pauses of five seconds would be a hang.
    soon("twenty jobs", worker.run_until_empty(|_| {})).await.unwrap();
}

async fn an_attempt_that_lost_its_job_to_its_own_worker_is_told(scene: Scene) {
    let (begun, told) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let worker = Worker::new(scene.queue.clone())
        .state((begun.clone(), told.clone()))
        .task(
            |_: Simple,
             ctx: queue::JobCtx,
             State((begun, told)): State<(Arc<AtomicU32>, Arc<Notify>)>| async move {
                if begun.fetch_add(1, Ordering::SeqCst) == 0 {
                    ctx.cancelled().cancelled().await;
                    told.notify_one();
                }
                Ok(1)
            },
        )
        .lease(LONG)
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    let stealing = async {
        eventually("it runs", || async { begun.load(Ordering::SeqCst) == 1 }).await;
        let job = handle.job().await.unwrap().unwrap();
        let held = queue::core::Held::new(job.id, job.fence);
        let sibling = scene.sibling().await;
        let store = sibling.store();
        assert!(store.heartbeat(&[held], Duration::from_micros(1)).await.unwrap()[0].is_saved());
        soon("the first attempt is told", told.notified()).await;
        soon("the second one completes", handle.output()).await.unwrap();
    };
    worker.run_until(stealing).await.unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

async fn a_caught_failure_does_not_hide_the_error_of_the_body(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: PatientFlow, wf: Wf, State(docs): State<Docs>| async move {
            assert!(wf.run("optional", fails).retries(0).await.is_err());
            docs.write("body");
            match docs.len() {
                1 | 2 => Err(TaskError::named("body", "the real reason")),
                _ => Ok(3),
            }
        })
        .workflow(|_: Flow, wf: Wf| async move {
            assert!(wf.run("optional", fails).await.is_err());
            wf.run("needed", || async { Err::<u32, _>(TaskError::new("culprit")) }).await
        })
        .build()
        .unwrap();
    let culprit = scene.queue.enqueue(Flow).await.unwrap();
    let job = ran(worker, PatientFlow).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 3));
    let error = culprit.job().await.unwrap().unwrap().error.unwrap();
    assert!(error.as_str().contains("culprit"), "{error}");
}

async fn a_fatal_step_is_not_run_again(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: PatientFlow, wf: Wf, State(docs): State<Docs>| async move {
            let fatal = wf.run("fatal", || async {
                docs.write("fatal");
                Err::<u32, _>(TaskError::fatal(TaskError::new("never again")))
            });
            assert!(fatal.await.is_err());
            wf.run("flaky", fails).await
        })
        .build()
        .unwrap();
    let job = ran(worker, PatientFlow).await;
    assert_eq!((job.state, job.attempt, docs.len()), (JobState::Failed, 4, 1));
}

async fn an_exhausted_step_lets_its_siblings_settle(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let sibling = wf.run("sibling", || async {
                docs.write("begun");
                let nap = if docs.count("begun") == 1 { LONG } else { 5 * TICK };
                tokio::time::sleep(nap).await;
                docs.write("ended");
                Ok::<u32, TaskError>(1)
            });
            let fails = wf.run("fails", || async {
                tokio::time::sleep(TICK).await;
                docs.write("failed");
                fails().await
            });
            futures::future::try_join(sibling.into_future(), fails.into_future()).await?;
            Ok(0)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    // Stopped with the failure logged and the sibling in flight; the next run restores the failure.
    worker
        .run_until(eventually("it failed", || async { docs.count("failed") == 1 }))
        .await
        .unwrap();
    soon("the second run", worker.run(Pass::new())).await.unwrap();
    assert_eq!((docs.count("begun"), docs.count("ended")), (2, 1));
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(
        steps(&job).contains(&("sibling".to_owned(), StepState::Completed)),
        "{:?}",
        steps(&job)
    );
}

async fn a_worker_stops_although_the_store_is_down(scene: Scene) {
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .lease(Duration::from_millis(300))
        .state(begun.clone())
        .task(|_: Simple, State(begun): State<Arc<Notify>>| async move {
            begun.notify_one();
            tokio::time::sleep(5 * TICK).await;
            Ok(1)
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Simple).await.unwrap();
    let failing = async {
        begun.notified().await;
        scene.trips.take_down();
    };
    soon("the stop", worker.run_until(failing)).await.unwrap();
}

async fn an_error_of_any_size_can_be_stored(scene: Scene) {
    let limit = usize::try_from(scene.queue.store().info().capabilities.max_payload_bytes).unwrap();
    let worker = Worker::new(scene.queue.clone())
        .task(move |_: Simple| async move { Err::<u32, _>(TaskError::new("x".repeat(limit + 1))) })
        .workflow(|_: Flow, wf: Wf| async move { wf.task("step", Simple).await })
        .build()
        .unwrap();
    let task = scene.queue.enqueue(Simple).await.unwrap();
    let job = ran(worker, Flow).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.log[0].body.len() < 20_000, "{} bytes", job.log[0].body.len());
    assert_eq!(task.job().await.unwrap().unwrap().state, JobState::Failed);
}

async fn a_stop_keeps_the_wait_of_a_failed_step(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let failing = wf.run("fails", fails).retries(3).backoff(Backoff::fixed(60 * LONG));
            let sibling = wf.run("sibling", || async {
                docs.write("begun");
                tokio::time::sleep(LONG).await;
                Ok::<u32, TaskError>(1)
            });
            futures::future::try_join(failing.into_future(), sibling.into_future()).await?;
            Ok(0)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Flow).await.unwrap();
    worker.run_until(eventually("it runs", || async { docs.len() == 1 })).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    let now = scene.queue.store().ping().await.unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Waiting, 1));
    assert!(now.until(job.run_at) > 59 * LONG, "due in {:?}", now.until(job.run_at));
}

async fn a_claim_whose_answer_was_lost_is_given_back_at_the_stop(scene: Scene) {
    let worker = quick(scene.queue.clone()).build().unwrap();
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    scene.trips.next("claim", Fault::LoseAnswer);
    let lost = eventually("the claim is made", || async { scene.trips.of("claim") == 1 });
    worker.run_until(lost).await.unwrap();
    // It is given back, or it was found and run before the stop; nobody holds it.
    eventually("nobody holds it", || async {
        let job = handle.job().await.unwrap().unwrap();
        job.state != JobState::Running && job.crashes == 0
    })
    .await;
}

async fn a_panic_in_the_store_does_not_end_the_renewal_of_leases(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .lease(Duration::from_millis(1_200))
        .state(docs.clone())
        .task(|_: Simple, State(docs): State<Docs>| async move {
            docs.write("run");
            tokio::time::sleep(Duration::from_millis(3_000)).await;
            Ok(1)
        })
        .build()
        .unwrap();
    for method in ["heartbeat", "reap", "update_jobs"] {
        scene.trips.next(method, Fault::Panic);
    }
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    let heartbeats = eventually("leases are renewed after the panic", || async {
        scene.trips.of("heartbeat") >= 4
    });
    worker.run_until(heartbeats).await.unwrap();
    assert_eq!((docs.len(), handle.job().await.unwrap().unwrap().crashes), (1, 0));
}

async fn lanes_go_on_without_hints(scene: Scene) {
    scene.trips.silence();
    let worker = quick(scene.queue.clone()).build().unwrap();
    let jobs = (0..20).map(|_| Simple);
    scene.queue.enqueue_many(jobs).lane(queue::Lane::new("one at a time")).await.unwrap();
    soon("twenty jobs of one lane", worker.run_until_empty(|_| {})).await.unwrap();
}

async fn a_step_that_outlives_the_one_around_it_is_logged(scene: Scene) {
    let worker = Worker::new(scene.queue.clone())
        .workflow(|_: Flow, wf: Wf| async move {
            let inner = wf.clone();
            let shared = async move {
                let slow = inner.run("slow", || async {
                    tokio::time::sleep(6 * TICK).await;
                    Ok::<u32, TaskError>(1)
                });
                slow.await.is_ok()
            };
            let shared = shared.boxed().shared();
            let again = shared.clone();
            let around = wf.run("around", || async move {
                // It gives up waiting; the shared step goes on without it.
                let gave_up = tokio::time::timeout(TICK, again).await.is_err();
                Ok::<bool, TaskError>(gave_up)
            });
            assert!(around.await?);
            Ok(u32::from(shared.await))
        })
        .build()
        .unwrap();
    let job = ran(worker, Flow).await;
    assert_eq!(
        job.output.map(|output| output.to_string()),
        Some("1".to_owned()),
        "{:?}",
        job.error
    );
}

async fn a_handler_cannot_cancel_its_job_by_its_token(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            docs.write("run");
            wf.ctx().cancelled().cancel();
            wf.run("step", || async { Ok::<u32, TaskError>(1) }).await
        })
        .build()
        .unwrap();
    assert_eq!((ran(worker, Flow).await.state, docs.len()), (JobState::Completed, 1));
}

async fn a_worker_that_stops_serving_does_not_stop_its_passes(scene: Scene) {
    let (begun, go_on) = (Docs::default(), Arc::new(Notify::new()));
    let other = QueueName::new("other").unwrap();
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state((begun.clone(), go_on.clone()))
        .task(|_: Simple, State((begun, go_on)): State<(Docs, Arc<Notify>)>| async move {
            begun.write("begun");
            go_on.notified().await;
            Ok(1)
        })
        .build()
        .unwrap();
    scene.queue.enqueue(Simple).queue(other.clone()).await.unwrap();
    let serving = async {
        let begun = eventually("the pass runs", || async { begun.len() == 1 });
        worker.run_until(begun).await.unwrap();
        go_on.notify_one();
    };
    let (summary, ()) = join(worker.run(Pass::new().queues([other])), serving).await;
    assert_eq!(summary.unwrap().succeeded(), 1);
}

async fn a_count_that_fails_keeps_the_summary(scene: Scene) {
    let worker = quick(scene.queue.clone()).build().unwrap();
    scene.queue.enqueue(Simple).await.unwrap();
    scene.trips.next("tally", Fault::Break);
    let summary = worker.run(Pass::new().count_remaining()).await.unwrap();
    assert_eq!((summary.succeeded(), summary.remaining), (1, None));
}

async fn a_pass_takes_back_expired_jobs(scene: Scene) {
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    let request = ClaimRequest::new(Queues::All, "gone", NonZeroU32::MIN, Duration::from_micros(1));
    assert_eq!(scene.sibling().await.store().claim(&request).await.unwrap().jobs.len(), 1);
    let summary = quick(scene.queue.clone()).build().unwrap().run(Pass::new()).await.unwrap();
    assert!(matches!(summary.jobs[0].result, JobResult::Succeeded { .. }), "{summary:?}");
    assert_eq!(handle.job().await.unwrap().unwrap().crashes, 1);
}

async fn a_step_that_cancels_the_job_is_final_whatever_the_body_makes_of_it(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: PatientFlow, wf: Wf, State(docs): State<Docs>| async move {
            let cancels =
                wf.run("cancels", || async { Err::<u32, _>(TaskError::cancel("enough")) });
            let later = wf.run("later", || async {
                docs.write("later");
                Ok::<u32, TaskError>(1)
            });
            let late = async { Err::<u32, _>(TaskError::new("late")) };
            futures::try_join!(cancels.into_future(), later.into_future(), late).map(|_| 0)
        })
        .build()
        .unwrap();
    let job = ran(worker, PatientFlow).await;
    assert_eq!((job.state, job.attempt), (JobState::Cancelled, 1), "{:?}", job.error);
    assert_eq!(docs.len(), 0, "no later step starts");
}

async fn a_cancel_from_inside_counts_although_the_worker_stops(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state(docs.clone())
        .task(|_: Simple, ctx: queue::JobCtx, State(docs): State<Docs>| async move {
            docs.write("begun");
            ctx.cancelled().cancelled().await;
            Err::<u32, _>(TaskError::cancel("not needed any more"))
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Simple).await.unwrap();
    worker.run_until(eventually("it runs", || async { docs.len() == 1 })).await.unwrap();
    assert_eq!(handle.job().await.unwrap().unwrap().state, JobState::Cancelled);
}

async fn a_refused_write_does_not_lose_the_failure_that_rode_along(scene: Scene) {
    let limit = usize::try_from(scene.queue.store().info().capabilities.max_payload_bytes).unwrap();
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(move |_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let failing = wf.run("fails", || async {
                docs.write("fails");
                fails().await
            });
            let line = wf.ctx().log("x".repeat(limit + 1));
            let (failed, _) = join(failing.retries(1).into_future(), line).await;
            failed
        })
        .build()
        .unwrap();
    let job = ran(worker, Flow).await;
    assert_eq!((job.state, docs.len()), (JobState::Failed, 2), "one retry, and no more");
    let failed = steps(&job).into_iter().filter(|(_, state)| *state == StepState::Failed).count();
    assert_eq!(failed, 2);
}

async fn a_job_that_is_given_back_keeps_its_place(scene: Scene) {
    let now = scene.queue.store().ping().await.unwrap();
    let at = now.minus(LONG);
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(scene.queue.clone())
        .grace(TICK)
        .state(begun.clone())
        .task(|_: Simple, ctx: queue::JobCtx, State(begun): State<Arc<Notify>>| async move {
            begun.notify_one();
            ctx.cancelled().cancelled().await;
            fails().await
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Simple).at(at).await.unwrap();
    worker.run_until(begun.notified()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.run_at), (JobState::Waiting, at));
}

async fn a_shared_step_is_waited_for_after_the_one_around_it_has_ended(scene: Scene) {
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .workflow(|_: Flow, wf: Wf, State(docs): State<Docs>| async move {
            let (inner, notes) = (wf.clone(), docs.clone());
            let shared = async move {
                let slow = inner.run("slow", || async {
                    notes.write("slow");
                    tokio::time::sleep(8 * TICK).await;
                    Ok::<u32, TaskError>(1)
                });
                slow.await.is_ok()
            };
            let shared = shared.boxed().shared();
            let again = shared.clone();
            let around = wf.run("around", || async move {
                Ok::<bool, TaskError>(tokio::time::timeout(TICK, again).await.is_err())
            });
            around.await?;
            // It fails while the shared one still runs, and is retried once that has settled.
            let flaky = wf.run("flaky", || async {
                docs.write("flaky");
                if docs.count("flaky") == 1 { fails().await } else { Ok(1) }
            });
            let (shared, flaky) = join(shared, flaky.retries(1).into_future()).await;
            Ok(u32::from(shared) + flaky?)
        })
        .build()
        .unwrap();
    let job = ran(worker, Flow).await;
    assert_eq!(
        job.output.map(|output| output.to_string()),
        Some("2".to_owned()),
        "{:?}",
        job.error
    );
    assert_eq!((docs.count("slow"), docs.count("flaky")), (1, 2));
}

async fn a_stop_with_a_claim_in_flight_gives_its_jobs_back(scene: Scene) {
    let worker = quick(scene.queue.clone()).build().unwrap();
    let handles = scene.queue.enqueue_many((0..5).map(|_| Simple)).await.unwrap();
    scene.trips.delay("claim", 10 * TICK);
    let asked = eventually("the claim is on its way", || async { scene.trips.of("claim") == 1 });
    worker.run_until(asked).await.unwrap();
    // When the worker has stopped they are free, not some time later.
    for handle in handles {
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Waiting, 0, 0));
    }
}
