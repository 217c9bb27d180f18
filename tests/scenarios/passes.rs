use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use queue::{
    JobFilter, JobResult, JobState, Order, Pass, Queue, QueueName, State, Task, TaskError,
    TaskResult, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use crate::scene::{Docs, Scene, eventually};

crate::on_every_store!(
    e5_of_ten_concurrent_passes_exactly_one_gets_the_job,
    e5_of_ten_concurrent_passes_by_id_exactly_one_gets_the_job,
    e6_sequential_passes_run_the_first_enqueued_first,
    e6_lifo_by_call_and_by_queue_reverses_the_order,
    the_order_of_a_call_goes_before_that_of_a_queue_and_that_before_the_worker_s,
    e13_a_pass_runs_ten_jobs_or_as_many_as_its_limit,
    e14_a_pass_by_id_runs_only_that_job,
    e14_a_pass_by_label_runs_only_jobs_with_the_label,
    a_pass_by_kind_runs_only_jobs_of_the_kind,
    a_pass_by_no_ids_no_kinds_or_no_queues_runs_nothing,
    a_pass_runs_at_most_as_many_jobs_at_once_as_it_is_told,
    a_pass_claims_no_more_than_it_can_start,
    a_pass_takes_the_queues_of_one_order_before_those_of_the_other,
    a_limit_of_zero_is_refused,
    a_concurrency_of_zero_is_refused,
    all_queues_are_taken_only_where_that_is_said,
    a_pass_says_how_many_jobs_remain,
    what_remains_is_what_the_pass_could_have_taken,
    a_drain_that_finds_nothing_due_says_how_many_jobs_remain,
    a_retry_that_is_due_at_once_waits_for_the_next_pass,
    a_retry_that_goes_first_waits_for_the_next_pass_too,
);

crate::on_every_store_by_the_clock!(a_job_is_due_at_its_very_instant);

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

fn notes(count: usize) -> impl Iterator<Item = Note> {
    (0..count).map(|n| Note(n.to_string()))
}

async fn e5_of_ten_concurrent_passes_exactly_one_gets_the_job(scene: Scene) {
    race_for_one_job(scene, |_| Pass::new().limit(1)).await;
}

async fn e5_of_ten_concurrent_passes_by_id_exactly_one_gets_the_job(scene: Scene) {
    race_for_one_job(scene, |id| Pass::new().ids([id])).await;
}

async fn race_for_one_job(scene: Scene, pass: impl Fn(queue::JobId) -> Pass) {
    let docs = Docs::default();
    for _ in 0..5 {
        let handle = scene.queue.enqueue(Note("x".into())).await.unwrap();
        let before = docs.len();
        let workers: Vec<Worker> =
            (0..10).map(|_| worker(scene.queue.clone(), &docs).build().unwrap()).collect();
        let passes = workers.iter().map(|worker| worker.run(pass(handle.id())));
        let summaries = join_all(passes).await;
        let got = summaries.iter().filter(|summary| !summary.as_ref().unwrap().jobs.is_empty());
        assert_eq!((got.count(), docs.len() - before), (1, 1));
    }
}

async fn e6_sequential_passes_run_the_first_enqueued_first(scene: Scene) {
    let docs = Docs::default();
    enqueue_two(&scene.queue, QueueName::default()).await;
    worker(scene.queue.clone(), &docs)
        .build()
        .unwrap()
        .run(Pass::new().sequential())
        .await
        .unwrap();
    assert_eq!(docs.all(), ["older", "newer"]);
}

async fn e6_lifo_by_call_and_by_queue_reverses_the_order(scene: Scene) {
    let docs = Docs::default();
    enqueue_two(&scene.queue, QueueName::default()).await;
    let by_call = worker(scene.queue.clone(), &docs).build().unwrap();
    by_call.run(Pass::new().sequential().order(Order::Lifo)).await.unwrap();
    assert_eq!(docs.all(), ["newer", "older"]);

    let stack = QueueName::new("stack").unwrap();
    enqueue_two(&scene.queue, stack.clone()).await;
    let by_queue = worker(scene.queue.clone(), &docs)
        .queues([stack.clone()])
        .queue_order(stack, Order::Lifo)
        .build()
        .unwrap();
    by_queue.run(Pass::new().sequential()).await.unwrap();
    assert_eq!(docs.all()[2..], ["newer", "older"]);
}

async fn the_order_of_a_call_goes_before_that_of_a_queue_and_that_before_the_worker_s(
    scene: Scene,
) {
    let (stack, line) = (Order::Lifo, Order::Fifo);
    for (global, queue, call, expected) in [
        (stack, None, None, ["newer", "older"]),
        (stack, Some(line), None, ["older", "newer"]),
        (line, Some(stack), None, ["newer", "older"]),
        (line, Some(stack), Some(line), ["older", "newer"]),
        (stack, Some(line), Some(stack), ["newer", "older"]),
        (stack, None, Some(line), ["older", "newer"]),
    ] {
        let docs = Docs::default();
        enqueue_two(&scene.queue, QueueName::default()).await;
        let mut worker = worker(scene.queue.clone(), &docs).order(global);
        if let Some(order) = queue {
            worker = worker.queue_order(QueueName::default(), order);
        }
        let pass = Pass::new().sequential();
        let pass = call.into_iter().fold(pass, Pass::order);
        worker.build().unwrap().run(pass).await.unwrap();
        assert_eq!(docs.all(), expected, "{global:?}, {queue:?}, {call:?}");
    }
}

/// Two jobs 100 ms apart, as their due times.
async fn enqueue_two(queue: &Queue, name: QueueName) {
    let now = queue.store().ping().await.unwrap();
    let older = now.minus(Duration::from_millis(100));
    for (text, at) in [("newer", now), ("older", older)] {
        queue.enqueue(Note(text.into())).queue(name.clone()).at(at).await.unwrap();
    }
}

async fn e13_a_pass_runs_ten_jobs_or_as_many_as_its_limit(scene: Scene) {
    for (jobs, pass, expected) in [
        (65, Pass::new(), 10),
        (110, Pass::new().limit(42), 42),
        (150, Pass::new().limit(150), 150),
    ] {
        let docs = Docs::default();
        let worker = worker(scene.queue.clone(), &docs).build().unwrap();
        scene.queue.enqueue_many(notes(jobs)).await.unwrap();
        let summary = worker.run(pass).await.unwrap();
        assert_eq!((summary.succeeded(), docs.len()), (expected, expected));
        worker.drain(Pass::new().limit(1_000)).await.unwrap();
        assert_eq!(docs.len(), jobs);
    }
}

async fn e14_a_pass_by_id_runs_only_that_job(scene: Scene) {
    let docs = Docs::default();
    let handles = scene.queue.enqueue_many(notes(3)).await.unwrap();
    let worker = worker(scene.queue.clone(), &docs).build().unwrap();
    worker.run(Pass::new().ids([handles[2].id()])).await.unwrap();
    assert_eq!(docs.all(), ["2"]);
}

async fn e14_a_pass_by_label_runs_only_jobs_with_the_label(scene: Scene) {
    let docs = Docs::default();
    scene.queue.enqueue_many(notes(3)).await.unwrap();
    scene.queue.enqueue(Note("mine".into())).label("tenant", "a").await.unwrap();
    scene.queue.enqueue(Note("theirs".into())).label("tenant", "b").await.unwrap();
    let worker = worker(scene.queue.clone(), &docs).build().unwrap();
    worker.run(Pass::new().label("tenant", "a")).await.unwrap();
    assert_eq!(docs.all(), ["mine"]);
}

async fn a_pass_by_kind_runs_only_jobs_of_the_kind(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "other")]
    struct Other;
    let docs = Docs::default();
    let worker = worker(scene.queue.clone(), &docs)
        .task(|_: Other, State(docs): State<Docs>| async move {
            docs.write("other");
            Ok(())
        })
        .build()
        .unwrap();
    scene.queue.enqueue_many(notes(2)).await.unwrap();
    scene.queue.enqueue(Other).await.unwrap();
    let summary = worker.run(Pass::new().kinds(["other"]).count_remaining()).await.unwrap();
    assert_eq!((docs.all(), summary.remaining), (vec!["other".to_owned()], Some(0)));
    // A kind that this worker has no handler for is not its business, filter or not.
    let summary = worker.run(Pass::new().kinds(["note", "stranger"])).await.unwrap();
    assert_eq!(summary.succeeded(), 2);
}

