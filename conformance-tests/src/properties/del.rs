//! DEL: what a deletion takes, and what it leaves.

use std::time::Duration;

use queue_core::{
    BulkChange, Inserted, JobFilter, JobId, JobPatch, JobStoreExt, Lane, LogRead, NewJob, State,
    States, TimeRange, Unique,
};

use super::scene::{
    MICRO, check_unchanged, claim, complete, counts, entry, fail, give_up, ids, job, n, new_ids,
    plain_jobs, put, put_all, read, running, settle, take_id, wanted_ids, write,
};
use crate::{Case, Checked, check, check_eq, property::group, race::duel};

group! {
    "DEL-1", "a running job is never deleted" => running_jobs_stay;
    "DEL-2", "no more than the limit is deleted, the oldest first" => limits_and_age;
    "DEL-3", "a horizon is strict" => horizons_are_strict;
    "DEL-4", "a deletion frees unique keys, labels and logs" => deletions_free_what_they_held;
}

async fn running_jobs_stay(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    for end in [complete(), fail(), give_up()] {
        let job = running(store).await?;
        settle(store, &job, end).await?;
    }
    put(store, &job("waiting")).await?;
    let only = JobFilter::all().with_states(State::Running);
    check_eq!(store.delete(&only, n(100)).await?, 0, "running jobs deleted");
    check_eq!(
        store.delete(&JobFilter::id(held.id), n(100)).await?,
        0,
        "running jobs deleted by id"
    );
    check_eq!(store.delete(&JobFilter::all(), n(100)).await?, 4, "jobs deleted of 5, one running");
    check_unchanged(store, &held, "a deletion of everything").await?;
    settle(store, &held, complete()).await?;
    check_eq!(
        store.delete(&JobFilter::id(held.id), n(100)).await?,
        1,
        "jobs deleted once it ended"
    );

    let handles = case.handles(2).await?;
    for round in 0..case.times(10) {
        let id = put(store, &job("contested")).await?;
        let (deleter, claimer) = (handles[round % 2].clone(), handles[(round + 1) % 2].clone());
        let (deleted, claimed) = duel(
            round,
            async move { Ok(deleter.delete(&JobFilter::id(id), n(1)).await?) },
            async move { Ok(claimer.claim(&wanted_ids(&[id], 1)).await?.jobs) },
        )
        .await?;
        check_eq!(deleted + claimed.len() as u64, 1, "deleted and claimed, of one job");
        for held in claimed {
            settle(store, &held, complete()).await?;
        }
        check_eq!(store.get_one(id).await?.is_some(), deleted == 0, "whether the job is there");
    }
    Ok(())
}

async fn limits_and_age(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Older by insertion, not by id: each batch has ids from all over, and neither the smallest nor the largest come first.
    let jobs = plain_jobs(12);
    let jobs = [8, 4, 1, 7, 11, 5, 2, 10, 6, 3, 0, 9].map(|at| jobs[at].clone());
    let mut by_age: Vec<JobId> = Vec::new();
    for batch in jobs.chunks(4) {
        put_all(store, batch).await?;
        let mut ids = new_ids(batch);
        ids.sort_unstable();
        by_age.extend(ids);
        case.pass(Duration::from_millis(2)).await?;
    }
    for (limit, left) in [(1_u32, 11), (5, 6), (4, 2)] {
        check_eq!(
            store.delete(&JobFilter::all(), n(limit)).await?,
            u64::from(limit),
            "jobs deleted"
        );
        let stored = store.get(&by_age, LogRead::None).await?;
        let kept: Vec<JobId> = stored.into_iter().flatten().map(|job| job.id).collect();
        check_eq!(kept, by_age[12 - left..].to_vec(), "the jobs that a deletion of {limit} leaves");
    }
    check_eq!(store.delete(&JobFilter::kind("other"), n(9)).await?, 0, "jobs of another kind");
    // The limit counts what is deleted: an older job that must stay does not use it up.
    let held = take_id(store, by_age[10]).await?;
    check_eq!(store.delete(&JobFilter::all(), n(1)).await?, 1, "jobs deleted behind a running one");
    check_eq!(store.get_one(by_age[11]).await?, None, "the job behind the running one");
    settle(store, &held, complete()).await?;
    put(store, &job("last")).await?;
    check_eq!(store.delete(&JobFilter::all(), n(1_000)).await?, 2, "the rest");
    check_eq!(
        store.delete(&JobFilter::all(), n(1_000)).await?,
        0,
        "jobs deleted from an empty store"
    );
    Ok(())
}

