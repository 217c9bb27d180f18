use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use queue_core::{
    EntryKind, Job, JobError, JobPatch, JobStore, JobStoreExt, NewEntry, Payload, State,
    Transition, When, name::MAX_MESSAGE_BYTES,
};

use crate::{
    JobCtx, JobReport, JobResult, Queue, States, TaskOptions,
    active::{Active, Aside, Repeated, Written},
    callback::Call,
    catalog::{Catalog, Registered, Run},
    committer::Committer,
    ctx::About,
    error::panicked,
    fresh::Fresh,
    io::answering,
    jitter::repeated,
    keeper::Keeper,
    supervise::discard,
    time::Readings,
    workflow::{Ended, Ending, History, Wf, drive_task, drive_workflow},
};

/// What all jobs of a worker share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) queue: Queue,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) states: Arc<States>,
    pub(crate) committer: Committer,
    pub(crate) keeper: Arc<Keeper>,
    /// How long one call of the store is waited for.
    pub(crate) patience: Duration,
    pub(crate) readings: Arc<Readings>,
}

/// Runs a claimed job to the end of its attempt and writes how it ended.
pub(crate) async fn run_job(bench: &Bench, job: Job, active: Arc<Active>) -> JobReport {
    let (id, kind) = (job.id, job.kind.to_string());
    let about = Arc::new(About::new(
        &job,
        active.clone(),
        bench.committer.clone(),
        bench.queue.clone(),
        bench.states.clone(),
    ));
    let input = job.input.clone();
    let options = bench.catalog.get(&job.kind).map(|registered| registered.options.clone());
    let drive = AssertUnwindSafe(drive(bench, job, &about)).catch_unwind();
    let mut ended = match drive.await {
        Ok(ended) => ended,
        Err(content) if broken!(PanicsEscape) => std::panic::resume_unwind(content),
        Err(content) => undone(content, &options.unwrap_or_default(), &about).into(),
    };
    let steps = std::mem::take(&mut ended.calls);
    if let (Ending::Complete(output), true) = (&ended.ending, broken!(CallbackBeforeTheRecord)) {
        let result = JobResult::Succeeded { output: output.clone() };
        call_back(bench, &about, &input, Vec::new(), &result).await;
    }
    let result = settle(bench, &active, ended).await;
    call_back(bench, &about, &input, steps, &result).await;
    JobReport::new(id, kind, result)
}

/// Tells of failed steps, and of how the job itself fared, now that it is recorded.
async fn call_back(
    bench: &Bench,
    about: &Arc<About>,
    input: &Payload,
    steps: Vec<Call>,
    result: &JobResult,
) {
    let outcome = match result {
        JobResult::Succeeded { output } => Some(Ok(output.clone())),
        JobResult::WillRetry { .. } if broken!(OnlyTheLastFailureIsTold) => None,
        JobResult::WillRetry { error, .. } | JobResult::Failed { error } => {
            Some(Err(error.clone()))
        }
        JobResult::Sleeping { .. } | JobResult::Released => None,
        JobResult::Cancelled { .. } | JobResult::Lost => return,
    };
    let own = outcome.and_then(|outcome| {
        let callbacks = &bench.catalog.get(&about.kind)?.callbacks;
        let ctx = || JobCtx::new(about.clone(), None, None);
        Call::new(callbacks, &about.kind, input, outcome, ctx)
    });
    let calls: Vec<Call> = steps.into_iter().chain(own).collect();
    if calls.is_empty() {
        return;
    }
    let active = &about.active;
    // It is not ours any more: its lease is not to be renewed, and no lost one means anything.
    bench.keeper.remove(active);
    active.note_settled();
    let tell = async {
        for call in calls {
            call.make().await;
        }
    };
    // Only a stop breaks it off. Its lease may have been renewed in vain between its end and the news of that.
    let end = if broken!(CallbacksAreCutByALoss) { &active.lost } else { &active.stop };
    if end.run_until_cancelled(tell).await.is_none() {
        tracing::warn!(job = %active.id, "a callback was broken off because the worker stops");
    }
}

/// A handler's future panicked when it was dropped, after it had been caught at everything that it did itself. The job fails
/// of that as of any panic; its holder must not vanish.
fn undone(content: Box<dyn Any + Send>, options: &TaskOptions, about: &About) -> Ending {
    let active = &about.active;
    let mut failure = panicked(content).job_error();
    if let Some(reason) = active.cancel_reason() {
        return Ending::Cancel(reason);
    }
    // It was dropped because the worker stops, which is no failure of its own.
    if active.stop.is_cancelled() {
        return Ending::Release;
    }
    failure.attempt = active.attempt;
    failure.is_final = active.attempt > options.budget();
    match failure.is_final {
        true => Ending::Fail(failure),
        false => {
            let wait = options.backoff.of(active.id, &about.kind, active.attempt);
            Ending::Retry(wait, failure)
        }
    }
}

