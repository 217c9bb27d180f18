use async_trait::async_trait;

use crate::{
    Ack, BulkChange, ErrorKind, Guard, Inserted, Job, JobFilter, JobId, JobPatch, JobStore,
    JobUpdate, LogEntry, LogRead, NewJob, Outcome, Payload, QueueName, Record, Result, Seq, State,
    Version,
};

/// Conveniences over every [`JobStore`]. A blanket implementation: no store can get them wrong.
#[async_trait]
pub trait JobStoreExt: JobStore {
    /// Inserts one job.
    async fn insert_one(&self, job: &NewJob) -> Result<Inserted> {
        first(self.insert(std::slice::from_ref(job)).await?)
    }

    /// Makes one change.
    async fn update_one(&self, id: JobId, guard: Guard, patch: JobPatch) -> Result<Outcome> {
        first(self.update_jobs(&[JobUpdate::new(id, guard, patch)]).await?)
    }

    /// Reads one job with its whole log.
    async fn get_one(&self, id: JobId) -> Result<Option<Job>> {
        first(self.get(&[id], LogRead::All).await?)
    }

    /// Reads the entries of a job's log after a position. `None` when there is no such job.
    async fn log_after(&self, id: JobId, after: Seq) -> Result<Option<Vec<LogEntry>>> {
        let job: Option<Job> = first(self.get(&[id], LogRead::After(after)).await?)?;
        Ok(job.map(|job| job.log))
    }

    /// Cancels one job: `Applied` when it ended at once or was signalled, `Illegal` when it had
    /// ended before, `Missing` when there is none. Two trips at most.
    async fn cancel(&self, id: JobId, reason: &str) -> Result<Outcome> {
        let change = BulkChange::Cancel { reason: reason.to_owned() };
        let counts = self.update_where(&JobFilter::id(id), &change).await?;
        if counts.changed + counts.signalled > 0 {
            return Ok(Outcome::Applied(Ack::default()));
        }
        if counts.finished == 0 {
            return Ok(Outcome::Missing);
        }
        let job: Option<Job> = first(self.get(&[id], LogRead::None).await?)?;
        Ok(job.map_or(Outcome::Missing, |job| Outcome::Illegal { from: job.state }))
    }

    /// Makes one job due now, or tells the running one that something happened. One trip.
    async fn wake(&self, id: JobId) -> Result<()> {
        self.update_where(&JobFilter::id(id).with_states(crate::States::LIVE), &BulkChange::Wake)
            .await
            .map(drop)
    }

    /// Pauses a queue: within a second no claim takes from it. One trip.
    async fn pause(&self, queue: &QueueName) -> Result<()> {
        let record = Record::new(Record::pause_key(queue), Payload::null());
        self.put_record(&record, None).await.map(drop)
    }

    /// Resumes a paused queue. One trip.
    async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.put_record(&Record::removal(Record::pause_key(queue)), None).await.map(drop)
    }

    /// How many matching jobs there are, in all queues and states. One trip.
    async fn count(&self, filter: &JobFilter) -> Result<u64> {
        Ok(self.tally(filter).await?.iter().map(|tally| tally.count).sum())
    }

    /// The state of a job; `None` when there is none. One trip.
    async fn state(&self, id: JobId) -> Result<Option<State>> {
        let job: Option<Job> = first(self.get(&[id], LogRead::None).await?)?;
        Ok(job.map(|job| job.state))
    }

    /// The version of a job; `None` when there is none. One trip.
    async fn version(&self, id: JobId) -> Result<Option<Version>> {
        let job: Option<Job> = first(self.get(&[id], LogRead::None).await?)?;
        Ok(job.map(|job| job.version))
    }
}

impl<S: JobStore + ?Sized> JobStoreExt for S {}

/// The one answer to a call with one item.
fn first<T>(answers: Vec<T>) -> Result<T> {
    let count = answers.len();
    match answers.into_iter().next() {
        Some(answer) if count == 1 => Ok(answer),
        _ => Err(crate::Error::new(
            ErrorKind::Backend,
            format!("the store gave {count} answers to a call with one item"),
        )
        .with_effect(crate::Effect::Unknown)),
    }
}
