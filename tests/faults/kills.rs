//! Workers that are killed while they work.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use futures::future::try_join;
use queue::{
    Job, JobCtx, JobFilter, JobId, JobQuery, JobReport, JobResult, JobState, Queue, StepEntry,
    StepState, Task, TaskError, TaskResult, Wf, Worker, core::LogRead,
};
use serde::{Deserialize, Serialize};

use crate::{
    ledger::{Ledger, Line, now},
    process::{Order, Process, tell},
    scene::Scene,
    size::{Random, Size, report, within},
};

proofs!(killed_workers_lose_nothing_and_double_nothing);

/// How many processes work at once, and how many jobs each runs at once.
const PROCESSES: usize = 4;
const SLOTS: usize = 4;
/// How many steps of a job run at once.
const PARALLEL: usize = 2;
const LEASE: Duration = Duration::from_secs(2);
/// Long enough after a kill for what was on its way to the store to have arrived, and well within the lease.
const IN_FLIGHT: Duration = Duration::from_millis(300);
/// A job that took longer to be taken up again than its lease and this was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(20);
const STEPS: [&str; 5] = ["first", "left", "right", "joined", "last"];

/// What a process is to do: serve until no job is left.
#[derive(Serialize, Deserialize)]
pub struct Serve {
    url: String,
    ledger: Ledger,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "five-steps", output = u64)]
struct FiveSteps {
    n: u64,
    ledger: Ledger,
}

async fn five_steps(FiveSteps { n, ledger }: FiveSteps, wf: Wf, ctx: JobCtx) -> TaskResult<u64> {
    ledger.write("run", ctx.id())?;
    let step = |which: usize, value: u64| {
        let (ledger, job) = (&ledger, ctx.id());
        let body = move || async move {
            ledger.write(STEPS[which], job)?;
            tokio::time::sleep(pace(n, which)).await;
            Ok::<u64, TaskError>(value)
        };
        wf.run(STEPS[which], body).into_future()
    };
    let first = step(0, n).await?;
    let (left, right) = try_join(step(1, first + 1), step(2, first + 2)).await?;
    let joined = step(3, left * right).await?;
    step(4, joined + 7).await
}

const fn output(n: u64) -> u64 {
    (n + 1) * (n + 2) + 7
}

/// How long a step takes: 100 to 300 ms, another time for each.
const fn pace(n: u64, which: usize) -> Duration {
    Duration::from_millis(100 + (n * 31 + which as u64 * 67) % 201)
}

fn holder(pid: u32) -> String {
    format!("process {pid}")
}

impl Serve {
    pub async fn carry_out(self) {
        let worker = Worker::new(Queue::connect(&self.url).await.unwrap())
            .workflow(five_steps)
            .concurrency(SLOTS as u32)
            .lease(LEASE)
            .name(holder(std::process::id()))
            .build()
            .unwrap();
        tell("ready");
        let observe = |report: &JobReport| match report.result {
            JobResult::Succeeded { .. } => self.ledger.write("done", report.id).unwrap(),
            JobResult::Lost => self.ledger.write("lost", report.id).unwrap(),
            _ => panic!("nothing fails, is cancelled or stopped here: {report:?}"),
        };
        worker.run_until_empty(observe).await.unwrap();
    }
}

/// A process that was killed, and what it held.
struct Kill {
    at: u64,
    pid: u32,
    held: Vec<JobId>,
}

async fn killed_workers_lose_nothing_and_double_nothing(scene: Scene, size: Size) {
    let jobs: u64 = size.of("QUEUE_KILL_JOBS", 60, 1_000);
    let every = Duration::from_millis(size.of("QUEUE_KILL_EVERY_MS", 800, 2_000));
    let until = Duration::from_secs(size.of("QUEUE_KILL_SECONDS", 5, 60));
    // A kill costs a job at most one crash: one that may crash as often as there are kills never fails of it.
    let max_crashes = u32::try_from(until.as_millis() / every.as_millis()).unwrap() + 1;
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::in_folder(folder.path());
    let tasks = (0..jobs).map(|n| FiveSteps { n, ledger: ledger.clone() });
    let handles = scene.queue.enqueue_many(tasks).max_crashes(max_crashes).await.unwrap();
    let ids: Vec<JobId> = handles.iter().map(queue::JobHandle::id).collect();
    let begun = Instant::now();
    let order = Order::Serve(Serve { url: scene.url().to_owned(), ledger: ledger.clone() });
    let kills = kill_until_empty(&scene, &order, folder.path(), every, begun + until).await;
    let took = begun.elapsed();
    let (all, lines) = (read(&scene.queue, &ids).await, ledger.read());
    check_jobs(&all);
    let evidence = Evidence { kills: &kills, jobs: &all, lines: &lines };
    let figures = evidence.check();
    report(&format!("{}: {jobs} jobs in {took:.1?}, {figures}", scene.queue.store().info().name));
}

