//! The one thread that writes.
//!
//! Commands that arrive while a transaction is being committed wait in the channel and form the next group: one
//! transaction, one wait for the disk, however many callers. Nothing is answered before COMMIT.

use std::{
    collections::{HashSet, VecDeque},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use queue_core::{Clock, Effect, Error, ErrorKind, QueueName, Result, Timestamp, Wakeup};
use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot};

use crate::{
    SqliteOptions,
    connect::{self, FileIdentity, LOG_LIMIT},
    error::{Db, Fault, STORE, effect_of_commit, from_sqlite},
};

/// At most so many commands share a transaction, so that the first of them does not wait for ever.
const GROUP: usize = 512;

/// What an operation works with inside its transaction.
pub(crate) struct Writing<'a> {
    pub(crate) db: &'a Connection,
    /// The store's now, taken once per operation, after the write lock was had: of two operations
    /// the later one never sees the earlier time.
    pub(crate) now: Timestamp,
    /// Where jobs may have become due; `None` stands for anywhere.
    pub(crate) hints: &'a mut HashSet<Option<QueueName>>,
}

/// A call that waits for its turn.
pub(crate) trait Command: Send {
    /// Does the work and keeps the answer. `Err` says that its changes must be undone.
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), ()>;
    /// Replaces the answer.
    fn fail(&mut self, error: Error);
    /// Sends the answer. Nobody may be there to take it: the call has happened all the same.
    fn reply(self: Box<Self>);
}

/// A call whose work is a function.
pub(crate) struct Call<T, F> {
    operation: &'static str,
    work: Option<F>,
    answer: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Call<T, F>
where
    T: Send,
    F: FnOnce(&mut Writing<'_>) -> Db<T> + Send,
{
    pub(crate) fn new(operation: &'static str, work: F) -> (Self, oneshot::Receiver<Result<T>>) {
        let (reply, answer) = oneshot::channel();
        (Call { operation, work: Some(work), answer: None, reply }, answer)
    }
}

impl<T, F> Command for Call<T, F>
where
    T: Send,
    F: FnOnce(&mut Writing<'_>) -> Db<T> + Send,
{
    fn run(&mut self, writing: &mut Writing<'_>) -> Result<(), ()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let answer = work(writing).map_err(|fault: Fault| fault.into_error(self.operation));
        let done = answer.as_ref().map(drop).map_err(drop);
        self.answer = Some(answer);
        done
    }

    fn fail(&mut self, error: Error) {
        self.answer = Some(Err(error.with_operation(self.operation).with_store(STORE)));
    }

    fn reply(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // An error says that the caller has gone.
            let _ = self.reply.send(answer);
        }
    }
}

/// How long a write-ahead log that has grown too long may hold up the writer while it waits for
/// readers, and how long it is left alone when they did not let it.
const LOG_WAIT: Duration = Duration::from_millis(100);
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The files that the writer looks after.
pub(crate) struct Log {
    database: PathBuf,
    wal: PathBuf,
    identity: FileIdentity,
    busy_timeout: Duration,
    not_before: Instant,
}

impl Log {
    pub(crate) fn of(options: &SqliteOptions) -> Self {
        let mut wal = options.path.clone().into_os_string();
        wal.push("-wal");
        Log {
            database: options.path.clone(),
            wal: wal.into(),
            identity: FileIdentity::of(&options.path),
            busy_timeout: options.busy_timeout,
            not_before: Instant::now(),
        }
    }

    /// Whether the path still names the file that is open. What is written to a deleted file is lost.
    fn is_in_place(&self) -> bool {
        FileIdentity::of(&self.database) == self.identity
    }

    /// Starts a log anew that has grown too long. SQLite's own checkpoints cannot while some reader
    /// is always in it.
    fn tend(&mut self, db: &Connection) {
        let length = std::fs::metadata(&self.wal).map_or(0, |file| file.len());
        if length < LOG_LIMIT || Instant::now() < self.not_before {
            return;
        }
        connect::set_timeout(LOG_WAIT.min(self.busy_timeout));
        let answer =
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        connect::set_timeout(self.busy_timeout);
        if answer != Ok(0) {
            self.not_before = Instant::now() + LOG_PAUSE;
        }
    }
}

/// The state of the thread that writes.
pub(crate) struct Writer {
    pub(crate) db: Connection,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    pub(crate) commands: Receiver<Box<dyn Command>>,
    pub(crate) readers: Vec<JoinHandle<()>>,
    pub(crate) hints: broadcast::Sender<Wakeup>,
    pub(crate) transactions: Arc<AtomicU64>,
}

impl Writer {
    /// Works until the last handle is gone and everything that it asked for is done; then closes
    /// the connection, which moves the log into the database.
    pub(crate) fn run(mut self) {
        let mut waiting: VecDeque<Box<dyn Command>> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match self.commands.recv() {
                    Ok(command) => waiting.push_back(command),
                    Err(_) => break,
                }
            }
            while waiting.len() < GROUP {
                match self.commands.try_recv() {
                    Ok(command) => waiting.push_back(command),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            // A panic in an operation is a bug of this crate, and no reason to take the store from all
            // other callers. Those of the group are told that it gave up, with an unknown effect.
            let work = AssertUnwindSafe(|| self.transact(&mut waiting));
            if panic::catch_unwind(work).is_err() {
                self.roll_back();
            }
            self.log.tend(&self.db);
        }
        for reader in self.readers {
            // The last connection to close moves the log into the file, and only one that
            // writes can. A reader that panicked has closed its connection as well.
            let _ = reader.join();
        }
        if let Err((_, error)) = self.db.close() {
            tracing::warn!(%error, "the database was not closed cleanly; the next opening recovers it");
        }
    }

    /// Takes commands from the front, runs them in one transaction and answers them. Those that
    /// could not be begun because SQLite gave the transaction up stay.
    fn transact(&self, waiting: &mut VecDeque<Box<dyn Command>>) {
        if !self.log.is_in_place() {
            for mut command in waiting.drain(..) {
                command.fail(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "{} was deleted or replaced while it was open",
                        self.log.database.display()
                    ),
                ));
                command.reply();
            }
            return;
        }
        if let Err(error) = self.db.execute_cached("BEGIN IMMEDIATE") {
            return answer_all(waiting.drain(..), &error, Effect::None);
        }
        self.transactions.fetch_add(1, Ordering::Relaxed);
        let mut hints = HashSet::new();
        let mut done: Vec<Box<dyn Command>> = Vec::with_capacity(waiting.len());
        let alone = waiting.len() == 1;
        while let Some(mut command) = waiting.pop_front() {
            let mut writing = Writing { db: &self.db, now: self.clock.now(), hints: &mut hints };
            let kept = match alone {
                true => command.run(&mut writing).is_ok(),
                false => self.run_in_savepoint(command.as_mut(), &mut writing),
            };
            if alone && !kept {
                self.roll_back();
                return command.reply();
            }
            done.push(command);
            if self.db.is_autocommit() {
                // A full disk or a failing one ends a transaction from within (lang_transaction.html,
                // section 3): whatever ran in it has not happened.
                let gone = Error::new(
                    ErrorKind::Unavailable,
                    "SQLite rolled the transaction back that this call shared with others",
                );
                tracing::warn!(error = %gone, calls = done.len(), "a transaction was given up");
                for mut command in done {
                    command.fail(Error::new(gone.kind(), gone.message().to_owned()));
                    command.reply();
                }
                return;
            }
        }
        self.finish(done, hints);
    }

