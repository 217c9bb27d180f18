//! A test kit for applications: a queue in memory, a clock that stands still until it is moved, and failures on demand.
//!
//! Handlers run as they do in production: by a [`Worker`], with the same retries, steps and log. What differs is time. Backoffs,
//! delays, sleeps and leases pass when the test says so, and a test that takes a month takes a millisecond.
//!
//! ```
//! use std::time::Duration;
//!
//! use queue::{
//!     Backoff, Task, TaskError, TaskResult, Wf,
//!     testing::{Failure, TestKit},
//! };
//!
//! #[derive(serde::Serialize, serde::Deserialize, Task)]
//! #[task(name = "charge", output = u32, retries = 3)]
//! struct Charge {
//!     cents: u32,
//! }
//!
//! #[derive(serde::Serialize, serde::Deserialize, Task)]
//! #[task(name = "order", output = u32)]
//! struct Order {
//!     cents: u32,
//! }
//!
//! async fn charge(job: Charge) -> TaskResult<u32> {
//!     Ok(job.cents)
//! }
//!
//! async fn order(order: Order, wf: Wf) -> TaskResult<u32> {
//!     wf.task("pay", Charge { cents: order.cents })
//!         .backoff(Backoff::fixed(Duration::from_secs(60)))
//!         .await
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kit = TestKit::new()?;
//! let worker = kit.worker().task(charge).workflow(order).build()?;
//! kit.failures().step("pay", Failure::error(TaskError::new("the bank is closed")).times(1));
//!
//! let job = kit.queue().enqueue(Order { cents: 500 }).await?;
//! kit.drain(&worker).await?;
//! kit.assert_waiting(job.id()).await; // for its backoff
//!
//! kit.advance(Duration::from_secs(60));
//! kit.drain(&worker).await?;
//! let job = kit.assert_completed(job.id()).await;
//! assert_eq!(job.output.unwrap().as_str(), "500");
//! # Ok(()) }
//! ```

mod failure;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use queue_core::{
    Clock, Error, ErrorKind, Job, JobError, JobFilter, JobId, JobQuery, JobStore, LogRead,
    MemoryStore, Payload, Result, State, States, Timestamp,
};

pub use failure::{Failure, Failures};

use crate::{Pass, Queue, StepStatus, Summary, Task, Worker, WorkerBuilder, step_statuses};

/// Where the clock stands at first: 1 January 2030, noon, UTC.
const START: i64 = 1_893_499_200_000_000;
/// How many jobs are read at once.
const PAGE: NonZeroU32 = NonZeroU32::new(500).unwrap();
/// How often [`TestKit::drain_all`] moves the clock before it says that there is no end to it.
const MOVES: usize = 10_000;
/// How many passes are made while the clock stands.
const PASSES: usize = 10_000;

/// A queue in memory with a clock of its own. Each kit has its own jobs.
#[derive(Debug)]
pub struct TestKit {
    queue: Queue,
    clock: Clock,
    failures: Failures,
}

impl TestKit {
    /// An empty queue, at noon of 1 January 2030, UTC.
    ///
    /// # Errors
    /// `Config` when the thread for I/O cannot be started.
    pub fn new() -> Result<Self> {
        let clock = Clock::manual(Timestamp::from_micros_saturating(START));
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        Self::with_store(store, clock)
    }

    /// On another store, which must have been opened with this clock.
    ///
    /// # Errors
    /// `Config` when the thread for I/O cannot be started; `Invalid` for a clock that cannot be moved.
    pub fn with_store(store: Arc<dyn JobStore>, clock: Clock) -> Result<Self> {
        if !clock.is_manual() {
            return Err(Error::invalid("a test kit needs a manual clock, see Clock::manual"));
        }
        let queue = Queue::new(store)?.with_clock(clock.clone());
        Ok(TestKit { queue, clock, failures: Failures::default() })
    }

    /// Where the code under test enqueues.
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A worker of all queues, which fails where [`failures`](Self::failures) say so. Give it handlers and build it.
    pub fn worker(&self) -> WorkerBuilder {
        Worker::new(self.queue.clone()).all_queues().state(self.failures.clone())
    }

    /// What is to fail.
    pub const fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The clock, for code under test that takes one.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Runs what is due, retries that are due at once included, until nothing is due any more. The clock stands still.
    ///
    /// # Errors
    /// Trouble with the store, which the one in memory does not have. `Timeout` when there is no end to it: jobs that enqueue
    /// others, due at once, for ever.
    pub async fn drain(&self, worker: &Worker) -> Result<Summary> {
        let mut all = Summary::default();
        for _ in 0..PASSES {
            let summary = worker.run(Pass::new()).await?;
            let nothing_due = summary.jobs.is_empty();
            // Also the last one: it says what remains.
            all.extend(summary);
            if nothing_due {
                return Ok(all);
            }
        }
        Err(self.endless("10000 passes were made, and jobs are due still").await)
    }

