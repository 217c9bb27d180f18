//! What is remembered of a settle, and what settles leave alone.

use queue_core::{
    BulkChange, Fence, Guard, Job, JobFilter, JobPatch, Keep, Outcome, Progress, State, Transition,
    When,
};

use super::super::scene::{
    HOUR, MICRO, Store, brief, cancel, cancelling, check_time, complete, edit, entry, fail,
    give_up, job, put, queue, read, reap_all, release, retry, running, secs, settle, take_for,
    take_id, text, try_settle, update, write,
};
use crate::{Case, Checked, Stop, check, check_eq};

async fn check_repeated(store: &Store, by: &Job, transition: Transition, after: &str) -> Checked {
    let before = read(store, by.id).await?;
    let mut patch = JobPatch::append([entry("again")])
        .with_label("again", "yes")
        .with_progress(Progress::new(99));
    patch.transition = Some(transition.clone());
    let outcome = update(store, by.id, Guard::Fence(by.fence), patch).await?;
    check!(
        matches!(outcome, Outcome::Repeated(_)),
        "after {after}, the repeat of {transition:?} was answered {outcome:?}"
    );
    check_eq!(read(store, by.id).await?, before, "a job after the repeat of a settle");
    Ok(())
}

pub(super) async fn settles_are_remembered(case: &Case<'_>) -> Checked {
    let store = case.store();
    for transition in [retry(When::Now), release(When::Now)] {
        let later = |when| match transition {
            Transition::Retry { .. } => retry(when),
            _ => release(when),
        };
        let first = running(store).await?;
        settle(store, &first, later(When::After(HOUR))).await?;
        check_repeated(store, &first, transition.clone(), "nothing").await?;
        edit(store, first.id, JobPatch::default().with_label("a", "b")).await?;
        check_repeated(store, &first, transition.clone(), "an edit").await?;
        let _ = store.update_where(&JobFilter::id(first.id), &BulkChange::Wake).await?;
        check_repeated(store, &first, transition.clone(), "a wake").await?;
        for change in [BulkChange::Priority(3), BulkChange::Queue(queue("other")?)] {
            let _ = store.update_where(&JobFilter::id(first.id), &change).await?;
            check_repeated(store, &first, transition.clone(), "a bulk change").await?;
        }
        // The memory is the holder's own: a claim and a reap set nothing.
        let second = take_for(store, first.id, brief(case)).await?;
        check_repeated(store, &first, transition.clone(), "the next claim").await?;
        case.pass(brief(case)).await?;
        reap_all(store).await?;
        check_repeated(store, &first, transition.clone(), "a reap of the next holder").await?;
        for lost in [complete(), retry(When::Now), release(When::Now), fail(), give_up()] {
            let outcome = try_settle(store, &second, lost.clone()).await?;
            let illegal = Outcome::Illegal { from: State::Waiting };
            check_eq!(outcome, illegal, "{lost:?} by a holder that was reaped");
        }
        cancel(store, first.id, "stop").await?;
        check_repeated(store, &first, transition.clone(), "a cancel of the waiting job").await?;
    }
    // A settle that cancelled its job is repeated as what it was.
    for transition in [retry(When::Now), release(When::Now)] {
        let held = running(store).await?;
        cancel(store, held.id, "stop").await?;
        settle(store, &held, transition.clone()).await?;
        check_repeated(store, &held, transition, "a settle that cancelled its job").await?;
        let other = try_settle(store, &held, give_up()).await?;
        check_eq!(other, Outcome::Fenced, "a cancel after a settle that cancelled its job");
    }
    // The order of verdicts: a repeat is one whatever it brings, and a stale fence comes before the size.
    let limit = case.info().capabilities.max_payload_bytes;
    if let (Ok(bytes), true) = (usize::try_from(limit), limit <= 16 << 20) {
        let large =
            Transition::Complete { output: Some(text(format!("\"{}\"", "x".repeat(bytes)))?) };
        let held = running(store).await?;
        settle(store, &held, complete()).await?;
        let outcome = try_settle(store, &held, large.clone()).await?;
        check!(matches!(outcome, Outcome::Repeated(_)), "a repeat that is too large: {outcome:?}");
        let mut stale = running(store).await?;
        stale.fence.count += 1;
        let outcome = try_settle(store, &stale, large).await?;
        check_eq!(outcome, Outcome::Fenced, "a settle that is too large, under a strange fence");
    }
    Ok(())
}