/// Kills one process after the other, and starts another for each, until `until`; then waits until no job is left.
async fn kill_until_empty(
    scene: &Scene,
    order: &Order,
    folder: &Path,
    every: Duration,
    until: Instant,
) -> Vec<Kill> {
    let mut random = Random::seeded("kills");
    let start = || async {
        let mut process = Process::start(order, folder);
        assert_eq!(process.hear().await.as_deref(), Some("ready"), "{}", process.errors());
        process
    };
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(start().await);
    }
    let (mut kills, mut next) = (Vec::new(), Instant::now());
    loop {
        next += every;
        tokio::time::sleep_until(next.into()).await;
        if Instant::now() > until || live(&scene.queue).await == 0 {
            break;
        }
        let killed = processes.swap_remove(random.below(processes.len()));
        let (at, pid) = (now(), killed.pid());
        killed.kill().await;
        tokio::time::sleep(IN_FLIGHT).await;
        kills.push(Kill { at, pid, held: held_by(&scene.queue, pid).await });
        processes.push(start().await);
    }
    let empty = || async { (live(&scene.queue).await == 0).then_some(()) };
    within(Duration::from_secs(180), "an end of all jobs", empty).await;
    for process in processes {
        process.ended().await;
    }
    kills
}

async fn live(queue: &Queue) -> u64 {
    let filter = JobFilter::all().with_states(queue::JobStates::LIVE);
    queue.tally(filter).await.unwrap().iter().map(|tally| tally.count).sum()
}

/// The jobs that a process holds.
async fn held_by(queue: &Queue, pid: u32) -> Vec<JobId> {
    let mut query = JobQuery::new(JobFilter::all().with_states(JobState::Running));
    query.limit = queue::core::MAX_PAGE;
    let holder = holder(pid);
    let running = queue.find(query).await.unwrap().items.into_iter();
    running.filter(|job| job.holder.as_deref() == Some(&*holder)).map(|job| job.id).collect()
}

async fn read(queue: &Queue, ids: &[JobId]) -> Vec<Job> {
    let mut all = Vec::new();
    for ids in ids.chunks(100) {
        let jobs = queue.jobs(ids.to_vec(), LogRead::All).await.unwrap();
        all.extend(jobs.into_iter().map(|job| job.expect("no job is lost")));
    }
    all
}

/// Every job completed with the right output, and its log has each step once, numbered without gaps.
fn check_jobs(jobs: &[Job]) {
    for job in jobs {
        let n = job.input.to::<FiveSteps>().unwrap().n;
        assert_eq!(job.state, JobState::Completed, "{job:?}");
        assert_eq!(job.output.as_ref().unwrap().to::<u64>().unwrap(), output(n), "{job:?}");
        let numbers: Vec<u64> = job.log.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5], "{job:?}");
        let steps = job.log.iter().map(|entry| StepEntry::from_entry(entry).unwrap());
        let completed = steps.filter(|step| step.state == StepState::Completed);
        let names: BTreeSet<String> = completed.map(|step| step.step).collect();
        assert_eq!(names, STEPS.iter().map(|step| (*step).to_owned()).collect(), "{job:?}");
    }
}

/// What is known after the last job.
struct Evidence<'a> {
    kills: &'a [Kill],
    jobs: &'a [Job],
    lines: &'a [Line],
}

