use queue_core::{Lane, QueueName, Unique};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Backoff, Restore};

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
///
/// How failures are repeated, and whether a completed step of it is restored, can be said there too;
/// durations have a unit (`ms`, `s`, `m`, `h` or `d`):
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, queue::Task)]
/// #[task(name = "look-up", output = u32, retries = 5)]
/// #[task(backoff(exponential = "30s", cap = "1h", jitter = "equal"), restore = LookUp::is_same)]
/// struct LookUp {
///     city: String,
/// }
///
/// impl LookUp {
///     /// What was stored for another city is not used.
///     fn is_same(&self, past: &queue::StepStatus) -> bool {
///         let before = past.input.as_ref().and_then(|input| input.to::<LookUp>().ok());
///         before.is_some_and(|before| before.city == self.city)
///     }
/// }
/// ```
///
/// `backoff` takes `fixed = ".."` or `exponential = ".."`, and with it `cap = ".."` and `jitter = ".."` (`full` or
/// `equal`), see [`Backoff`]; `restore` takes `true`, `false` or a function, see [`Restore`].
///
/// The lane and the unique key of a job follow from its input, by a function:
///
/// ```
/// use queue::{Lane, Unique};
///
/// #[derive(serde::Serialize, serde::Deserialize, queue::Task)]
/// #[task(name = "import", lane = Import::lane_of_tenant, unique = Import::once_a_file)]
/// struct Import {
///     tenant: String,
///     file: Option<String>,
/// }
///
/// impl Import {
///     /// One import of a tenant at a time.
///     fn lane_of_tenant(&self) -> Lane {
///         Lane::new(format!("import/{}", self.tenant))
///     }
///
///     /// At most one job that waits or runs for a file.
///     fn once_a_file(&self) -> Option<Unique> {
///         self.file.as_ref().map(|file| Unique::new(format!("import/{}/{file}", self.tenant)))
///     }
/// }
///
/// use queue::Task;
/// let import = Import { tenant: "a".into(), file: None };
/// assert_eq!(import.lane().unwrap().key, "import/a");
/// assert!(import.unique().is_none());
/// ```
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
    /// How long to wait before a retry. For a task: by the failures of the step; for a workflow: by
    /// those of the job. When both say something, the later date counts.
    pub backoff: Backoff,
    /// Whether a completed step of it is restored. For a workflow: the same for its steps that say nothing. `None`: not
    /// said, which is to restore.
    pub restore: Option<Restore>,
}

/// How often what says nothing of it is tried again.
pub(crate) fn default_retries() -> u32 {
    if broken!(RetriesByDefault) { 1 } else { 0 }
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

    /// With this answer to whether a completed step is restored.
    #[must_use]
    pub fn restore(mut self, restore: Restore) -> Self {
        self.restore = Some(restore);
        self
    }

    /// How often it is tried again.
    pub(crate) fn budget(&self) -> u32 {
        match self.retries {
            None if self.backoff != Backoff::default() && broken!(BackoffRetriesForEver) => {
                u32::MAX
            }
            retries => retries.unwrap_or_else(default_retries),
        }
    }
}
