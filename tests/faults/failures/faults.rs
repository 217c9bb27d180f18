//! The ways in which a handler can fail.

use std::{error::Error, fmt, panic::panic_any};

use futures::future::try_join;
use queue::{Task, TaskError, TaskResult, Wf};
use serde::{Deserialize, Serialize};

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Faulty {
    Text,
    Formatted,
    Huge,
    NoText,
    /// What the panic carries panics when it is dropped.
    Bomb,
    /// A value of the handler's panics when it is dropped.
    Drop,
    /// A value that the error path drops.
    DropOnError,
    /// An error that cannot be displayed.
    Display,
    /// An error whose cause cannot be displayed.
    Source,
    /// An output that cannot be serialised.
    Output,
    /// Within a step, within a step.
    NestedStep,
    /// In one of two parallel steps.
    ParallelStep,
    Body,
    /// A value that the body holds while its step waits for a retry: it is dropped with the body, not by it.
    Parked,
    Message,
    Typed,
    Fatal,
    /// The error of a sub-task that panicked.
    SubTask,
    /// The error of a step.
    Step,
}

/// A way to fail, and what it leaves behind.
pub struct Fault {
    pub kind: Faulty,
    pub panics: bool,
    /// What the job's error says.
    pub says: &'static str,
}

const fn panic(kind: Faulty, says: &'static str) -> Fault {
    Fault { kind, panics: true, says }
}

const fn error(kind: Faulty, says: &'static str) -> Fault {
    Fault { kind, panics: false, says }
}

pub const FAULTS: &[Fault] = &[
    panic(Faulty::Text, "panicked: a text"),
    panic(Faulty::Formatted, "panicked: formatted"),
    panic(Faulty::Huge, "panicked: xxxx"),
    panic(Faulty::NoText, "a panic without a message"),
    panic(Faulty::Bomb, "a panic without a message"),
    panic(Faulty::Drop, "panicked: dropped"),
    panic(Faulty::DropOnError, "panicked: dropped"),
    panic(Faulty::Display, "panicked: it cannot be displayed"),
    panic(Faulty::Source, "panicked: it cannot be displayed"),
    panic(Faulty::Output, "panicked: it cannot be serialised"),
    panic(Faulty::NestedStep, "panicked: within two steps"),
    panic(Faulty::ParallelStep, "panicked: beside another step"),
    panic(Faulty::Body, "panicked: in the body"),
    panic(Faulty::Parked, "panicked: dropped"),
    error(Faulty::Message, "a message"),
    error(Faulty::Typed, "invalid digit"),
    error(Faulty::Fatal, "for good"),
    error(Faulty::SubTask, "panicked"),
    error(Faulty::Step, "within a step"),
];

impl Faulty {
    pub const fn is_flow(self) -> bool {
        matches!(
            self,
            Faulty::NestedStep
                | Faulty::ParallelStep
                | Faulty::Body
                | Faulty::Parked
                | Faulty::Step
        )
    }
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "broken", output = Unserialisable)]
pub struct Broken(pub Faulty);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "broken-flow")]
pub struct BrokenFlow(pub Faulty);

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[derive(Debug)]
struct Undisplayable;

impl fmt::Display for Undisplayable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("it cannot be displayed");
    }
}

impl Error for Undisplayable {}

#[derive(Debug)]
struct WithCause(Undisplayable);

impl fmt::Display for WithCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it has a cause")
    }
}

impl Error for WithCause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[derive(Deserialize)]
pub struct Unserialisable;

impl Serialize for Unserialisable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("it cannot be serialised");
    }
}

pub async fn broken(Broken(kind): Broken) -> TaskResult<Unserialisable> {
    match kind {
        Faulty::Text => panic!("a text"),
        Faulty::Formatted => panic!("formatted {kind:?}"),
        Faulty::Huge => panic!("{}", "x".repeat(64 << 10)),
        Faulty::NoText => panic_any(7_u8),
        Faulty::Bomb => panic_any(Bomb),
        Faulty::Drop => {
            let _bomb = Bomb;
            tokio::task::yield_now().await;
        }
        Faulty::DropOnError => {
            let _bomb = Bomb;
            return Err(TaskError::new("not this"));
        }
        Faulty::Display => return Err(Undisplayable.into()),
        Faulty::Source => return Err(WithCause(Undisplayable).into()),
        Faulty::Typed => drop("x".parse::<u32>()?),
        Faulty::Fatal => return Err(TaskError::fatal(TaskError::new("for good"))),
        Faulty::SubTask => tokio::spawn(async { panic!("in a task of its own") }).await?,
        Faulty::Message => return Err(TaskError::new("a message")),
        _ => {}
    }
    Ok(Unserialisable)
}

/// Says of what type it would have been.
fn fails(how: &str) -> TaskResult<()> {
    panic!("{how}");
}

pub async fn broken_flow(BrokenFlow(kind): BrokenFlow, wf: Wf) -> TaskResult<()> {
    match kind {
        Faulty::NestedStep => {
            let inner = || async { fails("within two steps") };
            wf.run("outer", || async { wf.run("inner", inner).await }).await
        }
        Faulty::ParallelStep => {
            let fine = wf.run("fine", || async {
                tokio::task::yield_now().await;
                Ok::<(), TaskError>(())
            });
            let bad = wf.run("bad", || async {
                tokio::task::yield_now().await;
                fails("beside another step")
            });
            try_join(fine.into_future(), bad.into_future()).await.map(|_| ())
        }
        Faulty::Parked => {
            let _bomb = Bomb;
            let fails = wf.run("fails", || async { Err::<(), _>(TaskError::new("once more")) });
            fails.retries(1).await
        }
        Faulty::Step => {
            wf.run("step", || async { Err::<(), _>(TaskError::new("within a step")) }).await
        }
        _ => panic!("in the body"),
    }
}
