//! Names are compared byte by byte.

use std::time::Duration;

use queue_core::{
    Fire, Fired, JobFilter, JobPatch, JobStoreExt, Lane, NewJob, Queues, Record, Unique, When,
};
use tokio::time::Instant;

use super::super::scene::{
    MICRO, another, edit, ids, job, put, put_all, put_record, queue, read, release, settle, text,
    value, wanted,
};
use crate::{Case, Checked, check, check_eq};

/// Pairs of names that a collation, a padding, a pattern or a short column takes for one.
fn twins() -> Vec<[String; 2]> {
    let pairs = [
        ("Name", "name"),
        ("B", "a"),
        ("end", "end "),
        (" start", "start"),
        ("caf\u{e9}", "cafe\u{301}"),
        ("stra\u{df}e", "strasse"),
        ("a/b", "a/c"),
        ("a.b", "a"),
        ("under_score", "under-score"),
        ("50%", "50% more"),
        ("1", "01"),
    ];
    let long = "x".repeat(255);
    let mut twins: Vec<[String; 2]> =
        pairs.iter().map(|(a, b)| [(*a).to_owned(), (*b).to_owned()]).collect();
    twins.push([format!("{long}a"), format!("{long}b")]);
    twins
}

pub(super) async fn names_that_look_alike_differ(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut slot = case.now().await?;
    for pair in twins() {
        // Some names stand in two pairs, and slots only move forward.
        slot = slot.plus(MICRO);
        let mut jobs: Vec<NewJob> = Vec::new();
        for name in &pair {
            let mut job = job("twin");
            job.queue = queue(name)?;
            job.unique = Some(Unique::new(name));
            job.lane = Some(Lane::new(name));
            job.labels.insert(name.clone(), name.clone());
            jobs.push(job);
        }
        put_all(store, &jobs).await?;
        for (name, job) in pair.iter().zip(&jobs) {
            let filter = JobFilter::label(name, name);
            check_eq!(store.count(&filter).await?, 1, "jobs with the label {name:?} of {pair:?}");
            let filter = JobFilter::queue(job.queue.clone());
            check_eq!(store.count(&filter).await?, 1, "jobs of the queue {name:?} of {pair:?}");
            let fired = store.fire(&Fire::skip(name.clone(), slot, None)).await?;
            check_eq!(fired, Fired::Skipped(None), "a slot of {name:?} of {pair:?}");
            put_record(store, &Record::new(name.clone(), value(name))).await?;
        }
        let tallies = store.tally(&JobFilter::all()).await?;
        let mut sorted: Vec<&str> = pair.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let counted: Vec<&str> = tallies.iter().map(|tally| tally.queue.as_str()).collect();
        check_eq!(counted, sorted, "queues counted apart and in order, of {pair:?}");
        let both = store.claim(&wanted(9)).await?.jobs;
        check_eq!(both.len(), 2, "jobs that run at once in the lanes {pair:?}");
        for job in &both {
            settle(store, job, release(When::At(job.run_at))).await?;
        }
        // The removal of one label leaves its twin.
        edit(store, jobs[0].id, JobPatch::default().with_label(&pair[1], "twin")).await?;
        edit(store, jobs[0].id, JobPatch::default().without_label(&pair[1])).await?;
        let labels: Vec<String> = read(store, jobs[0].id).await?.labels.into_keys().collect();
        check_eq!(labels, vec![pair[0].clone()], "labels after the removal of {:?}", pair[1]);
        edit(store, jobs[0].id, JobPatch::default().with_label(&pair[1], "twin")).await?;
        edit(store, jobs[0].id, JobPatch::default().without_label(&pair[0])).await?;
        let labels: Vec<String> = read(store, jobs[0].id).await?.labels.into_keys().collect();
        check_eq!(labels, vec![pair[1].clone()], "labels after the removal of {:?}", pair[0]);
        store.delete(&JobFilter::all(), wanted(9).limit).await?;
    }
    Ok(())
}

pub(super) async fn a_pause_is_for_one_queue(case: &Case<'_>) -> Checked {
    let store = case.store();
    let bodies = ["null", "false", "0", "\"\"", "{}", "[]"];
    for (i, pair) in twins().into_iter().enumerate() {
        let mut both = Vec::new();
        for name in &pair {
            let mut job = job("twin");
            job.queue = queue(name)?;
            put(store, &job).await?;
            both.push(job);
        }
        let body = text(bodies[i % bodies.len()])?;
        let key = Record::pause_key(&both[0].queue);
        put_record(store, &Record::new(key.clone(), body)).await?;
        if case.is_clocked() {
            case.advance(Duration::from_secs(1))?;
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut all = wanted(9);
        let mut named = wanted(9);
        named.queues = Queues::Only(both.iter().map(|job| job.queue.clone()).collect());
        for request in [&mut all, &mut named] {
            loop {
                *request = another(request);
                let jobs = store.claim(request).await?.jobs;
                let found = ids(&jobs);
                for job in &jobs {
                    settle(store, job, release(When::At(job.run_at))).await?;
                }
                if found == vec![both[1].id] {
                    break;
                }
                check!(
                    Instant::now() < deadline,
                    "a second after the pause of {:?} with {} a claim took {} of {pair:?}",
                    pair[0],
                    bodies[i % bodies.len()],
                    found.len()
                );
            }
        }
        put_record(store, &Record::removal(key)).await?;
        store.delete(&JobFilter::all(), wanted(9).limit).await?;
    }
    Ok(())
}