async fn a_pass_by_no_ids_no_kinds_or_no_queues_runs_nothing(scene: Scene) {
    let docs = Docs::default();
    scene.queue.enqueue_many(notes(3)).await.unwrap();
    let worker = worker(scene.queue.clone(), &docs).build().unwrap();
    for pass in [Pass::new().ids([]), Pass::new().kinds([""; 0]), Pass::new().queues([])] {
        let summary = worker.run(pass.count_remaining()).await.unwrap();
        assert_eq!((summary.jobs.len(), summary.remaining), (0, Some(0)));
    }
    assert_eq!(docs.len(), 0);
}

async fn a_pass_runs_at_most_as_many_jobs_at_once_as_it_is_told(scene: Scene) {
    /// How many run, how many ran at once at most, and the word to end.
    #[derive(Clone, Default)]
    struct Busy(Arc<AtomicU32>, Arc<AtomicU32>, Arc<Notify>);
    let (busy, docs) = (Busy::default(), Docs::default());
    scene.queue.enqueue_many(notes(9)).await.unwrap();
    let worker = Worker::new(scene.queue.clone())
        .state((busy.clone(), docs.clone()))
        .task(|Note(text): Note, State((busy, docs)): State<(Busy, Docs)>| async move {
            let Busy(now, most, end) = busy;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            docs.write(text);
            end.notified().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
        .build()
        .unwrap();
    let one_after_the_other = async {
        for begun in 3..9 {
            eventually("so many have begun", || async { docs.len() >= begun }).await;
            busy.2.notify_one();
        }
        eventually("all have ended", || async {
            busy.2.notify_one();
            docs.len() == 9 && busy.0.load(Ordering::SeqCst) == 0
        })
        .await;
    };
    let pass = worker.run(Pass::new().concurrency(3));
    let (summary, ()) = tokio::join!(pass, one_after_the_other);
    assert_eq!((summary.unwrap().succeeded(), busy.1.load(Ordering::SeqCst)), (9, 3));
}

async fn a_pass_claims_no_more_than_it_can_start(scene: Scene) {
    let (docs, end) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let worker = Worker::new(scene.queue.clone())
        .state((docs.clone(), end.clone()))
        .task(|Note(text): Note, State((docs, end)): State<(Docs, Arc<Semaphore>)>| async move {
            docs.write(text);
            end.acquire().await?.forget();
            Ok(())
        })
        .build()
        .unwrap();
    let handles = scene.queue.enqueue_many(notes(6)).await.unwrap();
    let sibling = scene.sibling().await;
    let count = async |states| {
        let tallies = sibling.tally(JobFilter::all().with_states(states)).await.unwrap();
        tallies.iter().map(|tally| tally.count).sum::<u64>()
    };
    let watching = async {
        for begun in 2..=5 {
            eventually("so many have begun", || async { docs.len() == begun }).await;
            let held = count(JobState::Running).await;
            assert_eq!((held, count(JobState::Waiting).await), (2, 6 - begun as u64));
            end.add_permits(1);
        }
        end.add_permits(1);
    };
    let pass = worker.run(Pass::new().concurrency(2).limit(5).count_remaining());
    let (summary, ()) = tokio::join!(pass, watching);
    let summary = summary.unwrap();
    assert_eq!((summary.succeeded(), summary.remaining), (5, Some(1)));
    let ids = |n: usize| handles[..n].iter().map(queue::JobHandle::id).collect::<Vec<_>>();
    assert_eq!(summary.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), ids(5));
    // No further one either.
    let last = handles[5].job().await.unwrap().unwrap();
    assert_eq!((last.state, last.fence.count), (JobState::Waiting, 0));
}

async fn a_pass_takes_the_queues_of_one_order_before_those_of_the_other(scene: Scene) {
    let (docs, stack) = (Docs::default(), QueueName::new("stack").unwrap());
    let now = scene.queue.store().ping().await.unwrap();
    for (n, name) in [QueueName::default(), stack.clone()].into_iter().cycle().take(6).enumerate() {
        let at = now.minus(Duration::from_millis(100 - n as u64));
        scene.queue.enqueue(Note(n.to_string())).queue(name).at(at).await.unwrap();
    }
    let worker = worker(scene.queue.clone(), &docs)
        .queues([QueueName::default(), stack.clone()])
        .queue_order(stack, Order::Lifo)
        .build()
        .unwrap();
    let summary = worker.run(Pass::new().sequential().limit(5)).await.unwrap();
    assert_eq!(
        (summary.succeeded(), docs.all()),
        (5, ["0", "2", "4", "5", "3"].map(String::from).into())
    );
    worker.run(Pass::new().sequential()).await.unwrap();
    assert_eq!(docs.all()[5..], ["1"]);
}

async fn a_concurrency_of_zero_is_refused(scene: Scene) {
    let error = worker(scene.queue.clone(), &Docs::default()).concurrency(0).build().unwrap_err();
    assert_eq!(error.to_string(), "concurrency must be at least 1");
    let worker = worker(scene.queue.clone(), &Docs::default()).build().unwrap();
    let error = worker.run(Pass::new().concurrency(0)).await.unwrap_err();
    assert_eq!(error.kind(), queue::ErrorKind::Invalid);
}

async fn all_queues_are_taken_only_where_that_is_said(scene: Scene) {
    let docs = Docs::default();
    let other = QueueName::new("other").unwrap();
    scene.queue.enqueue(Note("default".into())).await.unwrap();
    scene.queue.enqueue(Note("other".into())).queue(other).await.unwrap();
    worker(scene.queue.clone(), &docs).build().unwrap().drain(Pass::new()).await.unwrap();
    assert_eq!(docs.all(), ["default"]);
    let all = worker(scene.queue.clone(), &docs).all_queues().build().unwrap();
    all.drain(Pass::new()).await.unwrap();
    assert_eq!(docs.all(), ["default", "other"]);
}

async fn a_limit_of_zero_is_refused(scene: Scene) {
    scene.queue.enqueue_many(notes(3)).await.unwrap();
    let worker = worker(scene.queue.clone(), &Docs::default()).build().unwrap();
    let error = worker.run(Pass::new().limit(0)).await.unwrap_err();
    assert_eq!(error.kind(), queue::ErrorKind::Invalid);
    assert!(error.to_string().contains("at least 1"), "{error}");
    // Nothing was leased either.
    let jobs = scene.queue.find(queue::JobQuery::new(queue::JobFilter::all())).await.unwrap().items;
    assert_eq!((jobs.len(), scene.trips.of("claim")), (3, 0));
    let untouched =
        |job: &queue::Job| (job.state, job.fence.count) == (queue::JobState::Waiting, 0);
    assert!(jobs.iter().all(untouched), "{jobs:?}");
}

async fn a_pass_says_how_many_jobs_remain(scene: Scene) {
    scene.queue.enqueue_many(notes(12)).await.unwrap();
    let worker = worker(scene.queue.clone(), &Docs::default()).build().unwrap();
    let summary = worker.run(Pass::new().count_remaining()).await.unwrap();
    assert_eq!((summary.succeeded(), summary.remaining), (10, Some(2)));
}

async fn what_remains_is_what_the_pass_could_have_taken(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "stranger")]
    struct Stranger;
    let other = QueueName::new("other").unwrap();
    let elsewhere = || {
        let mut filter = queue::JobFilter::all();
        filter.queues = Some(vec![other.clone()]);
        filter
    };
    scene.queue.enqueue(Stranger).await.unwrap();
    scene.queue.enqueue(Note("elsewhere".into())).queue(other.clone()).await.unwrap();
    let docs = Docs::default();
    let worker = worker(scene.queue.clone(), &docs).build().unwrap();
    // A kind that it has no handler for, and a queue that it does not take jobs from.
    for pass in [
        Pass::new().kinds(["stranger"]),
        Pass::new().kinds(["note", "stranger"]),
        Pass::new().filter(elsewhere()),
    ] {
        let summary = worker.run(pass.count_remaining()).await.unwrap();
        assert_eq!((summary.jobs.len(), summary.remaining), (0, Some(0)));
    }
    // Named by the pass, it does.
    let later = scene.queue.enqueue(Note("later".into())).queue(other.clone());
    later.delay(Duration::from_secs(3_600)).await.unwrap();
    let pass = Pass::new().queues([other.clone()]).filter(elsewhere());
    let summary = worker.run(pass.count_remaining()).await.unwrap();
    assert_eq!((summary.succeeded(), summary.remaining), (1, Some(1)));
}