pub(super) async fn acknowledgements_fit_the_writer(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    cancel(store, held.id, "stop").await?;
    let request = read(store, held.id).await?.cancel;
    for i in 0..3 {
        let ack = write(store, &held, JobPatch::append([entry(i)])).await?;
        check_eq!(ack.cancel, request, "the request to cancel, told at append {i}");
        check_eq!(ack.version, None, "the version told to a holder");
        let edited = edit(store, held.id, JobPatch::append([entry(10 + i)])).await?;
        let version = read(store, held.id).await?.version;
        check_eq!(
            (&edited.cancel, edited.version),
            (&None, Some(version)),
            "what an editor is told"
        );
    }
    let ack = settle(store, &held, fail()).await?;
    check_eq!(ack.cancel, request, "the request to cancel, told to a settle");
    let failed = read(store, held.id).await?;
    check_eq!(failed.state, State::Failed, "a job that was to be cancelled and failed");
    check_eq!(failed.cancel, request, "the request to cancel, after the job failed");
    let own = running(store).await?;
    check_eq!(settle(store, &own, give_up()).await?.cancel, None, "what no operator asked for");

    // The fence of no claim opens nothing.
    let id = put(store, &job("plain")).await?;
    let nobody = Guard::Fence(Fence::default());
    let append = update(store, id, nobody, JobPatch::append([entry("nobody")])).await?;
    check_eq!(append, Outcome::Fenced, "an append under the fence of no claim");
    let settled = update(store, id, nobody, JobPatch::transition(complete())).await?;
    check_eq!(
        settled,
        Outcome::Illegal { from: State::Waiting },
        "a settle under the fence of no claim"
    );
    // A holder that was reaped may not append: no transition is asked for, so none is illegal.
    let lost = take_for(store, id, brief(case)).await?;
    case.pass(brief(case)).await?;
    reap_all(store).await?;
    let append = update(store, id, Guard::Fence(lost.fence), JobPatch::append([entry(1)])).await?;
    check_eq!(append, Outcome::Fenced, "an append by a holder that was reaped");
    Ok(())
}

