//! ERR-8: calls that meet at the same rows, after which everything is counted.
//!
//! A store that is in the way of another often undoes what it has begun and does it again. What the first run left behind (a
//! number that was given out, a counter that was raised), or a second run that meets what the first has done, shows here.

use std::collections::BTreeSet;

use queue_core::{
    Fire, Fired, Inserted, Job, JobFilter, JobId, JobPatch, JobStoreExt, LogRead, NewJob, Outcome,
    Record, State, States, Unique, Version, When,
};

use super::super::scene::{
    Store, brief, cancelling, complete, counts, edit, entry, ids, job, n, new_ids, plain_jobs, put,
    put_all, put_record, read, retry, running, secs, settle, take_id, value, wanted, wanted_ids,
    write,
};
use crate::{Case, Checked, Stop, check, check_eq, race, start};

const RACERS: usize = 4;
const ROUNDS: usize = 4;

pub(super) async fn done_once(case: &Case<'_>) -> Checked {
    let handles = case.handles(RACERS).await?;
    for round in 0..case.times(ROUNDS) {
        appends(case.store(), &handles).await?;
        edits(case.store(), &handles).await?;
        inserts(case.store(), &handles, round).await?;
        claims(case.store(), &handles).await?;
        ends_of_runs(case.store(), &handles).await?;
        reaps(case, &handles).await?;
        cancels(case.store(), &handles).await?;
        deletions(case.store(), &handles).await?;
        slots_and_records(case.store(), &handles, round).await?;
    }
    Ok(())
}

/// Everybody's entries are there once, at positions without gaps.
async fn appends(store: &Store, handles: &[Store]) -> Checked {
    const EACH: usize = 3;
    let job = running(store).await?;
    race(RACERS, |i| {
        let (store, job) = (handles[i].clone(), job.clone());
        async move {
            for step in 0..EACH {
                write(&store, &job, JobPatch::append([entry((i, step))])).await?;
            }
            Ok(())
        }
    })
    .await?;
    let stored = read(store, job.id).await?;
    let seqs: Vec<u64> = stored.log.iter().map(|entry| entry.seq.0).collect();
    let all = (RACERS * EACH) as u64;
    check_eq!(seqs, (1..=all).collect::<Vec<_>>(), "the positions of entries appended at once");
    check_eq!((stored.log_len, stored.version), (all, job.version), "log_len and version");
    settle(store, &job, complete()).await.map(drop)
}

/// Each edit adds one to the version, and is told its own.
async fn edits(store: &Store, handles: &[Store]) -> Checked {
    let id = put(store, &job("edited")).await?;
    let acks = race(RACERS, |i| {
        let store = handles[i].clone();
        async move { edit(&store, id, JobPatch::default().with_label(format!("{i}"), "x")).await }
    })
    .await?;
    let told: BTreeSet<Version> = acks.into_iter().filter_map(|ack| ack.version).collect();
    let expected: BTreeSet<Version> = (2..2 + RACERS as u64).map(Version).collect();
    check_eq!(told, expected, "the versions that editors were told");
    let stored = read(store, id).await?;
    let last = Version(1 + RACERS as u64);
    check_eq!((stored.version, stored.labels.len()), (last, RACERS), "version and labels");
    let out_of_the_way = store.update_where(&JobFilter::id(id), &cancelling("done")).await?;
    check_eq!(out_of_the_way, counts(1, 0, 0), "the cancel of a waiting job");
    Ok(())
}

/// Who brings a job that nobody knows is told that it is new.
async fn inserts(store: &Store, handles: &[Store], round: usize) -> Checked {
    let answers = race(RACERS, |i| {
        let store = handles[i].clone();
        async move {
            let (own, mut shared) = (job("own"), job("shared"));
            shared.unique = Some(Unique::new(format!("again {round}")));
            let answers = store.insert(&[own.clone(), shared.clone()]).await?;
            check_eq!(answers.len(), 2, "answers of an insert");
            check_eq!(answers[0], Inserted::New(own.id), "a job of a new id and without a key");
            Ok((answers[1], own.id, shared.id))
        }
    })
    .await?;
    let winners: Vec<JobId> =
        answers.iter().filter(|(answer, ..)| answer.is_new()).map(|(_, _, id)| *id).collect();
    check_eq!(winners.len(), 1, "jobs of one key that are new");
    for (answer, ..) in &answers {
        check_eq!(answer.id(), winners[0], "the job that holds the key");
    }
    let mut there: Vec<JobId> = answers.iter().map(|(_, own, _)| *own).collect();
    there.extend(winners);
    let met = store.update_where(&JobFilter::ids(there), &cancelling("done")).await?;
    check_eq!(met, counts(RACERS as u64 + 1, 0, 0), "jobs that were inserted at once");
    Ok(())
}

