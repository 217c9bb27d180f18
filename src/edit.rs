use std::time::Duration;

use queue_core::{Guard, Job, JobId, JobPatch, JobStoreExt, LogRead, Outcome, Result, Version};

use crate::{Queue, jitter::jittered};

/// The waits before the tries of an edit that follow a stale one.
const WAITS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

impl Queue {
    /// Changes the progress and labels of a job and appends to its log, if it still has this version; all of it or nothing.
    /// One trip.
    ///
    /// `Applied` brings the new version, `Conflict` the current one; `Missing` where there is no such job.
    ///
    /// # Errors
    /// `Invalid` for a malformed patch and for one with a transition, which only the holder of a job can make; trouble with the
    /// store. After [`Effect::Unknown`](queue_core::Effect) the change may have been made: read the job before it is tried again.
    pub async fn update(&self, id: JobId, version: Version, patch: JobPatch) -> Result<Outcome> {
        let guard = if broken!(EditUnguarded) { Guard::None } else { Guard::Version(version) };
        self.io().change(move |store| async move { store.update_one(id, guard, patch).await }).await
    }

    /// Reads a job (without its log) and makes the change that follows from it, without losing anybody else's: the change is made
    /// only if nobody has edited the job since it was read.
    ///
    /// Otherwise the job is read again and `change` called again, at most three times, after 100, 200 and 400 ms (each
    /// between half and one and a half of it, so that editors who met once do not meet again). `Conflict` with the current
    /// version is answered if that was not enough. Two trips a try.
    ///
    /// ```
    /// # use queue::core::JobPatch;
    /// # #[derive(serde::Serialize, serde::Deserialize, queue::Task)]
    /// # #[task(name = "import")]
    /// # struct Import;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> queue::Result<()> {
    /// # let queue = queue::Queue::connect("memory:").await?;
    /// let job = queue.enqueue(Import).label("views", "7").await?;
    /// let views = |job: &queue::Job| job.labels["views"].parse::<u32>().unwrap_or(0);
    /// let more = |job: &queue::Job| {
    ///     JobPatch::default().with_label("views", (views(job) + 1).to_string())
    /// };
    /// assert!(queue.edit(job.id(), more).await?.is_saved());
    /// assert_eq!(views(&job.job().await?.unwrap()), 8);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn edit(
        &self,
        id: JobId,
        mut change: impl FnMut(&Job) -> JobPatch + Send,
    ) -> Result<Outcome> {
        let mut waits = WAITS.iter();
        loop {
            let Some(job) = self.jobs(vec![id], LogRead::None).await?.pop().flatten() else {
                return Ok(Outcome::Missing);
            };
            let patch = change(&job);
            match (self.update(id, job.version, patch).await?, waits.next()) {
                (Outcome::Conflict { .. }, Some(wait)) => {
                    tokio::time::sleep(jittered(*wait)).await;
                }
                (outcome, _) => return Ok(outcome),
            }
        }
    }
}
