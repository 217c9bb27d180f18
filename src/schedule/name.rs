//! Names that no two schedules share by accident.

use queue_core::{Unique, Uuid, name::MAX_NAME_BYTES};

use super::cron::Calendar;

/// The longest name of a schedule, in bytes: with its prefix it is the key of a record.
pub(super) const MAX_SCHEDULE_BYTES: usize = 240;

/// The namespace of unique keys that stand for names too long for a key.
const KEYS: Uuid = Uuid::from_u128(0x4e2f_9a0c_7d11_5b3e_a5c8_36d2_0e97_f4b1);

/// The name of a schedule that was given none. The queue is a part of it: statistics are kept by name, so schedules of two queues
/// must never share one.
pub(super) fn default_name(kind: &str, queue: &str, calendar: &Calendar) -> String {
    let name = format!("{} {}", place(kind, queue), calendar.expression());
    match calendar.zone() {
        "UTC" => name,
        zone => format!("{name} {zone}"),
    }
}

/// The key that scheduled jobs of a kind and queue share.
pub(super) fn overlap_key(kind: &str, queue: &str) -> Unique {
    let place = place(kind, queue);
    let key = format!("scheduled/{place}");
    Unique::new(match key.len() <= MAX_NAME_BYTES {
        true => key,
        false => format!("scheduled/{}", Uuid::new_v5(&KEYS, place.as_bytes())),
    })
}

/// `kind@queue`, from which both can be told again.
fn place(kind: &str, queue: &str) -> String {
    let escaped = |name: &str| name.replace('%', "%25").replace('@', "%40").replace(' ', "%20");
    format!("{}@{}", escaped(kind), escaped(queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_that_differ_in_kind_queue_expression_or_zone_differ_in_name() {
        let calendar = |cron, zone| Calendar::read(cron, zone).unwrap();
        let (daily, hourly) = (calendar("0 0 * * *", "UTC"), calendar("0 * * * *", "UTC"));
        let berlin = calendar("0 0 * * *", "Europe/Berlin");
        let names = [
            default_name("a", "b", &daily),
            default_name("a", "c", &daily),
            default_name("b", "a", &daily),
            default_name("a", "b", &hourly),
            default_name("a", "b", &berlin),
            default_name("a@b", "c", &daily),
            default_name("a", "b@c", &daily),
            default_name("a%40b", "c", &daily),
            default_name("a", "b 0", &daily),
            default_name("a ", "b", &daily),
        ];
        assert_eq!(names[0], "a@b 0 0 * * *");
        assert_eq!(names[4], "a@b 0 0 * * * Europe/Berlin");
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn the_key_against_overlap_is_storable_whatever_the_names_and_differs_by_kind_and_queue() {
        let long = "@".repeat(256);
        let keys = [
            overlap_key("a", "b").key,
            overlap_key("a", "c").key,
            overlap_key("b", "b").key,
            overlap_key(&long, "b").key,
            overlap_key("b", &long).key,
        ];
        assert!(keys.iter().all(|key| key.len() <= MAX_NAME_BYTES), "{keys:?}");
        let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    }
}
