//! Schedules: each slot once, whoever handles it, and what is known of them.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use queue::{
    Handled, JobFilter, JobId, JobQuery, JobState, JobStates, Missed, Overlap, Pass, Queue,
    QueueName, Schedule, ScheduleInfo, Scheduling, SlotFate, State, Task, TaskError, TaskResult,
    Timestamp, Unique, Wf, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Notify, Semaphore};

use crate::scene::{Docs, Fault, Scene, eventually};

crate::on_every_store_by_the_clock!(
    of_five_schedulers_that_race_for_a_slot_one_enqueues_its_job,
    schedulers_that_catch_up_together_fire_each_missed_slot_once,
    schedules_of_two_queues_do_not_share_slots_or_statistics,
    a_slot_is_stamped_with_itself_and_not_with_the_time_of_the_pass,
    a_failing_schedule_does_not_stop_the_others,
    a_slow_hook_holds_up_no_other_schedule,
    passes_run_what_is_queued_and_enqueue_no_schedule,
    e19_a_schedule_of_each_second_runs_each_second,
    e20_schedules_are_handled_by_hand_for_one_queue_or_for_all,
    e21_a_worker_with_scheduling_off_runs_jobs_and_enqueues_none,
    no_slot_is_fired_while_a_scheduled_job_of_its_kind_and_queue_waits_or_runs,
    jobs_enqueued_by_hand_count_where_that_is_asked_for,
    a_scheduler_that_meets_trouble_fires_the_slot_afterwards,
    a_lost_answer_is_neither_a_lost_slot_nor_a_second_job,
);

const SECOND: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "tick")]
pub struct Tick(pub String);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "chime", queue = "bells")]
pub struct Chime;

async fn tick(Tick(text): Tick, State(docs): State<Docs>) -> TaskResult<()> {
    docs.write(text);
    Ok(())
}

async fn chime(_: Chime, State(docs): State<Docs>, wf: Wf) -> TaskResult<()> {
    wf.run("strike", || async { Ok::<(), TaskError>(()) }).await?;
    docs.write("chime");
    Ok(())
}

pub fn builder(queue: Queue, docs: &Docs) -> WorkerBuilder {
    Worker::new(queue).all_queues().state(docs.clone()).task(tick).workflow(chime)
}

pub fn worker(queue: Queue, schedules: impl IntoIterator<Item = Schedule>) -> Worker {
    let bare = builder(queue, &Docs::default());
    schedules.into_iter().fold(bare, WorkerBuilder::scheduled).build().unwrap()
}

/// Each second, whatever is still running.
pub fn each_second(name: &str) -> Schedule {
    Schedule::cron("* * * * * *", Tick(name.to_owned())).named(name).overlap(Overlap::Allow)
}

pub fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub async fn handle(worker: &Worker) -> Handled {
    worker.handle_schedules().await.unwrap()
}

pub async fn info(queue: &Queue, name: &str) -> ScheduleInfo {
    let infos = queue.schedules().await.unwrap();
    infos.into_iter().find(|info| info.name == name).expect("the schedule is known")
}

pub async fn count(queue: &Queue, filter: JobFilter) -> u64 {
    queue.tally(filter).await.unwrap().iter().map(|tally| tally.count).sum()
}

pub fn slots(handled: &Handled) -> Vec<Timestamp> {
    handled.queued.iter().filter_map(|report| report.slot).collect()
}

/// Serves while `work` is done.
async fn while_serving<T>(worker: Worker, work: impl Future<Output = T>) -> T {
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { worker.run_until(stopped.notified()).await });
    let done = work.await;
    stop.notify_one();
    serving.await.unwrap().unwrap();
    done
}

/// Lets all handle their schedules at the same moment.
async fn together(workers: &[Arc<Worker>]) -> Vec<Handled> {
    let barrier = Arc::new(Barrier::new(workers.len()));
    let handling = workers.iter().map(|worker| {
        let (worker, barrier) = (worker.clone(), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            handle(&worker).await
        })
    });
    join_all(handling).await.into_iter().map(Result::unwrap).collect()
}

async fn siblings(
    scene: &Scene,
    number: usize,
    schedule: impl Fn() -> Schedule,
) -> Vec<Arc<Worker>> {
    let mut workers = Vec::new();
    for _ in 0..number {
        workers.push(Arc::new(worker(scene.sibling().await, [schedule()])));
    }
    workers
}

