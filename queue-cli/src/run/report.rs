//! What became of the jobs of a run.

use std::{path::Path, time::Duration};

use queue::{
    Job, JobError, JobId, JobState, Payload, Queue, QueueName, StepEntry, StepState,
    core::{LogEntry, LogRead},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Setting,
    place::{BATCH, Before, Placed},
};
use crate::{args::RunArgs, failure::Failure, text};

/// How many failed jobs are shown.
const SHOWN: usize = 20;

/// How many steps of a log completed.
pub(super) fn completed_steps(log: &[LogEntry]) -> usize {
    let steps = log.iter().filter_map(StepEntry::from_entry);
    steps.filter(|step| step.state == StepState::Completed).count()
}

/// The jobs of a run at its end, in their order.
pub(super) struct Results {
    jobs: Vec<(Placed, Job)>,
    steps_done: usize,
    steps_restored: usize,
}

impl Results {
    pub(super) async fn read(queue: &Queue, placed: Vec<Placed>) -> Result<Self, Failure> {
        let mut results =
            Results { jobs: Vec::with_capacity(placed.len()), steps_done: 0, steps_restored: 0 };
        let mut placed = placed.into_iter().peekable();
        while placed.peek().is_some() {
            let batch: Vec<Placed> = placed.by_ref().take(BATCH).collect();
            let (done, other): (Vec<usize>, Vec<usize>) =
                (0..batch.len()).partition(|position| batch[*position].before == Before::Done);
            let mut jobs: Vec<Option<Job>> = vec![None; batch.len()];
            for (positions, log) in [(done, LogRead::None), (other, LogRead::All)] {
                let ids = positions.iter().map(|position| batch[*position].id).collect();
                for (position, job) in positions.into_iter().zip(queue.jobs(ids, log).await?) {
                    jobs[position] = job;
                }
            }
            for (placed, job) in batch.into_iter().zip(jobs) {
                let job = job.ok_or_else(|| {
                    Failure::new(format!("job {} was deleted while it was waited for", placed.id))
                })?;
                results.add(placed, job);
            }
        }
        Ok(results)
    }

    fn add(&mut self, placed: Placed, mut job: Job) {
        let steps = completed_steps(&job.log);
        let restored = match placed.before {
            Before::Unfinished(restored) => restored,
            Before::New | Before::Failed | Before::Done => 0,
        };
        self.steps_done += steps.saturating_sub(restored);
        self.steps_restored += restored;
        // What was counted is of no more use.
        job.log = Vec::new();
        self.jobs.push((placed, job));
    }

    fn count(&self, matching: impl Fn(&Placed, &Job) -> bool) -> usize {
        self.jobs.iter().filter(|(placed, job)| matching(placed, job)).count()
    }

    fn in_state(&self, state: JobState) -> usize {
        self.count(|_, job| job.state == state)
    }

    pub(super) fn all_completed(&self) -> bool {
        self.in_state(JobState::Completed) == self.jobs.len()
    }

    fn nothing_was_left(&self) -> bool {
        self.count(|placed, _| placed.before == Before::Done) == self.jobs.len()
    }

    /// The outputs of the completed jobs, in the order of the jobs.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &Payload> {
        self.jobs.iter().filter_map(|(_, job)| job.output.as_ref())
    }

    /// The jobs that ended badly, with the reason.
    fn failures(&self) -> impl Iterator<Item = (&Job, String)> {
        let badly = |job: &Job| matches!(job.state, JobState::Failed | JobState::Cancelled);
        self.jobs.iter().filter(move |(_, job)| badly(job)).map(|(_, job)| (job, reason(job)))
    }
}

/// Why a job ended badly, in one text.
pub(crate) fn reason(job: &Job) -> String {
    if let (JobState::Cancelled, Some(cancel)) = (job.state, &job.cancel) {
        return format!("cancelled: {}", cancel.reason);
    }
    match job.error.as_ref().map(|error| (error.to::<JobError>(), error)) {
        Some((Ok(error), _)) => error.to_string(),
        Some((Err(_), text)) => text.to_string(),
        None => "it left no error".to_owned(),
    }
}

/// What is said at the end of a run.
pub(super) struct Report<'a> {
    pub(super) setting: &'a Setting,
    pub(super) results: &'a Results,
    /// Where the outputs were to go.
    pub(super) output: Option<&'a Path>,
    /// Where they went.
    pub(super) written: Option<&'a Path>,
    pub(super) interrupted: bool,
    pub(super) took: Duration,
}

