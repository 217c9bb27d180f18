//! Workers that serve until they are told to stop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::try_join_all;
use queue::{
    JobFilter, JobState, Queue, QueueName, State, StepEntry, Task, TaskError, TaskResult, Wf,
    Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::scene::{Docs, Fault, Scene, eventually, patience};

crate::on_every_store!(
    e22_a_worker_goes_on_after_the_store_failed,
    a_worker_waits_before_it_asks_a_failing_store_again,
    lost_answers_are_repeated_without_doubling_anything,
    an_enqueue_that_was_not_written_is_not_acknowledged,
    two_workers_run_every_job_once,
    an_idle_worker_runs_what_is_enqueued_later,
    an_idle_worker_hears_the_store,
    an_idle_worker_comes_back_when_the_next_job_falls_due,
    an_idle_worker_hears_its_own_process_where_the_store_gives_no_hints,
    a_paused_queue_rests_until_it_is_resumed,
    a_lane_is_never_exceeded_and_always_used,
    delayed_jobs_run_when_they_fall_due,
    a_sequential_worker_runs_one_job_after_the_other_in_order,
    a_worker_claims_no_more_than_it_can_start,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "note")]
struct Note(String);

async fn note(Note(text): Note, State(docs): State<Docs>) -> TaskResult<()> {
    docs.write(text);
    Ok(())
}

fn worker(queue: Queue, docs: &Docs) -> queue::WorkerBuilder {
    Worker::new(queue).state(docs.clone()).task(note)
}

/// Runs the worker while `work` is done.
async fn while_serving<T>(worker: Worker, work: impl Future<Output = T>) -> T {
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { worker.run_until(stopped.notified()).await });
    let done = work.await;
    stop.notify_one();
    serving.await.unwrap().unwrap();
    done
}

async fn e22_a_worker_goes_on_after_the_store_failed(scene: Scene) {
    let docs = Docs::default();
    while_serving(worker(scene.queue.clone(), &docs).build().unwrap(), async {
        eventually("it polls", || async { scene.trips.of("claim") > 0 }).await;
        scene.trips.refuse(3);
        // Whoever asks next meets trouble, and then each of the worker's ways of asking; what is enqueued still runs.
        for n in 0..20 {
            if n % 5 == 4 {
                scene.trips.next("claim", Fault::Break);
                scene.trips.next("update_and_claim", Fault::Break);
            }
            scene.queue.enqueue(Note(n.to_string())).await.unwrap();
            eventually("it runs", || async { docs.len() == n + 1 }).await;
        }
    })
    .await;
}

async fn a_worker_waits_before_it_asks_a_failing_store_again(scene: Scene) {
    const FAILURES: u32 = 6;
    /// A quarter of a second is what it waits; jitter takes half of that at most.
    const PAUSE: Duration = Duration::from_millis(125);
    let docs = Docs::default();
    for _ in 0..FAILURES {
        scene.trips.next("claim", Fault::Break);
    }
    let begun = std::time::Instant::now();
    while_serving(worker(scene.queue.clone(), &docs).build().unwrap(), async {
        // What comes in meanwhile does not hurry it.
        eventually("it runs", || async {
            scene.queue.enqueue(Note("x".into())).await.unwrap();
            docs.len() > 0
        })
        .await;
    })
    .await;
    let waited = begun.elapsed();
    assert!(waited >= FAILURES * PAUSE, "{FAILURES} failures in {waited:?}");
}

async fn lost_answers_are_repeated_without_doubling_anything(scene: Scene) {
    const JOBS: u32 = 30;
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "flow", output = Vec<u32>)]
    struct Flow(u32);
    let worker = Worker::new(scene.queue.clone())
        .workflow(|Flow(job): Flow, wf: Wf| async move {
            let step =
                |n| wf.run(format!("{n}"), move || async move { Ok::<_, TaskError>(job + n) });
            try_join_all((0..4).map(|n| step(n).into_future())).await
        })
        .build()
        .unwrap();
    scene.trips.lose_every(3);
    let handles = scene.queue.enqueue_many((0..JOBS).map(Flow)).await.unwrap();
    while_serving(worker, async {
        let ended = JobFilter::all().with_states(JobState::Completed);
        let sibling = scene.sibling().await;
        eventually("all are completed", || async {
            let tally = sibling.tally(ended.clone()).await.unwrap();
            tally.first().is_some_and(|tally| tally.count == u64::from(JOBS))
        })
        .await;
    })
    .await;
    scene.trips.lose_every(0);
    for handle in handles {
        let job = handle.job().await.unwrap().unwrap();
        assert_eq!((job.log.len(), job.attempt, job.crashes), (4, 1, 0));
    }
}

