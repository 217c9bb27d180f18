//! Schedules: hooks, what is told of them, and which ones a worker refuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use queue::{
    BuildError, DynTask, JobCtx, JobFilter, JobId, JobQuery, MemoryStore, Overlap, Pass, Payload,
    Queue, Schedule, ScheduleFault, SlotFate, SlotReport, Task, TaskError, TaskOptions, TaskResult,
    Timestamp, Unique, Worker, WorkerBuilder,
};
use serde::{Deserialize, Serialize};

use crate::{
    scene::{Docs, Scene},
    schedules::{Chime, Tick, builder, count, each_second, handle, info, queue_name, worker},
};

crate::on_every_store_by_the_clock!(
    a_hook_before_the_slot_can_skip_it_or_change_input_and_due_time,
    the_unique_key_of_a_slot_goes_with_the_input_that_a_hook_gave_it,
    a_hook_after_the_slot_hears_what_became_of_it,
    the_error_of_a_hook_after_the_slot_is_gone_with_the_next_slot,
    statistics_say_what_was_fired_and_what_comes_next,
    a_schedule_with_a_name_of_its_own_goes_on_when_its_expression_changes,
    the_input_may_be_made_of_the_slot,
    a_schedule_gives_its_jobs_queue_priority_and_labels,
    the_queue_of_a_schedule_is_its_tasks_own_also_where_the_kind_is_known_at_run_time_only,
    an_input_that_does_not_fit_is_the_schedules_error_and_not_a_job,
    handling_costs_the_same_few_trips_whatever_the_number_of_schedules,
);

const SECOND: Duration = Duration::from_secs(1);

async fn a_hook_before_the_slot_can_skip_it_or_change_input_and_due_time(scene: Scene) {
    let number = Arc::new(AtomicU32::new(0));
    let schedule = each_second("s").before(move |slot| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move {
            let fired = slot.statistics().map_or(0, |stat| stat.fired);
            let at = slot.slot().plus(60 * SECOND);
            let job = slot.job().clone();
            assert_eq!((slot.schedule(), job.id), ("s", JobId::for_slot("s", slot.slot())));
            let seen = slot.queue().tally(JobFilter::all()).await?.len();
            Ok(match number {
                0 => slot.enqueue(),
                1 => slot.skip(format!("{fired} is enough, of {seen}")),
                2 => slot.input(&Tick("another".to_owned()))?.run_at(at).enqueue(),
                _ => slot.input(&Chime)?.enqueue(),
            })
        }
    });
    let worker = worker(scene.queue.clone(), [schedule]);
    handle(&worker).await;
    let mut handled = Vec::new();
    for _ in 0..4 {
        scene.clock.advance(SECOND);
        handled.push(handle(&worker).await);
    }
    assert_eq!(handled[0].queued.len(), 1);
    assert_eq!(handled[1].skipped[0].fate, SlotFate::Skipped("1 is enough, of 1".to_owned()));
    let SlotReport { slot: Some(slot), fate: SlotFate::Queued(id), .. } = handled[2].queued[0]
    else {
        panic!("{handled:?}");
    };
    let job = scene.queue.job(id).await.unwrap().expect("the changed job");
    assert_eq!((job.input.as_str(), job.run_at), ("\"another\"", slot.plus(60 * SECOND)));
    assert_eq!(id, JobId::for_slot("s", slot), "its id is that of the slot all the same");
    let SlotFate::Failed(why) = &handled[3].failed[0].fate else { panic!("{handled:?}") };
    assert!(why.contains("\"tick\"") && why.contains("\"chime\""), "{why}");
    let info = info(&scene.queue, "s").await;
    assert_eq!((info.fired, info.skipped, info.last_job), (2, 2, Some(id)));
}

