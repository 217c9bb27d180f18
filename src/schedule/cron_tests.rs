//! Which slots a cron expression has, by the zones' own rules.

use std::time::Duration;

use queue_core::Timestamp;

use super::{Missed, ScheduleFault, cron::Calendar};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn berlin(expression: &str) -> Calendar {
    Calendar::read(expression, "Europe/Berlin").unwrap()
}

fn utc(expression: &str) -> Calendar {
    Calendar::read(expression, "UTC").unwrap()
}

/// The slots after `from` up to `to`, looked for forwards, one after the other.
fn forwards(calendar: &Calendar, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let next = |slot: &Timestamp| calendar.next(*slot);
    let slots = std::iter::successors(calendar.next(from), next);
    slots.take_while(|slot| *slot <= to).collect()
}

/// The same slots, which must be the same when they are looked for backwards.
fn slots(calendar: &Calendar, from: &str, to: &str) -> Vec<String> {
    let (from, to) = (at(from), at(to));
    let slots = forwards(calendar, from, to);
    assert_eq!(calendar.newest(from, to, 10_000), slots, "forwards and backwards");
    slots.iter().map(|slot| slot.to_string().replace(":00.000000Z", "Z")).collect()
}

#[test]
fn an_expression_has_five_fields_or_six_with_seconds() {
    let five = utc("30 4 * * *");
    assert_eq!(five.next(at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T04:30:00Z")));
    let six = utc("15 30 4 * * *");
    assert_eq!(six.next(at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T04:30:15Z")));
    assert_eq!(utc("  0   3 * *  MON ").expression(), "0 3 * * MON");
    assert_eq!(utc("@daily").next(at("2026-01-01T00:00:00Z")), Some(at("2026-01-02T00:00:00Z")));
}

#[test]
fn a_slot_is_after_the_last_to_the_microsecond() {
    let every_second = utc("* * * * * *");
    let slot = at("2026-01-01T00:00:01Z");
    assert_eq!(every_second.next(at("2026-01-01T00:00:00.999999Z")), Some(slot));
    assert_eq!(every_second.next(slot), Some(slot.plus(SECOND)));
    assert_eq!(every_second.newest(slot.minus(SECOND), slot, 9), [slot]);
    assert_eq!(
        every_second.newest(slot.minus(SECOND), slot.minus(Duration::from_micros(1)), 9),
        []
    );
    assert_eq!(every_second.newest(slot, slot.plus(Duration::from_micros(999_999)), 9), []);
}

#[test]
fn a_time_of_day_is_one_of_the_zone_in_summer_and_in_winter() {
    let three = berlin("0 3 * * *");
    assert_eq!(three.next(at("2026-01-15T00:00:00Z")), Some(at("2026-01-15T02:00:00Z")));
    assert_eq!(three.next(at("2026-07-15T00:00:00Z")), Some(at("2026-07-15T01:00:00Z")));
    assert_eq!(utc("0 3 * * *").next(at("2026-07-15T00:00:00Z")), Some(at("2026-07-15T03:00:00Z")));
}

// In Berlin the clocks go from 02:00 to 03:00 on 29 March 2026 (01:00Z), and from 03:00 back to 02:00 on 25 October (01:00Z).

#[test]
fn a_single_time_that_the_clocks_leave_out_fires_once_right_after_the_gap() {
    let slots = slots(&berlin("30 2 * * *"), "2026-03-27T12:00:00Z", "2026-03-31T12:00:00Z");
    assert_eq!(
        slots,
        ["2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z", "2026-03-31T00:30Z"]
    );
}

#[test]
fn a_single_time_that_comes_twice_fires_once_at_its_first() {
    let slots = slots(&berlin("30 2 * * *"), "2026-10-23T12:00:00Z", "2026-10-27T12:00:00Z");
    assert_eq!(
        slots,
        ["2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z", "2026-10-27T01:30Z"]
    );
    // Also for a scheduler that comes between the two.
    let between = at("2026-10-25T01:10:00Z");
    let calendar = berlin("30 2 * * *");
    assert_eq!(calendar.next(between), Some(at("2026-10-26T01:30:00Z")));
    assert_eq!(calendar.newest(between.minus(DAY), between, 9), [at("2026-10-25T00:30:00Z")]);
}

#[test]
fn a_repeating_expression_fires_through_a_change_of_clocks_at_its_even_pace() {
    let calendar = berlin("*/30 * * * *");
    for (from, to) in [
        ("2026-03-28T23:00:00Z", "2026-03-29T04:00:00Z"),
        ("2026-10-24T23:00:00Z", "2026-10-25T04:00:00Z"),
    ] {
        let slots = slots(&calendar, from, to);
        assert_eq!(slots.len(), 10, "{slots:?}");
        let gaps: Vec<_> = forwards(&calendar, at(from), at(to))
            .windows(2)
            .map(|pair| pair[0].until(pair[1]))
            .collect();
        assert!(gaps.iter().all(|gap| *gap == 30 * MINUTE), "{slots:?}");
    }
}

#[test]
fn of_several_times_of_day_those_left_out_do_not_fire_and_those_that_come_twice_fire_twice() {
    let calendar = berlin("30 2,14 * * *");
    assert_eq!(
        slots(&calendar, "2026-03-28T12:00:00Z", "2026-03-29T23:00:00Z"),
        ["2026-03-28T13:30Z", "2026-03-29T12:30Z"]
    );
    assert_eq!(
        slots(&calendar, "2026-10-24T23:00:00Z", "2026-10-25T23:00:00Z"),
        ["2026-10-25T00:30Z", "2026-10-25T01:30Z", "2026-10-25T13:30Z"]
    );
}

#[test]
fn slots_do_not_depend_on_where_the_search_begins() {
    let expressions = [
        "30 2 * * *",
        "*/20 1-3 * * *",
        "0 */2 * * SUN",
        "15,45 2 * * *",
        "0 0 L * *",
        "0 59 2 * * *",
    ];
    for expression in expressions {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"] {
            let calendar = Calendar::read(expression, zone).unwrap();
            for (from, to) in [
                ("2026-03-06T00:00:00Z", "2026-04-07T00:00:00Z"),
                ("2026-10-02T00:00:00Z", "2026-11-03T00:00:00Z"),
            ] {
                let all = forwards(&calendar, at(from), at(to));
                let mut begin = at(from);
                while begin < at(to) {
                    let expected = all.iter().find(|slot| **slot > begin).copied();
                    if let Some(expected) = expected {
                        assert_eq!(
                            calendar.next(begin),
                            Some(expected),
                            "{calendar:?} from {begin}"
                        );
                    }
                    let last = all.iter().rev().find(|slot| **slot <= begin).copied();
                    let found = calendar.newest(at(from), begin, 1);
                    assert_eq!(found, Vec::from_iter(last), "{calendar:?} back from {begin}");
                    begin = begin.plus(97 * MINUTE);
                }
            }
        }
    }
}

#[test]
fn after_a_year_without_a_scheduler_the_work_is_that_of_the_slots_wanted() {
    // A search that went through the 31 million slots of that year would be at it for half an hour.
    let every_second = utc("* * * * * *");
    let now = at("2026-06-01T00:00:00.5Z");
    let slots = every_second.newest(now.minus(366 * DAY), now, Missed::up_to(1_000).most());
    assert_eq!(slots.len(), 1_000);
    assert_eq!(slots.last(), Some(&at("2026-06-01T00:00:00Z")));
    assert!(slots.windows(2).all(|pair| pair[0].plus(SECOND) == pair[1]));
    assert_eq!(every_second.newest(now.minus(366 * DAY), now, 1), slots[999..]);
}

#[test]
fn how_many_slots_are_wanted_is_at_least_one_and_bounded() {
    assert_eq!(Missed::up_to(0).most(), 1);
    assert_eq!(Missed::up_to(7).most(), 7);
    assert_eq!(Missed::up_to(u32::MAX).most(), Missed::MOST as usize);
    let huge = Missed::CatchUpAll(std::num::NonZeroU32::MAX);
    assert_eq!(huge.most(), Missed::MOST as usize);
    assert_eq!(Missed::default().most(), 1);
}

#[test]
fn an_expression_that_never_fires_is_refused_and_a_rare_one_is_not() {
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 30 FEB *"] {
        let fault = Calendar::read(never, "UTC").unwrap_err();
        assert!(matches!(&fault, ScheduleFault::NeverFires { .. }), "{never}: {fault}");
    }
    let leap = utc("0 0 29 2 *");
    assert_eq!(leap.next(at("2026-06-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
    assert_eq!(
        utc("0 0 29 2 *").newest(Timestamp::MIN, at("2026-06-01T00:00:00Z"), 1),
        [at("2024-02-29T00:00:00Z")]
    );
    let both = utc("0 0 29 2 +MON");
    assert_eq!(both.next(at("2026-06-01T00:00:00Z")), Some(at("2044-02-29T00:00:00Z")));
}

#[test]
fn a_bad_expression_is_answered_with_what_is_wrong_and_what_would_work() {
    for (bad, why) in [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("0 0 3 * * * 2026", "7 fields"),
        ("61 * * * *", "out of bounds"),
        ("every day at noon x", "illegal"),
        ("@reboot", "@reboot"),
    ] {
        let fault = Calendar::read(bad, "UTC").unwrap_err().to_string();
        assert!(fault.contains(why) && fault.contains("0 3 * * MON-FRI"), "{bad:?}: {fault}");
    }
}

#[test]
fn an_unknown_zone_is_answered_with_one_that_there_is() {
    for (bad, near) in [
        ("europe/berlin", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("Mars/Olympus", "Europe/Berlin"),
        ("", "Europe/Berlin"),
    ] {
        let fault = Calendar::read("0 3 * * *", bad).unwrap_err().to_string();
        assert!(fault.contains(near) && fault.contains("UTC"), "{bad:?}: {fault}");
    }
    assert_eq!(
        berlin("0 3 * * *").next(at("2026-01-01T00:00:00Z")).map(|slot| slot.minus(2 * HOUR)),
        Some(at("2026-01-01T00:00:00Z"))
    );
}
