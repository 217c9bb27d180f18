//! Schedules: what becomes of slots that nobody handled in their time.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use queue::{Missed, Overlap, Schedule, SlotFate, Timestamp};

use crate::{
    scene::Scene,
    schedules::{Tick, each_second, handle, info, slots, worker},
};

crate::on_every_store_by_the_clock!(
    what_was_missed_is_skipped_or_caught_up_with_once_or_up_to_a_number,
    after_a_long_outage_all_schedules_catch_up_each_in_its_turn,
    handling_by_hand_ends_with_the_slots_that_were_due_when_it_began,
    a_new_schedule_does_not_fire_for_the_past,
    a_paused_schedule_rests_for_all_and_does_not_catch_up_with_its_pause,
    the_hour_that_comes_twice_fires_a_time_of_day_once,
);

const SECOND: Duration = Duration::from_secs(1);

async fn what_was_missed_is_skipped_or_caught_up_with_once_or_up_to_a_number(scene: Scene) {
    let hourly = |name: &str| {
        let schedule = Schedule::cron("0 * * * *", Tick(name.to_owned()));
        schedule.named(name).overlap(Overlap::Allow)
    };
    let schedules = || {
        [
            hourly("skip").missed(Missed::Skip),
            hourly("patient").missed(Missed::Skip).late_after(2 * 3_600 * SECOND),
            hourly("once"),
            hourly("three").missed(Missed::up_to(3)),
            hourly("all").missed(Missed::up_to(100)),
        ]
    };
    let before = worker(scene.queue.clone(), schedules());
    handle(&before).await;
    let start = scene.clock.now();
    drop(before);
    // Nothing runs for ten hours and a half.
    scene.clock.advance(10 * 3_600 * SECOND + 1_800 * SECOND);
    let after = worker(scene.sibling().await, schedules());
    let handled = handle(&after).await;
    let hour = |n: u32| start.plus(SECOND * 3_600 * n);
    let of = |name: &str| -> Vec<Timestamp> {
        let reports = handled.queued.iter().filter(|report| report.schedule == name);
        reports.filter_map(|report| report.slot).collect()
    };
    assert_eq!((of("skip"), of("patient"), of("once")), (vec![], vec![hour(10)], vec![hour(10)]));
    assert_eq!(of("three"), [hour(8), hour(9), hour(10)]);
    assert_eq!(of("all"), (1..=10).map(hour).collect::<Vec<_>>());
    assert_eq!(handled.skipped.len(), 1);
    assert_eq!(handled.skipped[0].fate, SlotFate::Missed);
    assert_eq!(handle(&after).await.queued, [], "each once");
    // Back in time, all fire alike.
    scene.clock.advance(1_800 * SECOND + 59 * SECOND);
    assert_eq!(slots(&handle(&after).await), [hour(11); 5]);
}

async fn after_a_long_outage_all_schedules_catch_up_each_in_its_turn(scene: Scene) {
    let schedules = || ["one", "two"].map(|name| each_second(name).missed(Missed::up_to(30)));
    let worker = worker(scene.queue.clone(), schedules());
    handle(&worker).await;
    scene.clock.advance(366 * 86_400 * SECOND);
    let handled = handle(&worker).await;
    let now = scene.clock.now();
    let expected: Vec<Timestamp> = (0..30).rev().map(|n| now.minus(SECOND * n)).collect();
    for name in ["one", "two"] {
        let of = handled.queued.iter().filter(|report| report.schedule == name);
        assert_eq!(of.filter_map(|report| report.slot).collect::<Vec<_>>(), expected);
    }
    let first = handled.queued.iter().position(|report| report.schedule == "two");
    assert!(first.is_some_and(|place| place < 30), "two had its turn before one was done");
    assert_eq!(handled.next, Some(now.plus(SECOND)));
}

