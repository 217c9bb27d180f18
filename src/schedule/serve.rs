//! Handling as a worker does it: by the store's clock, or when it is asked to.

use std::{sync::Arc, time::Duration};

use queue_core::{QueueName, Result};
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Handled, Scheduler, known::Seen, pass::Round};
use crate::{io::surviving, jitter::jittered};

/// The longest sleep without a look at the store's clock.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The pause after trouble with the store.
const AFTER_TROUBLE: Duration = Duration::from_millis(500);
/// How far workers that wait for one slot spread, after it: the first fires it, and the others see that it is fired.
const SPREAD: Duration = Duration::from_millis(20);

impl Scheduler {
    /// Handles what is due at its beginning, each schedule in its turn, until all of that is handled or the store failed. What
    /// becomes due meanwhile is left: with slow hooks there would be no end.
    pub(crate) async fn handle_once(&self, queues: Option<&[QueueName]>) -> Result<Handled> {
        if self.is_idle(queues) {
            return Ok(Handled::default());
        }
        let (mut all, mut begun) = (Handled::default(), None);
        loop {
            let mut seen = Seen::read(self.queue()).await?;
            seen.now = *begun.get_or_insert(seen.now);
            let Round { handled, more, again, .. } =
                self.round(queues, seen, &Handle::current()).await;
            all.extend(handled);
            if again || !more {
                return Ok(all);
            }
        }
    }

    /// Handles each slot as it comes, until `over` is cancelled: on the thread for I/O, so that no handler holds it up. The hooks run
    /// where handlers do.
    pub(crate) fn start(self: &Arc<Self>, over: CancellationToken) -> Option<JoinHandle<()>> {
        let io = self.queue().io().handle().filter(|_| !self.is_idle(None))?;
        Some(io.spawn(serve(self.clone(), Handle::current(), over)))
    }
}

async fn serve(scheduler: Arc<Scheduler>, hooks: Handle, over: CancellationToken) {
    while !over.is_cancelled() {
        // A round that began is ended: a hook that was asked is also told.
        let round = async {
            let seen = Seen::read(scheduler.queue()).await?;
            Ok(scheduler.round(None, seen, &hooks).await)
        };
        let round = surviving(round).await;
        if let Err(error) = &round {
            tracing::warn!(%error, "the schedules could not be read; trying again");
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = rest(round.ok()) => {}
        }
    }
}

/// Waits until there is something to do.
async fn rest(round: Option<Round>) {
    let Some(Round { wake, clock, again: false, more, .. }) = round else {
        return tokio::time::sleep(jittered(AFTER_TROUBLE)).await;
    };
    if more {
        return;
    }
    let seen = clock.now();
    let slot = async {
        match wake {
            Some(next) => clock.sleep_until(next).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = slot => tokio::time::sleep(jittered(SPREAD)).await,
        () = clock.moved_from(seen) => {}
        () = tokio::time::sleep(LONGEST_SLEEP) => {}
    }
}
