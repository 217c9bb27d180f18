use std::{future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use queue_core::{JobError, Payload, Timestamp};

use super::{
    Wf,
    entry::{StepEntry, StepState},
    history::History,
    status::StepStatus,
};
use crate::{
    DynTask, DynWorkflow, JobCtx, TaskError, TaskOptions, TaskResult,
    active::Active,
    callback::Call,
    ctx::About,
    error::{Fault, panicked},
};

/// How a run of a job ended, before it is written.
#[derive(Debug)]
pub(crate) enum Ending {
    Complete(Payload),
    Retry(Duration, JobError),
    Fail(JobError),
    Cancel(String),
    /// Only sleeps are left until then.
    Sleep(Timestamp),
    /// The worker stops; the job is given back.
    Release,
    /// The job is no longer ours.
    Lost,
}

/// An ending, with what is to be logged along with it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ending: Ending,
    pub(crate) step: Option<StepEntry>,
    /// Whom to tell of failed steps once that is written.
    pub(crate) calls: Vec<Call>,
}

impl From<Ending> for Ended {
    fn from(ending: Ending) -> Self {
        Ended { ending, step: None, calls: Vec::new() }
    }
}

/// Runs a task job: one step, whose id is the task's name, logged in the write that ends the run.
pub(crate) async fn drive_task(
    task: Arc<dyn DynTask>,
    options: &TaskOptions,
    about: Arc<About>,
    history: &History,
    input: Payload,
) -> Ended {
    let name = task.name().to_owned();
    let past = history.of(&name, &name);
    if let Some(output) = past.and_then(StepStatus::stored_output) {
        return Ending::Complete(output).into();
    }
    let (attempts, failures) = past.map_or((0, 0), |past| (past.attempts, past.failures));
    let failures = failures + 1;
    let active = about.active.clone();
    let ctx = JobCtx::new(about.clone(), Some(name.clone()), None);
    let started_at = active.clock.now();
    let given = input.clone();
    // In a block of its own, so that a panic before the first await is caught as well.
    let run = about.failing((&name, &name), async move { task.call(ctx, given).await });
    let run = AssertUnwindSafe(run).catch_unwind();
    let Some(result) = unless_abandoned(&active, run).await else {
        return gone(&active).into();
    };
    let result = result.unwrap_or_else(|content| Err(panicked(content)));
    if stopped_early(&active, &result) || active.lost.is_cancelled() {
        return gone(&active).into();
    }
    let mut entry = StepEntry {
        step: name.clone(),
        task: name.clone(),
        parent: None,
        state: StepState::Completed,
        attempt: attempts + 1,
        input: Some(input),
        output: None,
        error: None,
        until: None,
        started_at,
        finished_at: active.clock.now(),
    };
    let ending = match result {
        Ok(output) => {
            entry.output = Some(output.clone());
            match active.cancel_reason() {
                Some(reason) => Ending::Cancel(reason),
                None => Ending::Complete(output),
            }
        }
        Err(error) => {
            let mut failure = error.job_error();
            failure.step = Some(name.clone());
            failure.attempt = active.attempt;
            let fatal = matches!(error.fault, Fault::Failed { fatal: true, .. });
            let requested = active.cancel_reason();
            failure.is_final = fatal
                || failure.cancelled
                || requested.is_some()
                || failures > options.budget() && !broken!(RetriesForEver);
            entry.state = if failure.cancelled { StepState::Cancelled } else { StepState::Failed };
            entry.error = Some(failure.clone());
            match (error.fault, requested) {
                (Fault::Cancel(_), None) if broken!(CancelFromInsideFails) => Ending::Fail(failure),
                (Fault::Cancel(reason), _) | (_, Some(reason)) => Ending::Cancel(reason),
                _ if failure.is_final => Ending::Fail(failure),
                _ => Ending::Retry(options.backoff.of(active.id, &name, failures), failure),
            }
        }
    };
    Ended { ending, step: Some(entry), calls: Vec::new() }
}

/// Runs a workflow job from the top until its body returns, or until it waits for nothing but the
/// end of the run.
pub(crate) async fn drive_workflow(
    workflow: Arc<dyn DynWorkflow>,
    wf: Wf,
    input: Payload,
) -> Ended {
    let ending = run_workflow(workflow, &wf, input).await;
    let calls = std::mem::take(&mut wf.0.gate.lock().calls);
    Ended { calls, ..ending.into() }
}