async fn the_unique_key_of_a_slot_goes_with_the_input_that_a_hook_gave_it(scene: Scene) {
    #[derive(Serialize, Deserialize)]
    struct Keyed(Option<String>);
    impl Task for Keyed {
        const NAME: &'static str = "keyed";
        type Output = ();
        fn unique(&self) -> Option<Unique> {
            self.0.clone().map(Unique::new)
        }
    }
    let keyed = |key: Option<&str>| Keyed(key.map(str::to_owned));
    // By default and with overlap, from one input to another.
    let schedule = |name: &str, from: Option<&str>, to: Option<&'static str>| {
        Schedule::cron("* * * * * *", keyed(from))
            .named(name)
            .queue(queue_name(name))
            .before(move |slot| async move { Ok(slot.input(&keyed(to))?.enqueue()) })
    };
    let worker = Worker::new(scene.queue.clone())
        .task(|_: Keyed| async { Ok(()) })
        .scheduled(schedule("loses", Some("held"), None))
        .scheduled(schedule("loses it all", Some("held"), None).overlap(Overlap::Allow))
        .scheduled(schedule("changes", Some("free"), Some("held")))
        .scheduled(schedule("gains", None, Some("held")))
        .scheduled(schedule("gains with overlap", None, Some("held")).overlap(Overlap::Allow))
        .build()
        .unwrap();
    handle(&worker).await;
    let held = scene.queue.enqueue(keyed(Some("held"))).await.unwrap();
    for round in 1..=2 {
        scene.clock.advance(SECOND);
        let handled = handle(&worker).await;
        let queued: Vec<&str> = handled.queued.iter().map(|slot| slot.schedule.as_str()).collect();
        let by_held =
            handled.skipped.iter().filter(|slot| slot.fate == SlotFate::Overlap(Some(held.id())));
        let by_held: Vec<&str> = by_held.map(|slot| slot.schedule.as_str()).collect();
        assert_eq!(by_held, ["changes", "gains", "gains with overlap"], "{handled:?}");
        // Without a key of the task's own, the policy decides: its own job of the slot before is in the way.
        let expected: &[&str] =
            if round == 1 { &["loses", "loses it all"] } else { &["loses it all"] };
        assert_eq!(queued, expected, "{handled:?}");
    }
}

async fn a_hook_after_the_slot_hears_what_became_of_it(scene: Scene) {
    let told = Docs::default();
    let listening = |schedule: Schedule| {
        let told = told.clone();
        schedule.after(move |report| {
            let told = told.clone();
            async move {
                let what = match report.fate {
                    SlotFate::Queued(id) => format!(
                        "queued {}",
                        Some(id) == report.slot.map(|slot| JobId::for_slot(&report.schedule, slot))
                    ),
                    other => format!("{other:?}"),
                };
                told.write(format!("{}: {what}", report.schedule));
                Ok(())
            }
        })
    };
    let tick = || Schedule::cron("* * * * * *", Tick("x".to_owned()));
    let schedules = || {
        [
            listening(tick().named("queued")),
            listening(tick().named("skipped").before(|slot| async { Ok(slot.skip("no")) })),
            listening(tick().named("failed").before(|_| async { Err(TaskError::new("oh")) })),
            listening(tick().named("overlap").queue(queue_name("other"))),
        ]
    };
    let first = worker(scene.queue.clone(), schedules());
    let second = worker(scene.sibling().await, schedules());
    handle(&first).await;
    scene.clock.advance(SECOND);
    let _ = first.handle_schedules_of(&[queue_name("other")]).await.unwrap();
    scene.clock.advance(SECOND);
    handle(&first).await;
    handle(&second).await;
    let mut told = told.all();
    told.sort();
    let holder = JobId::for_slot("overlap", scene.clock.now().minus(SECOND));
    assert_eq!(
        told,
        [
            "failed: Failed(\"the hook before the slot: oh\")".to_owned(),
            format!("overlap: {:?}", SlotFate::Overlap(Some(holder))),
            "overlap: queued true".to_owned(),
            "queued: queued true".to_owned(),
            "skipped: Skipped(\"no\")".to_owned(),
        ],
        "each slot is told once, by the one that decided it"
    );
}

async fn the_error_of_a_hook_after_the_slot_is_gone_with_the_next_slot(scene: Scene) {
    let number = Arc::new(AtomicU32::new(0));
    let schedule = each_second("s").after(move |_| {
        let first = number.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if first { Err(TaskError::new("once")) } else { Ok(()) } }
    });
    let worker = worker(scene.queue.clone(), [schedule]);
    handle(&worker).await;
    for error in [Some("the hook after the slot: once".to_owned()), None] {
        scene.clock.advance(SECOND);
        handle(&worker).await;
        assert_eq!(info(&scene.queue, "s").await.last_error, error);
    }
}