async fn of_five_schedulers_that_race_for_a_slot_one_enqueues_its_job(scene: Scene) {
    const ROUNDS: u64 = 8;
    for number in [2, 5] {
        let name = format!("of {number}");
        let told = Docs::default();
        let schedule = || {
            let told = told.clone();
            each_second(&name).after(move |_| {
                told.write("a slot");
                async { Ok(()) }
            })
        };
        let workers = siblings(&scene, number, schedule).await;
        together(&workers).await;
        let begun = scene.clock.now();
        for round in 1..=ROUNDS {
            scene.clock.advance(SECOND);
            let handled = together(&workers).await;
            let fired: Vec<Timestamp> = handled.iter().flat_map(slots).collect();
            assert_eq!(fired, [scene.clock.now()], "round {round} of {name}");
            let others = handled.iter().map(|handled| handled.skipped.len() + handled.failed.len());
            assert_eq!(others.sum::<usize>(), 0, "{handled:?}");
        }
        let mut ids: Vec<JobId> =
            (1..=ROUNDS as u32).map(|n| JobId::for_slot(&name, begun.plus(SECOND * n))).collect();
        let page = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap();
        let mut found: Vec<JobId> = page.items.iter().map(|job| job.id).collect();
        ids.sort();
        found.sort();
        assert_eq!(found, ids, "{name}");
        let info = info(&scene.queue, &name).await;
        assert_eq!((info.fired, info.skipped), (ROUNDS, 0));
        assert_eq!(told.len() as u64, ROUNDS, "each slot was told once");
        worker(scene.queue.clone(), []).drain(Pass::new().limit(100)).await.unwrap();
        let store = scene.queue.store().clone();
        store.delete(&JobFilter::all(), 100.try_into().unwrap()).await.unwrap();
    }
}

async fn schedulers_that_catch_up_together_fire_each_missed_slot_once(scene: Scene) {
    let schedule = || each_second("busy").missed(Missed::up_to(10));
    let workers = siblings(&scene, 5, schedule).await;
    together(&workers).await;
    let mut expected = Vec::new();
    for gap in [7, 1, 5] {
        expected.extend((1..=gap).map(|n| scene.clock.now().plus(SECOND * n)));
        scene.clock.advance(SECOND * gap);
        together(&workers).await;
    }
    let page = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap();
    let mut due: Vec<Timestamp> = page.items.iter().map(|job| job.run_at).collect();
    due.sort();
    assert_eq!(due, expected);
}

async fn schedules_of_two_queues_do_not_share_slots_or_statistics(scene: Scene) {
    let of = |queue: &str| {
        Schedule::cron("* * * * * *", Tick(queue.to_owned())).queue(queue_name(queue))
    };
    // Each in a worker of its own, and under the name that it is given.
    let mail = worker(scene.queue.clone(), [of("mail")]);
    let print = worker(scene.sibling().await, [of("print")]);
    for worker in [&mail, &print] {
        handle(worker).await;
    }
    scene.clock.advance(SECOND);
    assert_eq!((handle(&mail).await.queued.len(), handle(&print).await.queued.len()), (1, 1));
    // The job in `print` is done before the next slot, the one in `mail` is not.
    let pass = Pass::new().queues([queue_name("print")]);
    assert_eq!(print.run(pass).await.unwrap().jobs.len(), 1);
    scene.clock.advance(SECOND);
    handle(&mail).await;
    handle(&print).await;
    let infos = scene.queue.schedules().await.unwrap();
    let of = |queue: &str| {
        let mut named = infos.iter().filter(|info| info.queue.as_deref() == Some(queue));
        let info = named.next().expect("each queue has a schedule of its own");
        assert!(named.next().is_none());
        (info.fired, info.skipped, info.last_job)
    };
    let id = |name: &str, slot| Some(JobId::for_slot(name, slot));
    let now = scene.clock.now();
    assert_eq!(of("mail"), (1, 1, id("tick@mail * * * * * *", now.minus(SECOND))));
    assert_eq!(of("print"), (2, 0, id("tick@print * * * * * *", now)));
}

async fn a_slot_is_stamped_with_itself_and_not_with_the_time_of_the_pass(scene: Scene) {
    let first = worker(scene.queue.clone(), [each_second("s")]);
    let second = worker(scene.sibling().await, [each_second("s")]);
    handle(&first).await;
    let slot = scene.clock.now().plus(SECOND);
    scene.clock.advance(Duration::from_millis(1_100));
    assert_eq!(slots(&handle(&first).await), [slot]);
    scene.clock.advance(Duration::from_millis(300));
    for worker in [&second, &first] {
        let handled = handle(worker).await;
        assert_eq!((slots(&handled), handled.next), (vec![], Some(slot.plus(SECOND))));
    }
    let info = info(&scene.queue, "s").await;
    assert_eq!((info.last_slot, info.fired), (Some(slot), 1));
    let job = scene.queue.job(JobId::for_slot("s", slot)).await.unwrap().expect("the slot's job");
    assert_eq!((job.run_at, info.last_job), (slot, Some(job.id)));
}

