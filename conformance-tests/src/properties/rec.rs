//! REC: small shared facts.

mod listing;

use std::time::Duration;

use queue_core::{ErrorKind, JobStoreExt, Outcome, Record, Version, When};
use tokio::time::Instant;

use super::scene::{
    LEASE, beat, check_time, claim, complete, job, plain_jobs, put, put_all, put_record, queue,
    release, settle, take_id, text, value, wanted_from,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race};

group! {
    "REC-1", "of racing puts that expect one version exactly one is made" => versioned_puts;
    "REC-2", "records are listed by prefix, in order" => records_by_prefix;
    "REC-3", "a claim skips a paused queue within a second" => paused_queues_are_skipped;
    "REC-4", "a malformed or oversized record is refused, and nothing is changed" => unfit_records_are_refused;
    "REC-5", "version, date and order of records are the store's" => listing::records_are_the_stores;
}

async fn versioned_puts(case: &Case<'_>) -> Checked {
    let store = case.store();
    let key = "presence/worker";
    let record = |n: usize| Record::new(key, value(n));
    let made = |outcome: &Outcome| outcome.applied().and_then(|ack| ack.version);
    let conflict = |actual| Outcome::Conflict { actual: Version(actual) };
    let never = store.put_record(&record(0), Some(Version(1))).await?;
    check_eq!(never, conflict(0), "a put that expects version 1 of a record that never was");
    let from = case.now().await?;
    let first = store.put_record(&record(1), Some(Version(0))).await?;
    let to = case.now().await?;
    check_eq!(made(&first), Some(Version(1)), "the version of the first put");
    let again = store.put_record(&record(9), Some(Version(0))).await?;
    check_eq!(again, conflict(1), "a put that expects that the record never was");
    let listed = store.records(key).await?;
    let [stored] = &listed[..] else {
        return Err(Stop::fail(format!("one record was put, and {} are listed", listed.len())));
    };
    check_eq!((&stored.body, stored.version), (&Some(value(1)), Version(1)), "body and version");
    check_time(Some(stored.updated_at), from, to, "updated_at")?;
    check_eq!(made(&store.put_record(&record(2), None).await?), Some(Version(2)), "a put always");
    // What was removed is gone, but its version goes on.
    let removed = store.put_record(&Record::removal(key), Some(Version(2))).await?;
    check_eq!(made(&removed), Some(Version(3)), "the version of a removal");
    check_eq!(store.records(key).await?, vec![], "records after the removal");
    let late = store.put_record(&record(5), Some(Version(2))).await?;
    check_eq!(late, conflict(3), "a put that expects the version before the removal");
    let reborn = store.put_record(&record(5), Some(Version(0))).await?;
    check_eq!(reborn, conflict(3), "a put that expects that a removed record never was");
    let anew = store.put_record(&record(0), Some(Version(3))).await?;
    check_eq!(made(&anew), Some(Version(4)), "a put that expects the removal");

    let handles = case.handles(4).await?;
    let each = case.times(10);
    race(8, |i| {
        let store = handles[i % 4].clone();
        async move {
            let mut done = 0;
            while done < each {
                let listed = store.records(key).await?;
                let Some(seen) = listed.first() else {
                    return Err(Stop::fail("a record that only changes is gone"));
                };
                let count: usize = seen.body.as_ref().map_or(Ok(0), |body| body.to())?;
                let next = Record::new(key, value(count + 1));
                match store.put_record(&next, Some(seen.version)).await? {
                    Outcome::Applied(_) => done += 1,
                    Outcome::Conflict { actual } => {
                        check!(
                            actual > seen.version,
                            "a conflict with {actual} at {}",
                            seen.version
                        );
                    }
                    other => return Err(Stop::fail(format!("a put was answered {other:?}"))),
                }
            }
            Ok(())
        }
    })
    .await?;
    let last = store.records(key).await?.pop();
    let found = last.map(|record| (record.body, record.version));
    let successes = 8 * each;
    let expected = Some((Some(value(successes)), Version(4 + successes as u64)));
    check_eq!(found, expected, "counter and version after {successes} acknowledged increments");
    Ok(())
}

