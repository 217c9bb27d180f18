//! Running the jobs of a run in this process.

use std::{
    io::{IsTerminal, stderr},
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use queue::{JobFilter, JobReport, JobResult, JobStates, Queue, Worker};
use tokio::sync::Notify;

use super::{
    Names,
    place::{Before, Placed},
};
use crate::{
    args::RunArgs,
    definition::{Checked, RunSettings},
    failure::Failure,
    text,
};

/// What a dead process held is taken over after this time.
const LEASE: Duration = Duration::from_secs(5);
/// How long running jobs may go on after Ctrl-C.
const GRACE: Duration = Duration::from_secs(3);
/// How often the jobs left are counted while this process has some to run; others may have run them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the store may be in trouble before the run gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Works until none of the jobs is left, whoever runs them, or until it is told to stop. Answers
/// whether it was.
pub(super) async fn work(
    queue: &Queue,
    args: &RunArgs,
    settings: &RunSettings,
    names: &Names,
    checked: Checked,
    placed: &[Placed],
) -> Result<bool, Failure> {
    let concurrency =
        args.concurrency.or(settings.concurrency.map(NonZeroU32::get)).unwrap_or_else(processors);
    let builder = Worker::new(queue.clone())
        .queues([names.queue.clone()])
        .concurrency(concurrency)
        .lease(settings.lease.unwrap_or(LEASE))
        .grace(GRACE);
    let worker = checked
        .register(builder)
        .build()
        .map_err(|error| Failure::caused("the jobs cannot be run", &error))?;
    let done = placed.iter().filter(|placed| placed.before == Before::Done).count();
    if done == placed.len() {
        return Ok(false);
    }
    let bar = progress(args, done, placed.len());
    let interrupted = AtomicBool::new(false);
    let left = Left { count: AtomicUsize::new(placed.len() - done), none: Notify::new() };
    let mut trouble = None;
    let stop = async {
        tokio::select! {
            ended = until_none_is_left(queue, names, &left) => trouble = ended.err(),
            signalled = told_to_stop() => {
                interrupted.store(true, Ordering::Relaxed);
                bar.suspend(|| text::to_stderr(&match signalled {
                    Ok(()) => format!("stopping; running jobs may go on for {} s", GRACE.as_secs()),
                    Err(error) => format!("stopping: signals cannot be received: {error}"),
                }));
            }
        }
    };
    let observed = |report: &JobReport| {
        observe(report, &bar);
        left.observe(report);
    };
    worker.serve(stop, observed).await?;
    bar.finish_and_clear();
    match trouble {
        Some(failure) => Err(failure),
        None => Ok(interrupted.into_inner()),
    }
}

fn processors() -> u32 {
    thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

fn progress(args: &RunArgs, done: usize, all: usize) -> ProgressBar {
    if args.quiet || args.json || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(all as u64).with_position(done as u64);
    // Without a style of its own the bar has a plain one.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs, {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn observe(report: &JobReport, bar: &ProgressBar) {
    match &report.result {
        JobResult::Succeeded { .. } | JobResult::Cancelled { .. } => bar.inc(1),
        JobResult::Failed { error } => {
            bar.inc(1);
            bar.set_message(format!("last failure: {}", text::brief(&error.to_string(), 60)));
        }
        _ => {}
    }
}

/// How many jobs are left as far as this process has seen.
struct Left {
    count: AtomicUsize,
    /// Told when none is.
    none: Notify,
}

impl Left {
    fn observe(&self, report: &JobReport) {
        if !matches!(
            report.result,
            JobResult::Succeeded { .. } | JobResult::Failed { .. } | JobResult::Cancelled { .. }
        ) {
            return;
        }
        let one_less = |count: usize| Some(count.saturating_sub(1));
        let before = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if before == Ok(1) {
            self.none.notify_one();
        }
    }
}

/// Asks the store, which alone knows what other processes have done, when this process has seen the
/// last job end, and every now and then.
async fn until_none_is_left(queue: &Queue, names: &Names, left: &Left) -> Result<(), Failure> {
    let live = JobFilter::queue(names.queue.clone()).with_states(JobStates::LIVE);
    let mut in_trouble_since = None;
    loop {
        match queue.tally(live.clone()).await {
            Ok(tallies) if tallies.is_empty() => return Ok(()),
            Ok(_) => in_trouble_since = None,
            Err(error) => {
                let since = *in_trouble_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE || !error.is_transient() {
                    return Err(error.into());
                }
            }
        }
        tokio::select! {
            () = left.none.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Resolves at Ctrl-C or when the system asks the process to end.
async fn told_to_stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
