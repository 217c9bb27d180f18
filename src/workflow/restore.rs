use std::{fmt, sync::Arc};

use queue_core::Payload;
use serde::de::DeserializeOwned;

use super::status::StepStatus;

type Rule = Arc<dyn Fn(Option<&Payload>, &StepStatus) -> bool + Send + Sync>;

/// Whether a step that has completed is restored: returns what it returned before, without running.
///
/// The call's own setting counts, else the task's, else the workflow's; else it is restored. It is asked each time the
/// workflow comes by the step in another run of the job: after a retry, a sleep, a crash or a stop of the worker.
///
/// A step that is not restored appends an entry to the log each time it completes. It is bounded all the same: what it has
/// failed so far counts against its retries, over all runs of the job, and what makes the job run again is bounded by itself.
///
/// ```
/// # use queue::{Restore, StepStatus, TaskError, TaskResult, Wf};
/// # #[derive(serde::Serialize, serde::Deserialize, queue::Task)] #[task(name = "x")] struct X;
/// # async fn body(_: X, wf: Wf) -> TaskResult<()> {
/// // The token of an earlier run is of no use in this one.
/// let token = wf.run("log-in", || async { Ok::<_, TaskError>("token".to_owned()) })
///     .restore(Restore::Never)
///     .await?;
/// // A rate of zero is looked up again.
/// let known = |_: &(), past: &StepStatus| past.output.as_ref().is_some_and(|rate| rate.as_str() != "0");
/// let rate: u32 = wf.run("rate", || async { Ok::<_, TaskError>(3) })
///     .restore(Restore::when(known))
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Restore {
    /// It is restored.
    #[default]
    Always,
    /// It runs again.
    Never,
    /// It is restored if this function says so. Made by [`Restore::when`].
    When(RestoreRule),
}

/// The function of [`Restore::When`].
#[derive(Clone)]
pub struct RestoreRule(Rule);

impl Restore {
    /// Restored if the function says so. It is given the input of this call, which for closures is
    /// `()`, and what the log says of the step.
    ///
    /// An input that does not fit `T` restores the step. A panic of the function is one of the workflow's body.
    pub fn when<T, F>(rule: F) -> Self
    where
        T: DeserializeOwned,
        F: Fn(&T, &StepStatus) -> bool + Send + Sync + 'static,
    {
        Restore::When(RestoreRule(Arc::new(move |input, past| {
            let input = input.cloned().unwrap_or_default().to::<T>();
            input.map_or(true, |input| rule(&input, past))
        })))
    }

    pub(super) fn applies(&self, input: Option<&Payload>, past: &StepStatus) -> bool {
        match self {
            Restore::Always => true,
            Restore::Never => false,
            Restore::When(_) if broken!(RestoreRulesAreIgnored) => true,
            Restore::When(RestoreRule(rule)) => rule(input, past),
        }
    }
}

/// Functions are equal when they are the same one.
impl PartialEq for Restore {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Restore::Always, Restore::Always) | (Restore::Never, Restore::Never) => true,
            (Restore::When(one), Restore::When(other)) => Arc::ptr_eq(&one.0, &other.0),
            _ => false,
        }
    }
}

impl Eq for Restore {}

impl fmt::Debug for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Restore::Always => "Always",
            Restore::Never => "Never",
            Restore::When(_) => "When(..)",
        })
    }
}

impl fmt::Debug for RestoreRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestoreRule(..)")
    }
}
