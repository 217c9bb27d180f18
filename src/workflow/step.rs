use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use queue_core::{JobError, JobPatch, Payload, Timestamp};

use super::{
    call::Settings,
    entry::{StepEntry, StepState},
    gate::Node,
    status::StepStatus,
    wf::Wf,
};
use crate::{
    Backoff, Restore, TaskError, TaskOptions, TaskResult,
    active::Written,
    callback::{Call, Callbacks},
    error::{Fault, panicked},
    task::default_retries,
};

/// A step about to run.
pub(super) struct Step {
    pub(super) task: String,
    pub(super) id: String,
    /// The step around it.
    parent: Option<String>,
    /// How often it may fail and be repeated.
    budget: u32,
    backoff: Backoff,
    restore: Restore,
    pub(super) input: Option<Payload>,
    pub(super) callbacks: Arc<Callbacks>,
}

/// What an attempt of a step is counted as.
#[derive(Clone, Copy)]
struct Attempt {
    number: u32,
    /// The failures before it.
    failures: u32,
    started_at: Timestamp,
}

impl Step {
    /// A step with the settings of the call, else those of its task, else those of the workflow.
    pub(super) fn new(
        wf: &Wf,
        task: &str,
        id: String,
        call: Settings,
        options: &TaskOptions,
    ) -> Self {
        let workflow = &wf.0.options;
        let restore = call.restore.or_else(|| options.restore.clone());
        Step {
            task: task.to_owned(),
            id,
            parent: None,
            budget: match () {
                () if broken!(WorkflowBeforeTask) => {
                    call.retries.or(workflow.retries).or(options.retries)
                }
                () if broken!(TaskBeforeCall) => {
                    options.retries.or(call.retries).or(workflow.retries)
                }
                () => call.retries.or(options.retries).or(workflow.retries),
            }
            .unwrap_or_else(default_retries),
            backoff: call.backoff.unwrap_or(options.backoff),
            restore: restore.or_else(|| workflow.restore.clone()).unwrap_or_default(),
            input: None,
            callbacks: Arc::default(),
        }
    }

    /// What it returned before, if that is to be used again.
    fn restored(&self, past: Option<&StepStatus>) -> Option<Payload> {
        let past = past?;
        let output = past.stored_output()?;
        self.restore.applies(self.input.as_ref(), past).then_some(output)
    }

    /// The failure after which it is not tried again, whether or not it is restored.
    fn exhausted(&self, past: Option<&StepStatus>) -> Option<JobError> {
        let past = past?;
        let error = past.error.as_ref().filter(|error| !error.cancelled)?;
        let exhausted = past.failures > self.budget || error.is_final;
        // It was not the last when it happened, if the budget is lower than it was then.
        exhausted.then(|| {
            let mut error = error.clone();
            error.is_final = true;
            error
        })
    }

    fn entry(&self, wf: &Wf, state: StepState, attempt: Attempt) -> StepEntry {
        StepEntry {
            step: self.id.clone(),
            task: if broken!(EntriesNameNoTask) { &self.id } else { &self.task }.clone(),
            parent: self.parent.clone(),
            state,
            attempt: attempt.number,
            input: self.input.clone(),
            output: None,
            error: None,
            until: None,
            started_at: attempt.started_at,
            finished_at: wf.0.about.now(),
        }
    }
}

impl Wf {
    pub(super) async fn execute(
        &self,
        mut step: Step,
        run: impl Future<Output = TaskResult<Payload>> + Send,
    ) -> TaskResult<Payload> {
        self.open(&step.task, &step.id)?;
        let gate = &self.0.gate;
        let past = self.0.history.of(&step.task, &step.id);
        let forgets = broken!(UnrestoredIsUnbounded) && step.restore != Restore::Always;
        let past = past.filter(|_| !forgets && !broken!(StepsAreNotRestored));
        if let Some(output) = step.restored(past) {
            return Ok(output);
        }
        let parent = Node::current();
        step.parent = parent.as_ref().map(|node| node.id.clone());
        let _child = gate.nest(parent);
        step.parent.take_if(|_| broken!(ParentIsForgotten));
        let id = step.id.clone();
        gate.watch(&id, |node| self.execute_as(step, node, past, run)).await
    }

