//! Worker processes: the test binary starts itself again with an order.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use crate::{failures, kills, stops};

/// Set for a process that is to work: its order, as JSON.
const ORDER: &str = "QUEUE_FAULTS_ORDER";

/// What begins what a process says to its parent; the test harness writes to the same stream.
const SAYS: &str = "says>";

/// How long a process may take for what its parent waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process is to do.
#[derive(Serialize, Deserialize)]
pub enum Order {
    Serve(kills::Serve),
    Hold(stops::Hold),
    Fail(failures::Fail),
}

/// Not a test of its own: what a child process does. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    match serde_json::from_str(&order).unwrap() {
        Order::Serve(serve) => serve.carry_out().await,
        Order::Hold(hold) => hold.carry_out().await,
        Order::Fail(fail) => fail.carry_out().await,
    }
}

/// Says something to the parent.
#[allow(clippy::print_stdout, reason = "its parent reads that")]
pub fn tell(what: impl std::fmt::Display) {
    println!("\n{SAYS}{what}");
}

/// Waits for the next line from the parent, on a thread of its own.
pub async fn told() -> String {
    let mut line = String::new();
    let read = move || std::io::stdin().read_line(&mut line).map(|_| line);
    tokio::task::spawn_blocking(read).await.unwrap().unwrap()
}

/// A worker process; killed when it is dropped.
pub struct Process {
    child: Child,
    pid: Pid,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: std::path::PathBuf,
}

impl Process {
    /// Starts one. What it writes to standard error goes to a file in `folder`.
    pub fn start(order: &Order, folder: &Path) -> Self {
        let errors = folder.join(format!("{}.stderr", uuid()));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["process::child", "--exact", "--nocapture"])
            .env(ORDER, serde_json::to_string(order).unwrap())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        Process {
            pid: Pid::from_raw(pid).unwrap(),
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            errors,
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.unwrap();
    }

    pub async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// What it says next; `None` when it says nothing more.
    pub async fn hear(&mut self) -> Option<String> {
        self.hear_within(PATIENCE).await
    }

    async fn hear_within(&mut self, patience: Duration) -> Option<String> {
        let next = async {
            while let Some(line) = self.output.next_line().await.unwrap() {
                if let Some(said) = line.strip_prefix(SAYS) {
                    return Some(said.to_owned());
                }
            }
            None
        };
        let heard = tokio::time::timeout(patience, next).await;
        heard.unwrap_or_else(|_| panic!("it says nothing: {}", self.errors()))
    }

    /// Waits until it ends of itself, having done what it was to do. Answers what else it said.
    pub async fn ended(self) -> Vec<String> {
        self.ended_within(PATIENCE).await
    }

    /// As [`ended`](Self::ended), with more time for it.
    pub async fn ended_within(mut self, patience: Duration) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.hear_within(patience).await {
            said.push(line);
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{said:?} {}", self.errors());
        said
    }

    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

fn uuid() -> String {
    queue::core::Uuid::now_v7().to_string()
}