async fn a_failing_schedule_does_not_stop_the_others(scene: Scene) {
    let failing = || {
        [
            each_second("fails").before(|_| async { Err(TaskError::new("no luck")) }),
            each_second("panics").before(|_| async { panic!("what a mess") }),
            Schedule::cron_with("* * * * * *", |_| -> Tick { panic!("no input") })
                .named("bad input"),
            each_second("afterwards").after(|_| async { Err(TaskError::new("told in vain")) }),
            each_second("good"),
        ]
    };
    let worker = worker(scene.queue.clone(), failing());
    handle(&worker).await;
    for round in 1..=2 {
        scene.clock.advance(SECOND);
        let handled = handle(&worker).await;
        let named = |reports: &[queue::SlotReport]| -> Vec<String> {
            reports.iter().map(|report| report.schedule.clone()).collect()
        };
        assert_eq!(named(&handled.queued), ["afterwards", "good"]);
        assert_eq!(named(&handled.failed), ["fails", "panics", "bad input", "afterwards"]);
        for (name, fired, error) in [
            ("fails", 0, Some("the hook before the slot: no luck")),
            ("panics", 0, Some("the hook before the slot: panicked: what a mess")),
            ("bad input", 0, Some("the input: panicked: no input")),
            ("afterwards", round, Some("the hook after the slot: told in vain")),
            ("good", round, None),
        ] {
            let info = info(&scene.queue, name).await;
            assert_eq!((info.fired, info.fired + info.skipped), (fired, round), "{name}");
            assert_eq!(info.last_error.as_deref(), error, "{name}");
            assert_eq!(info.last_slot, Some(scene.clock.now()), "{name}");
        }
    }
}

async fn a_slow_hook_holds_up_no_other_schedule(scene: Scene) {
    const SLOTS: usize = 4;
    let (docs, go) = (Docs::default(), Arc::new(Semaphore::new(0)));
    let held = go.clone();
    let slow = each_second("slow").missed(Missed::up_to(9)).before(move |slot| {
        let held = held.clone();
        async move {
            held.acquire().await?.forget();
            Ok(slot.enqueue())
        }
    });
    let worker = builder(scene.queue.clone(), &docs)
        .scheduled(slow)
        .scheduled(each_second("quick").missed(Missed::Skip))
        .build()
        .unwrap();
    while_serving(worker, async {
        eventually("they are known", || async {
            scene.queue.schedules().await.unwrap().len() == 2
        })
        .await;
        for fired in 1..=SLOTS {
            scene.clock.advance(SECOND);
            eventually("the other fires", || async { docs.count("quick") == fired }).await;
        }
        assert_eq!(info(&scene.queue, "slow").await.last_slot, None, "its hook still waits");
        go.add_permits(SLOTS);
        eventually("it catches up", || async { docs.count("slow") == SLOTS }).await;
    })
    .await;
    for name in ["slow", "quick"] {
        let info = info(&scene.queue, name).await;
        assert_eq!((info.fired, info.skipped), (SLOTS as u64, 0), "{name}");
    }
}

async fn passes_run_what_is_queued_and_enqueue_no_schedule(scene: Scene) {
    let docs = Docs::default();
    let worker = builder(scene.queue.clone(), &docs).scheduled(each_second("s")).build().unwrap();
    handle(&worker).await;
    scene.clock.advance(SECOND);
    for (n, pass) in ["run", "drain", "until empty"].into_iter().enumerate() {
        scene.queue.enqueue(Tick(pass.to_owned())).await.unwrap();
        match n {
            0 => drop(worker.run(Pass::new()).await.unwrap()),
            1 => drop(worker.drain(Pass::new()).await.unwrap()),
            _ => worker.run_until_empty(|_| {}).await.unwrap(),
        }
        assert_eq!(count(&scene.queue, JobFilter::all()).await, n as u64 + 1);
    }
    assert_eq!(docs.all(), ["run", "drain", "until empty"]);
    assert_eq!(handle(&worker).await.queued.len(), 1, "the slot was there to be fired");
}

