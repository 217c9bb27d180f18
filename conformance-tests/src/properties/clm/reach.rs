//! What a claim reaches: everything that was asked for, and nothing else.

use std::{borrow::Cow, time::Duration};

use queue_core::{JobFilter, JobStoreExt, Kinds, Lane, NewJob, QueueName, Queues, When};
use tokio::time::Instant;

use super::super::scene::{
    HOUR, Store, another, ids, job, n, new_ids, plain_jobs, put, put_all, queue, release, settle,
    take_id, wanted, wanted_from, wanted_ids,
};
use crate::{Case, Checked, check, check_eq};

/// More than any window that a store may look through at a time should be.
const CROWD: usize = 300;

/// Pauses a queue and waits until claims know.
async fn pause(case: &Case<'_>, store: &Store, name: &QueueName) -> Checked {
    store.pause(name).await?;
    if case.is_clocked() {
        case.advance(Duration::from_secs(1))?;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let mut request = wanted(1_000);
        request.queues = Queues::from(name.clone());
        let jobs = store.claim(&request).await?.jobs;
        if jobs.is_empty() {
            return Ok(());
        }
        for job in &jobs {
            settle(store, job, release(When::At(job.run_at))).await?;
        }
        check!(Instant::now() < deadline, "a second after its pause {name} was claimed from");
    }
}

fn crowd(name: &str, kind: &'static str, change: impl Fn(&mut NewJob)) -> Checked<Vec<NewJob>> {
    let mut jobs: Vec<NewJob> = (0..CROWD).map(|_| job(kind)).collect();
    for job in &mut jobs {
        job.queue = queue(name)?;
        change(job);
    }
    Ok(jobs)
}

pub(super) async fn crowds_hide_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let lane = |job: &mut NewJob| job.lane = Some(Lane::new("one"));
    let label = |job: &mut NewJob, value: &str| {
        job.labels.insert("for".to_owned(), value.to_owned());
    };
    let mut holder = job("holder");
    lane(&mut holder);
    put(store, &holder).await?;
    take_id(store, holder.id).await?;

    put_all(store, &crowd("lanes", "laned", lane)?).await?;
    let mut last = job("free");
    last.queue = queue("lanes")?;
    put(store, &last).await?;
    let found = store.claim(&wanted_from(&["lanes"], 1)?).await?.jobs;
    check_eq!(ids(&found), vec![last.id], "a job behind {CROWD} of a full lane");

    put_all(store, &crowd("kinds", "theirs", |_| {})?).await?;
    let mut last = job("mine");
    last.queue = queue("kinds")?;
    put(store, &last).await?;
    let mut request = wanted_from(&["kinds"], 1)?;
    request.kinds = Kinds::Only(vec!["mine".into()]);
    let found = store.claim(&request).await?.jobs;
    check_eq!(ids(&found), vec![last.id], "a job behind {CROWD} of another kind");

    put_all(store, &crowd("labels", "labelled", |job| label(job, "them"))?).await?;
    let mut last = job("labelled");
    last.queue = queue("labels")?;
    label(&mut last, "me");
    put(store, &last).await?;
    let mut request = wanted_from(&["labels"], 1)?;
    request.filter = Some(JobFilter::label("for", "me"));
    let found = store.claim(&request).await?.jobs;
    check_eq!(ids(&found), vec![last.id], "a job behind {CROWD} that a filter leaves out");

    put_all(store, &crowd("paused", "resting", |job| job.priority = 1)?).await?;
    pause(case, store, &queue("paused")?).await?;
    let last = put(store, &job("awake")).await?;
    let found = store.claim(&wanted_from(&["paused", "default"], 1)?).await?.jobs;
    check_eq!(ids(&found), vec![last], "a job behind {CROWD} of a paused queue");
    Ok(())
}