async fn records_by_prefix(case: &Case<'_>) -> Checked {
    let store = case.store();
    // What one store's patterns would take for wild cards, and letters that differ in case only.
    let mut keys = vec![
        "a/1",
        "a/10",
        "a/2",
        "A/1",
        "a",
        "ab",
        "a%",
        "a%b",
        "a_",
        "axb",
        "b/1",
        "b\u{e9}",
        "be",
        "\u{1f600}/1",
        "[a]",
        "a\\b",
        "*",
    ];
    case.rng().shuffle(&mut keys);
    for key in &keys {
        put_record(store, &Record::new(*key, value(key))).await?;
    }
    put_record(store, &Record::new("a/gone", value(0))).await?;
    put_record(store, &Record::removal("a/gone")).await?;
    keys.sort_unstable();
    let prefixes =
        ["", "a", "a/", "a/1", "a%", "a_", "A", "[", "*", "\\", "b\u{e9}", "\u{1f600}", "zz"];
    for prefix in prefixes {
        let listed = store.records(prefix).await?;
        let found: Vec<&str> = listed.iter().map(|record| record.key.as_str()).collect();
        let expected: Vec<&str> =
            keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        check_eq!(found, expected, "the records whose key begins with {prefix:?}");
        for record in listed {
            check_eq!(record.body, Some(value(&record.key)), "the body of {}", record.key);
        }
    }
    let spaced = text(r#"{"b" : 1, "a":[2 ]}"#)?;
    put_record(store, &Record::new("a/2", spaced.clone())).await?;
    let bodies: Vec<_> = store.records("a/2").await?.into_iter().map(|r| r.body).collect();
    check_eq!(bodies, vec![Some(spaced)], "a body, as it was put");
    let malformed = store.put_record(&Record::new("a\n", value(1)), None).await;
    check!(malformed.is_err(), "a record with a control character in its key: {malformed:?}");
    Ok(())
}

async fn paused_queues_are_skipped(case: &Case<'_>) -> Checked {
    let store = case.store();
    let handles = case.handles(2).await?;
    let (paused, prefix, other) = (queue("mail")?, queue("mail2")?, queue("other")?);
    for name in [&paused, &prefix, &other] {
        let mut jobs = plain_jobs(2);
        jobs.iter_mut().for_each(|job| job.queue = name.clone());
        put_all(store, &jobs).await?;
    }
    let mut before = job("claimed before the pause");
    before.queue = paused.clone();
    before.priority = 1;
    put(store, &before).await?;
    let held = take_id(store, before.id).await?;
    check_eq!(store.pause(&paused).await?, (), "a pause");
    settle_for(case, &handles, "mail", 0).await?;
    for handle in &handles {
        let here = handle.claim(&wanted_from(&["mail"], 9)?).await?;
        check!(here.jobs.is_empty(), "a paused queue was claimed from");
        let now = case.now().await?;
        check!(
            !case.is_clocked() || here.next_due.is_none_or(|due| due > now),
            "jobs of a paused queue are not to be waited for: {:?}",
            here.next_due
        );
        let all = claim(handle, 9).await?;
        check_eq!(all.len(), 4, "jobs of the queues that are not paused");
        check!(all.iter().all(|job| job.queue != paused), "a paused queue was claimed from");
        for job in all {
            settle(handle, &job, release(When::Now)).await?;
        }
    }
    // A pause concerns claims alone.
    check!(beat(store, &held, LEASE).await?.is_saved(), "a heartbeat in a paused queue");
    settle(store, &held, complete()).await?;
    let mut late = job("inserted while paused");
    late.queue = paused.clone();
    put(store, &late).await?;
    store.resume(&paused).await?;
    settle_for(case, &handles, "mail", 3).await?;
    let back = store.claim(&wanted_from(&["mail"], 9)?).await?.jobs;
    check_eq!(back.len(), 3, "jobs of a queue that was resumed");
    // Names that patterns or ranges of keys may get wrong: the last character there is among them.
    for name in ["\u{10ffff}\u{10ffff}", "a%_[*", "0", "/"] {
        let odd = queue(name)?;
        let mut waiting = job("in an odd queue");
        waiting.queue = odd.clone();
        put(store, &waiting).await?;
        store.pause(&odd).await?;
        settle_for(case, &handles, name, 0).await?;
        store.resume(&odd).await?;
        settle_for(case, &handles, name, 1).await?;
    }
    Ok(())
}

/// Waits, a second at most, until claims of this queue find so many jobs, and gives them back.
async fn settle_for(
    case: &Case<'_>,
    handles: &[super::scene::Store],
    name: &str,
    expected: usize,
) -> Checked {
    if case.is_clocked() {
        case.advance(Duration::from_secs(1))?;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    for handle in handles {
        loop {
            let jobs = handle.claim(&wanted_from(&[name], 9)?).await?.jobs;
            let found = jobs.len();
            for job in jobs {
                settle(handle, &job, release(When::Now)).await?;
            }
            if found == expected {
                break;
            }
            check!(
                Instant::now() < deadline,
                "a second after a pause or its end a claim found {found} jobs, not {expected}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

async fn unfit_records_are_refused(case: &Case<'_>) -> Checked {
    let store = case.store();
    put_record(store, &Record::new("sound", value(1))).await?;
    for key in ["", "a\n", "a\0", &"x".repeat(257)] {
        for record in [Record::new(key, value(2)), Record::removal(key)] {
            let answer = store.put_record(&record, None).await;
            check!(
                matches!(&answer, Err(error) if error.kind() == ErrorKind::Invalid),
                "a record with the key {key:?} was answered {answer:?}"
            );
        }
    }
    for prefix in ["a\0", "\u{7f}"] {
        let answer = store.records(prefix).await;
        check!(
            matches!(&answer, Err(error) if error.kind() == ErrorKind::Invalid),
            "the prefix {prefix:?} was answered {answer:?}"
        );
    }
    let limit = case.info().capabilities.max_payload_bytes;
    // Larger limits would cost more memory than the check is worth.
    if let Ok(bytes) = usize::try_from(limit)
        && limit <= 64 << 20
    {
        let large = text(format!("\"{}\"", "x".repeat(bytes - 1)))?;
        let answer = store.put_record(&Record::new("sound", large), None).await;
        check!(
            matches!(&answer, Err(error) if error.kind() == ErrorKind::TooLarge),
            "a body of {} bytes was answered {answer:?}",
            bytes + 1
        );
    }
    let listed = store.records("").await?;
    let found: Vec<_> = listed.iter().map(|record| (&*record.key, record.version)).collect();
    check_eq!(found, vec![("sound", Version(1))], "the records, after all of them were refused");
    Ok(())
}