/// Nothing is held but what somebody was given.
async fn claims(store: &Store, handles: &[Store]) -> Checked {
    let jobs = plain_jobs(RACERS * 4);
    put_all(store, &jobs).await?;
    let given = race(RACERS, |i| {
        let (store, request) = (handles[i].clone(), wanted_ids(&new_ids(&jobs), 2));
        async move {
            let jobs = store.claim(&request).await?.jobs;
            check!(jobs.len() <= 2, "a claim of 2 answered {} jobs", jobs.len());
            Ok(jobs)
        }
    })
    .await?;
    let mut given: Vec<Job> = given.into_iter().flatten().collect();
    given.sort_by_key(|job| job.id);
    let stored = store.get(&new_ids(&jobs), LogRead::All).await?;
    let mut held: Vec<Job> = stored.into_iter().flatten().collect();
    held.retain(|job| job.state == State::Running);
    held.sort_by_key(|job| job.id);
    check_eq!(ids(&held), ids(&given), "jobs that are held, and those that somebody was given");
    check!(held == given, "jobs that are held are not as they were given: {held:?}");
    let rest = store.claim(&wanted_ids(&new_ids(&jobs), RACERS as u32 * 4)).await?.jobs;
    check_eq!(rest.len() + held.len(), jobs.len(), "jobs held in the end");
    for job in rest.iter().chain(&held) {
        check_eq!((job.fence.count, job.attempt), (1, 1), "claims and attempts of job {}", job.id);
        settle(store, job, complete()).await?;
    }
    Ok(())
}

/// Who ends a run is told that it is done, whoever edits the job meanwhile.
async fn ends_of_runs(store: &Store, handles: &[Store]) -> Checked {
    let job = running(store).await?;
    race(RACERS, |i| {
        let (store, job) = (handles[i].clone(), job.clone());
        async move {
            match i {
                // Applied, and nothing else: it is no repeat, and nobody has taken the job.
                0 => settle(&store, &job, retry(When::After(secs(60)))).await.map(drop),
                _ => {
                    let patch = JobPatch::default().with_label(format!("{i}"), "x");
                    edit(&store, job.id, patch).await.map(drop)
                }
            }
        }
    })
    .await?;
    let stored = read(store, job.id).await?;
    check_eq!((stored.state, stored.attempt), (State::Waiting, 1), "state and attempt");
    check_eq!(stored.version, Version(2 + RACERS as u64), "the version after an end and edits");
    check_eq!(stored.labels.len(), RACERS - 1, "the labels");
    store.update_where(&JobFilter::id(job.id), &cancelling("done")).await?;
    Ok(())
}

/// A lost lease is one crash.
async fn reaps(case: &Case<'_>, handles: &[Store]) -> Checked {
    let store = case.store();
    let jobs = plain_jobs(4);
    put_all(store, &jobs).await?;
    let mut request = wanted(4);
    (request.filter, request.lease) = (Some(JobFilter::ids(new_ids(&jobs))), brief(case));
    check_eq!(store.claim(&request).await?.jobs.len(), 4, "jobs held");
    case.pass(brief(case)).await?;
    let reaped = race(RACERS, |i| {
        let (store, id) = (handles[i].clone(), jobs[i].id);
        async move {
            if i % 2 == 0 {
                return Ok(store.reap(n(100)).await?);
            }
            edit(&store, id, JobPatch::default().with_label("a", "b")).await?;
            Ok(Vec::new())
        }
    })
    .await?;
    let mut reaped: Vec<_> = reaped.into_iter().flatten().collect();
    // Jobs that somebody had his hands on may have been passed over.
    reaped.extend(store.reap(n(100)).await?);
    let mut told: Vec<(JobId, u32)> = reaped.iter().map(|one| (one.id, one.crashes)).collect();
    told.retain(|(id, _)| jobs.iter().any(|job| job.id == *id));
    told.sort_unstable();
    let once: Vec<(JobId, u32)> = new_ids(&jobs).into_iter().map(|id| (id, 1)).collect();
    check_eq!(told, once, "jobs reaped at once, and their crashes");
    for (i, new) in jobs.iter().enumerate() {
        let job = read(store, new.id).await?;
        let version = Version(3 + (i % 2) as u64);
        let fields = (job.state, job.crashes, job.attempt, job.version);
        check_eq!(fields, (State::Waiting, 1, 0, version), "job {i} after reaps and edits");
        settle(store, &take_id(store, job.id).await?, complete()).await?;
    }
    Ok(())
}

