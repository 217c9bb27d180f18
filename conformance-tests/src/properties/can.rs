//! CAN: a request to cancel reaches its job, once, and nothing takes it back.

use std::time::Duration;

use queue_core::{
    Ack, BulkChange, CancelRequest, Held, Job, JobFilter, JobPatch, JobStoreExt, Keep, Outcome,
    Progress, Reaped, State, Version, When,
};

use super::scene::{
    HOUR, LEASE, Store, beat, brief, cancel, cancelling, check_nothing_due, check_time,
    check_unchanged, complete, counts, edit, entry, give_up, job, put, put_all, queue, read,
    reap_all, release, retry, running, settle, take_for, take_id, try_settle, value, wanted_ids,
    write,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race, race::duel};

group! {
    "CAN-1", "a waiting job ends at once and is never claimed afterwards" => waiting_jobs_end_at_once;
    "CAN-2", "a running job's next write of any kind brings the request" => the_next_write_tells;
    "CAN-3", "of a cancel and a claim that race, the job is signalled or never claimed" => cancel_or_claim;
    "CAN-4", "of a cancel and an end that race, there is one outcome and no resurrection" => cancel_or_end;
    "CAN-5", "retry, promotion, edits and heartbeats never clear a request" => requests_stay;
    "CAN-6", "a cancel that is repeated changes nothing" => repeats_change_nothing;
    "CAN-7", "reaping a job that is to be cancelled ends it" => reaping_ends_it;
}

async fn waiting_jobs_end_at_once(case: &Case<'_>) -> Checked {
    let store = case.store();
    let due = job("due");
    let mut later = job("later");
    later.when = When::After(HOUR);
    put_all(store, &[due.clone(), later.clone()]).await?;
    let retrying = running(store).await?;
    settle(store, &retrying, retry(When::After(HOUR))).await?;
    let released = running(store).await?;
    settle(store, &released, release(When::Now)).await?;
    let others = put(store, &job("another")).await?;
    let untouched = read(store, others).await?;
    for id in [due.id, later.id, retrying.id, released.id] {
        let before = read(store, id).await?;
        let from = case.now().await?;
        check_eq!(cancel(store, id, "no longer needed").await?, counts(1, 0, 0), "the counts");
        let to = case.now().await?;
        let after = read(store, id).await?;
        check_eq!(after.state, State::Cancelled, "the state of a waiting job after a cancel");
        check_time(after.finished_at, from, to, "finished_at")?;
        let Some(request) = &after.cancel else {
            return Err(Stop::fail("a cancelled job says no reason"));
        };
        check_eq!(request.reason, "no longer needed", "the reason");
        check_time(Some(request.at), from, to, "the time of the request")?;
        check_eq!(after.version, Version(before.version.0 + 1), "the version");
        let kept = (after.attempt, after.crashes, after.fence, after.run_at, &after.error);
        let before = (before.attempt, before.crashes, before.fence, before.run_at, &before.error);
        check_eq!(kept, before, "attempt, crashes, fence, run_at and error");
    }
    check_unchanged(store, &untouched, "cancels of other jobs").await?;
    take_id(store, others).await?;
    if case.is_clocked() {
        case.advance(HOUR * 2)?;
        reap_all(store).await?;
        take_id(store, others).await?;
    }
    check_nothing_due(store, "cancelled jobs").await
}

/// That an acknowledgement brings this request.
fn check_told(ack: &Ack, request: &CancelRequest, by: &str) -> Checked {
    check_eq!(ack.cancel.as_ref(), Some(request), "the request in the acknowledgement of {by}");
    Ok(())
}

async fn the_next_write_tells(case: &Case<'_>) -> Checked {
    let store = case.store();
    let told = async |what: usize| -> Checked {
        let held = running(store).await?;
        let ack = write(store, &held, JobPatch::append([entry("before")])).await?;
        check_eq!(ack.cancel, None, "the acknowledgement before any cancel");
        let from = case.now().await?;
        check_eq!(cancel(store, held.id, "enough").await?, counts(0, 1, 0), "the counts");
        let to = case.now().await?;
        let marked = read(store, held.id).await?;
        check_eq!(marked.state, State::Running, "the state of a running job after a cancel");
        check_eq!(marked.version, Version(held.version.0 + 1), "the version");
        let Some(request) = marked.cancel else {
            return Err(Stop::fail("a running job that is to be cancelled says nothing"));
        };
        check_eq!(request.reason, "enough", "the reason");
        check_time(Some(request.at), from, to, "the time of the request")?;
        let kept = (marked.lease_until, marked.fence, &marked.holder, marked.finished_at);
        check_eq!(
            kept,
            (held.lease_until, held.fence, &held.holder, None),
            "what a mark leaves alone"
        );
        match what {
            0 => {
                let ack = write(store, &held, JobPatch::append([entry("after")])).await?;
                check_told(&ack, &request, "an append")?;
            }
            1 => match beat(store, &held, LEASE).await? {
                Outcome::Applied(ack) => check_told(&ack, &request, "a heartbeat")?,
                other => return Err(Stop::fail(format!("a heartbeat was answered {other:?}"))),
            },
            2 => {
                let ack = write(store, &held, JobPatch::progress(Progress::new(9))).await?;
                check_told(&ack, &request, "progress")?;
            }
            3 => {
                let patch = JobPatch::default().with_label("a", "b");
                check_told(&write(store, &held, patch).await?, &request, "an edit of labels")?;
            }
            4 => {
                // A completion wins: the work is done.
                check_told(&settle(store, &held, complete()).await?, &request, "a completion")?;
                let done = read(store, held.id).await?;
                check_eq!(done.state, State::Completed, "the state");
                check_eq!(done.cancel, Some(request), "the request, after a completion");
            }
            _ => check_told(&settle(store, &held, retry(When::Now)).await?, &request, "a retry")?,
        }
        Ok(())
    };
    for what in 0..6 {
        told(what).await?;
    }
    Ok(())
}