/// A job that was claimed: its lease is renewed until this is dropped. One that was never started is
/// given back then, so that nothing that breaks off between claim and start strands it.
pub(crate) struct Taken {
    bench: Arc<Bench>,
    fresh: Fresh,
}

impl Taken {
    pub(crate) fn new(bench: Arc<Bench>, fresh: Fresh) -> Self {
        if broken!(ClaimsAreHeldLate) {
            bench.keeper.add(fresh.active().clone());
        }
        Taken { bench, fresh }
    }

    /// Runs it on a task of its own, so that neither a blocking nor a panicking handler holds up the
    /// others. The task goes on if the returned future is dropped.
    pub(crate) fn spawn(mut self) -> impl Future<Output = Option<JobReport>> + Send + use<> {
        let named = self.fresh.job().map(|job| (job.id, job.kind.to_string()));
        let run = tokio::spawn(async move {
            let job = self.fresh.start()?;
            let active = self.fresh.active().clone();
            Some(run_job(&self.bench, job, active).await)
        });
        run.map(move |report| {
            // The runtime is shutting down, or the engine itself panicked: nothing was written.
            report.unwrap_or_else(|ended: tokio::task::JoinError| {
                ended.try_into_panic().map_or_else(drop, discard);
                named.map(|(id, kind)| JobReport::new(id, kind, JobResult::Lost))
            })
        })
    }
}

async fn drive(bench: &Bench, job: Job, about: &Arc<About>) -> Ended {
    let active = &about.active;
    // A busy runtime may have started it late, and its heartbeats told what happened meanwhile.
    if active.lost.is_cancelled() {
        return Ending::Lost.into();
    }
    if let Some(reason) = active.cancel_reason() {
        return Ending::Cancel(reason).into();
    }
    let Some(Registered { run, options, .. }) = bench.catalog.get(&job.kind).cloned() else {
        return Ending::Fail(unknown(&job, &bench.catalog)).into();
    };
    let about = about.clone();
    let history = History::read(if broken!(ForgetsSteps) { &[] } else { &job.log });
    match run {
        Run::Task(task) => drive_task(task, &options, about, &history, job.input).await,
        Run::Workflow(workflow) => {
            let wf = Wf::new(about, bench.catalog.clone(), options, history);
            drive_workflow(workflow, wf, job.input).await
        }
    }
}

fn unknown(job: &Job, catalog: &Catalog) -> JobError {
    let mut error = JobError::new(
        "unknown-task",
        format!(
            "this worker has no task or workflow named {:?}; it has {}",
            job.kind,
            catalog.known()
        ),
    );
    error.attempt = job.attempt;
    error.is_final = true;
    error
}

async fn settle(bench: &Bench, active: &Active, ended: Ended) -> JobResult {
    let Ended { ending, step, .. } = ended;
    if broken!(SettlesAfterALook) {
        let _ = bench.queue.job(active.id).await;
    }
    let (transition, result) = match ending {
        Ending::Complete(output) => {
            (Transition::Complete { output: Some(output.clone()) }, JobResult::Succeeded { output })
        }
        Ending::Retry(wait, error) => (
            Transition::Retry { when: When::After(wait), error: error.to_payload() },
            JobResult::WillRetry { after: wait, error },
        ),
        Ending::Fail(error) if active.is_dropped_when_complete() && broken!(DropsFailed) => {
            (Transition::Complete { output: None }, JobResult::Failed { error })
        }
        Ending::Fail(error) => {
            (Transition::Fail { error: error.to_payload() }, JobResult::Failed { error })
        }
        Ending::Cancel(reason) => {
            (Transition::Cancel { reason: reason.clone() }, JobResult::Cancelled { reason })
        }
        Ending::Sleep(until) if broken!(SleepUsesAnAttempt) => {
            let error = JobError::new("sleep", "it sleeps").to_payload();
            (Transition::Retry { when: When::At(until), error }, JobResult::Sleeping { until })
        }
        Ending::Sleep(until) => {
            (Transition::Release { when: When::At(until) }, JobResult::Sleeping { until })
        }
        Ending::Release if broken!(PlacesAreLost) => {
            (Transition::Release { when: When::Now }, JobResult::Released)
        }
        // Back to its place in the queue.
        Ending::Release => {
            (Transition::Release { when: When::At(active.run_at) }, JobResult::Released)
        }
        Ending::Lost => return JobResult::Lost,
    };
    let max_bytes = bench.queue.store().info().capabilities.max_payload_bytes;
    let mut log: Vec<NewEntry> = step.iter().map(|step| step.to_entry(max_bytes)).collect();
    log.extend(attempt_entry(&result));
    let patch = JobPatch::transition(transition).with_log(log);
    write(bench, active, patch, result).await
}

/// The entry for an attempt that ended badly outside any step: a failed step is logged as itself.
fn attempt_entry(result: &JobResult) -> Option<NewEntry> {
    let error = match result {
        _ if broken!(BodyErrorIsNotLogged) => return None,
        JobResult::WillRetry { error, .. } | JobResult::Failed { error } => error,
        _ => return None,
    };
    (error.step.is_none() || broken!(ErrorIsLoggedTwice))
        .then(|| NewEntry::new(EntryKind::Attempt, error.to_payload()))
}