/// Each job is cancelled by one of several, and counted by it as changed.
async fn cancels(store: &Store, handles: &[Store]) -> Checked {
    let jobs = plain_jobs(6);
    put_all(store, &jobs).await?;
    let met = race(RACERS, |i| {
        let (store, filter) = (handles[i].clone(), JobFilter::ids(new_ids(&jobs)));
        async move { Ok(store.update_where(&filter, &cancelling("at once")).await?) }
    })
    .await?;
    let changed: u64 = met.iter().map(|met| met.changed).sum();
    let finished: u64 = met.iter().map(|met| met.finished).sum();
    let all = (jobs.len() * RACERS) as u64;
    check_eq!(
        (changed, finished),
        (6, all - 6),
        "jobs that racing cancels changed and found ended"
    );
    for new in &jobs {
        check_eq!(read(store, new.id).await?.version, Version(2), "the version of a cancelled job");
    }
    Ok(())
}

/// Each job is deleted by one of several, and counted by it.
async fn deletions(store: &Store, handles: &[Store]) -> Checked {
    let jobs = plain_jobs(6);
    put_all(store, &jobs).await?;
    let deleted = race(RACERS, |i| {
        let (store, filter) = (handles[i].clone(), JobFilter::ids(new_ids(&jobs)));
        async move { Ok(store.delete(&filter, n(10)).await?) }
    })
    .await?;
    check_eq!(deleted.iter().sum::<u64>(), 6, "jobs that racing deletions say they deleted");
    let left = JobFilter::ids(new_ids(&jobs)).with_states(States::ALL);
    check_eq!(store.count(&left).await?, 0, "jobs that deletions left");
    Ok(())
}

/// A slot is fired by one, who is told so; each put of a record is one version.
async fn slots_and_records(store: &Store, handles: &[Store], round: usize) -> Checked {
    let slot = start().plus(secs(round as u64));
    let told = race(RACERS, |i| {
        let store = handles[i].clone();
        async move {
            let job = NewJob::new("fired", value(i));
            let fired = store.fire(&Fire::new("again", slot, job)).await?;
            let ack = put_record(&store, &Record::new("again", value(i))).await?;
            Ok((fired, ack))
        }
    })
    .await?;
    let id = JobId::for_slot("again", slot);
    let enqueued = told.iter().filter(|(fired, _)| *fired == Fired::Enqueued(id)).count();
    let already = Fired::Already { last_slot: slot };
    let others = told.iter().filter(|(fired, _)| *fired == already).count();
    check_eq!((enqueued, others), (1, RACERS - 1), "callers whose slot it was, and others");
    let stats = store.schedules().await?;
    let stat = stats.into_iter().find(|stat| stat.schedule == "again");
    let Some(stat) = stat else { return Err(Stop::fail("a schedule that fired is not listed")) };
    check_eq!((stat.fired, stat.skipped), (round as u64 + 1, 0), "slots fired and skipped");
    settle(store, &take_id(store, id).await?, complete()).await?;
    let first = (round * RACERS) as u64;
    let versions: BTreeSet<Version> = told.iter().filter_map(|(_, ack)| ack.version).collect();
    let expected: BTreeSet<Version> = (first + 1..=first + RACERS as u64).map(Version).collect();
    check_eq!(versions, expected, "the versions that racing puts of a record were told");
    let last = Version(first + RACERS as u64);
    let next = store.put_record(&Record::new("again", value("last")), Some(Version(0))).await?;
    check_eq!(next, Outcome::Conflict { actual: last }, "a put that expects no version so far");
    Ok(())
}