impl Report<'_> {
    pub(super) fn print(&self, args: &RunArgs) -> Result<(), Failure> {
        if args.json {
            text::json_to_stdout(&self.to_json())?;
        } else if !args.quiet {
            text::to_stdout(&self.to_text());
        }
        self.print_failures();
        if self.interrupted {
            text::to_stderr("interrupted; the same command goes on where this one stopped");
        }
        Ok(())
    }

    fn print_failures(&self) {
        let all = self.results.failures().count();
        for (job, reason) in self.results.failures().take(SHOWN) {
            let input = text::brief(job.input.as_str(), 100);
            text::to_stderr(&format!("{}: {} {input} ({}): {reason}", job.state, job.kind, job.id));
        }
        if all > SHOWN {
            text::to_stderr(&format!(
                "and {} more; `queue list --state failed` shows them",
                all - SHOWN
            ));
        }
        if let (Some(path), None, true) = (self.output, self.written, all > 0) {
            text::to_stderr(&format!("{} was not written, because jobs failed", path.display()));
        }
    }

    fn to_text(&self) -> String {
        let results = self.results;
        let mut rows = Vec::new();
        let mut row = |name: &str, count: usize, note: String| {
            rows.push(vec![format!("  {name}"), format!("{count:>6}"), note]);
        };
        let before = results.count(|placed, _| placed.before == Before::Done);
        let note = if before > 0 { format!("({before} of them before)") } else { String::new() };
        row("completed", results.in_state(JobState::Completed), note);
        let again = results.count(|placed, _| placed.before == Before::Failed);
        let note =
            if again > 0 { format!("({again} jobs were tried again)") } else { String::new() };
        row("failed", results.in_state(JobState::Failed), note);
        for (name, count) in [
            ("cancelled", results.in_state(JobState::Cancelled)),
            ("unfinished", results.count(|_, job| !job.state.is_final())),
        ] {
            if count > 0 {
                row(name, count, String::new());
            }
        }
        row("steps done", results.steps_done, String::new());
        row("steps restored", results.steps_restored, String::new());
        let jobs = if results.jobs.len() == 1 { "job" } else { "jobs" };
        let head = format!("{}: {} {jobs}", self.setting.file.display(), results.jobs.len());
        let mut lines = vec![head, text::table(&rows)];
        if results.nothing_was_left() {
            lines.push("nothing was left to do".to_owned());
        }
        if let Some(path) = self.written {
            lines.push(format!("wrote {} lines to {}", results.outputs().count(), path.display()));
        }
        lines.push(format!("took {:.1} s", self.took.as_secs_f64()));
        text::Shown(&lines.join("\n")).to_string()
    }

    fn to_json(&self) -> Summary<'_> {
        let results = self.results;
        let failed = |(job, error): (&'_ Job, String)| FailedJob {
            id: job.id,
            kind: job.kind.to_string(),
            state: job.state,
            input: job.input.clone(),
            error,
        };
        Summary {
            file: self.setting.file.display().to_string(),
            queue: &self.setting.names.queue,
            jobs: json!({
                "total": results.jobs.len(),
                "completed": results.in_state(JobState::Completed),
                "completed_before": results.count(|placed, _| placed.before == Before::Done),
                "tried_again": results.count(|placed, _| placed.before == Before::Failed),
                "failed": results.in_state(JobState::Failed),
                "cancelled": results.in_state(JobState::Cancelled),
                "unfinished": results.count(|_, job| !job.state.is_final()),
            }),
            steps: json!({ "done": results.steps_done, "restored": results.steps_restored }),
            nothing_left: results.nothing_was_left(),
            interrupted: self.interrupted,
            output: self.written.map(|path| path.display().to_string()),
            failures: results.failures().map(failed).collect(),
            seconds: self.took.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    file: String,
    queue: &'a QueueName,
    jobs: Value,
    steps: Value,
    nothing_left: bool,
    interrupted: bool,
    output: Option<String>,
    failures: Vec<FailedJob>,
    seconds: f64,
}

#[derive(Serialize)]
struct FailedJob {
    id: JobId,
    kind: String,
    state: JobState,
    input: Payload,
    error: String,
}
