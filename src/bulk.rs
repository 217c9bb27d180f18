use queue_core::{
    Ack, BulkChange, BulkOutcome, JobFilter, JobId, JobStoreExt, Outcome, PAUSED_QUEUE, QueueName,
    Record, Result,
};

use crate::Queue;

impl Queue {
    /// Sets the priority of all matching jobs that wait or run; a running one has it if it is retried. One trip.
    ///
    /// # Errors
    /// `Invalid` for a malformed filter; trouble with the store; the call can be repeated.
    pub async fn set_priority(&self, filter: JobFilter, priority: i16) -> Result<BulkOutcome> {
        self.update_where(filter, BulkChange::Priority(priority)).await
    }

    /// Moves all matching jobs that wait or run to another queue; a running one goes on, and is there if it is retried. One trip.
    ///
    /// # Errors
    /// As [`set_priority`](Self::set_priority).
    pub async fn move_to(&self, filter: JobFilter, queue: QueueName) -> Result<BulkOutcome> {
        self.update_where(filter, BulkChange::Queue(queue)).await
    }

    /// Makes a waiting job due now. A running one is told that something happened: if it gives itself back, it is due at once.
    /// `Illegal` for a job that has ended, `Missing` for one that is not there. Two trips at most.
    ///
    /// # Errors
    /// Trouble with the store; waking again is harmless.
    pub async fn wake(&self, id: JobId) -> Result<Outcome> {
        let counts = self.wake_where(JobFilter::id(id)).await?;
        if counts.changed + counts.signalled > 0 {
            return Ok(Outcome::Applied(Ack::default()));
        }
        let state = self.io().call(move |store| async move { store.state(id).await }).await?;
        Ok(state.map_or(Outcome::Missing, |from| Outcome::Illegal { from }))
    }

    /// As [`wake`](Self::wake), all matching jobs. One trip.
    ///
    /// # Errors
    /// As [`set_priority`](Self::set_priority).
    pub async fn wake_where(&self, filter: JobFilter) -> Result<BulkOutcome> {
        self.update_where(filter, BulkChange::Wake).await
    }

    /// The paused queues, by name. One trip.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn paused(&self) -> Result<Vec<QueueName>> {
        let records =
            self.io().call(|store| async move { store.records(PAUSED_QUEUE).await }).await?;
        let name = |record: &Record| record.key.strip_prefix(PAUSED_QUEUE)?.parse().ok();
        Ok(records.iter().filter_map(name).collect())
    }

    pub(crate) async fn update_where(
        &self,
        filter: JobFilter,
        change: BulkChange,
    ) -> Result<BulkOutcome> {
        self.io().change(|store| async move { store.update_where(&filter, &change).await }).await
    }
}