async fn a_drain_that_finds_nothing_due_says_how_many_jobs_remain(scene: Scene) {
    let worker = worker(scene.queue.clone(), &Docs::default()).build().unwrap();
    let delayed = scene.queue.enqueue(Note("later".into())).delay(Duration::from_secs(3_600));
    delayed.await.unwrap();
    let summary = worker.drain(Pass::new().count_remaining()).await.unwrap();
    assert_eq!((summary.jobs.len(), summary.remaining), (0, Some(1)));
    scene.queue.enqueue_many(notes(3)).await.unwrap();
    let summary = worker.drain(Pass::new().limit(2).count_remaining()).await.unwrap();
    assert_eq!((summary.succeeded(), summary.remaining), (3, Some(1)));
}

async fn a_retry_that_is_due_at_once_waits_for_the_next_pass(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "flaky", retries = 3)]
    struct Flaky;
    scene.queue.enqueue(Flaky).await.unwrap();
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Flaky| async { Err::<(), _>(queue::TaskError::new("again")) })
        .build()
        .unwrap();
    for _ in 0..3 {
        let summary = worker.run(Pass::new()).await.unwrap();
        assert!(matches!(
            summary.jobs[..],
            [queue::JobReport { result: queue::JobResult::WillRetry { .. }, .. }]
        ));
    }
    assert_eq!(worker.run(Pass::new()).await.unwrap().failed(), 1);
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty());
}

