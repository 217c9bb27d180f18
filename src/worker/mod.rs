//! Workers: they claim jobs, run them and write how they ended.

mod builder;
mod claims;
mod pass;
mod serve;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use queue_core::{Job, Kinds, Order, QueueName};

pub use builder::{UnknownKinds, WorkerBuilder};
pub use pass::Pass;

use crate::{
    JobReport, JobResult, Queue,
    active::Active,
    run::{Bench, run_job},
};

/// Runs jobs. Made by [`Worker::new`] and the builder's `build`.
#[derive(Debug)]
pub struct Worker {
    bench: Arc<Bench>,
    settings: Settings,
}

/// How a worker works.
#[derive(Clone, Debug)]
struct Settings {
    holder: Arc<str>,
    /// `None`: all queues.
    queues: Option<Vec<QueueName>>,
    order: Order,
    orders: Vec<(QueueName, Order)>,
    concurrency: u32,
    lease: Duration,
    grace: Duration,
    unknown: UnknownKinds,
}

impl Worker {
    /// Begins to build a worker for this queue.
    #[allow(clippy::new_ret_no_self)] // the builder is what users begin with
    pub fn new(queue: Queue) -> WorkerBuilder {
        WorkerBuilder::new(queue)
    }

    /// The queue that it works for.
    pub fn queue(&self) -> &Queue {
        &self.bench.queue
    }

    fn kinds(&self) -> Kinds {
        match self.settings.unknown {
            UnknownKinds::Leave => Kinds::Only(self.bench.catalog.names().cloned().collect()),
            UnknownKinds::Fail => Kinds::All,
        }
    }

    /// Notes that a job is held, so that its lease is renewed from now on.
    fn hold(&self, job: &Job) -> Arc<Active> {
        let active = Arc::new(Active::new(job));
        self.bench.keeper.add(active.clone());
        active
    }

    /// Runs a claimed job on a task of its own, so that neither a blocking nor a panicking handler
    /// holds up the others.
    fn spawn(
        &self,
        job: Job,
        active: Arc<Active>,
    ) -> impl Future<Output = JobReport> + Send + use<> {
        let (id, kind) = (job.id, job.kind.to_string());
        let bench = self.bench.clone();
        let run = tokio::spawn(async move { run_job(&bench, job, active).await });
        run.map(move |report| {
            // The runtime is shutting down, or the engine itself panicked: nothing was written.
            report.unwrap_or_else(|_| JobReport::new(id, kind, JobResult::Lost))
        })
    }
}