async fn run_workflow(workflow: Arc<dyn DynWorkflow>, wf: &Wf, input: Payload) -> Ending {
    let active = wf.0.about.active.clone();
    let own = wf.clone();
    let body = AssertUnwindSafe(async move { workflow.call(own, input).await }).catch_unwind();
    let until_quiet = run_until_quiet(wf, body);
    let Some(result) = unless_abandoned(&active, until_quiet).await else {
        return parked(wf);
    };
    if active.lost.is_cancelled() {
        return Ending::Lost;
    }
    match result {
        Some(Ok(result)) => finish(wf, result),
        Some(Err(content)) => finish(wf, Err(panicked(content))),
        None => parked(wf),
    }
}

/// Polls the body. `None` when it will not get any further in this run.
async fn run_until_quiet<T>(wf: &Wf, body: impl Future<Output = T>) -> Option<T> {
    let gate = &wf.0.gate;
    let mut inner = Box::pin(body);
    let mut body = future::poll_fn(|cx| {
        gate.begin_poll();
        inner.as_mut().poll(cx)
    });
    let active = &wf.0.about.active;
    loop {
        let changed = gate.change();
        tokio::select! {
            biased;
            result = &mut body => return Some(result),
            () = changed => {}
            // What the body awaits outside steps does not hold up a cancellation.
            () = active.token.cancelled(), if gate.is_idle() => {}
            // Nor do steps that the body leaves alone.
            () = gate.neglect(active.token.cancelled()) => {}
        }
        // The body may have been woken at the same moment: it gets another turn first.
        tokio::task::yield_now().await;
        if let Some(result) = (&mut body).now_or_never() {
            return Some(result);
        }
        let stopping = active.token.is_cancelled() && gate.is_idle();
        if gate.is_quiet() || stopping {
            gate.note_end();
            return None;
        }
    }
}

fn parked(wf: &Wf) -> Ending {
    let active = &wf.0.about.active;
    if active.lost.is_cancelled() {
        return Ending::Lost;
    }
    let mut inside = wf.0.gate.lock();
    if let Some(reason) = inside.cancelled.take().or_else(|| active.cancel_reason()) {
        return Ending::Cancel(reason);
    }
    match (inside.retry(), inside.wake_at()) {
        (Some((at, error)), _) => Ending::Retry(active.clock.until(*at), error.clone()),
        (None, Some(at)) => Ending::Sleep(at),
        (None, None) => Ending::Release,
    }
}

fn finish(wf: &Wf, result: TaskResult<Payload>) -> Ending {
    let active = &wf.0.about.active;
    if stopped_early(active, &result) {
        return parked(wf);
    }
    // A step has cancelled the job; what the body makes of that, short of success, is no failure.
    let cancelled = wf.0.gate.lock().cancelled.take().filter(|_| result.is_err());
    if let Some(reason) = cancelled {
        return Ending::Cancel(reason);
    }
    let error = match (result, active.cancel_reason()) {
        (_, Some(reason)) => return Ending::Cancel(reason),
        (Ok(output), None) => return Ending::Complete(output),
        (Err(error), None) => error,
    };
    if let Fault::Cancel(reason) = error.fault {
        return Ending::Cancel(reason);
    }
    if let Fault::Step(failure) = error.fault {
        return Ending::Fail(*failure);
    }
    if let Some((at, failure)) = wf.0.gate.lock().retry() {
        return Ending::Retry(active.clock.until(*at), failure.clone());
    }
    body_failed(wf, error, active)
}

/// The workflow's own code failed, not a step.
fn body_failed(wf: &Wf, error: TaskError, active: &Active) -> Ending {
    let options = &wf.0.options;
    let fatal = matches!(error.fault, Fault::Failed { fatal: true, .. });
    let mut failure = error.job_error();
    failure.attempt = active.attempt;
    failure.is_final =
        fatal || active.attempt > options.budget() || broken!(BodyErrorsAreNotRetried);
    match failure.is_final {
        true => Ending::Fail(failure),
        false => {
            let kind = &wf.0.about.kind;
            Ending::Retry(options.backoff.of(active.id, kind, active.attempt), failure)
        }
    }
}

/// A handler that ends early because the worker stops has not failed.
fn stopped_early(active: &Active, result: &TaskResult<Payload>) -> bool {
    let failed = |error: &TaskError| !matches!(error.fault, Fault::Cancel(_));
    active.stop.is_cancelled() && result.as_ref().is_err_and(failed)
}

/// `None` if it is not to be waited for any longer.
pub(crate) async fn unless_abandoned<T>(
    active: &Active,
    run: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        result = run => Some(result),
        () = active.abandoned() => None,
    }
}

fn gone(active: &Active) -> Ending {
    match (active.lost.is_cancelled(), active.cancel_reason()) {
        (true, _) => Ending::Lost,
        (false, Some(reason)) => Ending::Cancel(reason),
        (false, None) => Ending::Release,
    }
}
