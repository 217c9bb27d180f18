//! Schedulers in processes of their own, which are killed and started again: each slot once.
#![cfg(any(feature = "sqlite", feature = "postgres", feature = "mongo"))]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use queue::{
    JobFilter, JobId, JobState, Missed, Overlap, Queue, Schedule, ScheduleInfo, Task, Timestamp,
    Worker, core::LogRead,
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_database!(two_schedulers_of_which_one_is_killed_fire_each_slot_once);

/// What a process writes when it begins.
const READY: &str = "ready to schedule";
/// Set for a process that is to schedule, to the URL of its store.
const CHILD: &str = "QUEUE_SCHEDULER_CHILD";
/// How many schedules it has.
const SCHEDULES: &str = "QUEUE_SCHEDULER_SCHEDULES";

#[derive(Serialize, Deserialize, Task)]
#[task(name = "tick")]
struct Tick(Timestamp);

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How hard it is made.
#[derive(Clone, Copy, Debug)]
struct Trial {
    processes: usize,
    schedules: usize,
    /// How many slots each schedule is to have.
    slots: u64,
    /// After how many further slots the next process is killed.
    kill_after: u64,
}

fn name(number: usize) -> String {
    format!("schedule {number}")
}

#[allow(clippy::print_stdout)] // its parent reads that
/// Not a test of its own: what a child process does. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let schedules: usize = std::env::var(SCHEDULES).unwrap().parse().unwrap();
    let mut worker = Worker::new(Queue::connect(&url).await.unwrap())
        .task(|_: Tick| async { Ok(()) })
        .lease(Duration::from_secs(2));
    for number in 0..schedules {
        worker = worker.scheduled(
            Schedule::cron_with("* * * * * *", Tick)
                .named(name(number))
                .overlap(Overlap::Allow)
                .missed(Missed::up_to(1_000)),
        );
    }
    println!("{READY}");
    // Until its parent closes the pipe.
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    worker.build().unwrap().run_until(async { drop(told.await) }).await.unwrap();
}

/// A scheduler process; killed when it is dropped.
struct Process {
    child: Child,
    /// Kept open: it may still write there.
    _output: BufReader<ChildStdout>,
}

impl Process {
    fn start(url: &str, schedules: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["schedulers::child", "--exact", "--nocapture"])
            .env(CHILD, url)
            .env(SCHEDULES, schedules.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.by_ref().lines();
        assert!(lines.any(|line| line.unwrap().contains(READY)), "it ended before");
        Process { child, _output: output }
    }

    /// Tells it to stop, and waits until it has.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(url: &str, schedules: usize) -> Process {
    let url = url.to_owned();
    tokio::task::spawn_blocking(move || Process::start(&url, schedules)).await.unwrap()
}

