//! Claims whose answer was lost.

use std::time::Duration;

use queue_core::{
    BulkChange, ClaimRequest, Guard, Job, JobFilter, JobPatch, JobStoreExt, JobUpdate, Lane,
    LogRead, Order, Outcome, State, Timestamp, When,
};

use super::super::scene::{
    LEASE, another, brief, cancel, cancelling, complete, edit, ending, entry, give_up, ids, job, n,
    new_ids, plain_jobs, put, put_all, queue, release, running, settle, take_for, update, wanted,
    wanted_from, wanted_ids,
};
use crate::{Case, Checked, Stop, check, check_eq, race};

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

/// That a repeat answers so many jobs and says to come again at this instant, or sooner.
async fn check_repeat(
    case: &Case<'_>,
    request: &ClaimRequest,
    held: usize,
    latest: Timestamp,
    why: &str,
) -> Checked {
    let claimed = case.store().claim(request).await?;
    check_eq!(claimed.jobs.len(), held, "{why}: the jobs of a repeat");
    // A clock that runs may have passed the instant: then "now" is in time.
    let latest = latest.max(case.now().await?);
    check!(
        claimed.next_due.is_some_and(|due| due <= latest),
        "{why}: next_due of a repeat should be {latest} at the latest, but is {:?}",
        claimed.next_due
    );
    Ok(())
}

/// A repeat need not look for more: it may say "now" in vain. But it must not say "later" where there is something now, nor
/// "never", nor "now" when it has all that it may.
pub(super) async fn repeats_say_when_there_is_more(case: &Case<'_>) -> Checked {
    let store = case.store();
    let jobs = plain_jobs(2);
    put_all(store, &jobs).await?;
    let mut request = wanted_from(&["default"], 2)?;
    let first = store.claim(&request).await?;
    check_eq!((first.jobs.len(), first.next_due), (2, None), "a claim that took all that it may");
    let again = store.claim(&request).await?;
    check_eq!((again.jobs.len(), again.next_due), (2, None), "the repeat of a full claim");
    let end = |job: &Job| job.lease_until.ok_or_else(|| Stop::fail("a held job has no lease"));
    let (over, ended) = (end(&first.jobs[1])?, &first.jobs[0]);
    settle(store, ended, complete()).await?;
    check_repeat(case, &request, 1, over, "its own lease").await?;

    // More than it may have taken, so that it was never full.
    request = another(&request);
    request.limit = n(3);
    let own = job("own");
    put(store, &own).await?;
    let first = store.claim(&request).await?;
    check_eq!(ids(&first.jobs), vec![own.id], "a claim that took fewer than it may");
    check_repeat(case, &request, 1, over, "leases alone").await?;
    let soon = case.now().await?.plus(LEASE / 3);
    let mut later = job("later");
    later.when = When::At(soon);
    put(store, &later).await?;
    check_repeat(case, &request, 1, soon, "a job that is due before any lease is over").await?;
    let mut theirs = job("theirs");
    theirs.queue = queue("theirs")?;
    put(store, &theirs).await?;
    let theirs = end(&take_for(store, theirs.id, LEASE / 6).await?)?;
    check_repeat(case, &request, 1, theirs, "the lease of another's job, which is over first")
        .await?;
    let due = put(store, &job("due")).await?;
    let now = case.now().await?;
    check_repeat(case, &request, 1, now, "a job that came after the first answer").await?;
    cancel(store, due, "out of the way").await?;
    if case.is_clocked() {
        case.clock()?.set(theirs);
        check_repeat(case, &request, 1, theirs, "a lease that is over and wants reaping").await?;
    }
    // A repeat by another handle, of a claim of which one job is left.
    put_all(store, &plain_jobs(2)).await?;
    let both = another(&request);
    let taken = store.claim(&both).await?.jobs;
    check_eq!(taken.len(), 2, "jobs that another claim takes");
    let given_back = &taken[0];
    settle(store, given_back, release(When::Now)).await?;
    for handle in case.handles(2).await? {
        let claimed = handle.claim(&both).await?;
        check_eq!(ids(&claimed.jobs), vec![taken[1].id], "the repeat after one was given back");
        // Read afterwards: a clock that runs has gone on since the answer was given.
        let now = case.now().await?;
        check!(
            claimed.next_due.is_some_and(|due| due <= now.max(given_back.run_at)),
            "the job that was given back is to be had now ({now}), but next_due is {:?}",
            claimed.next_due
        );
    }
    Ok(())
}

