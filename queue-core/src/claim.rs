use std::{borrow::Cow, num::NonZeroU32, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Fence, Job, JobFilter, JobId, LogRead, QueueName, Result, State, Timestamp, name::check_name,
    update::check_lease,
};

/// Which jobs a worker wants, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// Minted by the caller for this request. A repeat with the same token returns what the first
    /// one took and is still held, so that a lost answer is no crash. It becomes the nonce of the fence.
    pub token: Uuid,
    /// The queues to take from.
    pub queues: Queues,
    /// The kinds of job that this worker can run.
    pub kinds: Kinds,
    /// A name for the holder, for people to read; it proves nothing.
    pub holder: Arc<str>,
    /// Take at most so many.
    pub limit: NonZeroU32,
    /// Hold them for so long, from the store's now.
    pub lease: Duration,
    /// Which of two jobs of equal priority goes first.
    pub order: Order,
    /// Take only jobs that match this as well.
    pub filter: Option<JobFilter>,
    /// Which part of their log to return.
    pub log: LogRead,
}

impl ClaimRequest {
    /// Jobs of all kinds from these queues, FIFO, with their whole log.
    pub fn new(
        queues: Queues,
        holder: impl Into<Arc<str>>,
        limit: NonZeroU32,
        lease: Duration,
    ) -> Self {
        ClaimRequest {
            token: Uuid::now_v7(),
            queues,
            kinds: Kinds::All,
            holder: holder.into(),
            limit,
            lease,
            order: Order::Fifo,
            filter: None,
            log: LogRead::All,
        }
    }

    /// Checks the request. Stores call it first.
    ///
    /// # Errors
    /// `Invalid`: a malformed holder, kind or filter, a lease of zero.
    pub fn check(&self) -> Result<()> {
        check_name("holder", &self.holder)?;
        if let Kinds::Only(kinds) = &self.kinds {
            kinds.iter().try_for_each(|kind| check_name("kind", kind))?;
        }
        self.filter.iter().try_for_each(JobFilter::check)?;
        check_lease(self.lease)
    }
}

/// The queues that a claim takes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queues {
    /// Every queue.
    All,
    /// These queues.
    Only(Vec<QueueName>),
}

impl Queues {
    /// Whether the queue is among them.
    pub fn contains(&self, queue: &QueueName) -> bool {
        match self {
            Queues::All => true,
            Queues::Only(queues) => queues.contains(queue),
        }
    }
}

impl Default for Queues {
    /// The queue `default`.
    fn default() -> Self {
        Queues::Only(vec![QueueName::default()])
    }
}

impl From<QueueName> for Queues {
    fn from(queue: QueueName) -> Self {
        Queues::Only(vec![queue])
    }
}

/// The kinds of job that a claim takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kinds {
    /// Every kind.
    #[default]
    All,
    /// These kinds.
    Only(Vec<Cow<'static, str>>),
}

impl Kinds {
    /// Whether the kind is among them.
    pub fn contains(&self, kind: &str) -> bool {
        match self {
            Kinds::All => true,
            Kinds::Only(kinds) => kinds.iter().any(|known| known == kind),
        }
    }
}

/// Which of two due jobs of equal priority goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The one with the earlier `run_at`, then the smaller id. The default everywhere.
    #[default]
    Fifo,
    /// The one with the later `run_at`, then the larger id.
    Lifo,
}

/// What a claim took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Claimed {
    /// The jobs, in the order in which they should run.
    pub jobs: Vec<Job>,
    /// The instant at which the same request may find more. `None` when `limit` jobs came back or
    /// when there is nothing to wait for.
    ///
    /// Never later than the earliest instant at which the request could return a job that this
    /// answer did not (waiting jobs that match and are not behind a full lane or a pause), and never later
    /// than the earliest end of a lease: of any lease, whatever its queue, those of this claim too. Earlier is allowed, so
    /// a store need not ask filters and lanes about jobs that are not due yet. Not later than now exactly when there is
    /// something to be had now: a job passed over, or a lease that is over and wants reaping. The repeat of a claim need not
    /// look: where it answers fewer jobs than `limit`, it may say now in vain, and is held to the rest.
    pub next_due: Option<Timestamp>,
}

impl Claimed {
    /// The answer with these jobs.
    pub const fn new(jobs: Vec<Job>, next_due: Option<Timestamp>) -> Self {
        Claimed { jobs, next_due }
    }
}

/// What became of a job whose lease was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reaped {
    /// The job.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// The fence under which it was held.
    pub fence: Fence,
    /// Its state now: `Waiting`; `Failed` past `max_crashes`; `Cancelled` when that was asked for.
    pub state: State,
    /// How often its lease was lost, this time included.
    pub crashes: u32,
}

impl Reaped {
    /// The report on one job.
    pub const fn new(
        id: JobId,
        queue: QueueName,
        fence: Fence,
        state: State,
        crashes: u32,
    ) -> Self {
        Reaped { id, queue, fence, state, crashes }
    }
}

/// What became of one job of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inserted {
    /// It was stored.
    New(JobId),
    /// A job with its id, or another one that holds its unique key, was there; nothing was changed.
    Existing(JobId),
}

impl Inserted {
    /// The id of the job that is there now.
    pub const fn id(self) -> JobId {
        match self {
            Inserted::New(id) | Inserted::Existing(id) => id,
        }
    }

    /// Whether this call stored it.
    pub const fn is_new(self) -> bool {
        matches!(self, Inserted::New(_))
    }
}
