//! The end of the conversation that asks.

use std::{
    collections::HashMap,
    fmt, io,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use queue_core::{
    Clock, Effect, Error, ErrorKind, JobStore, Result, StoreInfo, Timestamp, Wakeup, async_trait,
    spec::{Answer, ByOp, Op, RunOp},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Ask, PLACE, Question, Reply, Said, read, write};

/// How long a process may take to end once nobody talks to it any more.
const PATIENCE: Duration = Duration::from_secs(5);

fn lost(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the process of the handle: {why}"))
        .with_effect(Effect::Unknown)
}

/// Who waits for replies, by the number of the question. `None` when there are no more.
type Waiters = Arc<Mutex<Option<HashMap<u64, UnboundedSender<Said>>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    /// `None` when the process is to end.
    questions: Option<mpsc::Sender<Question>>,
    asked: AtomicU64,
    waiters: Waiters,
}

impl Process {
    fn start(place: &str) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(PLACE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no standard input and output"));
        };
        let (ask, questions) = mpsc::channel();
        let waiters: Waiters = Arc::new(Mutex::new(Some(HashMap::new())));
        // On threads: a full pipe must not stop the runtime of a property.
        thread::spawn(move || {
            questions.into_iter().try_for_each(|q: Question| write(&mut stdin, &q))
        });
        let heard = waiters.clone();
        thread::spawn(move || hear(stdout, &heard));
        Ok(Process {
            child: Mutex::new(child),
            questions: Some(ask),
            asked: AtomicU64::new(0),
            waiters,
        })
    }

    /// Ends it at once, and waits until it is gone: what it held open is closed then.
    fn kill(&self) {
        let mut child = lock(&self.child);
        // Errors say that it has ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks, and gives what is replied, one after the other; nothing when the process has ended.
    fn ask(&self, now: Timestamp, ask: Ask) -> UnboundedReceiver<Said> {
        let (say, replies) = unbounded_channel();
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(waiters) = &mut *lock(&self.waiters) {
            waiters.insert(number, say);
        }
        if let Some(questions) = &self.questions {
            // Where nobody takes questions any more, the waiters have been told.
            let _ = questions.send(Question { number, now, ask });
        }
        replies
    }
}

/// Passes replies on until there are no more; then nobody waits any longer.
fn hear(mut stdout: ChildStdout, waiters: &Waiters) {
    while let Ok(Some(Reply { number, said })) = read(&mut stdout) {
        let mut waiters = lock(waiters);
        let Some(waiters) = waiters.as_mut() else { break };
        let is_more_to_come = matches!(said, Said::Woken(_));
        // An error says that the one who asked has gone.
        let is_heard = waiters.get(&number).is_some_and(|waiter| waiter.send(said).is_ok());
        if !(is_more_to_come && is_heard) {
            waiters.remove(&number);
        }
    }
    *lock(waiters) = None;
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is the end of the process.
        self.questions = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match lock(&self.child).try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                _ => return,
            }
        }
        self.kill();
    }
}

/// A process that opens a store, and that can be killed at any moment, while it opens it too.
///
/// Clones are the same process. It ends when the last of them and of its stores is dropped.
#[derive(Clone, Debug)]
pub struct Killable {
    clock: Clock,
    process: Arc<Process>,
}

impl Killable {
    /// Starts the process; it opens nothing yet.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be started.
    pub fn start(place: &str, clock: &Clock) -> Result<Self> {
        let process = Arc::new(Process::start(place).map_err(lost)?);
        Ok(Killable { clock: clock.clone(), process })
    }

    /// Has the process open its store. To be called once.
    ///
    /// # Errors
    /// What the process says when it opens the store; `Unavailable` when it ends meanwhile.
    pub async fn open(&self) -> Result<Arc<dyn JobStore>> {
        let (clock, process) = (self.clock.clone(), self.process.clone());
        match process.ask(clock.now(), Ask::Ping).recv().await {
            Some(Said::Open(info)) => Ok(Arc::new(ByOp(Remote { info, clock, process }))),
            Some(Said::Failed(trouble)) => Err(trouble.into_error()),
            _ => Err(lost(
                "it ended before the store was open; does `main` begin with `processes::serve`?",
            )),
        }
    }

    /// Kills the process, without a chance to do anything more (on Unix by SIGKILL), and waits until it is gone.
    ///
    /// What it was asked and has not answered is answered with `Unavailable`, effect unknown; so is everything from now on.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// A store in another process.
#[derive(Debug)]
struct Remote {
    info: StoreInfo,
    clock: Clock,
    process: Arc<Process>,
}

impl Remote {
    async fn ask(&self, ask: Ask) -> Result<Said> {
        match self.process.ask(self.clock.now(), ask).recv().await {
            Some(Said::Failed(trouble)) => Err(trouble.into_error()),
            Some(said) => Ok(said),
            None => Err(lost("it has ended")),
        }
    }
}

#[async_trait]
impl RunOp for Remote {
    fn info(&self) -> StoreInfo {
        self.info.clone()
    }

    async fn ping(&self) -> Result<Timestamp> {
        match self.ask(Ask::Ping).await? {
            Said::Now(now) => Ok(now),
            _ => Err(lost("it answered another question")),
        }
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        let replies = self.process.ask(self.clock.now(), Ask::Listen);
        let heard = stream::unfold(replies, |mut replies| async move {
            match replies.recv().await {
                Some(Said::Woken(Some(queue))) => Some((Wakeup::queue(queue), replies)),
                Some(_) => Some((Wakeup::anywhere(), replies)),
                None => None,
            }
        });
        heard.boxed()
    }

    async fn run(&self, op: Op) -> Result<Answer> {
        match self.ask(Ask::Do(Box::new(op))).await? {
            Said::Answered(answer) => Ok(*answer),
            _ => Err(lost("it answered another question")),
        }
    }
}