    /// Runs a command so that its failure undoes its own changes only.
    fn run_in_savepoint(&self, command: &mut dyn Command, writing: &mut Writing<'_>) -> bool {
        if let Err(error) = self.db.execute_cached("SAVEPOINT queue_call") {
            command.fail(from_sqlite(error));
            return false;
        }
        let kept = command.run(writing).is_ok();
        let ended = match kept {
            true => self.db.execute_cached("RELEASE queue_call"),
            false => self
                .db
                .execute_cached("ROLLBACK TO queue_call")
                .and_then(|()| self.db.execute_cached("RELEASE queue_call")),
        };
        if let Err(error) = ended {
            // What is left of the command cannot be told apart from the others' work.
            self.roll_back();
            command.fail(from_sqlite(error));
        }
        kept
    }

    fn finish(&self, done: Vec<Box<dyn Command>>, hints: HashSet<Option<QueueName>>) {
        if let Err(error) = self.db.execute_cached("COMMIT") {
            self.roll_back();
            return answer_all(done.into_iter(), &error, effect_of_commit(&error));
        }
        for command in done {
            command.reply();
        }
        if self.hints.receiver_count() > 0 {
            for queue in hints {
                let wakeup = queue.map_or(Wakeup::anywhere(), Wakeup::queue);
                // An error says that nobody listens.
                let _ = self.hints.send(wakeup);
            }
        }
    }

    fn roll_back(&self) {
        if self.db.is_autocommit() {
            return;
        }
        if let Err(error) = self.db.execute_cached("ROLLBACK") {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

/// Answers commands with one failure, each with an error of its own.
fn answer_all(
    commands: impl Iterator<Item = Box<dyn Command>>,
    error: &rusqlite::Error,
    effect: Effect,
) {
    for mut command in commands {
        command.fail(from_sqlite(again(error)).with_effect(effect));
        command.reply();
    }
}

/// The same failure once more: SQLite's errors cannot be cloned.
fn again(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            rusqlite::Error::SqliteFailure(*failure, message.clone())
        }
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}

trait ExecuteCached {
    fn execute_cached(&self, sql: &str) -> rusqlite::Result<()>;
}

impl ExecuteCached for Connection {
    fn execute_cached(&self, sql: &str) -> rusqlite::Result<()> {
        crate::sql::prepare(self, sql)?.execute([]).map(drop)
    }
}
