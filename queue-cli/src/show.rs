//! `queue show`.

use queue::{
    Job, JobError, StepEntry, StepState, StepStatus, StoreRegistry,
    core::{EntryKind, LogEntry},
    step_statuses,
};
use serde::Serialize;

use crate::{
    args::ShowArgs,
    failure::{Ending, Failure},
    run::reason,
    store, text,
};

/// How much of an input or output is shown to people.
const SHOWN: usize = 200;

#[derive(Serialize)]
struct Details<'a> {
    job: &'a Job,
    steps: &'a [StepStatus],
    log: &'a [LogEntry],
}

pub(crate) async fn show(registry: &StoreRegistry, args: ShowArgs) -> Result<Ending, Failure> {
    let queue = store::open_existing(registry, &args.db).await?;
    let Some(mut job) = queue.job(args.id).await? else {
        return Err(Failure::new(format!("there is no job {}", args.id)));
    };
    let log = std::mem::take(&mut job.log);
    let steps = step_statuses(&log);
    if args.json {
        text::json_to_stdout(&Details { job: &job, steps: &steps, log: &log })?;
    } else {
        let now = queue.store().ping().await?;
        let mut lines = about(&job, job.phase(now));
        lines.extend(steps.iter().map(step_line));
        lines.extend(log.iter().map(log_line));
        text::to_stdout(&text::Shown(&lines.join("\n")));
    }
    Ok(Ending::Done)
}

fn about(job: &Job, phase: &str) -> Vec<String> {
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("kind", job.kind.to_string()),
        ("queue", job.queue.to_string()),
        ("state", phase.to_owned()),
        ("attempt", format!("{} (crashes: {} of {})", job.attempt, job.crashes, job.max_crashes)),
        ("created", job.created_at.to_string()),
        ("due", job.run_at.to_string()),
    ];
    let mut optional = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    optional("started", job.started_at.map(|at| at.to_string()));
    optional("finished", job.finished_at.map(|at| at.to_string()));
    optional("held by", job.holder.as_ref().map(|holder| holder.to_string()));
    optional("held until", job.lease_until.map(|at| at.to_string()));
    let labels: Vec<String> =
        job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    optional("labels", (!labels.is_empty()).then(|| labels.join(", ")));
    optional("input", Some(text::brief(job.input.as_str(), SHOWN)));
    optional("output", job.output.as_ref().map(|output| text::brief(output.as_str(), SHOWN)));
    let ended_badly = job.error.is_some() || job.cancel.is_some();
    optional("error", ended_badly.then(|| reason(job)));
    rows.into_iter().map(|(name, value)| format!("{name:<11}{value}")).collect()
}

fn step_line(status: &StepStatus) -> String {
    let state = if status.complete { "complete" } else { "not complete" };
    format!("step {} ({}): {state}, attempts: {}", status.step, status.task, status.attempts)
}

fn log_line(entry: &LogEntry) -> String {
    let what = match (entry.kind, StepEntry::from_entry(entry)) {
        (_, Some(step)) => step_entry(&step),
        (EntryKind::Attempt, None) => match entry.body.to::<JobError>() {
            Ok(error) => format!("attempt {} failed: {error}", error.attempt),
            Err(_) => format!("attempt ended: {}", entry.body),
        },
        (_, None) => match entry.body.to::<String>() {
            Ok(line) => line,
            Err(_) => text::brief(entry.body.as_str(), SHOWN),
        },
    };
    format!("{:>4} {} {what}", entry.seq, entry.at)
}

fn sleep_entry(step: &StepEntry) -> String {
    let until = step.until.map(|until| until.to_string()).unwrap_or_default();
    format!("step {} sleeps until {until}", step.step)
}

fn step_entry(step: &StepEntry) -> String {
    let output = step.output.as_ref().map(|output| text::brief(output.as_str(), SHOWN));
    let error = step.error.as_ref().map(ToString::to_string);
    let (state, what) = match step.state {
        StepState::Completed => ("completed", output),
        StepState::Failed => ("failed", error),
        StepState::Cancelled => ("cancelled", error),
        StepState::Sleeping => return sleep_entry(step),
        // A state of a later version.
        _ => ("ended", output.or(error)),
    };
    let took = step.started_at.until(step.finished_at).as_secs_f64();
    format!(
        "step {} attempt {} {state} in {took:.3} s: {}",
        step.step,
        step.attempt,
        what.unwrap_or_default()
    )
}