    /// Runs a step that is not restored.
    async fn execute_as(
        &self,
        step: Step,
        node: Arc<Node>,
        past: Option<&StepStatus>,
        run: impl Future<Output = TaskResult<Payload>> + Send,
    ) -> TaskResult<Payload> {
        let (gate, about) = (&self.0.gate, &self.0.about);
        if let Some(error) = step.exhausted(past) {
            gate.lock().note_failure();
            gate.show_when_quiet(&node).await;
            return Err(TaskError { fault: Fault::Step(Box::new(error)) });
        }
        let running = gate.enter(node.clone(), || about.active.token.is_cancelled()).await;
        let (attempts, failures) = past.map_or((0, 0), |past| (past.attempts, past.failures));
        let attempt = Attempt { number: attempts + 1, failures, started_at: about.now() };
        let run = node.clone().scope(about.failing((&step.task, &step.id), run));
        let result = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(result) => result,
            Err(content) => Err(panicked(content)),
        };
        if let (Ok(output), true) = (&result, broken!(StepIsToldBeforeItIsLogged)) {
            self.call_back(&step, output).await;
        }
        let result = match result {
            // Nothing that is written now would be taken.
            _ if about.active.lost.is_cancelled() => None,
            Ok(output) => self.complete(&step, attempt, output).await,
            Err(error) => Some(Err(error)),
        };
        let shown = match result {
            Some(Ok(output)) => {
                if !broken!(StepIsToldBeforeItIsLogged) {
                    self.call_back(&step, &output).await;
                }
                return Ok(output);
            }
            Some(Err(error)) => self.fail(&step, attempt, error),
            None => None,
        };
        if broken!(ErrorIsWrittenTwice) {
            self.record().await;
        }
        drop(running);
        match shown {
            Some(error) => {
                gate.show_when_quiet(&node).await;
                Err(error)
            }
            None => gate.park().await,
        }
    }

    /// Logs a completed step. `None` if the job is lost.
    async fn complete(
        &self,
        step: &Step,
        attempt: Attempt,
        output: Payload,
    ) -> Option<TaskResult<Payload>> {
        let about = &self.0.about;
        let mut entry = step.entry(self, StepState::Completed, attempt);
        entry.output = Some(output.clone());
        let patch = JobPatch::append([entry.to_entry(about.max_bytes)]);
        match about.active.write(&about.committer, patch).await {
            Ok(Written::Saved) => Some(Ok(output)),
            Ok(Written::Lost) => None,
            Ok(Written::TooLarge(limit)) => Some(Err(too_large(output.len(), limit))),
            Err(error) => {
                // The result may or may not be stored. Whoever runs the job next will see.
                tracing::error!(job = %about.active.id, step = step.id, %error, "the result of a step was not stored; the job is given up");
                about.active.lose();
                None
            }
        }
    }

    /// Tells of a completed step. It still counts as running, so the run does not end meanwhile.
    async fn call_back(&self, step: &Step, output: &Payload) {
        if let Some(call) = self.told(step, Ok(output.clone())) {
            call.make().await;
        }
    }

    /// Whom to tell how an attempt of this step ended.
    fn told(&self, step: &Step, outcome: Result<Payload, JobError>) -> Option<Call> {
        let input = step.input.as_ref()?;
        Call::new(&step.callbacks, &step.task, input, outcome, || self.step_ctx(step))
    }

    /// Notes a failed step. The error is returned if the body is to see it.
    fn fail(&self, step: &Step, attempt: Attempt, error: TaskError) -> Option<TaskError> {
        let (about, options) = (&self.0.about, &self.0.options);
        let active = &about.active;
        // The step was told to stop with the worker, and did: that is no failure of its own.
        if active.stop.is_cancelled() && !matches!(error.fault, Fault::Cancel(_)) {
            return None;
        }
        let state = match error.fault {
            Fault::Cancel(_) => StepState::Cancelled,
            _ => StepState::Failed,
        };
        let failures = attempt.failures + 1;
        let mut failure = error.job_error();
        failure.step = Some(step.id.clone());
        failure.attempt = active.attempt;
        let fatal = matches!(error.fault, Fault::Failed { fatal: true, .. } | Fault::Step(_));
        failure.is_final = fatal
            || failure.cancelled
            || failures > step.budget && !broken!(RetriesForEver)
            || options.retries.is_some_and(|ceiling| match broken!(CeilingIsPerStep) {
                true => failures > ceiling,
                false => active.attempt > ceiling,
            }) && !broken!(CeilingIsIgnored);
        let mut entry = step.entry(self, state, attempt);
        entry.error = Some(failure.clone());
        // It rides with the write that ends the run: one write per failure.
        active.append_later(entry.to_entry(about.max_bytes));
        let mut inside = self.0.gate.lock();
        if let (Fault::Cancel(reason), false) = (error.fault, broken!(CancelFromInsideFails)) {
            inside.cancelled.get_or_insert(reason);
            return None;
        }
        if failure.is_final || !broken!(OnlyTheLastFailureIsTold) {
            inside.calls.extend(self.told(step, Err(failure.clone())));
        }
        inside.note_failure();
        if failure.is_final || broken!(RetryIsShownToTheBody) {
            return Some(TaskError { fault: Fault::Step(Box::new(failure)) });
        }
        let failures = if broken!(StepWaitsByTheJobsFailures) { active.attempt } else { failures };
        let mut wait = step.backoff.of(active.id, &step.id, failures);
        if !broken!(WorkflowBackoffIsIgnored) {
            wait = wait.max(options.backoff.of(active.id, &about.kind, active.attempt));
        }
        inside.retry_at(about.now().plus(wait), failure);
        None
    }
}

pub(crate) fn too_large(bytes: usize, limit: u64) -> TaskError {
    TaskError::fatal_named(
        "too-large",
        format!("the output has {bytes} bytes, and the store takes at most {limit}"),
    )
}