async fn handling_by_hand_ends_with_the_slots_that_were_due_when_it_began(scene: Scene) {
    const DUE: u32 = 20;
    let (clock, asked) = (scene.clock.clone(), AtomicU32::new(0));
    let schedule = each_second("s").missed(Missed::up_to(1_000)).before(move |slot| {
        // A slow hook: with each slot that is handled another one is due. It ends for the sake of a test that fails.
        if asked.fetch_add(1, Ordering::SeqCst) < 5 * DUE {
            clock.advance(SECOND);
        }
        async { Ok(slot.enqueue()) }
    });
    let worker = worker(scene.queue.clone(), [schedule]);
    handle(&worker).await;
    let slot = |n: u32| scene.clock.now().plus(SECOND * n);
    let (expected, next): (Vec<Timestamp>, _) = ((1..=DUE).map(slot).collect(), slot(DUE + 1));
    scene.clock.advance(SECOND * DUE);
    let handled = handle(&worker).await;
    assert_eq!(slots(&handled), expected);
    assert_eq!(handled.next, Some(next), "which is due by now");
    assert_eq!(slots(&handle(&worker).await).first(), Some(&next));
}

async fn a_new_schedule_does_not_fire_for_the_past(scene: Scene) {
    let all = |name: &str| each_second(name).missed(Missed::up_to(1_000));
    let first = worker(scene.queue.clone(), [all("s")]);
    scene.clock.advance(Duration::from_millis(500));
    assert_eq!(handle(&first).await.queued, []);
    scene.clock.advance(SECOND);
    // A worker that never saw it goes on where it is; one schedule more is new.
    let second = worker(scene.sibling().await, [all("s"), all("new")]);
    let handled = handle(&second).await;
    let fired: Vec<&str> = handled.queued.iter().map(|report| report.schedule.as_str()).collect();
    assert_eq!(fired, ["s"]);
    scene.clock.advance(SECOND);
    assert_eq!(handle(&first).await.queued.len() + handle(&second).await.queued.len(), 2);
}

async fn a_paused_schedule_rests_for_all_and_does_not_catch_up_with_its_pause(scene: Scene) {
    let schedules = || [each_second("s").missed(Missed::up_to(100)), each_second("other")];
    let workers =
        [worker(scene.queue.clone(), schedules()), worker(scene.sibling().await, schedules())];
    handle(&workers[0]).await;
    let operator = scene.sibling().await;
    operator.pause_schedule("s").await.unwrap();
    for _ in 0..3 {
        scene.clock.advance(SECOND);
        operator.pause_schedule("s").await.unwrap();
        let mut fired = Vec::new();
        for worker in &workers {
            fired.extend(handle(worker).await.queued.into_iter().map(|report| report.schedule));
        }
        assert_eq!(fired, ["other"]);
    }
    let paused = info(&scene.queue, "s").await;
    assert_eq!((paused.paused, paused.fired, paused.next), (true, 0, None));
    operator.resume_schedule("s").await.unwrap();
    assert_eq!(handle(&workers[0]).await.queued, []);
    scene.clock.advance(2 * SECOND);
    // It is not paused: that changes nothing, and no slot is lost by it.
    operator.resume_schedule("s").await.unwrap();
    let handled = handle(&workers[1]).await;
    let fired = handled.queued.iter().filter(|report| report.schedule == "s").count();
    assert_eq!(fired, 2, "those since it was resumed");
    assert!(!info(&scene.queue, "s").await.paused);
    // One that nobody knows yet can be paused before it begins.
    operator.pause_schedule("to come").await.unwrap();
    let worker = worker(scene.sibling().await, [each_second("to come")]);
    scene.clock.advance(SECOND);
    let handled = handle(&worker).await;
    assert_eq!((handled.queued, handled.next), (vec![], None));
    assert_eq!(info(&scene.queue, "to come").await.kind.as_deref(), Some("tick"));
}

async fn the_hour_that_comes_twice_fires_a_time_of_day_once(scene: Scene) {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let nightly = || {
        Schedule::cron("30 2 * * *", Tick("nightly".to_owned()))
            .zone("Europe/Berlin")
            .overlap(Overlap::Allow)
    };
    let worker = worker(scene.queue.clone(), [nightly()]);
    let mut fired = Vec::new();
    // Clocks go forward at 2027-03-28T01:00Z and back at 2027-10-31T01:00Z.
    for night in ["2027-03-27T23:00:00Z", "2027-10-30T23:00:00Z"] {
        scene.clock.set(at(night));
        handle(&worker).await;
        for _ in 0..10 {
            scene.clock.advance(1_800 * SECOND);
            fired.extend(slots(&handle(&worker).await));
        }
    }
    assert_eq!(fired, [at("2027-03-28T01:00:00Z"), at("2027-10-31T00:30:00Z")]);
}
