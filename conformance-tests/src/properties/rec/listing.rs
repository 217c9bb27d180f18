//! What a store gives a record, and in which order it lists them.

use queue_core::{Outcome, Record, Timestamp, Version};

use super::super::scene::{MICRO, check_time, put_record, value};
use crate::{Case, Checked, check_eq};

pub(super) async fn records_are_the_stores(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Shuffled, so that the order of writing is not that of the keys; more than a page may hold.
    let mut keys: Vec<String> = (0..150).map(|i| format!("many/{i:03}")).collect();
    keys.extend(["B", "a", "C", "a.b", "axb"].map(|key| format!("few/{key}")));
    case.rng().shuffle(&mut keys);
    for key in &keys {
        put_record(store, &Record::new(key.clone(), value(key))).await?;
        case.pass(MICRO).await?;
    }
    keys.sort_unstable();
    for prefix in ["", "many/", "few/", "few/a.", "few/B", "few/b"] {
        let found: Vec<String> =
            store.records(prefix).await?.into_iter().map(|record| record.key).collect();
        let expected: Vec<String> =
            keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        check_eq!(found, expected, "the records whose key begins with {prefix:?}");
    }

    // Version and date are the store's, whatever comes along, also when the body stays.
    let mut record = Record::new("few/a", value("same"));
    for version in 2..5 {
        (record.version, record.updated_at) = (Version(77), Timestamp::MAX);
        case.pass(MICRO).await?;
        let from = case.now().await?;
        let ack = put_record(store, &record).await?;
        let to = case.now().await?;
        check_eq!(ack.version, Some(Version(version)), "the version of put number {version}");
        let stored = store.records("few/a").await?.into_iter().next();
        check_eq!(
            stored.as_ref().map(|stored| (&*stored.key, stored.version)),
            Some(("few/a", Version(version))),
            "what is listed after put number {version}"
        );
        check_time(stored.map(|stored| stored.updated_at), from, to, "updated_at")?;
    }
    // The removal of what was never there is a put as well.
    for version in 1..3 {
        let removal = Record::removal("never");
        let outcome = store.put_record(&removal, Some(Version(version - 1))).await?;
        let made = outcome.applied().and_then(|ack| ack.version);
        check_eq!(made, Some(Version(version)), "the version of removal number {version}");
    }
    let absent = store.put_record(&Record::new("absent", value(1)), Some(Version(3))).await?;
    check_eq!(
        absent,
        Outcome::Conflict { actual: Version(0) },
        "a put that expects what never was"
    );
    Ok(())
}