async fn cancel_or_claim(case: &Case<'_>) -> Checked {
    let handles = case.handles(2).await?;
    for round in 0..case.times(24) {
        let id = put(case.store(), &job("contested")).await?;
        let (canceller, claimer) = (handles[round % 2].clone(), handles[(round + 1) % 2].clone());
        let (met, taken) =
            duel(round, async move { cancel(&canceller, id, "stop").await }, async move {
                Ok(claimer.claim(&wanted_ids(&[id], 1)).await?.jobs)
            })
            .await?;
        let after = read(case.store(), id).await?;
        match (met, &taken[..]) {
            (met, []) if met == counts(1, 0, 0) => {
                check_eq!(after.state, State::Cancelled, "the state of a job that was not claimed");
                check_eq!(after.fence.count, 0, "claims of a job that no claim answered");
            }
            (met, [held]) if met == counts(0, 1, 0) => {
                check_eq!(after.state, State::Running, "the state of a job that was claimed");
                let ack = write(case.store(), held, JobPatch::append([entry("working")])).await?;
                check_eq!(ack.cancel, after.cancel, "the request, told to the holder");
                check!(ack.cancel.is_some(), "the holder of a signalled job is not told");
                settle(case.store(), held, give_up()).await?;
            }
            story => {
                return Err(Stop::fail(format!("a cancel and a claim were answered {story:?}")));
            }
        }
    }
    check_nothing_due(case.store(), "cancelled jobs").await
}

async fn cancel_or_end(case: &Case<'_>) -> Checked {
    let handles = case.handles(2).await?;
    for round in 0..case.times(24) {
        let held = running(case.store()).await?;
        let (end, completes) = match round % 3 {
            0 => (complete(), true),
            1 => (retry(When::Now), false),
            _ => (release(When::Now), false),
        };
        let (canceller, holder) = (handles[round % 2].clone(), handles[(round + 1) % 2].clone());
        let (kind, own) = (end.kind(), held.clone());
        let (met, outcome) =
            duel(round / 3, async move { cancel(&canceller, own.id, "stop").await }, {
                let held = held.clone();
                async move { try_settle(&holder, &held, end).await }
            })
            .await?;
        let Outcome::Applied(ack) = &outcome else {
            return Err(Stop::fail(format!(
                "the holder's {kind:?} was answered {outcome:?}, and a cancel at that time {met:?}"
            )));
        };
        let after = read(case.store(), held.id).await?;
        let story = (met, ack.cancel.is_some(), after.state);
        let signalled = (counts(0, 1, 0), true);
        let told = match completes {
            true => {
                story == (signalled.0, signalled.1, State::Completed)
                    || story == (counts(0, 0, 1), false, State::Completed)
            }
            // A job that went back to waiting was cancelled there.
            false => {
                story == (signalled.0, signalled.1, State::Cancelled)
                    || story == (counts(1, 0, 0), false, State::Cancelled)
            }
        };
        check!(told, "counts, told, state after a cancel and {kind:?}: {story:?}");
        check_nothing_due(case.store(), "a job that has ended").await?;
        check_unchanged(case.store(), &after, "the end").await?;
    }
    // One after the other, for certain: what is done is done.
    let held = running(case.store()).await?;
    check_eq!(cancel(case.store(), held.id, "stop").await?, counts(0, 1, 0), "the counts");
    settle(case.store(), &held, complete()).await?;
    let done = read(case.store(), held.id).await?;
    check_eq!(done.state, State::Completed, "the state of a job that completed despite a cancel");
    check_eq!(done.output, Some(value("done")), "its output");
    check_eq!(cancel(case.store(), held.id, "late").await?, counts(0, 0, 1), "a cancel afterwards");
    check_unchanged(case.store(), &done, "a cancel of a completed job").await?;
    let mut dropped = job("deleted when completed");
    dropped.keep = Keep::UnlessCompleted;
    put(case.store(), &dropped).await?;
    let held = take_id(case.store(), dropped.id).await?;
    cancel(case.store(), held.id, "stop").await?;
    settle(case.store(), &held, complete()).await?;
    check_eq!(case.store().get_one(held.id).await?, None, "a completed job that is not kept");
    Ok(())
}