async fn statistics_say_what_was_fired_and_what_comes_next(scene: Scene) {
    let docs = Docs::default();
    let nightly = || Schedule::cron("0 3 * * *", Chime).zone("Europe/Berlin");
    let worker = builder(scene.queue.clone(), &docs)
        .scheduled(nightly())
        .schedule("0 * * * *", Tick("t".to_owned()))
        .build()
        .unwrap();
    let start = scene.clock.now();
    // Before anybody handled them, their worker knows what they are.
    let infos = worker.schedules().await.unwrap();
    assert!(scene.queue.schedules().await.unwrap().is_empty());
    assert_eq!((infos[0].last_slot, infos[0].since, infos[0].fired), (None, None, 0));
    handle(&worker).await;
    for _ in 0..20 {
        scene.clock.advance(3_600 * SECOND);
        handle(&worker).await;
        worker.drain(Pass::new()).await.unwrap();
    }
    let now = scene.clock.now();
    let infos = worker.schedules().await.unwrap();
    assert_eq!(scene.queue.schedules().await.unwrap(), infos);
    let names: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["chime@bells 0 3 * * * Europe/Berlin", "tick@default 0 * * * *"]);
    // It began at 08:00Z; in winter 03:00 in Berlin is 02:00Z.
    let slot = start.plus(18 * 3_600 * SECOND);
    let chime = &infos[0];
    assert_eq!((chime.fired, chime.skipped, chime.last_slot), (1, 0, Some(slot)));
    assert_eq!(chime.last_job, Some(JobId::for_slot(&chime.name, slot)));
    assert_eq!(chime.next, Some(slot.plus(24 * 3_600 * SECOND)));
    assert_eq!((chime.since, chime.paused, chime.last_error.clone()), (Some(start), false, None));
    let about = (
        chime.kind.as_deref(),
        chime.queue.as_deref(),
        chime.cron.as_deref(),
        chime.zone.as_deref(),
    );
    assert_eq!(about, (Some("chime"), Some("bells"), Some("0 3 * * *"), Some("Europe/Berlin")));
    assert_eq!((infos[1].fired, infos[1].next), (20, Some(now.plus(3_600 * SECOND))));
    assert_eq!((docs.count("chime"), docs.count("t")), (1, 20));
}

async fn a_schedule_with_a_name_of_its_own_goes_on_when_its_expression_changes(scene: Scene) {
    let start = scene.clock.now();
    let with = |cron: &str| Schedule::cron(cron, Tick("x".to_owned())).named("s");
    let before = worker(scene.queue.clone(), [with("* * * * * *")]);
    let after = worker(scene.sibling().await, [with("*/5 * * * * *")]);
    handle(&before).await;
    scene.clock.advance(7 * SECOND);
    let handled = handle(&after).await;
    assert_eq!(handled.queued[0].slot, Some(start.plus(5 * SECOND)), "it is not a new one");
    let now_known = info(&scene.queue, "s").await;
    assert_eq!(now_known.cron.as_deref(), Some("*/5 * * * * *"));
    assert_eq!((now_known.since, now_known.next), (Some(start), Some(start.plus(10 * SECOND))));
}

async fn the_input_may_be_made_of_the_slot(scene: Scene) {
    let schedule = Schedule::cron_with("* * * * * *", |slot: Timestamp| Tick(slot.to_string()));
    let docs = Docs::default();
    let worker = builder(scene.queue.clone(), &docs).scheduled(schedule).build().unwrap();
    handle(&worker).await;
    let start = scene.clock.now();
    for _ in 0..3 {
        scene.clock.advance(SECOND + SECOND / 4);
        handle(&worker).await;
        worker.drain(Pass::new()).await.unwrap();
    }
    let expected: Vec<String> = (1..=3).map(|n| start.plus(SECOND * n).to_string()).collect();
    assert_eq!(docs.all(), expected);
}

