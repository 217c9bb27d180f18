use std::sync::Arc;

use queue_core::{Fence, Job, JobId, Progress, QueueName, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    Queue, States, TaskResult, Wf,
    active::{Active, Written},
    committer::Committer,
};

/// What a handler can know and say about the job it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JobCtx(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    about: Arc<About>,
    step: Option<String>,
    workflow: Option<Wf>,
}

/// What is the same for all steps of a running job.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) active: Arc<Active>,
    pub(crate) committer: Committer,
    pub(crate) queue: Queue,
    pub(crate) states: Arc<States>,
    /// The handler's own: what it does to the token must not reach the engine.
    pub(crate) token: CancellationToken,
    pub(crate) kind: String,
    pub(crate) lane: QueueName,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// The largest payload that the store takes.
    pub(crate) max_bytes: u64,
}

impl About {
    pub(crate) fn new(
        job: &Job,
        active: Arc<Active>,
        committer: Committer,
        queue: Queue,
        states: Arc<States>,
    ) -> Self {
        let max_bytes = queue.store().info().capabilities.max_payload_bytes;
        About {
            token: active.token.child_token(),
            active,
            committer,
            queue,
            states,
            kind: job.kind.to_string(),
            lane: job.queue.clone(),
            labels: job.labels.clone(),
            max_bytes,
        }
    }

    /// The store's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.active.clock.now()
    }
}

impl About {
    /// Runs a step; a test can have it fail instead.
    #[cfg(feature = "testing")]
    pub(crate) async fn failing<T>(
        &self,
        step: (&str, &str),
        run: impl Future<Output = TaskResult<T>>,
    ) -> TaskResult<T> {
        match self.states.get::<crate::testing::Failures>() {
            Some(failures) => failures.apply(step, &self.active, run).await,
            None => run.await,
        }
    }

    /// Runs a step.
    #[cfg(not(feature = "testing"))]
    pub(crate) async fn failing<T>(
        &self,
        _: (&str, &str),
        run: impl Future<Output = TaskResult<T>>,
    ) -> TaskResult<T> {
        run.await
    }
}

impl JobCtx {
    pub(crate) fn new(about: Arc<About>, step: Option<String>, workflow: Option<Wf>) -> Self {
        JobCtx(Arc::new(Inner { about, step, workflow }))
    }

    pub(crate) fn states(&self) -> &States {
        &self.0.about.states
    }

    pub(crate) async fn append_line(&self, line: &str) -> Result<Written> {
        let about = &self.0.about;
        about.active.append_line(&about.committer, line).await
    }

    pub(crate) fn workflow(&self) -> Option<Wf> {
        self.0.workflow.clone()
    }

    /// The job.
    pub fn id(&self) -> JobId {
        self.0.about.active.id
    }

    /// The name of the job's task or workflow.
    pub fn kind(&self) -> &str {
        &self.0.about.kind
    }

    /// The queue from which the job was taken.
    pub fn queue_name(&self) -> &QueueName {
        &self.0.about.lane
    }

    /// The labels of the job when it was claimed.
    pub fn labels(&self) -> &std::collections::BTreeMap<String, String> {
        &self.0.about.labels
    }

    /// The fence of this run, by which a handler may change its job itself: above all to complete it in the transaction of its own
    /// writes, with `update_in` of the stores for PostgreSQL and MongoDB. Then both are made, once, or neither: a worker that has lost
    /// the job meanwhile is answered `Fenced`, and rolls back.
    ///
    /// A handler that has completed its job returns as ever; what it returns changes nothing any more. The job's output is
    /// that of the transaction, and its log has no entry of this run. Not for jobs that are deleted when they complete, of which the
    /// worker cannot know then that they ended well.
    pub fn fence(&self) -> Fence {
        self.0.about.active.fence
    }

    /// Which attempt this is: 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.0.about.active.attempt
    }

    /// The step that is running, if one is.
    pub fn step(&self) -> Option<&str> {
        self.0.step.as_deref()
    }

    /// The queue, to enqueue more.
    pub fn queue(&self) -> &Queue {
        &self.0.about.queue
    }

    /// Fires when the job was cancelled, when it was lost, or when the worker stops. A handler that heeds it ends early; one
    /// that does not is not killed.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.about.token
    }

    /// Reports progress, 0 to 100 percent. It costs no trip: it rides with the next heartbeat or
    /// write of the job.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        self.0.about.active.report(Progress::with_message(percent, message));
    }

    /// Appends a line to the job's log. One trip, shared with other writes of the moment.
    ///
    /// # Errors
    /// Trouble with the store. A job that was lost meanwhile is no error: its token has fired.
    pub async fn log(&self, line: impl Into<String>) -> Result<()> {
        match self.append_line(&line.into()).await? {
            Written::Saved | Written::Lost => Ok(()),
            Written::TooLarge(limit) => Err(queue_core::Error::new(
                queue_core::ErrorKind::TooLarge,
                format!("the line is longer than the {limit} bytes that this store takes"),
            )),
        }
    }
}
