//! A call in one line, as far as it has to do with one subject.

use std::fmt::Write as _;

use queue_core::{
    Claimed, Fence, Guard, Job, JobId, JobUpdate, LogEntry, Outcome, Transition, Version,
    spec::{Answer, Op},
};

use super::{Answered, Call};

/// What a violation is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subject {
    Job(JobId),
    Record(String),
    /// A claim as a whole, and one job.
    Claim(JobId),
}

impl Subject {
    const fn job(&self) -> Option<JobId> {
        match self {
            Subject::Job(id) | Subject::Claim(id) => Some(*id),
            Subject::Record(_) => None,
        }
    }
}

/// The line of the saved history in which a call stands: the first one is about the store.
pub(super) const fn line(place: usize) -> usize {
    place + 2
}

pub(super) fn show(place: usize, call: &Call, subject: &Subject) -> String {
    let end = call.end.map_or_else(|| "never".to_owned(), micros);
    format!(
        "line {}, handle {}, {} to {end} us: {}{} -> {}",
        line(place),
        call.handle,
        micros(call.begin),
        call.op.method(),
        asked(&call.op, subject),
        answered(call, subject)
    )
}

fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1_000, nanos % 1_000)
}

fn asked(op: &Op, subject: &Subject) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = match op {
        Op::Insert(jobs) => {
            let mine = jobs.iter().find(|job| Some(job.id) == subject.job());
            match mine {
                Some(job) => write!(text, " of {} due {:?}", job.id, job.when),
                None => write!(text, " of {} jobs", jobs.len()),
            }
        }
        Op::Claim(request) => write!(text, " of {} as {}", request.limit, request.token),
        Op::UpdateAndClaim(updates, request) => {
            let mine = updates.iter().filter(|update| Some(update.id) == subject.job());
            mine.for_each(|update| text.push_str(&patch(update)));
            write!(text, " and claim of {} as {}", request.limit, request.token)
        }
        Op::Update(updates) => {
            let mine = updates.iter().filter(|update| Some(update.id) == subject.job());
            mine.for_each(|update| text.push_str(&patch(update)));
            Ok(())
        }
        Op::Heartbeat(held, _) => {
            let mine = held.iter().filter(|held| Some(held.id) == subject.job());
            mine.for_each(|held| text.push_str(&fence(held.fence)));
            Ok(())
        }
        Op::Get(_, log) => write!(text, " with log {log:?}"),
        Op::PutRecord(record, expect) => {
            write!(text, " of {:?} at {}", record.key, version(*expect))
        }
        Op::Records(prefix) => write!(text, " of {prefix:?}"),
        Op::UpdateWhere(_, change) => write!(text, " {change:?}"),
        _ => Ok(()),
    };
    text
}

fn fence(fence: Fence) -> String {
    format!(" under claim {} by {}", fence.count, fence.nonce)
}

fn version(version: Option<Version>) -> String {
    version.map_or_else(|| "any version".to_owned(), |version| format!("version {version}"))
}

fn patch(update: &JobUpdate) -> String {
    let mut text = match update.guard {
        Guard::Fence(held) => fence(held),
        Guard::Version(at) => format!(" at {}", version(Some(at))),
        Guard::None => " unguarded".to_owned(),
    };
    let patch = &update.patch;
    if let Some(transition) = &patch.transition {
        let _ = match transition {
            Transition::Retry { when, .. } | Transition::Release { when } => {
                write!(text, ": {:?} {when:?}", transition.kind())
            }
            _ => write!(text, ": {:?}", transition.kind()),
        };
    }
    if !patch.labels.is_empty() {
        let _ = write!(text, ": labels {:?}", patch.labels);
    }
    if !patch.log.is_empty() {
        let entries: Vec<String> =
            patch.log.iter().map(|new| format!("{} {:?}", new.id, new.body)).collect();
        let _ = write!(text, ": entries {}", entries.join(", "));
    }
    text
}