async fn e19_a_schedule_of_each_second_runs_each_second(scene: Scene) {
    let docs = Docs::default();
    let worker = builder(scene.queue.clone(), &docs)
        .schedule("* * * * * *", Tick("tick".to_owned()))
        .schedule("*/2 * * * * *", Chime)
        .build()
        .unwrap();
    while_serving(worker, async {
        eventually("the schedules are known", || async {
            scene.queue.schedules().await.unwrap().len() == 2
        })
        .await;
        for half in 1..=7 {
            scene.clock.advance(SECOND / 2);
            eventually("what is due has run", || async {
                // A job whose end is not stored yet would keep the next slot from being fired.
                let live = JobFilter::all().with_states(JobStates::LIVE);
                docs.count("tick") == half / 2
                    && docs.count("chime") == half / 4
                    && count(&scene.queue, live).await == 0
            })
            .await;
        }
    })
    .await;
    assert_eq!((docs.count("tick"), docs.count("chime")), (3, 1));
    let fired = scene.queue.schedules().await.unwrap();
    assert_eq!(
        fired.iter().map(|info| (info.fired, info.skipped)).collect::<Vec<_>>(),
        [(1, 0), (3, 0)]
    );
}

async fn e20_schedules_are_handled_by_hand_for_one_queue_or_for_all(scene: Scene) {
    let worker = worker(scene.queue.clone(), [each_second("s")]);
    let of = async |name| worker.handle_schedules_of(&[queue_name(name)]).await.unwrap();
    handle(&worker).await;
    let start = scene.clock.now();
    scene.clock.advance(SECOND);
    let mine = of("default").await;
    assert_eq!((mine.queued.len(), mine.next), (1, Some(start.plus(2 * SECOND))));
    scene.clock.advance(SECOND);
    assert_eq!(handle(&worker).await.queued.len(), 1);
    scene.clock.advance(SECOND);
    scene.trips.clear();
    assert_eq!(of("another").await, Handled::default());
    assert_eq!(scene.trips.total(), 0);
    assert_eq!(count(&scene.queue, JobFilter::all()).await, 2);
}

async fn e21_a_worker_with_scheduling_off_runs_jobs_and_enqueues_none(scene: Scene) {
    let docs = Docs::default();
    let off = builder(scene.queue.clone(), &docs)
        .scheduled(each_second("off"))
        .scheduling(Scheduling::Off)
        .build()
        .unwrap();
    // Another goes by the same clock, so it is known when there was time enough.
    let on = builder(scene.sibling().await, &docs).scheduled(each_second("on")).build().unwrap();
    while_serving(
        off,
        while_serving(on, async {
            eventually("it is known", || async {
                !scene.queue.schedules().await.unwrap().is_empty()
            })
            .await;
            for fired in 1..=2 {
                scene.clock.advance(SECOND);
                eventually("it fires", || async { docs.count("on") == fired }).await;
            }
            let by_hand = scene.queue.enqueue(Tick("by hand".to_owned())).await.unwrap();
            eventually("it runs", || async {
                by_hand.job().await.unwrap().is_some_and(|job| job.state == JobState::Completed)
            })
            .await;
        }),
    )
    .await;
    let known = scene.queue.schedules().await.unwrap();
    assert_eq!(known.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["on"]);
    assert_eq!((docs.count("off"), docs.count("by hand")), (0, 1));
}

async fn no_slot_is_fired_while_a_scheduled_job_of_its_kind_and_queue_waits_or_runs(scene: Scene) {
    let held = Arc::new(Notify::new());
    let release = held.clone();
    let of = |name: &str, queue: &str| {
        let schedule = Schedule::cron("* * * * * *", Tick(name.to_owned()));
        schedule.named(name).queue(queue_name(queue))
    };
    let worker = Worker::new(scene.queue.clone())
        .task(move |_: Tick| {
            let held = held.clone();
            async move {
                held.notified().await;
                Ok(())
            }
        })
        .scheduled(of("first", "default"))
        .scheduled(of("same kind and queue", "default"))
        .scheduled(of("other queue", "other"))
        .build()
        .unwrap();
    handle(&worker).await;
    scene
        .queue
        .enqueue(Tick("by hand, which does not count".to_owned()))
        .delay(60 * SECOND)
        .await
        .unwrap();
    let expect = async |queued: usize, what| {
        scene.clock.advance(SECOND);
        let handled = handle(&worker).await;
        assert_eq!(handled.queued.len(), queued, "{what}: {handled:?}");
        handled
    };
    let handled = expect(2, "the first slot").await;
    let id = handled.queued.iter().find_map(|report| match report.fate {
        SlotFate::Queued(id) if report.schedule != "other queue" => Some(id),
        _ => None,
    });
    let handled = expect(0, "while they wait").await;
    let fates: Vec<_> = handled.skipped.iter().map(|report| report.fate.clone()).collect();
    assert_eq!(fates[..2], [SlotFate::Overlap(id), SlotFate::Overlap(id)]);
    let pass = Pass::new().ids(id);
    let (summary, ()) = tokio::join!(worker.run(pass), async {
        eventually("it runs", || async {
            count(&scene.queue, JobFilter::all().with_states(JobState::Running)).await == 1
        })
        .await;
        expect(0, "while it runs").await;
        release.notify_one();
    });
    assert_eq!(summary.unwrap().jobs.len(), 1);
    expect(1, "once it has run").await;
}

