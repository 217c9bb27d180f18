//! SIG: a wake-up is never lost.

use std::time::Duration;

use queue_core::{
    BulkChange, Job, JobFilter, JobPatch, JobStoreExt, Progress, State, Version, When,
};

use super::scene::{
    HOUR, Store, beat, brief, check_nothing_due, check_time, check_unchanged, counts, edit, entry,
    job, put, read, reap_all, release, retry, running, settle, take_for, take_id, wanted_ids,
    write,
};
use crate::{Case, Checked, check, check_eq, property::group, race::duel};

group! {
    "SIG-1", "a job released until later and woken meanwhile is due at once" => no_wake_is_lost;
}

async fn wake(store: &Store, job: &Job) -> Checked<queue_core::BulkOutcome> {
    Ok(store.update_where(&JobFilter::id(job.id), &BulkChange::Wake).await?)
}

async fn no_wake_is_lost(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    check_eq!(wake(store, &held).await?, counts(0, 1, 0), "a wake of a running job");
    check_eq!(wake(store, &held).await?, counts(0, 1, 0), "a second one");
    check_unchanged(store, &held, "a wake, which is not seen from outside").await?;
    // Nothing that the holder or an operator does meanwhile clears the mark.
    check!(beat(store, &held, HOUR).await?.is_saved(), "a heartbeat of a job that was woken");
    let patch = JobPatch::append([entry("x")]).with_progress(Progress::new(3)).with_label("a", "b");
    write(store, &held, patch).await?;
    edit(store, held.id, JobPatch::append([entry("y")]).with_label("c", "d")).await?;
    store.update_where(&JobFilter::id(held.id), &BulkChange::Priority(2)).await?;
    case.pass(Duration::from_millis(2)).await?;
    let from = case.now().await?;
    settle(store, &held, release(When::After(HOUR))).await?;
    let to = case.now().await?;
    let back = read(store, held.id).await?;
    check_time(Some(back.run_at), from, to, "run_at of a job that was woken while it ran")?;
    check_eq!((back.state, back.attempt), (State::Waiting, 0), "state and attempt");
    // The mark is used up: the next release is as it says.
    let again = take_id(store, held.id).await?;
    settle(store, &again, release(When::After(HOUR))).await?;
    check_nothing_due(store, "a job released for an hour, with no wake since").await?;

    // Woken while it waits: due at once, and the mark does not stay for the run that follows.
    let waiting = read(store, held.id).await?;
    let from = case.now().await?;
    check_eq!(wake(store, &held).await?, counts(1, 0, 0), "a wake of a waiting job");
    let to = case.now().await?;
    let woken = read(store, held.id).await?;
    check_time(Some(woken.run_at), from, to, "run_at of a waiting job that was woken")?;
    check_eq!(woken.version, Version(waiting.version.0 + 1), "its version");
    check_eq!(wake(store, &held).await?, counts(1, 0, 0), "a wake of a job that is due");
    check_unchanged(store, &woken, "a wake of a job that is due").await?;
    let third = take_id(store, held.id).await?;
    settle(store, &third, release(When::After(HOUR))).await?;
    check_nothing_due(store, "a job woken before its claim, and not since").await?;
    ended_marks(case).await?;

    let handles = case.handles(2).await?;
    for round in 0..case.times(16) {
        let held = running(store).await?;
        let (waker, holder) = (handles[round % 2].clone(), handles[(round + 1) % 2].clone());
        let own = held.clone();
        duel(round, async move { Ok(waker.wake(own.id).await?) }, {
            let held = held.clone();
            async move { settle(&holder, &held, release(When::After(HOUR))).await }
        })
        .await?;
        let due = store.claim(&wanted_ids(&[held.id], 1)).await?.jobs;
        check_eq!(due.len(), 1, "jobs due after a wake and a release for an hour that raced");
        super::scene::cancel(store, held.id, "out of the way").await?;
    }
    Ok(())
}

/// A mark ends with its run, whatever ends it: only a release turns on it.
async fn ended_marks(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    wake(store, &held).await?;
    settle(store, &held, retry(When::After(HOUR))).await?;
    check_nothing_due(store, "a retry in an hour, of a job that was woken").await?;
    wake(store, &held).await?;
    let again = take_for(store, held.id, brief(case)).await?;
    wake(store, &again).await?;
    case.pass(brief(case)).await?;
    let reaped = reap_all(store).await?;
    check!(reaped.iter().any(|reaped| reaped.id == held.id), "the job is reaped: {reaped:?}");
    let third = take_id(store, held.id).await?;
    settle(store, &third, release(When::After(HOUR))).await?;
    check_nothing_due(store, "a release for an hour, of a job woken in an earlier run").await?;
    let absent = job("absent");
    store.wake(absent.id).await?;
    check_eq!(store.get_one(absent.id).await?, None, "a job that never was, after a wake");
    put(store, &absent).await?;
    let ended = take_id(store, absent.id).await?;
    settle(store, &ended, super::scene::complete()).await?;
    check_eq!(wake(store, &ended).await?, counts(0, 0, 1), "a wake of a finished job");
    Ok(())
}