async fn a_schedule_gives_its_jobs_queue_priority_and_labels(scene: Scene) {
    let schedule = Schedule::cron("* * * * * *", Chime)
        .queue(queue_name("tower"))
        .priority(7)
        .label("tenant", "abbey")
        .delete_on_complete();
    let worker = worker(scene.queue.clone(), [schedule, Schedule::cron("* * * * * *", Chime)]);
    handle(&worker).await;
    scene.clock.advance(SECOND);
    assert_eq!(handle(&worker).await.queued.len(), 2);
    let jobs = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap().items;
    let of = |queue: &str| jobs.iter().find(|job| job.queue.as_str() == queue).expect("its job");
    let tower = of("tower");
    assert_eq!((tower.priority, tower.labels["tenant"].as_str()), (7, "abbey"));
    assert_eq!(of("bells").priority, 0, "the other is in the queue of its task");
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(count(&scene.queue, JobFilter::all()).await, 1, "one is deleted, one is kept");
}

async fn the_queue_of_a_schedule_is_its_tasks_own_also_where_the_kind_is_known_at_run_time_only(
    scene: Scene,
) {
    struct Report;

    impl DynTask for Report {
        fn name(&self) -> &'static str {
            "report"
        }

        fn options(&self) -> TaskOptions {
            TaskOptions::new().queue(queue_name("reports"))
        }

        fn call(&self, _: JobCtx, input: Payload) -> BoxFuture<'static, TaskResult<Payload>> {
            std::future::ready(Ok(input)).boxed()
        }
    }

    let each_second = || {
        let schedule = Schedule::cron_dyn("* * * * * *", "report", Payload::null());
        schedule.overlap(Overlap::Allow)
    };
    let elsewhere = each_second().queue(queue_name("elsewhere"));
    let worker = Worker::new(scene.queue.clone())
        .queues([queue_name("reports"), queue_name("elsewhere")])
        .dyn_task(Report)
        .scheduled(each_second())
        .scheduled(elsewhere)
        .build()
        .unwrap();
    handle(&worker).await;
    scene.clock.advance(SECOND);
    assert_eq!(handle(&worker).await.queued.len(), 2);
    let jobs = scene.queue.find(JobQuery::new(JobFilter::all())).await.unwrap().items;
    let queues: BTreeSet<_> = jobs.iter().map(|job| job.queue.as_str()).collect();
    assert_eq!(queues, BTreeSet::from(["elsewhere", "reports"]));
    assert_eq!(worker.drain(Pass::new()).await.unwrap().succeeded(), 2);
}

async fn an_input_that_does_not_fit_is_the_schedules_error_and_not_a_job(scene: Scene) {
    let schedule = each_second("s").before(|slot| async {
        let input = Payload::from_text("[1, 2]")?;
        Ok(slot.payload(input).enqueue())
    });
    let worker = worker(scene.queue.clone(), [schedule]);
    handle(&worker).await;
    scene.clock.advance(SECOND);
    assert_eq!(handle(&worker).await.failed.len(), 1);
    assert_eq!(count(&scene.queue, JobFilter::all()).await, 0);
    let error = info(&scene.queue, "s").await.last_error.expect("the error is kept");
    assert!(error.contains("does not fit \"tick\""), "{error}");
}

async fn handling_costs_the_same_few_trips_whatever_the_number_of_schedules(scene: Scene) {
    let schedules = || (0..30).map(|n| each_second(&format!("{n}")));
    let worker = worker(scene.queue.clone(), schedules());
    handle(&worker).await;
    scene.trips.clear();
    handle(&worker).await;
    // With a clock that is not moved by hand, its reading is one more.
    assert_eq!(scene.trips.total(), 2, "nothing is due");
    scene.clock.advance(SECOND);
    scene.trips.clear();
    assert_eq!(handle(&worker).await.queued.len(), 30);
    assert_eq!((scene.trips.of("fire"), scene.trips.total()), (30, 32));
}

/// What building a worker with this schedule is answered with.
fn refused(schedules: impl IntoIterator<Item = Schedule>) -> (String, ScheduleFault) {
    let queue = Queue::new(Arc::new(MemoryStore::new()) as Arc<dyn queue::JobStore>).unwrap();
    let bare = Worker::new(queue).task(|_: Tick| async { Ok(()) });
    match schedules.into_iter().fold(bare, WorkerBuilder::scheduled).build() {
        Err(error @ BuildError::Schedule { .. }) => {
            let text = error.to_string();
            let BuildError::Schedule { fault, .. } = error else { unreachable!() };
            (text, fault)
        }
        other => panic!("{other:?}"),
    }
}

