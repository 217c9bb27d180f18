//! Handles in processes of their own: the test program starts itself again, and talks to it through its standard input and
//! output.
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc};
//! use conformance_tests::{Fixture, Harness, Suite, async_trait, processes};
//! use queue_core::{Clock, JobStore, Result};
//! # #[derive(Debug)] struct MyStore;
//! # impl MyStore { async fn open(_place: &str, _clock: Clock) -> Result<Arc<dyn JobStore>> { unreachable!() } }
//!
//! struct Mine;
//!
//! #[async_trait]
//! impl Harness for Mine {
//!     async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
//!         let place = "what names an empty store: a path, a URL";
//!         let store = MyStore::open(place, clock.clone()).await?;
//!         Ok(Fixture::new(store).clocked().with_processes(place, clock))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     // In a process that the suite has started, `serve` does all the work.
//!     let open = |place: String, clock| async move { MyStore::open(&place, clock).await };
//!     processes::serve(open).unwrap_or_else(|| Suite::new(Mine).run())
//! }
//! ```

use std::{
    io::{self, Read, Write},
    process::ExitCode,
    sync::Arc,
    thread,
};

use futures::StreamExt;
use queue_core::{
    Clock, Effect, Error, ErrorKind, JobStore, QueueName, Result, StoreInfo, Timestamp,
    spec::{Answer, Op},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

mod remote;

pub use remote::Killable;

/// Set for a process that is to serve: the place that it opens.
const PLACE: &str = "QUEUE_CONFORMANCE_PLACE";

/// More than the largest job with its log, several times over; something else writes where longer messages come from.
const MAX_MESSAGE: usize = 256 << 20;

/// What a process is asked. The clock goes with every question, so that the hands are moved where they are read.
#[derive(Serialize, Deserialize)]
struct Question {
    number: u64,
    now: Timestamp,
    ask: Ask,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    Ping,
    Do(Box<Op>),
    Listen,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    number: u64,
    said: Said,
}

#[derive(Serialize, Deserialize)]
enum Said {
    /// The store is open.
    Open(StoreInfo),
    Now(Timestamp),
    Answered(Box<Answer>),
    Failed(Trouble),
    /// A wake-up: of a queue, or anywhere.
    Woken(Option<QueueName>),
}

/// An error on its way.
#[derive(Serialize, Deserialize)]
struct Trouble {
    kind: String,
    is_unknown: bool,
    message: String,
}

impl Trouble {
    fn of(error: &Error) -> Self {
        Trouble {
            kind: error.kind().to_string(),
            is_unknown: error.effect() == Effect::Unknown,
            message: error.to_string(),
        }
    }

    fn into_error(self) -> Error {
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.to_string() == self.kind);
        let effect = if self.is_unknown { Effect::Unknown } else { Effect::None };
        Error::new(kind.unwrap_or(ErrorKind::Backend), self.message).with_effect(effect)
    }
}

/// Writes a message with its length before it: payloads may have line breaks.
fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads a message; `None` at the end.
fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other("not a message"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Opens a handle in a process of its own, which ends with the handle.
///
/// What that process writes to standard output beside its answers ends the conversation; standard error is free.
///
/// # Errors
/// The process cannot be started, or what it says when it opens the store.
pub async fn open(place: &str, clock: &Clock) -> Result<Arc<dyn JobStore>> {
    Killable::start(place, clock)?.open().await
}

/// Whether this process is to serve another one. It must not run the suite then, or each run would start others.
pub(crate) fn is_to_serve() -> bool {
    std::env::var_os(PLACE).is_some()
}

/// In a process that the suite has started: opens the store, answers until nobody asks any more, and says how to exit.
/// In any other: `None`.
///
/// `open` is given the place that [`Fixture::with_processes`](crate::Fixture::with_processes) named, and the clock by which
/// the store must run.
pub fn serve<F, Fut>(open: F) -> Option<ExitCode>
where
    F: FnOnce(String, Clock) -> Fut,
    Fut: Future<Output = Result<Arc<dyn JobStore>>>,
{
    let place = std::env::var(PLACE).ok()?;
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(answer(place, open)));
    // Nobody reads what could be said about it.
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn answer<F, Fut>(place: String, open: F) -> io::Result<()>
where
    F: FnOnce(String, Clock) -> Fut,
    Fut: Future<Output = Result<Arc<dyn JobStore>>>,
{
    let (ask, mut questions) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(question)) = read::<Question>(&mut input) {
            if ask.send(question).is_err() {
                break;
            }
        }
    });
    let say = |number, said| write(&mut io::stdout().lock(), &Reply { number, said });
    // The first question brings the time at which to open.
    let Some(first) = questions.recv().await else { return Ok(()) };
    let clock = Clock::manual(first.now);
    let store = match open(place, clock.clone()).await {
        Ok(store) => store,
        Err(error) => return say(first.number, Said::Failed(Trouble::of(&error))),
    };
    say(first.number, Said::Open(store.info()))?;
    while let Some(Question { number, now, ask }) = questions.recv().await {
        clock.set(now);
        let store = store.clone();
        tokio::spawn(async move {
            let said = match ask {
                Ask::Do(op) => op.run(&*store).await.map(|answer| Said::Answered(Box::new(answer))),
                Ask::Ping => store.ping().await.map(Said::Now),
                Ask::Listen => {
                    let mut wakeups = store.wakeups();
                    while let Some(wakeup) = wakeups.next().await {
                        say(number, Said::Woken(wakeup.queue))?;
                    }
                    return Ok(());
                }
            };
            say(number, said.unwrap_or_else(|error| Said::Failed(Trouble::of(&error))))
        });
    }
    Ok(())
}
