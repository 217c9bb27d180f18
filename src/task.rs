use std::time::Duration;

use queue_core::{Lane, QueueName, Unique};
use serde::{Serialize, de::DeserializeOwned};

/// A kind of job: its name, its input (the type itself) and its output.
///
/// A task is apart from its handler, so a program that only enqueues needs no handler. The input of a
/// workflow is a `Task` too; whether a kind is a task or a workflow is said where its handler is
/// registered.
///
/// Derive it:
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, queue::Task)]
/// #[task(name = "send-email", output = u32, queue = "mail", retries = 3)]
/// struct SendEmail {
///     to: String,
/// }
/// ```
///
/// `name` is required and must not change while jobs of it are stored; `output` is `()` when it is not said.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    note = "derive it: `#[derive(Serialize, Deserialize, queue::Task)] #[task(name = \"...\", output = ...)]`"
)]
pub trait Task: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name under which its jobs are stored.
    const NAME: &'static str;

    /// What its handler returns.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// How its jobs run unless the call says otherwise.
    fn options() -> TaskOptions {
        TaskOptions::default()
    }

    /// The lane in which a job with this input runs.
    fn lane(&self) -> Option<Lane> {
        None
    }

    /// The unique key of a job with this input.
    fn unique(&self) -> Option<Unique> {
        None
    }
}

/// How the jobs of a task or workflow run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOptions {
    /// Their queue; `default` when none is said.
    pub queue: Option<QueueName>,
    /// For a task: how often a failed execution is repeated. For a workflow: a ceiling for the whole
    /// job, whatever its tasks say, and the budget of tasks that say nothing. `None`: not said,
    /// which for a task is the workflow's setting, else 0.
    pub retries: Option<u32>,
    /// How long to wait before a retry.
    pub backoff: Backoff,
}

impl TaskOptions {
    /// Nothing said.
    pub fn new() -> Self {
        Self::default()
    }

    /// In this queue.
    #[must_use]
    pub fn queue(mut self, queue: QueueName) -> Self {
        self.queue = Some(queue);
        self
    }

    /// With so many retries: at most `retries + 1` executions.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    /// With this wait before each retry.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// How long to wait before a retry. The default is not to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Backoff {
    /// The wait before the first retry.
    pub delay: Duration,
    /// How the wait grows.
    pub growth: Growth,
    /// The longest wait.
    pub cap: Option<Duration>,
}

/// How the wait before a retry grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Growth {
    /// It stays the same.
    #[default]
    Fixed,
    /// It doubles with every failure.
    Exponential,
}

impl Backoff {
    /// The same wait before every retry.
    pub const fn fixed(delay: Duration) -> Self {
        Backoff { delay, growth: Growth::Fixed, cap: None }
    }

    /// A wait that doubles with every failure.
    pub const fn exponential(delay: Duration) -> Self {
        Backoff { delay, growth: Growth::Exponential, cap: None }
    }

    /// Never longer than this.
    #[must_use]
    pub const fn capped(mut self, cap: Duration) -> Self {
        self.cap = Some(cap);
        self
    }

    /// The wait after so many failures in all, the latest included: `delay * 2^(failures - 1)` when
    /// it grows, so the first retry waits exactly `delay`.
    pub fn after(&self, failures: u32) -> Duration {
        let wait = match self.growth {
            Growth::Fixed => self.delay,
            Growth::Exponential => {
                let doublings = failures.saturating_sub(1);
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.delay.saturating_mul(factor)
            }
        };
        self.cap.map_or(wait, |cap| wait.min(cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long() {
        let second = Duration::from_secs(1);
        let backoff = Backoff::exponential(second).capped(5 * second);
        let waits: Vec<_> = (1..=5).map(|failures| backoff.after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(Backoff::exponential(second).after(u32::MAX), second * u32::MAX);
        assert_eq!(Backoff::fixed(second).after(9), second);
    }
}