async fn horizons_are_strict(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut ended = Vec::new();
    for _ in 0..3 {
        let held = running(store).await?;
        settle(store, &held, complete()).await?;
        ended.push(read(store, held.id).await?);
        case.pass(Duration::from_millis(2)).await?;
    }
    let waiting = put(store, &job("waiting")).await?;
    let horizon = ended[1].finished_at.unwrap_or(queue_core::Timestamp::MIN);
    let mut filter = JobFilter::all().with_states(States::FINAL);
    filter.finished = TimeRange::before(horizon);
    check_eq!(store.delete(&filter, n(100)).await?, 1, "jobs that ended before the horizon");
    check_eq!(store.get_one(ended[0].id).await?, None, "the first job");
    check_unchanged(store, &ended[1], "a deletion whose horizon is the job's own end").await?;
    filter.finished = TimeRange::before(horizon.plus(MICRO));
    check_eq!(store.delete(&filter, n(100)).await?, 1, "jobs that ended up to the horizon");
    check_eq!(store.get_one(ended[1].id).await?, None, "the second job");
    filter.finished = TimeRange::from(horizon.plus(MICRO));
    filter.states = States::ALL;
    check_eq!(store.delete(&filter, n(100)).await?, 1, "jobs that ended after the horizon");
    check!(store.get_one(waiting).await?.is_some(), "a job that has not ended is in no such range");
    let born = read(store, waiting).await?.created_at;
    let mut older = JobFilter::all();
    older.created = TimeRange::before(born);
    check_eq!(store.delete(&older, n(100)).await?, 0, "jobs created before the last one");
    older.created = TimeRange::between(born, born.plus(MICRO));
    check_eq!(store.delete(&older, n(100)).await?, 1, "jobs created at that very instant");
    Ok(())
}

async fn deletions_free_what_they_held(case: &Case<'_>) -> Checked {
    let store = case.store();
    let keyed = |within: States| {
        let mut job: NewJob = job("keyed");
        let mut unique = Unique::new("key");
        unique.within = within;
        job.unique = Some(unique);
        job.lane = Some(Lane::new("lane"));
        job.labels.insert("a".into(), "b".into());
        job
    };
    // While it waits, and when its key outlives its end.
    let waiting = keyed(States::LIVE);
    put(store, &waiting).await?;
    check_eq!(store.delete(&JobFilter::label("a", "b"), n(1)).await?, 1, "waiting jobs deleted");
    let done = keyed(States::ALL);
    check_eq!(store.insert_one(&done).await?, Inserted::New(done.id), "a job of the freed key");
    let held = take_id(store, done.id).await?;
    write(store, &held, JobPatch::append([entry(1), entry(2)])).await?;
    settle(store, &held, complete()).await?;
    let mut rival = keyed(States::LIVE);
    let answer = store.insert_one(&rival).await?;
    check_eq!(answer, Inserted::Existing(done.id), "a job of a key that outlives its job's end");
    check_eq!(store.delete(&JobFilter::id(done.id), n(1)).await?, 1, "finished jobs deleted");
    check_eq!(store.insert_one(&rival).await?, Inserted::New(rival.id), "a job of the freed key");
    check_eq!(ids(&claim(store, 5).await?), vec![rival.id], "the lane is free as well");

    // The same id again: nothing of the old job is left.
    rival.id = done.id;
    rival.labels.clear();
    rival.unique = None;
    rival.lane = None;
    put(store, &rival).await?;
    let reborn = read(store, rival.id).await?;
    check_eq!((reborn.log_len, reborn.log.len()), (0, 0), "the log of a new job of that id");
    check!(reborn.labels.is_empty(), "labels of the old job: {:?}", reborn.labels);
    let labelled = JobFilter::label("a", "b").with_states(State::Waiting);
    check_eq!(store.count(&labelled).await?, 0, "waiting jobs with the old job's label");
    let change = BulkChange::Priority(1);
    let met = store.update_where(&labelled, &change).await?;
    check_eq!(met, counts(0, 0, 0), "jobs met by the old job's label");
    Ok(())
}