async fn an_enqueue_that_was_not_written_is_not_acknowledged(scene: Scene) {
    scene.trips.next("insert", Fault::Break);
    let refused = scene.queue.enqueue(Note("refused".into())).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(scene.queue.tally(JobFilter::all()).await.unwrap().is_empty());
    // What is acknowledged is there for others at once.
    let sibling = scene.sibling().await;
    for n in 0..20 {
        let handle = scene.queue.enqueue(Note(n.to_string())).await.unwrap();
        let there = sibling.job(handle.id()).await.unwrap().map(|job| job.state);
        assert_eq!(there, Some(JobState::Waiting));
    }
}

async fn two_workers_run_every_job_once(scene: Scene) {
    const JOBS: usize = 300;
    let docs = Docs::default();
    let first = worker(scene.queue.clone(), &docs).concurrency(7).build().unwrap();
    let second = worker(scene.sibling().await, &docs).concurrency(3).build().unwrap();
    while_serving(
        first,
        while_serving(second, async {
            let notes = (0..JOBS).map(|n| Note(n.to_string()));
            let handles = scene.queue.enqueue_many(notes).await.unwrap();
            for handle in &handles {
                handle.output().await.unwrap();
            }
        }),
    )
    .await;
    let mut counts: HashMap<String, usize> = HashMap::new();
    docs.all().into_iter().for_each(|doc| *counts.entry(doc).or_default() += 1);
    assert_eq!(counts.len(), JOBS);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

async fn an_idle_worker_runs_what_is_enqueued_later(scene: Scene) {
    let docs = Docs::default();
    while_serving(worker(scene.queue.clone(), &docs).build().unwrap(), async {
        for n in 1..=5 {
            eventually("it is idle", || async { scene.trips.of("claim") >= n }).await;
            let handle = scene.queue.enqueue(Note(n.to_string())).await.unwrap();
            handle.output().await.unwrap();
        }
    })
    .await;
    assert_eq!(docs.all(), ["1", "2", "3", "4", "5"]);
}

async fn an_idle_worker_hears_the_store(scene: Scene) {
    runs_one_after_the_other_in_time(&scene, Duration::ZERO).await;
}

async fn an_idle_worker_comes_back_when_the_next_job_falls_due(scene: Scene) {
    runs_one_after_the_other_in_time(&scene, Duration::from_millis(100)).await;
}

/// Jobs that come to an idle worker, each when the one before is done.
async fn runs_one_after_the_other_in_time(scene: &Scene, delay: Duration) {
    const TIMES: usize = 12;
    let docs = Docs::default();
    let hears = while_serving(worker(scene.queue.clone(), &docs).build().unwrap(), async {
        for _ in 0..TIMES {
            let note = scene.queue.enqueue(Note("x".into())).delay(delay).await.unwrap();
            note.output().await.unwrap();
        }
    });
    // Asking every five seconds is too slow.
    tokio::time::timeout(patience(), hears).await.expect("it polls");
    assert_eq!(docs.len(), TIMES);
}

async fn an_idle_worker_hears_its_own_process_where_the_store_gives_no_hints(scene: Scene) {
    const TIMES: usize = 8;
    scene.trips.blind();
    let (docs, rests) = (Docs::default(), QueueName::new("rests").unwrap());
    let worker = worker(scene.queue.clone(), &docs).all_queues().build().unwrap();
    let asked = |before: usize, times: usize| {
        let trips = scene.trips.clone();
        eventually("it asks", move || std::future::ready(trips.asked() >= before + times))
    };
    let hears = while_serving(worker, async {
        asked(0, 1).await;
        for _ in 0..TIMES {
            let before = scene.trips.asked();
            let note = scene.queue.enqueue(Note("enqueued".into())).await.unwrap();
            note.output().await.unwrap();
            // Once more when that has ended, or it might not have to hear anything.
            asked(before, 2).await;
            let before = scene.trips.asked();
            let note = Note("resumed".into());
            scene.queue.pause(rests.clone()).await.unwrap();
            let note = scene.queue.enqueue(note).queue(rests.clone()).await.unwrap();
            asked(before, 1).await;
            scene.queue.resume(rests.clone()).await.unwrap();
            note.output().await.unwrap();
            asked(before, 3).await;
        }
    });
    // Asking every five seconds is too slow for any of them.
    tokio::time::timeout(patience(), hears).await.expect("it polls");
    assert_eq!((docs.count("enqueued"), docs.count("resumed")), (TIMES, TIMES));
}

async fn a_paused_queue_rests_until_it_is_resumed(scene: Scene) {
    let docs = Docs::default();
    let rests = QueueName::new("rests").unwrap();
    scene.queue.pause(rests.clone()).await.unwrap();
    let resting = scene.queue.enqueue(Note("resting".into())).queue(rests.clone()).await.unwrap();
    while_serving(worker(scene.queue.clone(), &docs).all_queues().build().unwrap(), async {
        scene.queue.enqueue(Note("awake".into())).await.unwrap().output().await.unwrap();
        assert_eq!(docs.all(), ["awake"]);
        scene.queue.resume(rests).await.unwrap();
        resting.output().await.unwrap();
    })
    .await;
    assert_eq!(docs.all(), ["awake", "resting"]);
}

async fn a_lane_is_never_exceeded_and_always_used(scene: Scene) {
    use std::sync::atomic::{AtomicU32, Ordering};
    #[derive(Serialize, Deserialize)]
    struct Laned(u32);
    impl Task for Laned {
        const NAME: &'static str = "laned";
        type Output = ();
        fn lane(&self) -> Option<queue::Lane> {
            Some(queue::Lane::new(format!("lane-{}", self.0 % 2)))
        }
    }
    #[derive(Clone, Default)]
    struct Busy(Arc<[AtomicU32; 2]>);
    let busy = Busy::default();
    let build = |queue| {
        Worker::new(queue)
            .state(busy.clone())
            .task(|Laned(n): Laned, State(Busy(busy)): State<Busy>| async move {
                let lane = &busy[n as usize % 2];
                assert_eq!(lane.fetch_add(1, Ordering::SeqCst), 0, "two at once in one lane");
                tokio::time::sleep(Duration::from_millis(2)).await;
                lane.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
            .build()
            .unwrap()
    };
    let handles = scene.queue.enqueue_many((0..40).map(Laned)).await.unwrap();
    while_serving(
        build(scene.queue.clone()),
        while_serving(build(scene.sibling().await), async {
            for handle in &handles {
                handle.output().await.unwrap();
            }
        }),
    )
    .await;
}

async fn delayed_jobs_run_when_they_fall_due(scene: Scene) {
    let docs = Docs::default();
    let mut due = Vec::new();
    while_serving(worker(scene.queue.clone(), &docs).concurrency(1).build().unwrap(), async {
        let delays = [450_u64, 150, 300];
        let mut handles = Vec::new();
        for delay in delays {
            let delay = Duration::from_millis(delay);
            let note = Note(delay.as_millis().to_string());
            handles.push(scene.queue.enqueue(note).delay(delay).await.unwrap());
        }
        for handle in &handles {
            handle.output().await.unwrap();
            let job = handle.job().await.unwrap().unwrap();
            assert!(job.started_at.unwrap() >= job.run_at);
            due.push((job.run_at, serde_json::from_str::<Note>(job.input.as_str()).unwrap().0));
            assert_eq!(job.log.iter().filter_map(StepEntry::from_entry).count(), 1);
        }
    })
    .await;
    due.sort();
    assert_eq!(docs.all(), due.into_iter().map(|(_, note)| note).collect::<Vec<_>>());
}

async fn a_sequential_worker_runs_one_job_after_the_other_in_order(scene: Scene) {
    let docs = Docs::default();
    for n in 0..30 {
        let note = Note(format!("{:02}", if n % 3 == 0 { n } else { n + 50 }));
        scene.queue.enqueue(note).priority(i16::from(n % 3 == 0)).await.unwrap();
    }
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(|Note(text): Note, State(docs): State<Docs>| async move {
            docs.write(format!("{text} begins"));
            tokio::time::sleep(Duration::from_millis(2)).await;
            docs.write(format!("{text} ends"));
            Ok(())
        })
        .sequential()
        .build()
        .unwrap();
    worker.run_until_empty(|_| {}).await.unwrap();
    let mut expected: Vec<String> = docs.all();
    // "begins" comes before "ends", and the jobs of higher priority have the lower numbers.
    expected.sort();
    assert_eq!((docs.len(), docs.all()), (60, expected));
}

async fn a_worker_claims_no_more_than_it_can_start(scene: Scene) {
    let (docs, end) = (Docs::default(), Arc::new(Notify::new()));
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), end.clone()))
        .task(|Note(text): Note, State((docs, end)): State<(Docs, Arc<Notify>)>| async move {
            docs.write(text);
            end.notified().await;
            Ok(())
        })
        .concurrency(2)
        .build()
        .unwrap();
    scene.queue.enqueue_many((0..9).map(|n| Note(n.to_string()))).await.unwrap();
    while_serving(worker, async {
        let sibling = scene.sibling().await;
        for begun in 2..=9 {
            eventually("so many have begun", || async { docs.len() == begun }).await;
            let running = JobFilter::all().with_states(JobState::Running);
            let held: u64 = sibling.tally(running).await.unwrap().iter().map(|t| t.count).sum();
            assert!(held <= 2, "{held} jobs are held with room for 2");
            end.notify_one();
        }
        end.notify_waiters();
    })
    .await;
}