impl Evidence<'_> {
    /// Compares what handlers wrote down with what was killed, and answers the figures.
    fn check(&self) -> String {
        let lost = self.of("lost").count();
        let again = self.check_executions();
        self.check_completions();
        let crashes = self.check_crashes(lost);
        // Each slot of a killed process had a job, with one execution of a step in flight, and as many steps as run at once.
        let slots = self.kills.len() * SLOTS + lost;
        assert!(again.values().all(|again| *again <= slots), "more than {slots}: {again:?}");
        let most = again.values().max().copied().unwrap_or_default();
        let again: usize = again.values().sum();
        assert!(again <= slots * PARALLEL, "{again} executions more");
        let mut recoveries = self.recoveries();
        recoveries.sort();
        let longest = recoveries.last().copied().unwrap_or_default();
        let median = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
        assert!(longest <= LEASE + FORGOTTEN, "a job was forgotten for {longest:?}");
        let held: usize = self.kills.iter().map(|kill| kill.held.len()).sum();
        format!(
            "{} kills of processes that held {held} jobs, {crashes} crashes, {again} steps executed again (none of the \
             five more than {most} times; {} x {SLOTS} slots), {lost} leases lost by living workers; held jobs ran again after {median:.2?} (median), {longest:.2?} \
             (longest); lease {LEASE:?}",
            self.kills.len(),
            self.kills.len(),
        )
    }

    fn of<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.what == what)
    }

    /// How often each step was executed beyond once, in all jobs together. Only what a killed process had begun may be executed again, or
    /// what a living one lost because its machine was too busy to renew its lease.
    fn check_executions(&self) -> BTreeMap<&str, usize> {
        let killed: BTreeSet<u32> = self.kills.iter().map(|kill| kill.pid).collect();
        let lost: BTreeSet<(u32, JobId)> =
            self.of("lost").map(|line| (line.pid, line.job)).collect();
        let mut executions: BTreeMap<(JobId, &str), Vec<u32>> = BTreeMap::new();
        for line in self.lines.iter().filter(|line| STEPS.contains(&&*line.what)) {
            executions.entry((line.job, &line.what)).or_default().push(line.pid);
        }
        assert_eq!(executions.len(), self.jobs.len() * STEPS.len(), "every step was executed");
        let mut again = BTreeMap::new();
        for ((job, step), pids) in &executions {
            let (_, earlier) = pids.split_last().unwrap();
            *again.entry(*step).or_default() += earlier.len();
            let excused = |pid: &u32| killed.contains(pid) || lost.contains(&(*pid, *job));
            assert!(earlier.iter().all(excused), "{step} of {job} by {pids:?} without a reason");
        }
        again
    }

    /// No two workers were told that they completed the same job.
    fn check_completions(&self) {
        let mut done = BTreeSet::new();
        for line in self.of("done") {
            assert!(done.insert(line.job), "{} was completed twice", line.job);
        }
    }

    /// Crashes are counted where a job began again, and only as often as slots were killed.
    fn check_crashes(&self, lost: usize) -> u32 {
        let mut runs: BTreeMap<JobId, u32> = BTreeMap::new();
        self.of("run").for_each(|line| *runs.entry(line.job).or_default() += 1);
        for job in self.jobs {
            let runs = runs[&job.id];
            assert!(
                runs <= job.crashes + 1,
                "{runs} runs of {} and {} crashes",
                job.id,
                job.crashes
            );
            assert_eq!(job.attempt, 1, "a crash uses no attempt: {job:?}");
        }
        let crashes = self.jobs.iter().map(|job| job.crashes).sum();
        assert!(crashes as usize <= self.kills.len() * SLOTS + lost, "{crashes} crashes");
        crashes
    }

    /// How long it took after each kill until the jobs that the process had held ran again. Left out are those that had
    /// been completed, and those that were killed once more before they could run.
    fn recoveries(&self) -> Vec<Duration> {
        let runs: Vec<&Line> = self.of("run").collect();
        let mut recoveries = Vec::new();
        for (number, kill) in self.kills.iter().enumerate() {
            for job in &kill.held {
                let again = runs.iter().find(|line| line.job == *job && line.at > kill.at);
                let Some(again) = again else { continue };
                let later = self.kills[number + 1..].iter().find(|kill| kill.held.contains(job));
                if later.is_none_or(|later| later.at > again.at) {
                    recoveries.push(Duration::from_micros(again.at - kill.at));
                }
            }
        }
        recoveries
    }
}
