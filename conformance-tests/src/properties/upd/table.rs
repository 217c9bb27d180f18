//! Transitions: from every state, by who may and by who may not.
use super::*;

pub(super) async fn the_table_of_transitions(case: &Case<'_>) -> Checked {
    let store = case.store();
    for transition in transitions() {
        check_applied(case, &transition).await?;
        // Never held: no transition leads from its state.
        let unheld = bring(store, State::Waiting).await?;
        refuse(store, &unheld, &transition, Outcome::Illegal { from: State::Waiting }).await?;
        cancel(store, unheld.id, "stop").await?;
        let unheld = read(store, unheld.id).await?;
        refuse(store, &unheld, &transition, Outcome::Illegal { from: State::Cancelled }).await?;
        // The run was ended by its holder: the same again is a repeat, anything else is fenced.
        for first in transitions() {
            let held = running(store).await?;
            settle(store, &held, first.clone()).await?;
            let ended = read(store, held.id).await?;
            match try_settle(store, &held, transition.clone()).await? {
                Outcome::Repeated(_) if first.kind() == transition.kind() => {}
                Outcome::Fenced if first.kind() != transition.kind() => {}
                other => {
                    return Err(Stop::fail(format!(
                        "{:?} after the holder's own {:?} was answered {other:?}",
                        transition.kind(),
                        first.kind()
                    )));
                }
            }
            check_unchanged(store, &ended, "a second end").await?;
            cancel(store, held.id, "out of the way").await?;
        }
        // A transition is the holder's: without its fence the call is malformed.
        let held = running(store).await?;
        for guard in [Guard::None, Guard::Version(held.version)] {
            let patch = JobPatch::transition(transition.clone());
            let answer = store.update_one(held.id, guard, patch).await;
            check_eq!(
                answer.as_ref().map_err(queue_core::Error::kind),
                Err(ErrorKind::Invalid),
                "{:?} under {guard:?}",
                transition.kind()
            );
            check_unchanged(store, &held, "a transition without a fence").await?;
        }
    }
    due_times(case).await?;
    lost_runs(case).await
}

/// A retry and a release are due when they say: later, at an instant, also one that has passed.
async fn due_times(case: &Case<'_>) -> Checked {
    let store = case.store();
    let instant = Timestamp::from_micros(1_900_000_000_000_007)?;
    for when in [When::After(HOUR), When::At(instant), When::At(Timestamp::EPOCH)] {
        for end in [retry(when), release(when)] {
            let kind = end.kind();
            let held = running(store).await?;
            let from = case.now().await?;
            settle(store, &held, end).await?;
            let to = case.now().await?;
            let due = read(store, held.id).await?.run_at;
            let what = format!("run_at after {kind:?} until {when:?}");
            check_time(Some(due), when.resolve(from), when.resolve(to), &what)?;
            cancel(store, held.id, "out of the way").await?;
        }
    }
    Ok(())
}

/// The holder lost the job. Until somebody else takes it, no transition leads from its state.
async fn lost_runs(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in [End::Reap, End::ReapExhausted, End::ReapCancelled] {
        let mut new = job("lost");
        end.prepare(&mut new);
        put(store, &new).await?;
        let held = take_for(store, new.id, brief(case)).await?;
        end.make(case, &held, When::Now).await?;
        let lost = read(store, new.id).await?;
        for transition in transitions() {
            let expected = Outcome::Illegal { from: end.state() };
            refuse(store, &lost, &transition, expected).await?;
        }
        if end.state() == State::Waiting {
            let again = take_id(store, new.id).await?;
            for transition in transitions() {
                let outcome = try_settle(store, &held, transition).await?;
                check_eq!(outcome, Outcome::Fenced, "a transition under the fence of a lost run");
            }
            check_unchanged(store, &again, "transitions under the fence of a lost run").await?;
        }
    }
    Ok(())
}

async fn refuse(store: &Store, job: &Job, transition: &Transition, expected: Outcome) -> Checked {
    let kind = transition.kind();
    let patch = ending(transition.clone(), laden());
    let outcome = update(store, job.id, Guard::Fence(job.fence), patch).await?;
    check_eq!(outcome, expected, "{kind:?} on a {} job by who does not hold it", job.state);
    check_unchanged(store, job, "a refused transition").await
}

/// What a transition of a running job sets, field by field.
async fn check_applied(case: &Case<'_>, transition: &Transition) -> Checked {
    let store = case.store();
    let kind = transition.kind();
    let held = running(store).await?;
    write(store, &held, JobPatch::progress(Progress::new(50))).await?;
    case.pass(Duration::from_millis(2)).await?;
    let from = case.now().await?;
    settle(store, &held, transition.clone()).await?;
    let to = case.now().await?;
    let job = read(store, held.id).await?;
    let (state, attempt) = match kind {
        TransitionKind::Complete => (State::Completed, 1),
        TransitionKind::Retry => (State::Waiting, 1),
        TransitionKind::Release => (State::Waiting, 0),
        TransitionKind::Fail => (State::Failed, 1),
        TransitionKind::Cancel => (State::Cancelled, 1),
    };
    check_eq!(job.state, state, "state after {kind:?}");
    check_eq!((job.attempt, job.crashes), (attempt, 0), "attempt and crashes after {kind:?}");
    check_eq!(job.version, Version(3), "version after {kind:?}");
    check_eq!(job.fence, held.fence, "fence after {kind:?}");
    check_eq!((&job.holder, job.lease_until), (&None, None), "holder and lease after {kind:?}");
    check_eq!(job.started_at, held.started_at, "started_at after {kind:?}");
    check_eq!(job.progress, Some(Progress::new(50)), "progress after {kind:?}");
    match state {
        State::Waiting => {
            check_time(Some(job.run_at), from, to, "run_at")?;
            check_eq!(job.finished_at, None, "finished_at after {kind:?}");
        }
        _ => {
            check_eq!(job.run_at, held.run_at, "run_at after {kind:?}");
            check_time(job.finished_at, from, to, "finished_at")?;
        }
    }
    let output = (kind == TransitionKind::Complete).then(|| value("done"));
    check_eq!(job.output, output, "output after {kind:?}");
    let error = match kind {
        TransitionKind::Retry => Some(value("again")),
        TransitionKind::Fail => Some(value("failed")),
        _ => None,
    };
    check_eq!(job.error, error, "error after {kind:?}");
    match (&job.cancel, kind) {
        (Some(cancel), TransitionKind::Cancel) => {
            check_eq!(cancel.reason, "own", "the holder's reason");
            check_time(Some(cancel.at), from, to, "the time of the cancel")?;
        }
        (None, TransitionKind::Cancel) => return Err(Stop::fail("a cancelled job says no reason")),
        (cancel, _) => check_eq!(cancel, &None, "cancel after {kind:?}"),
    }
    if state == State::Waiting {
        check_error_stays(store, job).await?;
    }
    Ok(())
}

/// The error of the last failed attempt stays through a release, and goes when the job completes.
async fn check_error_stays(store: &Store, job: Job) -> Checked {
    let again = take_id(store, job.id).await?;
    check_eq!(again.error, job.error, "the error after a further claim");
    settle(store, &again, release(When::Now)).await?;
    let again = take_id(store, job.id).await?;
    check_eq!(again.error, job.error, "the error after a release");
    settle(store, &again, complete()).await?;
    check_eq!(read(store, job.id).await?.error, None, "the error of a completed job");
    Ok(())
}
