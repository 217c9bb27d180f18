//! What heartbeats and reaps leave on a job.

use std::time::Duration;

use queue_core::{
    Held, Job, JobFilter, JobPatch, JobStoreExt, NewJob, Progress, Record, State, When,
};

use super::super::scene::{
    HOUR, LEASE, MICRO, Store, brief, cancel, check_time, fail, ids, job, n, plain_jobs, put,
    put_all, queue, read, reap_all, release, retry, settle, take_for, take_id, value, write,
};
use crate::{Case, Checked, check, check_eq};

async fn beat(store: &Store, job: &Job, lease: Duration, progress: Option<Progress>) -> Checked {
    let mut held = Held::new(job.id, job.fence);
    held.progress = progress;
    let outcomes = store.heartbeat(&[held], lease).await?;
    check!(
        outcomes.iter().all(|outcome| outcome.is_saved()),
        "a heartbeat of the holder: {outcomes:?}"
    );
    Ok(())
}

pub(super) async fn heartbeats_change_lease_and_progress_alone(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("plain")).await?;
    let first = take_id(store, id).await?;
    write(store, &first, JobPatch::progress(Progress::with_message(80, "far"))).await?;
    settle(store, &first, retry(When::Now)).await?;
    let odd = LEASE + MICRO * 7;
    let from = case.now().await?;
    let held = take_for(store, id, odd).await?;
    let to = case.now().await?;
    check_time(held.lease_until, from.plus(odd), to.plus(odd), "the lease")?;
    check_eq!(
        held.progress,
        Some(Progress::with_message(80, "far")),
        "the progress of the attempt before, after a claim"
    );
    case.pass(MICRO * 3).await?;
    let steps = [
        (None, Some(Progress::with_message(80, "far"))),
        (Some(Progress::new(30)), Some(Progress::new(30))),
        (Some(Progress::with_message(0, "again")), Some(Progress::with_message(0, "again"))),
        (Some(Progress::new(0)), Some(Progress::new(0))),
        (None, Some(Progress::new(0))),
    ];
    let mut lease = odd;
    for (sent, expected) in steps {
        lease -= Duration::from_micros(1_001);
        let before = read(store, id).await?;
        let from = case.now().await?;
        beat(store, &held, lease, sent.clone()).await?;
        let to = case.now().await?;
        let after = read(store, id).await?;
        check_eq!(after.progress, expected, "progress after a heartbeat with {sent:?}");
        let (least, most) = (from.plus(lease), to.plus(lease));
        check_time(after.lease_until, least, most, "a shorter lease")?;
        let mut rest = after.clone();
        (rest.progress, rest.lease_until) = (before.progress.clone(), before.lease_until);
        check_eq!(rest, before, "everything but lease and progress, after a heartbeat");
    }
    write(store, &held, JobPatch::progress(Progress::with_message(9, "text"))).await?;
    write(store, &held, JobPatch::progress(Progress::new(8))).await?;
    let shown = read(store, id).await?.progress;
    check_eq!(shown, Some(Progress::new(8)), "progress without a message, after one with one");
    beat(store, &held, Duration::MAX, None).await?;
    let end = read(store, id).await?.lease_until;
    check!(
        end.is_some_and(|end| end > to.plus(HOUR * 24 * 365 * 100)),
        "an endless lease: {end:?}"
    );
    check!(reap_all(store).await?.is_empty(), "an endless lease was reaped");
    Ok(())
}

pub(super) async fn reaps_report_in_order(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Leases that end a microsecond apart, in an order that is that of nothing else.
    let jobs = plain_jobs(4);
    put_all(store, &jobs).await?;
    let mut expiring = Vec::new();
    for (place, job) in [2, 0, 3, 1].into_iter().zip(&jobs) {
        let lease = brief(case) + MICRO * place;
        expiring.push(take_for(store, job.id, lease).await?);
    }
    expiring.sort_by_key(|job| (job.lease_until, job.id));
    let paused = queue("default")?;
    store.put_record(&Record::new(Record::pause_key(&paused), value(true)), None).await?.is_saved();
    case.pass(brief(case) + Duration::from_millis(1)).await?;
    let reaped = store.reap(n(u32::MAX)).await?;
    let order: Vec<_> = reaped.iter().map(|reaped| reaped.id).collect();
    check_eq!(order, ids(&expiring), "reaped jobs, in a paused queue, by the end of their leases");
    Ok(())
}

/// Fails one attempt of a job, and takes it again for a brief lease.
async fn second_attempt(case: &Case<'_>, max_crashes: u32) -> Checked<Job> {
    let store = case.store();
    let mut new: NewJob = job("plain");
    new.max_crashes = max_crashes;
    let id = put(store, &new).await?;
    let first = take_id(store, id).await?;
    write(store, &first, JobPatch::progress(Progress::with_message(40, "half"))).await?;
    settle(store, &first, retry(When::Now)).await?;
    take_for(store, id, brief(case)).await
}

pub(super) async fn reaps_leave_what_was_there(case: &Case<'_>) -> Checked {
    let store = case.store();
    let given_back = second_attempt(case, u32::MAX).await?;
    let exhausted = second_attempt(case, 0).await?;
    let cancelled = second_attempt(case, 0).await?;
    cancel(store, cancelled.id, "stop").await?;
    case.pass(brief(case) + MICRO * 5).await?;
    let from = case.now().await?;
    reap_all(store).await?;
    let to = case.now().await?;
    for (was, state) in
        [(&given_back, State::Waiting), (&exhausted, State::Failed), (&cancelled, State::Cancelled)]
    {
        let is = read(store, was.id).await?;
        check_eq!(is.state, state, "the state after a reap");
        check_eq!(is.progress, was.progress, "the progress of a job that is {state} after a reap");
        check_eq!(is.started_at, was.started_at, "the start of a job that is {state} after a reap");
        check_eq!(is.run_at, was.run_at, "the due time of a job that is {state} after a reap");
        check_eq!((is.attempt, is.crashes), (1, 1), "attempt and crashes of a job that is {state}");
        check_eq!((&is.holder, is.lease_until), (&None, None), "holder and lease after a reap");
        match state {
            State::Failed => check!(
                is.error.is_some() && is.error != was.error,
                "a job that crashed too often shows the error of an earlier attempt: {:?}",
                is.error
            ),
            _ => check_eq!(is.error, was.error, "the error of a job that is {state} after a reap"),
        }
        match state {
            State::Waiting => check_eq!(is.finished_at, None, "the end of a job given back"),
            _ => check_time(is.finished_at, from, to, "the end by a reap")?,
        }
    }
    // Neither a release nor a retry forgives a crash, and the next one counts on.
    for transition in [release(When::Now), retry(When::Now)] {
        let held = take_id(store, given_back.id).await?;
        settle(store, &held, transition).await?;
        check_eq!(read(store, held.id).await?.crashes, 1, "crashes after the next end of a run");
    }
    let last = take_id(store, given_back.id).await?;
    settle(store, &last, fail()).await?;
    let running = JobFilter::all().with_states(State::Running);
    check_eq!(store.count(&running).await?, 0, "jobs that still run");
    Ok(())
}
