//! What a claim says about when to come again.

use std::time::Duration;

use queue_core::{ClaimRequest, Job, JobFilter, Kinds, Lane, NewJob, Order, Timestamp, When};

use super::super::scene::{
    HOUR, LEASE, MICRO, Store, another, job, n, put, put_all, queue, release, retry, secs, settle,
    take_id, wanted, wanted_from,
};
use crate::{Case, Checked, Stop, check, check_eq};

/// That a claim takes nothing and says to come again at `exact`, or sooner though not now.
async fn check_due(
    case: &Case<'_>,
    request: &ClaimRequest,
    exact: Option<Timestamp>,
    why: &str,
) -> Checked {
    let claimed = case.store().claim(&another(request)).await?;
    let now = case.now().await?;
    check!(claimed.jobs.is_empty(), "{why}: nothing should be claimable, but {claimed:?}");
    let late = match (exact, claimed.next_due) {
        (Some(exact), Some(due)) => due > exact,
        (Some(_), None) => true,
        (None, _) => false,
    };
    check!(
        !late,
        "{why}: next_due should be {exact:?} at the latest, but is {:?}",
        claimed.next_due
    );
    // A clock that runs may have passed the answer meanwhile.
    let busy =
        exact.is_none_or(|exact| exact > now) && claimed.next_due.is_some_and(|due| due <= now);
    check!(
        !case.is_clocked() || !busy,
        "{why}: nothing is to be had now ({now}), but next_due is {:?}",
        claimed.next_due
    );
    Ok(())
}

fn due_in(kind: &'static str, at: Timestamp, priority: i16) -> NewJob {
    let mut job = job(kind);
    (job.when, job.priority) = (When::At(at), priority);
    job
}

pub(super) async fn waiting_jobs_count(case: &Case<'_>) -> Checked {
    let store = case.store();
    let now = case.now().await?;
    let at = |seconds| now.plus(secs(seconds));
    let mut laned = due_in("laned", at(7_000), 0);
    laned.lane = Some(Lane::new("free"));
    put(store, &laned).await?;
    let mut request = wanted(9);
    check_due(case, &request, Some(at(7_000)), "a job with a free lane").await?;
    let later = [due_in("high", at(20_000), 10), due_in("low", at(6_000), -10)];
    put_all(store, &later).await?;
    for order in [Order::Fifo, Order::Lifo] {
        request.order = order;
        check_due(case, &request, Some(at(6_000)), "the earliest, not the first in order").await?;
    }
    // Jobs that are due and not asked for are no reason to come back at once.
    let mut due = due_in("due", now.minus(MICRO), 0);
    due.queue = queue("due")?;
    due.labels.insert("for".to_owned(), "them".to_owned());
    put(store, &due).await?;
    let here = wanted_from(&["default"], 9)?;
    check_due(case, &here, Some(at(6_000)), "a due job of another queue").await?;
    let mut kinds = wanted(9);
    kinds.kinds = Kinds::Only(vec!["low".into(), "high".into()]);
    check_due(case, &kinds, Some(at(6_000)), "a due job of another kind").await?;
    let mut filtered = wanted(9);
    filtered.filter = Some(JobFilter::label("for", "me"));
    check_due(case, &filtered, None, "a due job that the filter leaves out").await?;
    if case.is_clocked() {
        let soon = case.now().await?.plus(MICRO * 500);
        put(store, &due_in("soon", soon, 0)).await?;
        check_due(case, &here, Some(soon), "a job due within the millisecond").await?;
    }
    full_lanes_are_waited_for(case).await
}

