//! Scenarios with several processes: the test binary starts itself again as a worker.
#![cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use futures::future::try_join_all;
use queue::{JobState, Queue, StepEntry, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};

use crate::{
    scene::{Scene, eventually},
    steps::assert_fanned_out,
};

crate::on_every_database!(
    e17_two_hundred_parallel_steps_in_eight_jobs_by_four_processes,
    e11_after_a_kill_another_process_repeats_only_the_step_in_flight,
);

/// What a process writes when it could begin.
const READY: &str = "ready to work";

/// Set for a process that is to work, to the URL of its store.
const CHILD: &str = "QUEUE_SCENARIO_CHILD";
/// And to the seconds of its lease.
const LEASE: &str = "QUEUE_SCENARIO_LEASE";

#[derive(Serialize, Deserialize, Task)]
#[task(name = "fan-out", output = Vec<u32>)]
struct FanOut {
    steps: u32,
    /// Where each process that runs a job writes its number.
    ledger: String,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "four-slow-steps")]
struct FourSlowSteps {
    ledger: String,
}

fn write_line(ledger: &str, line: u32) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(ledger)?;
    writeln!(file, "{line}")
}

async fn fan_out(FanOut { steps, ledger }: FanOut, wf: Wf) -> TaskResult<Vec<u32>> {
    write_line(&ledger, std::process::id())?;
    let step = |n| wf.run(format!("step-{n}"), move || async move { Ok::<_, TaskError>(n) });
    try_join_all((0..steps).map(|n| step(n).into_future())).await
}

async fn four_slow_steps(FourSlowSteps { ledger }: FourSlowSteps, wf: Wf) -> TaskResult<()> {
    for n in 0..4 {
        wf.run(format!("step-{n}"), || async {
            write_line(&ledger, n)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<(), TaskError>(())
        })
        .await?;
    }
    Ok(())
}

fn worker(queue: Queue, lease: Duration) -> Worker {
    Worker::new(queue)
        .workflow(fan_out)
        .workflow(four_slow_steps)
        .concurrency(2)
        .lease(lease)
        .build()
        .unwrap()
}

#[allow(clippy::print_stdout)] // its parent reads that
/// Not a test of its own: what a child process does. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let lease = std::env::var(LEASE).unwrap().parse().unwrap();
    // Its parent reads what the engine and the store complain of; not what the driver says of slow statements, which are full
    // of words such as "locked".
    tracing_subscriber::fmt()
        .with_env_filter("warn,sqlx::query=off")
        .with_writer(std::io::stderr)
        .init();
    let queue = Queue::connect(&url).await.unwrap();
    let worker = worker(queue, Duration::from_secs(lease));
    // It says that it is ready, and waits until its parent says that all are.
    println!("{READY}");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    worker.run_until_empty(|_| {}).await.unwrap();
}

/// A worker process; ended when it is dropped.
struct Process {
    child: Child,
    /// Kept open: it may still write there.
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(url: &str, lease: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::child", "--exact", "--nocapture"])
            .env(CHILD, url)
            .env(LEASE, lease.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Process { child, output }
    }

    /// Starts so many, and lets them begin when all are ready.
    fn start_together<const N: usize>(url: &str, lease: u64) -> [Self; N] {
        let mut processes = [(); N].map(|()| Process::start(url, lease));
        for process in &mut processes {
            let mut lines = process.output.by_ref().lines();
            assert!(lines.any(|line| line.unwrap().contains(READY)), "it ended before");
        }
        for process in &mut processes {
            process.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        }
        processes
    }

    /// Waits for its end, and answers what it wrote to standard error.
    fn wait(mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }
}

async fn start<const N: usize>(url: String, lease: u64) -> [Process; N] {
    tokio::task::spawn_blocking(move || Process::start_together(&url, lease)).await.unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn e17_two_hundred_parallel_steps_in_eight_jobs_by_four_processes(scene: Scene) {
    const STEPS: u32 = 200;
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger").display().to_string();
    let jobs = (0..8).map(|_| FanOut { steps: STEPS, ledger: ledger.clone() });
    let handles = scene.queue.enqueue_many(jobs).await.unwrap();
    // No lease is over because the machine is slow.
    let processes: [Process; 4] = start(scene.url().to_owned(), 600).await;
    for process in processes {
        let text = tokio::task::spawn_blocking(|| process.wait()).await.unwrap();
        for surfaced in
            ["UNIQUE", "locked", "unique constraint", "E11000", "WriteConflict", "deadlock"]
        {
            assert!(!text.contains(surfaced), "{text}");
        }
    }
    for handle in handles {
        assert_fanned_out(&handle.job().await.unwrap().unwrap(), STEPS);
    }
    let ledger = std::fs::read_to_string(&ledger).unwrap();
    let workers: BTreeSet<&str> = ledger.lines().collect();
    assert!(workers.len() > 1, "several processes took part: {workers:?}");
}

async fn e11_after_a_kill_another_process_repeats_only_the_step_in_flight(scene: Scene) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger").display().to_string();
    let handle = scene.queue.enqueue(FourSlowSteps { ledger: ledger.clone() }).await.unwrap();
    let url = scene.url().to_owned();
    let [first] = start(url.clone(), 2).await;
    eventually("two steps are logged and the third runs", || async {
        let logged = handle.job().await.unwrap().unwrap().log_len;
        let begun = std::fs::read_to_string(&ledger).unwrap_or_default().lines().count();
        logged == 2 && begun == 3
    })
    .await;
    drop(first);
    let [second] = start(url, 2).await;
    tokio::task::spawn_blocking(|| second.wait()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 1));
    assert_eq!(job.log.iter().filter_map(StepEntry::from_entry).count(), 4);
    let ledger = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(ledger.lines().collect::<Vec<_>>(), ["0", "1", "2", "2", "3"]);
}