fn hourly() -> Schedule {
    Schedule::cron("0 * * * *", Tick("x".to_owned()))
}

#[tokio::test]
async fn a_schedule_that_cannot_be_kept_is_refused_when_the_worker_is_built() {
    let tick = || Tick("x".to_owned());
    let (text, fault) = refused([Schedule::cron("whenever", tick()).named("s")]);
    assert!(matches!(fault, ScheduleFault::Cron { .. }) && text.contains("\"s\""), "{text}");
    let (text, fault) = refused([Schedule::cron("0 0 30 2 *", tick())]);
    assert!(
        matches!(fault, ScheduleFault::NeverFires { .. }) && text.contains("0 0 30 2 *"),
        "{text}"
    );
    let (text, fault) = refused([hourly().zone("Berlin")]);
    assert!(
        matches!(fault, ScheduleFault::Zone { .. }) && text.contains("Europe/Berlin"),
        "{text}"
    );
    let (text, fault) = refused([Schedule::cron("0 * * * *", Chime)]);
    assert!(matches!(fault, ScheduleFault::UnknownKind { .. }), "{text}");
    assert!(text.contains("\"chime\"") && text.contains("This worker has tick"), "{text}");
    for name in [String::new(), "x".repeat(241), "a\nb".to_owned()] {
        let (text, fault) = refused([hourly().named(name)]);
        assert!(matches!(fault, ScheduleFault::Name(_)) && text.contains(".named("), "{text}");
    }
}

#[tokio::test]
async fn two_schedules_of_a_worker_with_one_name_are_refused() {
    for [one, other] in [
        [hourly(), Schedule::cron("0  *  * * *", Tick("other input".to_owned()))],
        [hourly().named("s"), Schedule::cron("0 0 * * *", Tick("x".to_owned())).named("s")],
    ] {
        let (text, fault) = refused([one, other]);
        assert!(matches!(fault, ScheduleFault::Duplicate) && text.contains(".named("), "{text}");
    }
    // What differs in queue, zone or policy by name does not meet.
    let queue = Queue::new(Arc::new(MemoryStore::new()) as Arc<dyn queue::JobStore>).unwrap();
    let worker = Worker::new(queue)
        .task(|_: Tick| async { Ok(()) })
        .scheduled(hourly())
        .scheduled(hourly().queue(queue_name("mail")))
        .scheduled(hourly().zone("Europe/Berlin"))
        .scheduled(hourly().overlap(Overlap::Allow).named("of its own"))
        .build();
    assert_eq!(worker.unwrap().schedules().await.unwrap().len(), 4);
}

#[tokio::test]
async fn an_input_that_cannot_be_stored_or_read_is_refused_when_the_worker_is_built() {
    /// JSON has no such keys.
    #[derive(Serialize, Deserialize, Task)]
    #[task(name = "tick")]
    struct Unwritable(BTreeMap<Vec<u8>, u8>);
    let unwritable = Unwritable(BTreeMap::from([(vec![1], 1)]));
    let wrong = Payload::from_text("{\"not\": \"a tick\"}").unwrap();
    let long = Tick("x".repeat(17 * 1024 * 1024));
    let (text, fault) = refused([Schedule::cron("0 * * * *", unwritable)]);
    assert!(matches!(fault, ScheduleFault::Input { .. }) && text.contains("key"), "{text}");
    let (text, fault) = refused([Schedule::cron_dyn("0 * * * *", "tick", wrong)]);
    assert!(matches!(fault, ScheduleFault::Input { .. }) && text.contains("string"), "{text}");
    let (text, fault) = refused([Schedule::cron("0 * * * *", long)]);
    assert!(matches!(fault, ScheduleFault::Job(_)) && text.contains("bytes"), "{text}");
    let (_, fault) = refused([hourly().label("", "x")]);
    assert!(matches!(fault, ScheduleFault::Job(_)));
}