/// Who gives a call up does not know whether it has ended, and asks again: the two may run side by side.
pub(super) async fn repeats_beside_the_first_share_its_limit(case: &Case<'_>) -> Checked {
    const LIMIT: u32 = 3;
    let store = case.store();
    let handles = case.handles(4).await?;
    for round in 0..case.times(5) {
        for way in ["all", "a queue", "a filter", "lanes", "an update"] {
            let name = format!("{way} {round}");
            let mut jobs = plain_jobs(16);
            for (index, job) in jobs.iter_mut().enumerate() {
                job.queue = queue(&name)?;
                job.labels.insert("way".to_owned(), name.clone());
                job.lane = (way == "lanes").then(|| Lane::new(format!("{name} {}", index / 2)));
            }
            let mut request = match way {
                "all" => wanted(LIMIT),
                _ => wanted_from(&[&name], LIMIT)?,
            };
            request.filter = (way == "a filter").then(|| JobFilter::label("way", &*name));
            let mut updates = Vec::new();
            if way == "an update" {
                let held = running(store).await?;
                let done = ending(complete(), JobPatch::append([entry("done")]));
                updates.push(JobUpdate::held(held.id, held.fence, done));
            }
            put_all(store, &jobs).await?;

            let answers = race(8, |who| {
                let (store, request, updates) =
                    (handles[who % 4].clone(), request.clone(), updates.clone());
                let edited = new_ids(&jobs);
                async move {
                    // Two that are at some of the jobs, so that the claims find different ones free.
                    if let Some(other) = who.checked_sub(6) {
                        for id in edited.into_iter().skip(other).step_by(2).take(4) {
                            edit(&store, id, JobPatch::default().with_label("edited", "1")).await?;
                        }
                        return Ok(Vec::new());
                    }
                    if updates.is_empty() {
                        return Ok(store.claim(&request).await?.jobs);
                    }
                    let (outcomes, claimed) = store.update_and_claim(&updates, &request).await?;
                    check!(
                        matches!(outcomes[..], [Outcome::Applied(_) | Outcome::Repeated(_)]),
                        "the update of a claim that ran beside its repeat: {outcomes:?}"
                    );
                    Ok(claimed.jobs)
                }
            })
            .await?;

            let stored = store.get(&new_ids(&jobs), LogRead::None).await?;
            let taken: Vec<Job> =
                stored.into_iter().flatten().filter(|job| job.state == State::Running).collect();
            check!(
                taken.len() <= LIMIT as usize,
                "{} jobs are held under one token, whose claims ({way}) asked for {LIMIT}",
                taken.len()
            );
            for answered in answers.iter().flatten() {
                check!(
                    taken.iter().any(|job| job.id == answered.id && job.fence == answered.fence),
                    "job {} was answered and is not held ({way})",
                    answered.id
                );
            }
            let mut again = ids(&store.claim(&request).await?.jobs);
            again.sort_unstable();
            let mut taken = ids(&taken);
            taken.sort_unstable();
            check_eq!(again, taken, "what the last repeat answers, against what is held ({way})");
            check!(!taken.is_empty(), "of claims with one token none took a job ({way})");
            // The last of them to end knows of all: its caller runs them.
            let mut answers = answers.iter().map(|jobs| jobs.len());
            check!(
                answers.any(|length| length == taken.len()),
                "{} jobs are held under one token, of whose claims ({way}) none was answered them all",
                taken.len()
            );
            let all = JobFilter::ids(new_ids(&jobs));
            store.update_where(&all, &cancelling("the way is done")).await?;
            let held = store.get(&taken, LogRead::None).await?;
            for job in held.iter().flatten() {
                settle(store, job, give_up()).await?;
            }
        }
    }
    Ok(())
}