/// Everything that must leave the request alone.
async fn disturb(store: &Store, held: &Job) -> Checked {
    check!(beat(store, held, LEASE).await?.is_saved(), "a heartbeat");
    let mut reporting = Held::new(held.id, held.fence);
    reporting.progress = Some(Progress::new(3));
    store.heartbeat(&[reporting], LEASE).await?;
    write(store, held, JobPatch::append([entry("x")]).with_progress(Progress::new(4))).await?;
    edit(store, held.id, JobPatch::default().with_label("a", "b")).await?;
    let changes = [
        BulkChange::Wake,
        BulkChange::Priority(3),
        BulkChange::Queue(queue("default")?),
        cancelling("another reason"),
    ];
    for change in changes {
        let met = store.update_where(&JobFilter::id(held.id), &change).await?;
        check_eq!(met.finished, 0, "finished jobs met by {change:?}");
    }
    Ok(())
}

async fn requests_stay(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in [retry(When::Now), release(When::Now), release(When::After(HOUR)), give_up()] {
        let kind = end.kind();
        let held = running(store).await?;
        cancel(store, held.id, "the first reason").await?;
        let request = read(store, held.id).await?.cancel;
        case.pass(Duration::from_millis(2)).await?;
        disturb(store, &held).await?;
        let marked = read(store, held.id).await?;
        check_eq!(marked.cancel, request, "the request after all that may befall a running job");
        check_eq!(marked.state, State::Running, "the state after all that");
        let from = case.now().await?;
        settle(store, &held, end).await?;
        let to = case.now().await?;
        let ended = read(store, held.id).await?;
        check_eq!(
            ended.state,
            State::Cancelled,
            "the state after {kind:?} of a job to be cancelled"
        );
        check_eq!(ended.cancel, request, "the request after {kind:?}");
        check_time(ended.finished_at, from, to, "finished_at")?;
        check_eq!(ended.attempt, held.attempt, "the attempt after {kind:?}");
        check_eq!(ended.run_at, held.run_at, "run_at after {kind:?}");
        check_eq!(
            (ended.holder, ended.lease_until),
            (None, None),
            "holder and lease after {kind:?}"
        );
    }
    check_nothing_due(store, "cancelled jobs").await
}

async fn repeats_change_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let waiting = put(store, &job("waiting")).await?;
    check_eq!(cancel(store, waiting, "one").await?, counts(1, 0, 0), "the first cancel");
    let ended = read(store, waiting).await?;
    case.pass(Duration::from_millis(2)).await?;
    for reason in ["one", "two"] {
        check_eq!(cancel(store, waiting, reason).await?, counts(0, 0, 1), "a repeated cancel");
        check_unchanged(store, &ended, "a repeated cancel").await?;
    }
    let answer = store.cancel(waiting, "three").await?;
    check_eq!(answer, Outcome::Illegal { from: State::Cancelled }, "a cancel of one finished job");

    let held = running(store).await?;
    check_eq!(cancel(store, held.id, "one").await?, counts(0, 1, 0), "the first cancel");
    let marked = read(store, held.id).await?;
    case.pass(Duration::from_millis(2)).await?;
    for reason in ["one", "two"] {
        check_eq!(cancel(store, held.id, reason).await?, counts(0, 1, 0), "a repeated cancel");
        check_unchanged(store, &marked, "a repeated cancel of a running job").await?;
    }
    let handles = case.handles(4).await?;
    let raced = put(store, &job("raced")).await?;
    let met = race(4, |i| {
        let store = handles[i].clone();
        async move { cancel(&store, raced, &format!("racer {i}")).await }
    })
    .await?;
    let changed: u64 = met.iter().map(|met| met.changed).sum();
    let finished: u64 = met.iter().map(|met| met.finished).sum();
    check_eq!((changed, finished), (1, 3), "changed and finished, of four racing cancels");
    check_eq!(
        read(store, raced).await?.version,
        Version(2),
        "the version after four racing cancels"
    );
    Ok(())
}

async fn reaping_ends_it(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Crashed too often as well: the cancel goes first.
    for max_crashes in [3, 0] {
        let mut new = job("abandoned");
        new.max_crashes = max_crashes;
        put(store, &new).await?;
        let held = take_for(store, new.id, brief(case)).await?;
        cancel(store, held.id, "stop").await?;
        let request = read(store, held.id).await?.cancel;
        case.pass(brief(case)).await?;
        let from = case.now().await?;
        let reaped = reap_all(store).await?;
        let to = case.now().await?;
        let expected = Reaped::new(held.id, held.queue.clone(), held.fence, State::Cancelled, 1);
        check_eq!(reaped, vec![expected], "the reap of a job to be cancelled");
        let ended = read(store, held.id).await?;
        check_eq!(ended.state, State::Cancelled, "the state");
        check_eq!((ended.crashes, ended.attempt), (1, 0), "crashes and attempt");
        check_eq!((&ended.cancel, &ended.error), (&request, &None), "the request, and no error");
        check_time(ended.finished_at, from, to, "finished_at")?;
        check_nothing_due(store, "a reaped job that was to be cancelled").await?;
    }
    Ok(())
}