async fn write(bench: &Bench, active: &Active, patch: JobPatch, result: JobResult) -> JobResult {
    let (mut written, mut result) = write_fitting(bench, active, patch, result).await;
    if let Ok((Written::TooLarge(limit), _)) = written {
        let patch;
        (patch, result) = instead(active, result, limit);
        (written, result) = write_fitting(bench, active, patch, result).await;
    }
    match written {
        Ok((Written::Saved, repeated)) => reported(bench, active, result, repeated).await,
        Ok((Written::Lost, _)) => JobResult::Lost,
        Ok((Written::TooLarge(limit), _)) => {
            tracing::error!(job = %active.id, limit, "the end of a job is too large to be stored; it will run again");
            JobResult::Lost
        }
        Err(error) => given_up(active, &error),
    }
}

/// Writes the end of a run together with what was put aside, or without that where it does not fit and the job has ended.
async fn write_fitting(
    bench: &Bench,
    active: &Active,
    mut patch: JobPatch,
    mut result: JobResult,
) -> (queue_core::Result<(Written, Repeated)>, JobResult) {
    let written = active.write_end(&bench.committer, patch.clone(), Aside::Sent).await;
    let Ok((Written::TooLarge(limit), _)) = written else { return (written, result) };
    let left_out = active.entries_aside();
    // A job that goes on needs them: by them its failures are counted, and its sleeps end.
    let ends = matches!(
        result,
        JobResult::Succeeded { .. } | JobResult::Failed { .. } | JobResult::Cancelled { .. }
    );
    if !ends || left_out == 0 || patch.largest_payload() as u64 > limit {
        return (written, result);
    }
    if let (JobResult::Failed { error }, Some(Transition::Fail { error: stored })) =
        (&mut result, &mut patch.transition)
    {
        let note = format!(" (the job has no room for {left_out} log entries of its last attempt)");
        *error = error.cleaned();
        let end = error.message.floor_char_boundary(MAX_MESSAGE_BYTES - note.len());
        error.message.truncate(end);
        error.message.push_str(&note);
        *stored = error.to_payload();
    }
    tracing::warn!(job = %active.id, left_out, "a job has no room for the last entries of its log; it ends without them");
    (active.write_end(&bench.committer, patch, Aside::LeftOut).await, result)
}

/// How a run ends whose own end is too large.
fn instead(active: &Active, result: JobResult, limit: u64) -> (JobPatch, JobResult) {
    // What its handler made of a cancelled job does not un-cancel it.
    if let JobResult::Cancelled { reason } = &result {
        return (JobPatch::transition(Transition::Cancel { reason: reason.clone() }), result);
    }
    let mut error = JobError::new(
        "too-large",
        format!(
            "the result of the job, or what it has to log, is larger than the {limit} bytes that the store takes"
        ),
    );
    error.attempt = active.attempt;
    error.is_final = true;
    let patch = JobPatch::transition(Transition::Fail { error: error.to_payload() })
        .with_log([NewEntry::new(EntryKind::Attempt, error.to_payload())]);
    (patch, JobResult::Failed { error })
}

/// What became of a job whose end was written. The store turns a job that would be given back into the end that was asked
/// for meanwhile.
async fn reported(
    bench: &Bench,
    active: &Active,
    result: JobResult,
    repeated: Repeated,
) -> JobResult {
    let given_back = matches!(
        result,
        JobResult::WillRetry { .. } | JobResult::Sleeping { .. } | JobResult::Released
    );
    if !given_back {
        return result;
    }
    let reason = match (active.cancel_reason(), repeated) {
        (None, Repeated::Yes) => withdrawn(bench, active).await,
        (reason, _) => reason,
    };
    reason.map_or(result, |reason| JobResult::Cancelled { reason })
}

/// Why a job was cancelled instead of given back. The lost answer to the first try would have said so; the repeated one
/// does not.
async fn withdrawn(bench: &Bench, active: &Active) -> Option<String> {
    let (id, patience) = (active.id, bench.patience);
    let read = |store: Arc<dyn JobStore>| async move {
        repeated(|| answering(patience, store.get_one(id))).await
    };
    match bench.queue.io().call(read).await {
        Ok(job) => {
            let ended =
                job.filter(|job| job.state == State::Cancelled && job.fence == active.fence);
            ended?.cancel.map(|cancel| cancel.reason)
        }
        Err(error) => {
            tracing::warn!(job = %active.id, %error, "whether a job was cancelled is not known");
            None
        }
    }
}

/// The job comes back when its lease is over.
fn given_up(active: &Active, error: &queue_core::Error) -> JobResult {
    tracing::error!(job = %active.id, %error, "the end of a job was not stored; it will run again");
    JobResult::Lost
}