fn answered(call: &Call, subject: &Subject) -> String {
    let answer = match &call.answer {
        None => return "nothing: it never came back".to_owned(),
        Some(Answered::Error { kind, effect_unknown, message }) => {
            let effect = if *effect_unknown { "perhaps done" } else { "nothing done" };
            return format!("error {kind}, {effect}: {message}");
        }
        Some(Answered::Ok(answer)) => answer,
    };
    let outcome = |updates: &[JobUpdate], outcomes: &[Outcome]| {
        let mut both = updates.iter().zip(outcomes);
        let mine = both.find(|(update, _)| Some(update.id) == subject.job());
        mine.map_or_else(String::new, |(_, outcome)| told(outcome))
    };
    match (&call.op, answer) {
        (Op::Update(updates), Answer::Outcomes(outcomes)) => outcome(updates, outcomes),
        (Op::UpdateAndClaim(updates, _), Answer::OutcomesAndClaimed(outcomes, claimed)) => {
            let told = match outcome(updates, outcomes) {
                told if told.is_empty() => told,
                told => told + " and ",
            };
            told + &taken(claimed, subject)
        }
        (Op::Insert(jobs), Answer::Inserted(answers)) => {
            let mut both = jobs.iter().zip(answers);
            let mine = both.find(|(job, _)| Some(job.id) == subject.job());
            mine.map_or_else(|| "other jobs".to_owned(), |(_, answer)| format!("{answer:?}"))
        }
        (Op::Heartbeat(held, _), Answer::Outcomes(outcomes)) => {
            let mut both = held.iter().zip(outcomes);
            let mine = both.find(|(held, _)| Some(held.id) == subject.job());
            mine.map_or_else(String::new, |(_, outcome)| told(outcome))
        }
        (_, Answer::Claimed(claimed)) => taken(claimed, subject),
        (_, Answer::Reaped(reaped)) => {
            let mine = reaped.iter().find(|reaped| Some(reaped.id) == subject.job());
            mine.map_or_else(
                || format!("{} jobs", reaped.len()),
                |reaped| format!("{}, now {}", fence(reaped.fence).trim_start(), reaped.state),
            )
        }
        (_, Answer::Jobs(jobs)) => seen(jobs.iter().flatten(), subject),
        (_, Answer::Page(page)) => seen(page.items.iter(), subject),
        (_, Answer::Records(records)) => {
            let mine = records
                .iter()
                .find(|record| matches!(subject, Subject::Record(key) if *key == record.key));
            mine.map_or_else(
                || format!("{} records", records.len()),
                |record| format!("version {}, {:?}", record.version, record.body),
            )
        }
        (_, Answer::Put(outcome)) => told(outcome),
        (_, other) => shortened(format!("{other:?}")),
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied(ack) => match ack.version {
            Some(version) => format!("applied, version {version}"),
            None => "applied".to_owned(),
        },
        Outcome::Repeated(_) => "repeated".to_owned(),
        other => format!("{other:?}"),
    }
}

fn taken(claimed: &Claimed, subject: &Subject) -> String {
    let mut text = format!("{} jobs", claimed.jobs.len());
    if let Some(job) = claimed.jobs.iter().find(|job| Some(job.id) == subject.job()) {
        let _ = write!(text, ", among them {}", sketch(job));
    }
    if let Subject::Claim(_) = subject {
        if let Some(last) = claimed.jobs.last() {
            let _ = write!(
                text,
                ", the last one {} of priority {} due {}",
                last.id, last.priority, last.run_at
            );
        }
        let _ = match claimed.next_due {
            None => write!(text, ", next_due never"),
            Some(due) => write!(text, ", next_due {due}"),
        };
    }
    text
}

fn seen<'a>(mut jobs: impl Iterator<Item = &'a Job>, subject: &Subject) -> String {
    let mine = jobs.find(|job| Some(job.id) == subject.job());
    mine.map_or_else(|| "other jobs".to_owned(), sketch)
}

fn sketch(job: &Job) -> String {
    format!(
        "{} {}, claim {} by {}, version {}, due {}, log of {}{}",
        job.id,
        job.state,
        job.fence.count,
        job.fence.nonce,
        job.version,
        job.run_at,
        job.log_len,
        tail(&job.log)
    )
}

/// The last entries of a log that was read: where logs part, it is at their ends.
fn tail(log: &[LogEntry]) -> String {
    const SHOWN: usize = 3;
    let last = log.iter().skip(log.len().saturating_sub(SHOWN));
    let last: Vec<String> =
        last.map(|entry| format!("{}: {} {:?}", entry.seq, entry.id, entry.body)).collect();
    match last.is_empty() {
        true => String::new(),
        false => format!(" [.. {}]", last.join(", ")),
    }
}

fn shortened(text: String) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((end, _)) => format!("{}..", &text[..end]),
    }
}