pub(super) async fn settles_write_their_own_fields(case: &Case<'_>) -> Checked {
    let store = case.store();
    let transitions = [
        complete(),
        retry(When::After(secs(50))),
        release(When::After(secs(50))),
        fail(),
        give_up(),
    ];
    for transition in transitions {
        for cancelled in [false, true] {
            let id = put(store, &job("plain")).await?;
            let first = take_id(store, id).await?;
            let early = Transition::Retry { when: When::Now, error: text("\"early\"")? };
            settle(store, &first, early).await?;
            let held = take_id(store, id).await?;
            case.pass(MICRO * 5).await?;
            // What others change while the job runs stays changed.
            let filter = JobFilter::id(id);
            let _ = store.update_where(&filter, &BulkChange::Queue(queue("moved")?)).await?;
            let _ = store.update_where(&filter, &BulkChange::Priority(-3)).await?;
            edit(store, id, JobPatch::default().with_label("by", "others")).await?;
            if cancelled {
                cancel(store, id, "stop").await?;
            }
            let before = read(store, id).await?;
            let mut patch = JobPatch::append([entry("end")]);
            if cancelled {
                patch = patch.with_label("at the", "end");
            }
            (patch.progress, patch.transition) =
                (Some(Progress::with_message(3, "ended")), Some(transition.clone()));
            let from = case.now().await?;
            write(store, &held, patch).await?;
            let to = case.now().await?;
            let after = read(store, id).await?;
            let what = format!(
                "{transition:?} of a job{}",
                if cancelled { " to be cancelled" } else { "" }
            );
            check_eq!(
                (after.queue.as_str(), after.priority),
                ("moved", -3),
                "queue and priority after {what}"
            );
            let labels: Vec<_> = after.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let mut expected = vec![("by", "others")];
            if cancelled {
                expected.insert(0, ("at the", "end"));
            }
            check_eq!(labels, expected, "labels after {what}");
            check_eq!(
                after.progress,
                Some(Progress::with_message(3, "ended")),
                "progress after {what}"
            );
            check_eq!((after.log_len, after.log.len()), (1, 1), "entries after {what}");
            check_eq!(after.version.0, before.version.0 + 1, "the version after {what}");
            check_eq!(after.started_at, before.started_at, "the start after {what}");
            let error = match &transition {
                Transition::Complete { .. } => None,
                Transition::Retry { error, .. } | Transition::Fail { error } => Some(error.clone()),
                _ => before.error.clone(),
            };
            check_eq!(after.error, error, "the error after {what}");
            let waits = after.state == State::Waiting;
            let gives_back =
                matches!(transition, Transition::Retry { .. } | Transition::Release { .. });
            check_eq!(waits, gives_back && !cancelled, "whether the job waits after {what}");
            if waits {
                let (least, most) = (from.plus(secs(50)), to.plus(secs(50)));
                check_time(Some(after.run_at), least, most, "the due time")?;
            } else {
                check_eq!(after.run_at, before.run_at, "the due time after {what}");
            }
        }
    }
    Ok(())
}

pub(super) async fn a_wake_is_for_one_release(case: &Case<'_>) -> Checked {
    let store = case.store();
    let wake = |id| async move {
        let met = store.update_where(&JobFilter::id(id), &BulkChange::Wake).await?;
        check_eq!(met.signalled, 1, "a wake of a running job");
        Checked::Ok(())
    };
    // A mark ends with the run, however that ends, and turns a release alone.
    for reap in [false, true] {
        let id = put(store, &job("plain")).await?;
        let first = take_for(store, id, brief(case)).await?;
        wake(id).await?;
        let now = case.now().await?;
        if reap {
            case.pass(brief(case)).await?;
            reap_all(store).await?;
        } else {
            settle(store, &first, retry(When::At(now.minus(HOUR)))).await?;
            let due = read(store, id).await?.run_at;
            check_eq!(due, now.minus(HOUR), "the due time of the retry of a woken job");
        }
        let second = take_id(store, id).await?;
        let later = case.now().await?.plus(HOUR);
        settle(store, &second, release(When::At(later))).await?;
        let due = read(store, id).await?.run_at;
        check_eq!(due, later, "the due time of a release whose run was not woken");
    }
    // Now is now, also when the release asked for an earlier instant.
    let held = running(store).await?;
    wake(held.id).await?;
    let from = case.now().await?;
    settle(store, &held, release(When::At(from.minus(HOUR)))).await?;
    let to = case.now().await?;
    let due = read(store, held.id).await?.run_at;
    check_time(Some(due), from, to, "the due time of a woken release")?;

    // Not kept is what completes, and nothing else.
    let mut brief_job = job("plain");
    brief_job.keep = Keep::UnlessCompleted;
    let held = {
        let id = put(store, &brief_job).await?;
        take_id(store, id).await?
    };
    let met = store.update_where(&JobFilter::id(held.id), &cancelling("")).await?;
    check_eq!(met.signalled, 1, "a cancel of a running job");
    settle(store, &held, release(When::Now)).await?;
    let ended = read(store, held.id).await?;
    check_eq!(
        ended.state,
        State::Cancelled,
        "a job not to be kept, after a release that cancels it"
    );
    let Some(request) = ended.cancel else {
        return Err(Stop::fail("a request to cancel without a reason is none"));
    };
    check_eq!(request.reason, "", "the reason of a request without one");
    Ok(())
}