    /// As [`drain`](Self::drain), and moves the clock to the next job that falls due, until no job is waiting or running.
    ///
    /// # Errors
    /// As [`drain`](Self::drain). `Timeout` when there is no end to it: jobs that no handler is there for, or that enqueue
    /// others for ever.
    pub async fn drain_all(&self, worker: &Worker) -> Result<Summary> {
        let mut all = self.drain(worker).await?;
        let mut is_idle = false;
        for _ in 0..MOVES {
            let dues = self.dues().await?;
            if dues.is_empty() {
                return Ok(all);
            }
            // What was due before and is still there waits for one that ends later: its lane is full.
            match dues.into_iter().filter(|due| *due > self.now()).min() {
                Some(due) => self.clock.set(due),
                None if is_idle => {
                    let why = "jobs are due and this worker does not take them";
                    return Err(self.endless(why).await);
                }
                None => {}
            }
            let summary = self.drain(worker).await?;
            is_idle = summary.jobs.is_empty();
            all.extend(summary);
        }
        Err(self.endless("the clock was moved 10000 times, and there are jobs still").await)
    }

    /// The instants at which live jobs are to be looked at.
    async fn dues(&self) -> Result<Vec<Timestamp>> {
        let live = self.all(JobFilter::all().with_states(States::LIVE)).await?;
        let due = live.iter().map(|job| match job.state {
            State::Running => job.lease_until.unwrap_or(job.run_at),
            _ => job.run_at,
        });
        Ok(due.collect())
    }

    async fn endless(&self, why: &str) -> Error {
        let live = self.all(JobFilter::all().with_states(States::LIVE)).await.unwrap_or_default();
        let first = live.first().map_or_else(String::new, |job| {
            format!("; the first is {:?} {} in queue {}", job.kind, job.id, job.queue)
        });
        Error::new(ErrorKind::Timeout, format!("{why}: {} are left{first}", live.len()))
    }

    /// The jobs that match, oldest first, without their logs.
    ///
    /// # Errors
    /// `Invalid` for a malformed filter.
    pub async fn all(&self, filter: JobFilter) -> Result<Vec<Job>> {
        let mut query = JobQuery::new(filter);
        query.limit = PAGE;
        let mut jobs = Vec::new();
        loop {
            let page = self.queue.find(query.clone()).await?;
            jobs.extend(page.items);
            query.after = page.next;
            if query.after.is_none() {
                jobs.sort_by_key(|job| (job.created_at, job.id));
                return Ok(jobs);
            }
        }
    }

    /// The inputs of the jobs of this task that wait, oldest first.
    ///
    /// # Panics
    /// If one of them cannot be read as this type.
    pub async fn enqueued<T: Task>(&self) -> Vec<T> {
        let filter = JobFilter::kind(T::NAME).with_states(State::Waiting);
        let jobs = self.read(self.all(filter).await);
        jobs.iter()
            .map(|job| match job.input.to() {
                Ok(task) => task,
                Err(error) => panic!("the input of {} is no {:?}: {error}", job.id, T::NAME),
            })
            .collect()
    }

    /// Asserts that a job waits, and returns it.
    ///
    /// # Panics
    /// If it does not; the message says what it does and why. So do the others.
    pub async fn assert_waiting(&self, id: JobId) -> Job {
        self.assert_state(id, State::Waiting).await
    }

    /// Asserts that a job completed, and returns it with its log.
    ///
    /// # Panics
    /// If it did not.
    pub async fn assert_completed(&self, id: JobId) -> Job {
        self.assert_state(id, State::Completed).await
    }

    /// Asserts that a job failed for good, and returns why.
    ///
    /// # Panics
    /// If it did not.
    pub async fn assert_failed(&self, id: JobId) -> JobError {
        let job = self.assert_state(id, State::Failed).await;
        match job.error.as_ref().map(Payload::to::<JobError>) {
            Some(Ok(error)) => error,
            _ => panic!("the job {id} failed without an error that can be read: {:?}", job.error),
        }
    }

    /// Asserts that a job was cancelled, and returns the reason.
    ///
    /// # Panics
    /// If it was not.
    pub async fn assert_cancelled(&self, id: JobId) -> String {
        let job = self.assert_state(id, State::Cancelled).await;
        job.cancel.map_or_else(String::new, |cancel| cancel.reason)
    }

    async fn assert_state(&self, id: JobId, state: State) -> Job {
        let job = self.read(self.queue.job(id).await);
        let Some(job) = job else {
            panic!("there is no job {id}; was it deleted when it completed?")
        };
        assert!(job.state == state, "{}", described(&job, state));
        job
    }

    /// The steps of a job, in the order in which they first ended.
    ///
    /// # Panics
    /// If there is no such job.
    pub async fn steps(&self, id: JobId) -> Vec<StepStatus> {
        let jobs = self.read(self.queue.jobs(vec![id], LogRead::All).await);
        match jobs.into_iter().flatten().next() {
            Some(job) => step_statuses(&job.log),
            None => panic!("there is no job {id}"),
        }
    }

    fn read<T>(&self, answer: Result<T>) -> T {
        match answer {
            Ok(read) => read,
            Err(error) => panic!("the store of the test kit failed: {error}"),
        }
    }
}

fn described(job: &Job, wanted: State) -> String {
    let error = job.error.as_ref().map_or_else(String::new, |error| format!("; error: {error}"));
    format!(
        "job {} ({:?}) is {:?}, not {wanted:?}; attempt {}, due at {}{error}",
        job.id, job.kind, job.state, job.attempt, job.run_at
    )
}
