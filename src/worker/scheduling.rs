//! A worker's schedules.

use std::time::Duration;

use queue_core::{QueueName, Result};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Worker;
use crate::{Handled, ScheduleInfo, Scheduling};

impl Worker {
    /// Enqueues what this worker's schedules have due when it begins, once, whether or not [`Scheduling`] is on: for programs
    /// that are started by a platform's own cron. A schedule that was never seen before begins now, and has nothing due.
    ///
    /// What fails is in the answer and stops nothing else. Three trips, and one for each slot (five on some stores).
    ///
    /// # Errors
    /// Trouble with the store when the schedules are read.
    pub async fn handle_schedules(&self) -> Result<Handled> {
        self.scheduler.handle_once(None).await
    }

    /// As [`handle_schedules`](Self::handle_schedules), for the schedules that enqueue into these queues.
    ///
    /// # Errors
    /// As [`handle_schedules`](Self::handle_schedules).
    pub async fn handle_schedules_of(&self, queues: &[QueueName]) -> Result<Handled> {
        self.scheduler.handle_once(Some(queues)).await
    }

    /// What is known of this worker's schedules, in the order in which they were given. Three trips.
    ///
    /// # Errors
    /// Trouble with the store.
    pub async fn schedules(&self) -> Result<Vec<ScheduleInfo>> {
        self.scheduler.infos().await
    }

    /// Handles the schedules until that is stopped or dropped, or the token is cancelled.
    pub(super) fn start_scheduling(&self) -> (Ticking, CancellationToken) {
        let over = CancellationToken::new();
        let task = match self.settings.scheduling {
            Scheduling::Automatic => self.scheduler.start(over.clone()),
            Scheduling::Off if broken!(SchedulingOffIsIgnored) => {
                self.scheduler.start(over.clone())
            }
            Scheduling::Off => None,
        };
        (Ticking { task, over: over.clone().drop_guard() }, over)
    }
}

/// Schedules that are being handled.
pub(super) struct Ticking {
    task: Option<JoinHandle<()>>,
    over: DropGuard,
}

impl Ticking {
    /// Begins no further round, and lets the current one end within this time.
    pub(super) async fn stop(self, grace: Duration) {
        drop(self.over);
        if let Some(task) = self.task
            && timeout(grace, task).await.is_err()
        {
            tracing::warn!("schedules were still being handled when the worker stopped");
        }
    }
}
