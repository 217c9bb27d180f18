//! Scenarios with several processes: the test binary starts itself again as a worker.
#![cfg(feature = "sqlite")]

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::future::try_join_all;
use queue::{JobState, Queue, StepEntry, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};

use crate::{
    scene::{Scene, eventually},
    steps::assert_fanned_out,
};

/// Set for a process that is to work, to the URL of its store.
const CHILD: &str = "QUEUE_SCENARIO_CHILD";

#[derive(Serialize, Deserialize, Task)]
#[task(name = "fan-out", output = Vec<u32>)]
struct FanOut {
    steps: u32,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "four-slow-steps")]
struct FourSlowSteps {
    ledger: String,
}

async fn fan_out(FanOut { steps }: FanOut, wf: Wf) -> TaskResult<Vec<u32>> {
    let step = |n| wf.run(format!("step-{n}"), move || async move { Ok::<_, TaskError>(n) });
    try_join_all((0..steps).map(|n| step(n).into_future())).await
}

async fn four_slow_steps(FourSlowSteps { ledger }: FourSlowSteps, wf: Wf) -> TaskResult<()> {
    use std::io::Write;
    for n in 0..4 {
        wf.run(format!("step-{n}"), || async {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&ledger)?;
            writeln!(file, "{n}")?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok::<(), TaskError>(())
        })
        .await?;
    }
    Ok(())
}

fn worker(queue: Queue) -> Worker {
    Worker::new(queue)
        .workflow(fan_out)
        .workflow(four_slow_steps)
        .concurrency(2)
        .lease(Duration::from_secs(2))
        .build()
        .unwrap()
}

/// Not a test of its own: what a child process does. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let queue = Queue::connect(&url).await.unwrap();
    worker(queue).run_until_empty(|_| {}).await.unwrap();
}

/// A worker process; ended when it is dropped.
struct Process(Child);

impl Process {
    fn start(url: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::child", "--exact", "--nocapture"])
            .env(CHILD, url)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Waits for its end, and answers what it wrote to standard error.
    fn wait(mut self) -> String {
        use std::io::Read;
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e17_two_hundred_parallel_steps_in_eight_jobs_by_four_processes() {
    const STEPS: u32 = 200;
    let scene = Scene::sqlite().await;
    let jobs = (0..8).map(|_| FanOut { steps: STEPS });
    let handles = scene.queue.enqueue_many(jobs).await.unwrap();
    let url = scene.url.clone().unwrap();
    let processes: Vec<Process> = (0..4).map(|_| Process::start(&url)).collect();
    for process in processes {
        let text = tokio::task::spawn_blocking(|| process.wait()).await.unwrap();
        assert!(!text.contains("UNIQUE") && !text.contains("locked"), "{text}");
    }
    for handle in handles {
        assert_fanned_out(&handle.job().await.unwrap().unwrap(), STEPS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_after_a_kill_another_process_repeats_only_the_step_in_flight() {
    let scene = Scene::sqlite().await;
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger").display().to_string();
    let handle = scene.queue.enqueue(FourSlowSteps { ledger: ledger.clone() }).await.unwrap();
    let url = scene.url.clone().unwrap();
    let first = Process::start(&url);
    eventually("two steps are logged and the third runs", || async {
        let logged = handle.job().await.unwrap().unwrap().log_len;
        let begun = std::fs::read_to_string(&ledger).unwrap_or_default().lines().count();
        logged == 2 && begun == 3
    })
    .await;
    drop(first);
    let second = Process::start(&url);
    tokio::task::spawn_blocking(|| second.wait()).await.unwrap();
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 1));
    assert_eq!(job.log.iter().filter_map(StepEntry::from_entry).count(), 4);
    let ledger = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(ledger.lines().collect::<Vec<_>>(), ["0", "1", "2", "2", "3"]);
}