async fn jobs_enqueued_by_hand_count_where_that_is_asked_for(scene: Scene) {
    #[derive(Serialize, Deserialize)]
    struct Alone;
    impl Task for Alone {
        const NAME: &'static str = "alone";
        type Output = ();
        fn unique(&self) -> Option<Unique> {
            Some(Unique::new("alone"))
        }
    }
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Tick| async { Ok(()) })
        .task(|_: Alone| async { Ok(()) })
        .scheduled(each_second("counted").overlap(Overlap::SkipWhileAny))
        .scheduled(Schedule::cron("* * * * * *", Alone).named("by its own key"))
        .build()
        .unwrap();
    handle(&worker).await;
    let other = queue_name("other");
    scene.queue.enqueue(Tick("of another queue".to_owned())).queue(other).await.unwrap();
    let tick = scene.queue.enqueue(Tick("by hand".to_owned())).await.unwrap();
    let alone = scene.queue.enqueue(Alone).await.unwrap();
    scene.clock.advance(SECOND);
    let handled = handle(&worker).await;
    let fates: Vec<_> = handled.skipped.iter().map(|report| report.fate.clone()).collect();
    assert_eq!(fates, [SlotFate::Overlap(None), SlotFate::Overlap(Some(alone.id()))]);
    assert_eq!(worker.run(Pass::new().ids([tick.id(), alone.id()])).await.unwrap().jobs.len(), 2);
    for (queued, what) in [(2, "nothing is in the way"), (0, "the scheduled ones wait")] {
        scene.clock.advance(SECOND);
        assert_eq!(handle(&worker).await.queued.len(), queued, "{what}");
    }
}

async fn a_scheduler_that_meets_trouble_fires_the_slot_afterwards(scene: Scene) {
    let by_hand = worker(scene.queue.clone(), [each_second("s").missed(Missed::up_to(9))]);
    handle(&by_hand).await;
    scene.clock.advance(3 * SECOND);
    scene.trips.next("fire", Fault::Break);
    let handled = handle(&by_hand).await;
    assert_eq!(
        (handled.queued.len(), handled.failed.len()),
        (0, 1),
        "later slots wait: {handled:?}"
    );
    assert_eq!(handle(&by_hand).await.queued.len(), 3);
    // A worker that serves comes back to it by itself.
    let docs = Docs::default();
    let serving = builder(scene.queue.clone(), &docs).scheduled(each_second("t")).build().unwrap();
    while_serving(serving, async {
        eventually("it is known", || async { scene.queue.schedules().await.unwrap().len() == 2 })
            .await;
        for (fired, method, fault) in [
            (1, "fire", Fault::Break),
            (2, "schedules", Fault::Panic),
            (3, "records", Fault::Break),
        ] {
            scene.trips.next(method, fault);
            scene.clock.advance(SECOND);
            eventually("the slot is fired", || async { docs.count("t") == fired }).await;
        }
    })
    .await;
}

async fn a_lost_answer_is_neither_a_lost_slot_nor_a_second_job(scene: Scene) {
    let told = Docs::default();
    let hear = told.clone();
    let schedule = each_second("s").after(move |report| {
        hear.write(format!("{:?}", report.fate));
        async { Ok(()) }
    });
    let skipped = Schedule::cron("* * * * * *", Tick("x".to_owned()))
        .named("skipped")
        .before(|slot| async { Ok(slot.skip("not today")) });
    let worker = worker(scene.queue.clone(), [schedule, skipped]);
    handle(&worker).await;
    scene.clock.advance(SECOND);
    scene.trips.next("fire", Fault::LoseAnswer);
    scene.trips.next("fire", Fault::LoseAnswer);
    let handled = handle(&worker).await;
    assert_eq!((handled.queued.len(), handled.skipped.len()), (1, 1), "{handled:?}");
    assert_eq!(handled.skipped[0].fate, SlotFate::Skipped("not today".to_owned()));
    let id = JobId::for_slot("s", scene.clock.now());
    assert_eq!(told.all(), [format!("{:?}", SlotFate::Queued(id))]);
    assert_eq!(count(&scene.queue, JobFilter::all()).await, 1);
}
