//! Slots: which a job may take, and for how long it keeps it.

use std::collections::BTreeMap;

use queue_core::{
    BulkChange, Guard, Held, Job, JobFilter, JobId, JobPatch, Lane, NewJob, Outcome, Progress, When,
};

use super::super::scene::{
    HOUR, LEASE, brief, cancel, claim, complete, edit, entry, ids, job, n, put, put_all, queue,
    read, release, retry, secs, settle, take_id, try_settle, update, wanted, write,
};
use crate::{Case, Checked, check, check_eq};

fn laned(key: &str, limit: u32) -> NewJob {
    let mut job = job("laned");
    job.lane = Some(Lane::with_limit(key, n(limit)));
    job
}

/// "A job may start while a slot below its own limit is free", and no other job's limit matters.
pub(super) async fn every_job_has_its_own_limit(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Three run; the two whose slots are the lowest end. One runs still, in the third slot.
    let mut held = Vec::new();
    for _ in 0..3 {
        let id = put(store, &laned("own", 3)).await?;
        held.push(take_id(store, id).await?);
    }
    for job in &held[..2] {
        settle(store, job, complete()).await?;
    }
    let narrow = put(store, &laned("own", 1)).await?;
    take_id(store, narrow).await?;
    let narrow = put(store, &laned("own", 1)).await?;
    let wide = put(store, &laned("own", 2)).await?;
    check_eq!(
        ids(&claim(store, 9).await?),
        vec![wide],
        "of two jobs the one whose limit leaves a slot"
    );
    let widest = [laned("own", 5), laned("own", 5), laned("own", 5)];
    put_all(store, &widest).await?;
    let got = ids(&claim(store, 9).await?);
    check_eq!(
        got,
        vec![widest[0].id, widest[1].id],
        "slots four and five, by jobs that may take them"
    );
    let waits = read(store, narrow).await?;
    check!(waits.holder.is_none(), "a job started although its only slot is taken");

    for (key, limit) in [("hundreds", 300), ("thousands", 40_000), ("all", u32::MAX)] {
        let mut jobs: Vec<NewJob> = (0..20).map(|_| laned(key, limit)).collect();
        // Another job's limit is its own affair.
        let mut one = laned(key, 1);
        one.when = When::After(HOUR);
        put(store, &one).await?;
        put_all(store, &jobs).await?;
        check_eq!(claim(store, 99).await?.len(), 20, "jobs that start in a lane of {limit}");
        jobs.truncate(1);
        let stored = read(store, jobs[0].id).await?;
        check_eq!(stored.lane, jobs[0].lane, "a lane of {limit}, as it is read");
    }
    Ok(())
}

/// What may be done to a running job without ending its run.
async fn disturb(case: &Case<'_>, job: &Job, how: usize) -> Checked<&'static str> {
    let store = case.store();
    let filter = JobFilter::id(job.id);
    Ok(match how {
        0 => {
            let _ = store.update_where(&filter, &BulkChange::Queue(queue("moved")?)).await?;
            "a move to another queue"
        }
        1 => {
            let _ = store.update_where(&filter, &BulkChange::Priority(5)).await?;
            "a change of priority"
        }
        2 => {
            cancel(store, job.id, "stop").await?;
            "a request to cancel"
        }
        3 => {
            let _ = store.update_where(&filter, &BulkChange::Wake).await?;
            "a wake"
        }
        4 => {
            let mut held = Held::new(job.id, job.fence);
            held.progress = Some(Progress::new(5));
            check!(store.heartbeat(&[held], LEASE * 2).await?[0].is_saved(), "a heartbeat");
            "a heartbeat"
        }
        5 => {
            edit(store, job.id, JobPatch::default().with_label("a", "b")).await?;
            "an edit of its labels"
        }
        6 => {
            let patch = JobPatch::append([entry("line")]).with_label("c", "d");
            write(store, job, patch).await?;
            "a write by its holder"
        }
        7 => {
            let mut stale = job.clone();
            stale.fence.count += 1;
            let refused = try_settle(store, &stale, complete()).await?;
            check_eq!(refused, Outcome::Fenced, "a settle under a strange fence");
            "a settle that is refused"
        }
        _ => {
            case.pass(brief(case)).await?;
            "the end of its lease"
        }
    })
}

pub(super) async fn a_running_job_keeps_its_slot(case: &Case<'_>) -> Checked {
    let store = case.store();
    for how in 0..9 {
        let key = format!("lane {how}");
        let id = put(store, &laned(&key, 1)).await?;
        let mut request = wanted(1);
        request.filter = Some(JobFilter::id(id));
        if how == 8 {
            request.lease = brief(case);
        }
        let held = store.claim(&request).await?.jobs;
        check_eq!(held.len(), 1, "jobs claimed of one");
        let what = disturb(case, &held[0], how).await?;
        let mut other = laned(&key, 1);
        other.labels = BTreeMap::from([("other".to_owned(), "labels".to_owned())]);
        (other.kind, other.queue, other.priority) = ("other".into(), queue("other")?, 3);
        let other = put(store, &other).await?;
        let none = claim(store, 9).await?;
        check!(none.is_empty(), "after {what} a running job does not hold its lane: {none:?}");
        settle(store, &held[0], complete()).await?;
        let next = take_id(store, other).await?;
        settle(store, &next, complete()).await?;
    }
    // The repeat of a settle, and the late settle of one who lost the job, leave its present holder's slot.
    let id = put(store, &laned("mine", 1)).await?;
    let first = take_id(store, id).await?;
    settle(store, &first, retry(When::Now)).await?;
    let second = take_id(store, id).await?;
    let again = try_settle(store, &first, retry(When::Now)).await?;
    check!(matches!(again, Outcome::Repeated(_)), "the repeat of a retry: {again:?}");
    let late =
        update(store, id, Guard::Fence(first.fence), JobPatch::transition(complete())).await?;
    check_eq!(late, Outcome::Fenced, "another settle by the first holder");
    let other: JobId = put(store, &laned("mine", 1)).await?;
    let none = claim(store, 9).await?;
    check!(none.is_empty(), "a settle that changes nothing freed a lane: {:?}", ids(&none));
    // A release that a wake makes due at once frees the lane as any other.
    check_eq!(
        store.update_where(&JobFilter::id(id), &BulkChange::Wake).await?.signalled,
        1,
        "a wake of a running job"
    );
    settle(store, &second, release(When::After(secs(60)))).await?;
    let mut got = ids(&claim(store, 9).await?);
    got.retain(|got| *got == id || *got == other);
    check_eq!(got.len(), 1, "jobs that run in a lane freed by the release of a woken job");
    Ok(())
}
