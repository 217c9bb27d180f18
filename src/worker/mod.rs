//! Workers: they claim jobs, run them and write how they ended.

mod builder;
mod callbacks;
mod claims;
mod pass;
mod plan;
mod scheduling;
mod serve;

use std::{sync::Arc, time::Duration};

use queue_core::{Kinds, Order, QueueName};

pub use builder::{UnknownKinds, WorkerBuilder};
pub use pass::Pass;

use crate::{Queue, Scheduling, retention::Sweeping, run::Bench, schedule::Scheduler};

/// Runs jobs. Made by [`Worker::new`] and the builder's `build`.
#[derive(Debug)]
pub struct Worker {
    bench: Arc<Bench>,
    scheduler: Arc<Scheduler>,
    settings: Settings,
}

/// How a worker works.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    holder: Arc<str>,
    /// `None`: all queues.
    queues: Option<Vec<QueueName>>,
    order: Order,
    orders: Vec<(QueueName, Order)>,
    concurrency: u32,
    lease: Duration,
    grace: Duration,
    unknown: UnknownKinds,
    pub(crate) sweeping: Sweeping,
    scheduling: Scheduling,
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

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    fn kinds(&self) -> Kinds {
        match self.settings.unknown {
            UnknownKinds::Leave => Kinds::Only(self.bench.catalog.names().cloned().collect()),
            UnknownKinds::Fail => Kinds::All,
        }
    }
}
