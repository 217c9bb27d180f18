//! Bulk changes and batches at their edges.

use std::time::Duration;

use queue_core::{
    BulkChange, Claimed, ErrorKind, Guard, JobFilter, JobId, JobPatch, JobUpdate, Lane, Outcome,
    State, Transition, When,
};

use super::super::scene::{
    HOUR, MICRO, brief, cancel, cancelling, complete, counts, edit, entry, ids, job, plain_jobs,
    put, put_all, queue, read, release, running, take_for, take_id, text, wanted_ids,
};
use crate::{Case, Checked, check, check_eq};

pub(super) async fn bulk_changes_touch_one_thing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let now = case.now().await?;
    let mut jobs = plain_jobs(2);
    jobs[0].when = When::At(now.minus(HOUR));
    jobs[1].when = When::At(now.plus(HOUR));
    put_all(store, &jobs).await?;
    let (due, later) = (jobs[0].id, jobs[1].id);
    let expired = put(store, &job("plain")).await?;
    take_for(store, expired, brief(case)).await?;
    case.pass(brief(case) + MICRO).await?;
    let all = JobFilter::ids([due, later, expired]);
    for priority in [i16::MAX, i16::MIN, -1] {
        let met = store.update_where(&all, &BulkChange::Priority(priority)).await?;
        check_eq!(met, counts(3, 0, 0), "what a change of priority met");
        for id in [due, later, expired] {
            check_eq!(read(store, id).await?.priority, priority, "the priority");
        }
    }
    let met = store.update_where(&all, &BulkChange::Queue(queue("moved")?)).await?;
    check_eq!(met, counts(3, 0, 0), "what a move met");
    check_eq!(read(store, due).await?.run_at, now.minus(HOUR), "a due job's time after a move");
    check_eq!(read(store, later).await?.run_at, now.plus(HOUR), "a later job's time after a move");
    // A job that is due has its place in the order, which a wake must not take from it.
    let version = read(store, due).await?.version;
    let met = store.update_where(&JobFilter::id(due), &BulkChange::Wake).await?;
    check_eq!(met, counts(1, 0, 0), "what the wake of a due job met");
    let woken = read(store, due).await?;
    check_eq!((woken.run_at, woken.version), (now.minus(HOUR), version), "a due job after a wake");
    let met = store.update_where(&all, &cancelling("stop")).await?;
    check_eq!(met, counts(2, 1, 0), "what a cancel met, of a job whose lease is over among others");
    check!(read(store, expired).await?.cancel.is_some(), "an expired job was not marked");
    check_eq!(read(store, expired).await?.state, State::Running, "an expired job that is marked");
    Ok(())
}

pub(super) async fn a_large_item_is_its_own_affair(case: &Case<'_>) -> Checked {
    let store = case.store();
    let limit = case.info().capabilities.max_payload_bytes;
    let held = [running(store).await?, running(store).await?, running(store).await?];
    let mut updates: Vec<JobUpdate> = held
        .iter()
        .map(|job| JobUpdate::held(job.id, job.fence, JobPatch::default().with_label("a", "b")))
        .collect();
    let large = usize::try_from(limit).ok().filter(|bytes| *bytes <= 16 << 20);
    if let Some(bytes) = large {
        let output = Some(text(format!("\"{}\"", "x".repeat(bytes)))?);
        updates[1].patch.transition = Some(Transition::Complete { output });
        let outcomes = store.update_jobs(&updates).await?;
        check_eq!(outcomes[1], Outcome::TooLarge { limit }, "an item that is too large");
        for place in [0, 2] {
            check!(
                outcomes[place].is_saved(),
                "an item beside one that is too large: {outcomes:?}"
            );
        }
        let refused = read(store, held[1].id).await?;
        check_eq!(refused, held[1], "a job after an update that was too large");
    }
    Ok(())
}