pub(super) async fn claims_may_ask_for_much(case: &Case<'_>) -> Checked {
    let store = case.store();
    let due = When::At(case.now().await?.minus(HOUR));
    let names = (0..40).map(|i| queue(&format!("queue {i}"))).collect::<Checked<Vec<_>>>()?;
    let kinds: Vec<Cow<'static, str>> = (0..40).map(|i| format!("kind {i}").into()).collect();
    let mut jobs = plain_jobs(400);
    for (i, job) in jobs.iter_mut().enumerate() {
        (job.queue, job.kind) = (names[i % 40].clone(), kinds[i * 7 % 40].clone());
        (job.when, job.priority) = (due, i16::from(i < 200));
    }
    put_all(store, &jobs).await?;
    let mut request = wanted(u32::MAX);
    request.queues = Queues::Only(names.into_iter().rev().collect());
    request.kinds = Kinds::Only(kinds.into_iter().rev().collect());
    let claimed = store.claim(&request).await?;
    check_eq!(
        ids(&claimed.jobs),
        new_ids(&jobs),
        "all jobs of 40 queues and 40 kinds, in the order of priority, time and id"
    );
    check!(claimed.next_due.is_some(), "a claim that took fewer than its limit says no next_due");

    let mut endless = wanted_ids(&[put(store, &job("endless")).await?], 1);
    endless.lease = Duration::MAX;
    let held = store.claim(&endless).await?.jobs;
    let end = held.first().and_then(|job| job.lease_until);
    check!(
        end.is_some_and(|end| end > claimed.jobs[0].created_at.plus(HOUR * 24 * 365 * 100)),
        "a lease of {:?} ends at {end:?}",
        Duration::MAX
    );
    let reaped = store.reap(n(u32::MAX)).await?;
    check!(reaped.iter().all(|reaped| held[0].id != reaped.id), "an endless lease was reaped");
    Ok(())
}

pub(super) async fn filters_only_narrow(case: &Case<'_>) -> Checked {
    let store = case.store();
    let lane = Some(Lane::new("one"));
    let mut holder = job("holder");
    holder.lane.clone_from(&lane);
    put(store, &holder).await?;
    take_id(store, holder.id).await?;
    let mut elsewhere = job("plain");
    elsewhere.queue = queue("elsewhere")?;
    let mut other = job("other");
    other.queue = queue("here")?;
    let mut behind = job("plain");
    (behind.queue, behind.lane) = (queue("here")?, lane);
    let mut later = job("plain");
    (later.queue, later.when) = (queue("here")?, When::After(HOUR));
    let mut resting = job("plain");
    resting.queue = queue("resting")?;
    let jobs = [elsewhere, other, behind, later, resting];
    put_all(store, &jobs).await?;
    pause(case, store, &queue("resting")?).await?;

    let mut request = wanted_from(&["here", "resting"], 9)?;
    request.kinds = Kinds::Only(vec!["plain".into()]);
    let mut queues = JobFilter::queue(queue("elsewhere")?);
    queues.kinds = Some(vec!["plain".into()]);
    let filters = [
        ("ids", JobFilter::ids(new_ids(&jobs))),
        ("a queue", queues),
        ("a kind", JobFilter::kind("other")),
    ];
    for (what, filter) in filters {
        let mut request = another(&request);
        request.filter = Some(filter);
        let found = store.claim(&request).await?.jobs;
        check!(
            found.is_empty(),
            "a filter by {what} gave a claim jobs of another queue or kind, of a full lane, of a paused queue \
             or not yet due: {found:?}"
        );
    }
    // Nothing of the sort was wrong with the requests themselves.
    store.resume(&queue("resting")?).await?;
    let mut request = wanted(9);
    request.filter = Some(JobFilter::ids(new_ids(&jobs[..2])));
    check_eq!(ids(&store.claim(&request).await?.jobs), new_ids(&jobs[..2]), "jobs by ids");
    let mut nothing = wanted(9);
    nothing.filter = Some(JobFilter::id(jobs[2].id));
    check!(store.claim(&nothing).await?.jobs.is_empty(), "a job behind a full lane was claimed");
    let mut not_due = wanted(9);
    not_due.filter = Some(JobFilter::id(jobs[3].id));
    check!(store.claim(&not_due).await?.jobs.is_empty(), "a job not yet due was claimed");
    Ok(())
}
