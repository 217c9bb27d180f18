use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use futures::{
    StreamExt,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use serde_json::{Value, json};

use super::{FlowError, Plan, TemplateError, plan::PlannedStep};

/// Runs single steps for a flow.
pub(super) trait StepRunner: Sync {
    /// Why a step failed.
    type Error: Send;

    /// Runs a step with its rendered input.
    fn run<'a>(
        &'a self,
        step: &'a PlannedStep,
        input: Value,
    ) -> BoxFuture<'a, Result<Value, Self::Error>>;

    /// Whether no step does any work: those whose futures are still pending wait for a retry in a
    /// later run, or for their turn to start.
    fn is_idle(&self) -> bool;

    /// Whether a step has failed, whether or not its future has said so: no further one is to start in this run.
    fn is_failing(&self) -> bool;
}

/// Why a flow failed.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// The step that failed first.
    Step(E),
    /// The flow itself.
    Flow(FlowError),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    Started,
    /// Done or skipped.
    Met,
}

impl Plan {
    /// Runs the flow: every step as soon as its needs are met, and any number at once.
    ///
    /// After a failure, and after a step that completes the job, no further step starts, and those
    /// that run are allowed to settle; one that waits for a retry is not waited for. A step that
    /// completes the job decides even then: done is done. Of several, the first of the list does.
    pub(super) async fn execute<R: StepRunner>(
        &self,
        input: Value,
        runner: &R,
    ) -> Result<Value, Failure<R::Error>> {
        let mut run = Run {
            plan: self,
            data: json!({ "input": input, "steps": {} }),
            status: vec![Status::Waiting; self.steps.len()],
        };
        let ending = AtomicBool::new(false);
        // A step whose first poll comes after another one has ended the flow does not start.
        let start = |position: usize, input| {
            let (step, ending) = (&self.steps[position], &ending);
            async move {
                match ending.load(Ordering::Relaxed) {
                    true => None,
                    false => Some((position, runner.run(step, input).await)),
                }
            }
        };
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        let mut completing: Option<usize> = None;
        loop {
            while failure.is_none() && completing.is_none() && !runner.is_failing() {
                match run.next_ready() {
                    Ok(None) => break,
                    Ok(Some((position, input))) => running.push(start(position, input)),
                    Err(error) => failure = Some(Failure::Flow(error)),
                }
            }
            let is_ending = failure.is_some() || completing.is_some();
            ending.store(is_ending, Ordering::Relaxed);
            // Before the others have a turn: one that waits at the gate while a failure is about to be
            // shown would go through once it is.
            if is_ending && runner.is_idle() {
                break;
            }
            // A step that is to be retried does not come back in this run. The steps run within the
            // future that polls this one, so it is polled after every change.
            let settled = poll_fn(|_| match is_ending && runner.is_idle() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            match select(running.next(), settled).await {
                Either::Left((None, _)) | Either::Right(_) => break,
                Either::Left((Some(None), _)) => {}
                Either::Left((Some(Some((position, Ok(output)))), _)) => {
                    run.finish(position, output);
                    if self.steps[position].completes_job && !broken!(CompletesJobIsIgnored) {
                        completing = Some(completing.map_or(position, |other| other.min(position)));
                    }
                }
                Either::Left((Some(Some((_, Err(error)))), _)) => {
                    failure = failure.or(Some(Failure::Step(error)));
                }
            }
        }
        match (completing, failure) {
            (Some(position), _) => Ok(run.output_of(position)),
            (None, Some(failure)) => Err(failure),
            (None, None) => run.output().map_err(Failure::Flow),
        }
    }
}

struct Run<'a> {
    plan: &'a Plan,
    data: Value,
    status: Vec<Status>,
}

impl Run<'_> {
    /// Marks the next step that can start, and renders its input. Skips steps on the way.
    fn next_ready(&mut self) -> Result<Option<(usize, Value)>, FlowError> {
        let mut position = 0;
        while let Some(step) = self.plan.steps.get(position) {
            let met = |need: &usize| self.status[*need] == Status::Met;
            if self.status[position] != Status::Waiting || !step.needs.iter().all(met) {
                position += 1;
            } else if broken!(ConditionsAreIgnored)
                || step.condition.as_ref().is_none_or(|condition| condition.holds(&self.data))
            {
                self.status[position] = Status::Started;
                let input = match &step.input {
                    None => self.data["input"].clone(),
                    Some(template) => template.render(&self.data).map_err(|error| {
                        unfillable(format!("the input of step {:?}", step.id), error)
                    })?,
                };
                return Ok(Some((position, input)));
            } else {
                self.finish(position, Value::Null);
                // What is skipped may make an earlier step of the list ready.
                position = 0;
            }
        }
        Ok(None)
    }

    fn finish(&mut self, position: usize, output: Value) {
        self.status[position] = Status::Met;
        self.data["steps"][&self.plan.steps[position].id] = json!({ "output": output });
    }

    fn output_of(&self, position: usize) -> Value {
        self.data["steps"][&self.plan.steps[position].id]["output"].clone()
    }

    fn output(&self) -> Result<Value, FlowError> {
        let left: Vec<String> = (self.plan.steps.iter().zip(&self.status))
            .filter(|(_, status)| **status != Status::Met)
            .map(|(step, _)| step.id.clone())
            .collect();
        if !left.is_empty() {
            return Err(FlowError::Blocked { steps: left });
        }
        match &self.plan.output {
            Some(template) => template
                .render(&self.data)
                .map_err(|error| unfillable("the output".to_owned(), error)),
            None => Ok(self.output_of(self.plan.steps.len() - 1)),
        }
    }
}

fn unfillable(place: String, error: TemplateError) -> FlowError {
    FlowError::Template { place, error }
}

#[cfg(test)]
#[path = "execute_tests.rs"]
mod tests;