/// That a claim made with updates found this job, or says that there is something to be had now.
async fn check_found(case: &Case<'_>, claimed: &Claimed, id: JobId, what: &str) -> Checked {
    let now = case.now().await?;
    check!(
        ids(&claimed.jobs) == vec![id] || claimed.next_due.is_some_and(|due| due <= now),
        "{what}: the claim made with the update neither took the job nor says now ({now}): {claimed:?}"
    );
    Ok(())
}

pub(super) async fn claims_ride_along(case: &Case<'_>) -> Checked {
    let store = case.store();
    let first = running(store).await?;
    let id = put(store, &job("plain")).await?;
    edit(store, id, JobPatch::append([entry("line")])).await?;
    let request = wanted_ids(&[id], 1);
    let (outcomes, claimed) = store.update_and_claim(&[], &request).await?;
    check!(outcomes.is_empty(), "outcomes of no updates: {outcomes:?}");
    check_eq!(ids(&claimed.jobs), vec![id], "a claim that comes with no updates");
    check_eq!(claimed.jobs[0].log.len(), 1, "entries that a claim with updates brings along");
    let (_, again) = store.update_and_claim(&[], &request).await?;
    check_eq!(again.jobs, claimed.jobs, "its repeat");

    // A lost update is no obstacle, and a request to cancel is told here as anywhere.
    cancel(store, first.id, "stop").await?;
    let next = put(store, &job("plain")).await?;
    let mut stale = claimed.jobs[0].clone();
    stale.fence.count += 1;
    let updates = [
        JobUpdate::held(stale.id, stale.fence, JobPatch::default()),
        JobUpdate::held(first.id, first.fence, JobPatch::append([entry("line")])),
    ];
    let (outcomes, claimed) = store.update_and_claim(&updates, &wanted_ids(&[next], 1)).await?;
    check_eq!(outcomes[0], Outcome::Fenced, "a lost update that comes with a claim");
    check!(
        outcomes[1].applied().is_some_and(|ack| ack.cancel.is_some()),
        "a holder whose job is to be cancelled was told {:?}",
        outcomes[1]
    );
    check_eq!(ids(&claimed.jobs), vec![next], "a claim that comes with a lost update");

    // What an update frees is found, or said to be there.
    let mut laned = [job("laned"), job("laned")];
    laned.iter_mut().for_each(|job| job.lane = Some(Lane::new("one")));
    put_all(store, &laned).await?;
    let held = take_id(store, laned[0].id).await?;
    let end = JobUpdate::held(held.id, held.fence, JobPatch::transition(complete()));
    let (_, claimed) = store.update_and_claim(&[end], &wanted_ids(&[laned[1].id], 2)).await?;
    check_found(case, &claimed, laned[1].id, "a lane that the update freed").await?;
    let held = running(store).await?;
    let end = JobUpdate::held(held.id, held.fence, JobPatch::transition(release(When::Now)));
    let (_, claimed) = store.update_and_claim(&[end], &wanted_ids(&[held.id], 2)).await?;
    check_found(case, &claimed, held.id, "a job that the update gave back").await?;

    // Malformed input is refused whole: neither half is done.
    let waiting = put(store, &job("plain")).await?;
    let before = [read(store, waiting).await?, read(store, next).await?];
    let label = |value: &str| JobPatch::default().with_label("new", value);
    let malformed = [JobUpdate::new(next, Guard::None, label("a\0"))];
    let sound = [JobUpdate::new(next, Guard::None, label("yes"))];
    let request = wanted_ids(&[waiting], 1);
    let mut leaseless = request.clone();
    leaseless.lease = Duration::ZERO;
    for (updates, request) in [(&malformed, &request), (&sound, &leaseless)] {
        let answer = store.update_and_claim(updates, request).await;
        check!(
            matches!(&answer, Err(error) if error.kind() == ErrorKind::Invalid),
            "malformed updates or a malformed claim were answered {answer:?}"
        );
    }
    let after = [read(store, waiting).await?, read(store, next).await?];
    check_eq!(after, before, "two jobs after calls that were refused");
    Ok(())
}
