//! Wake-ups: hints that go with an insert, or are gathered and sent beside the calls that cause them, and heard on one
//! connection.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{args::Args, db, options::Pooler};
use queue_core::{QueueName, Wakeup};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    task::JoinHandle,
};

/// How many wake-ups a slow listener may be behind before they are summed up as "anywhere".
const BACKLOG: usize = 256;

/// How long a hint waits for an insert that may send it along.
const TURN: Duration = Duration::from_millis(50);

/// Names of queues for the next notification; `None` stands for anywhere.
type Hint = Option<QueueName>;

/// Where hints go, and where they come from. Ends its tasks when it is dropped.
pub(crate) struct Hints {
    send: Option<mpsc::UnboundedSender<Hint>>,
    heard: broadcast::Sender<Wakeup>,
    /// Whose commit may notify.
    turn: Arc<Semaphore>,
    tasks: Vec<JoinHandle<()>>,
}

impl Hints {
    /// No wake-ups.
    pub(crate) fn silent() -> Self {
        let heard = broadcast::channel(1).0;
        Hints { send: None, heard, turn: Arc::new(Semaphore::new(0)), tasks: Vec::new() }
    }

    /// Sends by this statement and listens on this channel, by a connection to this server.
    pub(crate) fn start(
        pool: PgPool,
        pooler: Pooler,
        notify: Arc<str>,
        server: PgConnectOptions,
        channel: String,
        call_timeout: Duration,
    ) -> Self {
        let (send, hints) = mpsc::unbounded_channel();
        let (heard, _) = broadcast::channel(BACKLOG);
        let turn = Arc::new(Semaphore::new(1));
        let tasks = vec![
            tokio::spawn(tell(pool, pooler, notify, hints, turn.clone(), call_timeout)),
            tokio::spawn(listen(server, channel, heard.clone())),
        ];
        Hints { send: Some(send), heard, turn, tasks }
    }

    /// The right to notify with a statement of one's own, as long as the value is kept: where no other notification of this
    /// process is under way, that saves a statement and the time until it is sent. A commit with a notification takes a lock of
    /// the whole database (one per insert cut 16 clients from 7,900 to 3,000 inserts a second), so all others hand theirs
    /// over to be gathered.
    pub(crate) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().try_acquire_owned().ok()
    }

    /// Whether anything is ever heard.
    pub(crate) const fn are_sent(&self) -> bool {
        self.send.is_some()
    }

    pub(crate) fn queue(&self, queue: QueueName) {
        self.hint(Some(queue));
    }

    pub(crate) fn anywhere(&self) {
        self.hint(None);
    }

    fn hint(&self, hint: Hint) {
        if let Some(send) = &self.send {
            // An error says that the runtime of the store has ended.
            let _ = send.send(hint);
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Wakeup> {
        self.heard.subscribe()
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Sends what has gathered while the last notification was under way, each queue once.
async fn tell(
    pool: PgPool,
    pooler: Pooler,
    notify: Arc<str>,
    mut hints: mpsc::UnboundedReceiver<Hint>,
    turn: Arc<Semaphore>,
    call_timeout: Duration,
) {
    while let Some(first) = hints.recv().await {
        // An insert that waits for a lock may have it for long; it is never closed.
        let _turn = tokio::time::timeout(TURN, turn.acquire()).await;
        let mut names = BTreeSet::from([first]);
        while let Ok(more) = hints.try_recv() {
            names.insert(more);
        }
        // An empty name, which no queue has, says "anywhere".
        let names: Vec<String> = names
            .into_iter()
            .map(|name| name.map_or_else(String::new, |name| name.to_string()))
            .collect();
        // One that is not heard must not keep all others waiting.
        let told = db::once(&pool, pooler, call_timeout, &notify, Args::new().with(names));
        if let Err(error) = told.await {
            // A hint may be lost; workers poll as well.
            tracing::debug!(%error, "a wake-up was not sent");
        }
    }
}

/// How long to wait before listening is tried again: longer each time, until it has held for a while.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

async fn listen(server: PgConnectOptions, channel: String, heard: broadcast::Sender<Wakeup>) {
    let mut wait = SHORTEST_WAIT;
    loop {
        let began = std::time::Instant::now();
        if let Err(error) = listen_once(&server, &channel, &heard).await {
            tracing::warn!(%error, "the connection for wake-ups failed; until there is another, workers poll");
        }
        if began.elapsed() > LONGEST_WAIT {
            wait = SHORTEST_WAIT;
        }
        // Whatever was sent meanwhile was missed.
        let _ = heard.send(Wakeup::anywhere());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn listen_once(
    server: &PgConnectOptions,
    channel: &str,
    heard: &broadcast::Sender<Wakeup>,
) -> Result<(), sqlx::Error> {
    // On a connection beside the pool: those of the pool are for calls.
    let beside = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(server.clone());
    let mut listener = PgListener::connect_with(&beside).await?;
    listener.listen(channel).await?;
    // What was sent before is not heard.
    let _ = heard.send(Wakeup::anywhere());
    loop {
        let wakeup = match listener.try_recv().await? {
            None => Wakeup::anywhere(),
            Some(told) => {
                QueueName::new(told.payload()).map_or_else(|_| Wakeup::anywhere(), Wakeup::queue)
            }
        };
        // An error says that nobody listens.
        let _ = heard.send(wakeup);
    }
}
