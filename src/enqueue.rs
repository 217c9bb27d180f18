use std::{future::IntoFuture, marker::PhantomData, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use queue_core::{
    Inserted, JobId, Keep, Lane, NewJob, Payload, QueueName, Result, Timestamp, Unique, When,
};

use crate::{JobHandle, Queue, Task};

/// The settings of a call, over those of the task.
#[derive(Clone, Debug, Default)]
struct Settings {
    queue: Option<QueueName>,
    priority: Option<i16>,
    when: Option<When>,
    max_crashes: Option<u32>,
    keep: Keep,
    labels: Vec<(String, String)>,
    unique: Option<Unique>,
    lane: Option<Lane>,
}

impl Settings {
    fn job<T: Task>(&self, task: &T) -> Result<NewJob> {
        let options = T::options();
        let mut job = NewJob::new(T::NAME, Payload::from_value(task)?);
        job.queue = self.queue.clone().or(options.queue).unwrap_or_default();
        job.priority = self.priority.unwrap_or(job.priority);
        job.when = self.when.unwrap_or(job.when);
        job.max_crashes = self.max_crashes.unwrap_or(job.max_crashes);
        job.keep = self.keep;
        job.labels.extend(self.labels.iter().cloned());
        job.unique = self.unique.clone().or_else(|| task.unique());
        job.lane = self.lane.clone().or_else(|| task.lane());
        Ok(job)
    }
}

macro_rules! settings {
    () => {
        /// In this queue.
        pub fn queue(mut self, queue: QueueName) -> Self {
            self.settings.queue = Some(queue);
            self
        }

        /// With this priority; higher runs first, 0 is the default.
        pub const fn priority(mut self, priority: i16) -> Self {
            self.settings.priority = Some(priority);
            self
        }

        /// Due so long from now, by the store's clock.
        pub const fn delay(mut self, delay: Duration) -> Self {
            self.settings.when = Some(When::After(delay));
            self
        }

        /// Due at this instant.
        pub const fn at(mut self, at: Timestamp) -> Self {
            self.settings.when = Some(When::At(at));
            self
        }

        /// With a label.
        pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.settings.labels.push((key.into(), value.into()));
            self
        }

        /// Under a unique key.
        pub fn unique(mut self, unique: Unique) -> Self {
            self.settings.unique = Some(unique);
            self
        }

        /// In a lane.
        pub fn lane(mut self, lane: Lane) -> Self {
            self.settings.lane = Some(lane);
            self
        }

        /// Surviving so many lost leases; 3 is the default.
        pub const fn max_crashes(mut self, crashes: u32) -> Self {
            self.settings.max_crashes = Some(crashes);
            self
        }

        /// Deleted by the write that completes it. Failed and cancelled jobs stay.
        pub const fn delete_on_complete(mut self) -> Self {
            self.settings.keep = Keep::UnlessCompleted;
            self
        }
    };
}

/// A job about to be enqueued; await it.
#[derive(Debug)]
#[must_use = "nothing is enqueued until it is awaited"]
pub struct Enqueue<'a, T> {
    queue: &'a Queue,
    task: T,
    id: Option<JobId>,
    settings: Settings,
}

impl<'a, T: Task> Enqueue<'a, T> {
    pub(crate) fn new(queue: &'a Queue, task: T) -> Self {
        Enqueue { queue, task, id: None, settings: Settings::default() }
    }

    /// With this id. Enqueuing an id that is there changes nothing.
    pub const fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// The job as it would be stored, for [`Queue::insert`] or for the caller's own transaction.
    ///
    /// # Errors
    /// `Invalid` when the task cannot be written as JSON.
    pub fn into_new_job(self) -> Result<NewJob> {
        let mut job = self.settings.job(&self.task)?;
        job.id = self.id.unwrap_or(job.id);
        Ok(job)
    }

    settings!();
}

impl<'a, T: Task> IntoFuture for Enqueue<'a, T> {
    type Output = Result<JobHandle<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let queue = self.queue;
        let job = self.into_new_job();
        async move {
            let mut handles = insert(queue, vec![job?]).await?;
            handles.pop().ok_or_else(|| {
                queue_core::Error::new(queue_core::ErrorKind::Backend, "the store gave no answer")
            })
        }
        .boxed()
    }
}

/// Jobs about to be enqueued; await them.
#[derive(Debug)]
#[must_use = "nothing is enqueued until it is awaited"]
pub struct EnqueueMany<'a, T> {
    queue: &'a Queue,
    tasks: Vec<T>,
    settings: Settings,
    kind: PhantomData<T>,
}

impl<'a, T: Task> EnqueueMany<'a, T> {
    pub(crate) fn new(queue: &'a Queue, tasks: Vec<T>) -> Self {
        EnqueueMany { queue, tasks, settings: Settings::default(), kind: PhantomData }
    }

    settings!();
}

impl<'a, T: Task> IntoFuture for EnqueueMany<'a, T> {
    type Output = Result<Vec<JobHandle<T>>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let jobs: Result<Vec<NewJob>> =
            self.tasks.iter().map(|task| self.settings.job(task)).collect();
        let queue = self.queue;
        async move { insert(queue, jobs?).await }.boxed()
    }
}

async fn insert<T: Task>(queue: &Queue, jobs: Vec<NewJob>) -> Result<Vec<JobHandle<T>>> {
    let inserted: Vec<Inserted> = queue.insert(jobs).await?;
    Ok(inserted.into_iter().map(|inserted| JobHandle::new(queue.clone(), inserted)).collect())
}