/// The job that frees its lane takes it again: what is behind it waits for the lease as before.
async fn full_lanes_are_waited_for(case: &Case<'_>) -> Checked {
    let store = case.store();
    for (limit, name) in [(1, "one at a time"), (2, "two at a time")] {
        let mut jobs = [job("first"), job("second"), job("behind")];
        for (job, priority) in jobs.iter_mut().zip([2, 1, 0]) {
            (job.queue, job.priority) = (queue(name)?, priority);
            job.lane = Some(Lane::with_limit(name, n(limit)));
        }
        put_all(store, &jobs).await?;
        let request = wanted_from(&[name], 9)?;
        for when in [When::Now, When::At(case.now().await?), When::Now] {
            let claimed = store.claim(&another(&request)).await?;
            let now = case.now().await?;
            let over = claimed.jobs.iter().map(end).collect::<Checked<Vec<_>>>()?;
            check_eq!(over.len(), limit as usize, "jobs that a lane lets run ({name})");
            let (due, over) = (claimed.next_due, over.into_iter().min());
            check!(
                due.is_some() && due <= over && (!case.is_clocked() || due > Some(now)),
                "the lane ({name}) is full until {over:?}, but next_due is {due:?} ({now} now)"
            );
            for (index, job) in claimed.jobs.iter().enumerate() {
                let back = if index == 0 { retry(when) } else { release(when) };
                settle(store, job, back).await?;
            }
        }
    }
    Ok(())
}

async fn hold(store: &Store, job: &NewJob) -> Checked<Job> {
    put(store, job).await?;
    take_id(store, job.id).await
}

fn end(job: &Job) -> Checked<Timestamp> {
    job.lease_until.ok_or_else(|| Stop::fail("a held job has no lease"))
}

pub(super) async fn leases_count(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut held = job("held");
    held.queue = queue("theirs")?;
    held.lane = Some(Lane::with_limit("two", n(2)));
    let held = hold(store, &held).await?;
    let over = Some(end(&held)?);
    let mut filtered = wanted(9);
    filtered.filter = Some(JobFilter::label("for", "me"));
    let mut kinds = wanted(9);
    kinds.kinds = Kinds::Only(vec!["mine".into()]);
    let requests = [
        ("a lease in another queue", wanted_from(&["mine"], 9)?),
        ("a lease of another kind", kinds),
        ("a lease of a job that the filter leaves out", filtered),
    ];
    for (why, request) in &requests {
        check_due(case, request, over, why).await?;
    }
    // A job that waits longer is no reason to forget the lease, nor is the lease to forget one that waits less.
    let now = case.now().await?;
    put(store, &due_in("later", now.plus(HOUR), 0)).await?;
    check_due(case, &wanted(9), over, "a lease that ends before a job is due").await?;
    let mut sooner = due_in("sooner", now.plus(LEASE / 2), 0);
    sooner.lane = Some(Lane::with_limit("two", n(2)));
    put(store, &sooner).await?;
    let soon = Some(now.plus(LEASE / 2));
    check_due(case, &wanted(9), soon, "a lane with a slot left").await?;

    // The lane is full now: its due job waits for a lease, and not busily.
    let mut second = job("second");
    second.lane = Some(Lane::with_limit("two", n(2)));
    second.queue = queue("full")?;
    hold(store, &second).await?;
    let mut behind = job("behind");
    behind.lane = Some(Lane::with_limit("two", n(2)));
    behind.queue = queue("full")?;
    put(store, &behind).await?;
    check_due(case, &wanted_from(&["full"], 9)?, over, "a due job behind a full lane").await?;

    if case.is_clocked() {
        case.clock()?.set(end(&held)?);
        for (why, request) in &requests {
            let claimed = store.claim(&another(request)).await?;
            let now = case.now().await?;
            check!(
                claimed.next_due.is_some_and(|due| due <= now),
                "{why}: it is over and wants reaping now ({now}), but next_due is {:?}",
                claimed.next_due
            );
        }
        case.advance(Duration::from_secs(1))?;
        let claimed = store.claim(&wanted_from(&["mine"], 9)?).await?;
        let now = case.now().await?;
        check!(
            claimed.next_due.is_some_and(|due| due <= now),
            "a lease has been over for a second, but next_due is {:?}",
            claimed.next_due
        );
    }
    Ok(())
}
