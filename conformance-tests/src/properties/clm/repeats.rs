//! Claims whose answer was lost.

use std::time::Duration;

use queue_core::{
    BulkChange, Guard, Job, JobFilter, JobPatch, JobStoreExt, LogRead, Order, Outcome, State, When,
};

use super::super::scene::{
    brief, cancel, edit, entry, ids, job, new_ids, plain_jobs, put_all, queue, release, settle,
    update, wanted_from, wanted_ids,
};
use crate::{Case, Checked, Stop, check, check_eq};

/// The job is answered again whatever has become of its queue, its labels, its lease.
pub(super) async fn repeats_answer_what_is_held(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut jobs = plain_jobs(5);
    for (job, priority) in jobs.iter_mut().zip([0, 3, 1, 2, 5]) {
        job.queue = queue("mail")?;
        job.priority = priority;
        job.labels.insert("v".to_owned(), "1".to_owned());
    }
    let late = jobs.split_off(4);
    put_all(store, &jobs).await?;
    let mut request = wanted_from(&["mail"], 9)?;
    request.lease = brief(case);
    request.filter = Some(JobFilter::label("v", "1").with_states(State::Waiting));
    let first = store.claim(&request).await?.jobs;
    check_eq!(first.len(), 4, "jobs that a claim by a filter takes");
    let held = ids(&first);

    let moved = BulkChange::Queue(queue("elsewhere")?);
    let _ = store.update_where(&JobFilter::id(held[0]), &moved).await?;
    edit(store, held[1], JobPatch::default().with_label("v", "2")).await?;
    cancel(store, held[2], "stop").await?;
    edit(store, held[3], JobPatch::append([entry("line")])).await?;
    // What else the same holder has, and what else the request could take, is not its first answer.
    let other = job("by another token");
    put_all(store, std::slice::from_ref(&other)).await?;
    check_eq!(store.claim(&wanted_ids(&[other.id], 1)).await?.jobs.len(), 1, "another claim");
    put_all(store, &late).await?;
    store.pause(&queue("mail")?).await?;
    case.pass(brief(case)).await?;
    if case.is_clocked() {
        case.advance(Duration::from_secs(1))?;
    }
    let stored = store.get(&held, LogRead::All).await?;
    let stored: Vec<Job> = stored.into_iter().flatten().collect();
    for handle in case.handles(2).await? {
        let again = handle.claim(&request).await?.jobs;
        check_eq!(ids(&again), held, "the jobs of a repeat, in their order");
        check_eq!(again, stored, "a repeat reads its jobs and changes nothing");
    }
    Ok(())
}

/// A repeated LIFO claim keeps its order, and a token of which nothing is held any more claims afresh.
pub(super) async fn a_spent_token_claims_afresh(case: &Case<'_>) -> Checked {
    let store = case.store();
    let now = case.now().await?;
    let mut jobs = plain_jobs(3);
    for (job, ago) in jobs.iter_mut().zip([2, 1, 3]) {
        job.when = When::At(now.minus(Duration::from_secs(ago)));
    }
    put_all(store, &jobs).await?;
    let mut request = wanted_ids(&new_ids(&jobs), 3);
    request.order = Order::Lifo;
    let first = store.claim(&request).await?.jobs;
    let order = vec![jobs[1].id, jobs[0].id, jobs[2].id];
    check_eq!(ids(&first), order, "a LIFO claim");
    check_eq!(ids(&store.claim(&request).await?.jobs), order, "the repeat of a LIFO claim");
    for job in &first {
        settle(store, job, release(When::At(job.run_at))).await?;
    }
    let anew = store.claim(&request).await?.jobs;
    check_eq!(ids(&anew), order, "a claim with a token none of whose jobs is held");
    for (old, new) in first.iter().zip(&anew) {
        check_eq!(new.fence.count, old.fence.count + 1, "the fence of a job claimed afresh");
        check_eq!(new.fence.nonce, request.token, "the nonce of a job claimed afresh");
        // The nonce repeats with its token; the count does not.
        let patch = JobPatch::append([entry("late")]);
        let outcome = update(store, old.id, Guard::Fence(old.fence), patch).await?;
        check_eq!(outcome, Outcome::Fenced, "an append under the fence of the first claim");
    }
    let Some(job) = anew.first() else { return Err(Stop::fail("a claim took nothing")) };
    check!(job.log.is_empty(), "an append under a stale fence was made");
    Ok(())
}