async fn a_retry_that_goes_first_waits_for_the_next_pass_too(scene: Scene) {
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "flaky", retries = 9)]
    struct Flaky(String);
    let docs = Docs::default();
    let worker = Worker::new(scene.queue.clone())
        .state(docs.clone())
        .task(|Flaky(text): Flaky, State(docs): State<Docs>| async move {
            docs.write(text);
            Err::<(), _>(TaskError::new("again"))
        })
        .build()
        .unwrap();
    for name in ["a", "b", "first"] {
        let job = scene.queue.enqueue(Flaky(name.into()));
        job.priority(i16::from(name == "first")).await.unwrap();
    }
    // By its priority, and by the order too.
    for (order, all) in [(Order::Fifo, ["first", "a", "b"]), (Order::Lifo, ["first", "b", "a"])] {
        let begun = docs.len();
        let pass = Pass::new().sequential().order(order).count_remaining();
        let summary = worker.run(pass).await.unwrap();
        assert_eq!(docs.all()[begun..], all, "{order:?}");
        let retried = summary.count(|result| matches!(result, JobResult::WillRetry { .. }));
        assert_eq!((retried, summary.jobs.len(), summary.remaining), (3, 3, Some(3)));
    }
    for job in scene.queue.find(queue::JobQuery::new(JobFilter::all())).await.unwrap().items {
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Waiting, 2, 0));
    }
}

async fn a_job_is_due_at_its_very_instant(scene: Scene) {
    let docs = Docs::default();
    let worker = worker(scene.queue.clone(), &docs).build().unwrap();
    let delayed = scene.queue.enqueue(Note("later".into())).delay(Duration::from_secs(60));
    let due = delayed.await.unwrap().job().await.unwrap().unwrap().run_at;
    let microsecond = Duration::from_micros(1);
    scene.clock.advance(Duration::from_secs(60) - microsecond);
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty());
    scene.clock.advance(microsecond);
    assert_eq!(scene.clock.now(), due);
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    // And one that is due now.
    scene.queue.enqueue(Note("now".into())).await.unwrap();
    assert_eq!(worker.run(Pass::new()).await.unwrap().succeeded(), 1);
    assert_eq!(docs.all(), ["later", "now"]);
}