/// Lets processes schedule, one of them killed and replaced now and then, until every schedule has had its slots.
async fn schedule_and_kill(scene: &Scene, trial: Trial) -> usize {
    let mut processes = Vec::new();
    for _ in 0..trial.processes {
        processes.push(start(scene.url(), trial.schedules).await);
    }
    let (mut kills, mut kill_at) = (0, trial.kill_after);
    let (mut deadline, mut seen) = (Instant::now() + PATIENCE, 0);
    loop {
        let known = scene.queue.schedules().await.unwrap();
        let fired: u64 = known.iter().map(|info| info.fired).sum();
        if fired > seen {
            (deadline, seen) = (Instant::now() + PATIENCE, fired);
        }
        let least = known.iter().map(|info| info.fired).min().unwrap_or(0);
        if known.len() == trial.schedules && least >= trial.slots {
            break;
        }
        if least >= kill_at {
            let place = kills % trial.processes;
            // Every fifth time all die, and for a moment nobody schedules.
            let all = kills % 5 == 4;
            let victims = if all { 0..processes.len() } else { place..place + 1 };
            drop(processes.drain(victims));
            while processes.len() < trial.processes {
                processes.insert(0, start(scene.url(), trial.schedules).await);
            }
            kills += 1;
            kill_at = least + trial.kill_after;
        }
        assert!(Instant::now() < deadline, "no slots are fired any more: {known:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for process in processes {
        tokio::task::spawn_blocking(move || process.stop()).await.unwrap();
    }
    kills
}

/// The slots that a schedule had since it was first seen.
fn slots(info: &ScheduleInfo) -> Vec<Timestamp> {
    const SECOND: i64 = 1_000_000;
    let micros = |at: Option<Timestamp>| at.expect("it was handled").as_micros();
    let (since, last) = (micros(info.since), micros(info.last_slot));
    let slots = (since / SECOND + 1..=last / SECOND).map(|slot| slot * SECOND);
    slots.map(|slot| Timestamp::from_micros(slot).unwrap()).collect()
}

async fn each_slot_once(scene: Scene, trial: Trial) -> (usize, u64) {
    let kills = schedule_and_kill(&scene, trial).await;
    let rest = Worker::new(scene.queue.clone()).task(|_: Tick| async { Ok(()) }).build().unwrap();
    rest.run_until_empty(|_| {}).await.unwrap();
    let mut jobs = 0;
    for info in scene.queue.schedules().await.unwrap() {
        let slots = slots(&info);
        assert_eq!((info.fired, info.skipped), (slots.len() as u64, 0), "{info:?}");
        let ids = slots.iter().map(|slot| JobId::for_slot(&info.name, *slot)).collect();
        let found = scene.queue.jobs(ids, LogRead::None).await.unwrap();
        for (slot, job) in slots.iter().zip(&found) {
            let job = job.as_ref().unwrap_or_else(|| panic!("{} missed {slot}", info.name));
            assert_eq!((job.run_at, job.input.to::<Timestamp>().unwrap()), (*slot, *slot));
            assert_eq!(job.state, JobState::Completed, "{job:?}");
        }
        jobs += slots.len() as u64;
    }
    // As many as there are slots, each of which has its own: there is no other.
    let tally = scene.queue.tally(JobFilter::all()).await.unwrap();
    assert_eq!(tally.iter().map(|tally| tally.count).sum::<u64>(), jobs);
    (kills, jobs)
}

async fn two_schedulers_of_which_one_is_killed_fire_each_slot_once(scene: Scene) {
    let trial = Trial { processes: 2, schedules: 4, slots: 3, kill_after: 1 };
    let (kills, _) = each_slot_once(scene, trial).await;
    assert!(kills > 0, "a process was killed");
}

/// Run them with `cargo test -p queue --all-features --test scenarios schedulers::long -- --ignored --nocapture`.
mod long {
    use queue::Clock;

    use super::{Scene, Trial, each_slot_once};

    #[allow(clippy::print_stdout)] // the figures
    async fn each_slot_once_for_a_minute(store: &str, processes: usize, scene: Scene) {
        let trial = Trial { processes, schedules: 20, slots: 60, kill_after: 3 };
        let (kills, jobs) = each_slot_once(scene, trial).await;
        println!("{store}: {trial:?}: {kills} kills, {jobs} slots, each fired once");
    }

    macro_rules! for_a_minute {
        ($($feature:literal $store:ident $scene:ident),* $(,)?) => {
            $(
                #[cfg(feature = $feature)]
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "takes two minutes and more"]
                async fn $store() {
                    for processes in [2, 5] {
                        let scene = Scene::$scene(Clock::system()).await;
                        each_slot_once_for_a_minute(stringify!($store), processes, scene).await;
                    }
                }
            )*
        };
    }

    for_a_minute!(
        "sqlite" sqlite_fires_each_slot_once_for_a_minute sqlite,
        "postgres" postgres_fires_each_slot_once_for_a_minute postgres,
        "mongo" mongo_fires_each_slot_once_for_a_minute mongo,
    );
}
