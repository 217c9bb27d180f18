use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use queue_core::JobError;

use crate::{TaskError, TaskResult, active::Active};

/// What happens instead of a step, or after it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Failure {
    what: What,
    /// How often; `None`: always.
    times: Option<u32>,
}

#[derive(Clone, Debug)]
enum What {
    Error(JobError, Severity),
    Panic(String),
    Crash(Moment),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// The budget of the step decides.
    Retried,
    Fatal,
    /// It is no failure: the job is cancelled.
    Cancel,
}

/// When a worker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    /// It ran, and its result was not stored.
    After,
}

impl Failure {
    /// The step does not run, and fails with this error. The budget of its retries counts, unless the error is
    /// [fatal](TaskError::fatal). One that [cancels](TaskError::cancel) does so.
    pub fn error(error: TaskError) -> Self {
        let severity = match error.job_error() {
            cancel if cancel.cancelled => Severity::Cancel,
            _ if error.is_fatal() => Severity::Fatal,
            _ => Severity::Retried,
        };
        Self::new(What::Error(error.job_error(), severity))
    }

    /// The step does not run, and panics with this message.
    pub fn panic(message: impl Into<String>) -> Self {
        Self::new(What::Panic(message.into()))
    }

    /// The worker dies before the step: nothing is written, and the job is taken back once its lease is over. Move the clock by
    /// the lease to see it.
    pub fn crash_before() -> Self {
        Self::new(What::Crash(Moment::Before))
    }

    /// The worker dies after the step ran and before its result was stored, so that it runs again.
    pub fn crash_after() -> Self {
        Self::new(What::Crash(Moment::After))
    }

    const fn new(what: What) -> Self {
        Failure { what, times: None }
    }

    /// Only so often; always, if it is not called.
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

/// The failures that a test asks for. Clones share them.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<Vec<(Place, Failure)>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Step(String),
    Task(String),
}

/// What is to happen to a step that is about to run.
enum Injected {
    Error(TaskError),
    Panic(String),
    Crash(Moment),
}

impl Failures {
    /// Fails the step with this id, whatever its job. The step of a task job has the task's name for its id.
    pub fn step(&self, id: impl Into<String>, failure: Failure) {
        self.list().push((Place::Step(id.into()), failure));
    }

    /// Fails every step, and every job, of this task.
    pub fn task(&self, name: impl Into<String>, failure: Failure) {
        self.list().push((Place::Task(name.into()), failure));
    }

    /// Fails nothing any more.
    pub fn clear(&self) {
        self.list().clear();
    }

    fn list(&self) -> MutexGuard<'_, Vec<(Place, Failure)>> {
        // The list is whole between any two statements that hold the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a step, or fails it as was asked for. A worker that dies writes nothing more of the job.
    pub(crate) async fn apply<T>(
        &self,
        (task, step): (&str, &str),
        active: &Active,
        run: impl Future<Output = TaskResult<T>>,
    ) -> TaskResult<T> {
        match self.take(task, step) {
            None => run.await,
            Some(Injected::Error(error)) => Err(error),
            Some(Injected::Panic(message)) => panic!("{message}"),
            Some(Injected::Crash(moment)) => {
                if moment == Moment::After {
                    let _ = run.await;
                }
                active.lose();
                Err(TaskError::new("the worker died"))
            }
        }
    }

    /// Takes the first failure that is meant for this step.
    fn take(&self, task: &str, step: &str) -> Option<Injected> {
        let mut list = self.list();
        let (_, failure) = list.iter_mut().find(|(place, failure)| {
            let meant = match place {
                Place::Step(id) => id == step,
                Place::Task(name) => name == task,
            };
            meant && failure.times != Some(0)
        })?;
        if let Some(left) = &mut failure.times {
            *left -= 1;
        }
        Some(match failure.what.clone() {
            What::Error(error, Severity::Cancel) => {
                Injected::Error(TaskError::cancel(error.message))
            }
            What::Error(error, severity) => {
                Injected::Error(TaskError::from_stored(error, severity == Severity::Fatal))
            }
            What::Panic(message) => Injected::Panic(message),
            What::Crash(moment) => Injected::Crash(moment),
        })
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list().iter()).finish()
    }
}
