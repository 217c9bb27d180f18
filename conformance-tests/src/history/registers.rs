//! The versions of jobs and records.

use std::collections::{BTreeMap, HashMap, HashSet};

use queue_core::{
    Fired, Guard, Inserted, Job, JobUpdate, OnConflict, Outcome, Record, Version,
    spec::{Answer, Op},
};

use super::{
    Call, History, Summary, Violation,
    chain::{Break, Chain, Fill, Sight, Span},
    claims::span,
    format::Fate,
    show::{Subject, line},
};

/// Checks that the versions of each job and each record form one chain that agrees with real time.
///
/// * Of the changes that were made on a condition (`Guard::Version`, a put that expects a version), each version is left by one
///   at most, for the version after it; a change without a condition makes the next version as well.
/// * No version is left out, but for what calls of unknown effect, and calls that do not say which version they made, may have done.
/// * There are moments, each within its call, at which the changes happened in the order of their versions; a conflict
///   tells, and a read shows, the version of a moment of the call. So a change that was acknowledged is part of what is read from
///   then on.
/// * A record that is read at a version has the body that was put at it, and a job the labels.
///
/// Takes `n log n` steps for `n` calls and items in them. Jobs that were inserted anew after their deletion are left out.
///
/// # Errors
/// The first breach found, subject by subject.
pub fn check_register(history: &History) -> Result<Summary, Violation> {
    let mut registers = Registers::default();
    for (place, call) in history.numbered() {
        registers.add(history, place, call)?;
    }
    let mut subjects: Vec<&Subject> = registers.all.keys().collect();
    subjects.sort_unstable();
    for subject in subjects {
        let register = &registers.all[subject];
        if registers.twice.contains(subject) {
            continue;
        }
        let first = u64::from(matches!(subject, Subject::Job(_)));
        let checked = register.chain.check(first, &registers.unknown);
        checked.map_err(|broken| tell(history, subject, register, &broken))?;
        register.contents(history, subject)?;
    }
    Ok(Summary::new([
        (history.calls.len() as u64, "calls"),
        (registers.changes, "changes"),
        (registers.conflicts, "conflicts"),
        (registers.reads, "reads"),
    ]))
}

/// What was put at a version, or read at one.
#[derive(Clone, Copy)]
enum Content<'h> {
    Record(&'h Record),
    Patch(&'h JobUpdate),
    Job(&'h Job),
}

impl Content<'_> {
    /// Whether what is read is what was put.
    fn shows(self, put: Self) -> bool {
        match (self, put) {
            (Content::Record(read), Content::Record(put)) => read.body == put.body,
            (Content::Job(read), Content::Patch(put)) => {
                put.patch.labels.iter().all(|(key, value)| read.labels.get(key) == value.as_ref())
            }
            _ => true,
        }
    }
}

#[derive(Default)]
struct Register<'h> {
    chain: Chain,
    put: BTreeMap<u64, (usize, Content<'h>)>,
    read: Vec<(u64, usize, Content<'h>)>,
}

impl Register<'_> {
    fn contents(&self, history: &History, subject: &Subject) -> Result<(), Violation> {
        for (version, reader, read) in &self.read {
            if let Some((writer, put)) = self.put.get(version)
                && !read.shows(*put)
            {
                let what = format!(
                    "{} is read at version {version}, but not with what was put",
                    name(subject)
                );
                return Err(Violation::new(history, subject, what, [*writer, *reader]));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Registers<'h> {
    all: HashMap<Subject, Register<'h>>,
    /// Calls that may have changed any job.
    unknown: Vec<(Fill, u64)>,
    new: HashSet<Subject>,
    twice: HashSet<Subject>,
    changes: u64,
    conflicts: u64,
    reads: u64,
}

impl<'h> Registers<'h> {
    fn register(&mut self, subject: &Subject) -> &mut Register<'h> {
        if !self.all.contains_key(subject) {
            self.all.insert(subject.clone(), Register::default());
        }
        self.all.entry(subject.clone()).or_default()
    }

    fn add(&mut self, history: &'h History, place: usize, call: &'h Call) -> Result<(), Violation> {
        let fate = call.fate();
        if matches!(fate, Fate::Nothing) {
            return Ok(());
        }
        match (&call.op, &fate) {
            (Op::Insert(jobs), fate) => {
                if jobs.iter().any(|job| {
                    job.unique.as_ref().is_some_and(|u| u.on_conflict == OnConflict::Supersede)
                }) {
                    self.unknown.push((Fill::Any, call.begin));
                }
                if let Fate::Done(Answer::Inserted(answers)) = fate {
                    let new = answers.iter().filter(|answer| matches!(answer, Inserted::New(_)));
                    new.for_each(|answer| self.insert(answer.id()));
                }
            }
            (Op::Fire(_), fate) => {
                self.unknown.push((Fill::Any, call.begin));
                if let Fate::Done(Answer::Fired(Fired::Enqueued(id))) = fate {
                    self.insert(*id);
                }
            }
            (Op::UpdateWhere(..), _) | (Op::Claim(_) | Op::Reap(_), Fate::Maybe) => {
                self.unknown.push((Fill::Any, call.begin));
            }
            (Op::Update(updates) | Op::UpdateAndClaim(updates, _), fate) => {
                let outcomes = match fate {
                    Fate::Done(
                        Answer::Outcomes(outcomes) | Answer::OutcomesAndClaimed(outcomes, _),
                    ) => Some(outcomes),
                    _ => None,
                };
                for (at, update) in updates.iter().enumerate() {
                    let outcome = outcomes.and_then(|outcomes| outcomes.get(at));
                    self.update(history, place, update, outcome)?;
                }
                if outcomes.is_none() && matches!(call.op, Op::UpdateAndClaim(..)) {
                    self.unknown.push((Fill::Any, call.begin));
                }
            }
            (Op::PutRecord(record, expect), fate) => {
                let outcome = match fate {
                    Fate::Done(Answer::Put(outcome)) => Some(outcome),
                    _ => None,
                };
                let subject = Subject::Record(record.key.clone());
                let content = Content::Record(record);
                let change = Change { subject: &subject, expect: *expect, is_edit: true, content };
                self.change(history, place, &change, outcome)?;
            }
            _ => {}
        }
        self.answer(place, call, &fate);
        Ok(())
    }

    /// What an answer shows of jobs and records, and of changes whose version it does not tell.
    fn answer(&mut self, place: usize, call: &'h Call, fate: &Fate<'h>) {
        let Fate::Done(answer) = fate else { return };
        match answer {
            Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed) => {
                for job in &claimed.jobs {
                    let register = self.register(&Subject::Job(job.id));
                    register.chain.fill(Fill::Any, call.begin);
                    self.read(Subject::Job(job.id), job.version, place, call, Content::Job(job));
                }
            }
            Answer::Reaped(reaped) => {
                for one in reaped {
                    let register = self.register(&Subject::Job(one.id));
                    register.chain.fill(Fill::Any, call.begin);
                }
            }
            Answer::Jobs(jobs) => {
                for job in jobs.iter().flatten() {
                    self.read(Subject::Job(job.id), job.version, place, call, Content::Job(job));
                }
            }
            Answer::Page(page) => {
                for job in &page.items {
                    self.read(Subject::Job(job.id), job.version, place, call, Content::Job(job));
                }
            }
            Answer::Records(records) => {
                for record in records {
                    let subject = Subject::Record(record.key.clone());
                    self.read(subject, record.version, place, call, Content::Record(record));
                }
            }
            _ => {}
        }
    }

    fn insert(&mut self, id: queue_core::JobId) {
        let subject = Subject::Job(id);
        if !self.new.insert(subject.clone()) {
            self.twice.insert(subject);
        }
    }

    fn read(&mut self, of: Subject, at: Version, place: usize, call: &Call, content: Content<'h>) {
        self.reads += 1;
        let register = self.register(&of);
        register.chain.see(at.0, Sight::Exactly, span(call, place));
        register.read.push((at.0, place, content));
    }

    fn update(
        &mut self,
        history: &'h History,
        place: usize,
        update: &'h JobUpdate,
        outcome: Option<&Outcome>,
    ) -> Result<(), Violation> {
        let (subject, call) = (Subject::Job(update.id), &history.calls[place]);
        let expect = match update.guard {
            Guard::Version(version) => Some(version),
            Guard::None => None,
            Guard::Fence(_) => {
                // A holder is not told the version, and a bump that another caller sees may be its.
                let changes = update.patch.transition.is_some() || update.patch.is_edit(true);
                if changes && outcome.is_none_or(Outcome::is_saved) {
                    self.register(&subject).chain.fill(Fill::Any, call.begin);
                }
                return Ok(());
            }
        };
        let (is_edit, content) = (update.patch.is_edit(false), Content::Patch(update));
        let change = Change { subject: &subject, expect, is_edit, content };
        self.change(history, place, &change, outcome)
    }

    fn change(
        &mut self,
        history: &'h History,
        place: usize,
        change: &Change<'_, 'h>,
        outcome: Option<&Outcome>,
    ) -> Result<(), Violation> {
        let Change { subject, expect, is_edit, content } = *change;
        let call = &history.calls[place];
        let wrong = |why: &str| {
            let what = format!("a change of {} {why}", name(subject));
            Err(Violation::new(history, subject, what, [place]))
        };
        let ran = span(call, place);
        match outcome {
            None if is_edit => {
                let fill = expect.map_or(Fill::Any, |from| Fill::At(from.0 + 1));
                self.register(subject).chain.fill(fill, call.begin);
            }
            Some(Outcome::Applied(ack)) => {
                let Some(version) = ack.version else {
                    return wrong("was made, and its version not told");
                };
                let from = version.0.checked_sub(u64::from(is_edit));
                if expect.is_some_and(|expect| from != Some(expect.0)) {
                    return wrong("does not lead from the version expected to the next one");
                }
                let register = self.register(subject);
                if is_edit {
                    register.chain.enter(version.0, ran);
                    register.put.insert(version.0, (place, content));
                    self.changes += 1;
                } else {
                    register.chain.see(version.0, Sight::Exactly, ran);
                }
            }
            Some(Outcome::Conflict { actual }) => {
                if expect.is_none_or(|expect| expect == *actual) {
                    return wrong("was a conflict with the version expected");
                }
                self.conflicts += 1;
                self.register(subject).chain.see(actual.0, Sight::Exactly, ran);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A change on a condition, or on none.
#[derive(Clone, Copy)]
struct Change<'a, 'h> {
    subject: &'a Subject,
    expect: Option<Version>,
    /// Whether it makes a new version.
    is_edit: bool,
    content: Content<'h>,
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Job(id) | Subject::Claim(id) => format!("job {id}"),
        Subject::Record(key) => format!("the record {key:?}"),
    }
}

fn tell(
    history: &History,
    subject: &Subject,
    register: &Register<'_>,
    broken: &Break,
) -> Violation {
    let name = name(subject);
    let (what, mut calls, stage) = match broken {
        Break::Twice { stage, calls } => {
            (format!("version {stage} of {name} was made twice"), calls.to_vec(), *stage)
        }
        Break::Gap { stage, calls } => {
            (format!("no call can have made version {stage} of {name}"), calls.clone(), *stage)
        }
        Break::Order { stage, calls } => {
            let at =
                calls.last().map_or_else(String::new, |place| format!(" of line {}", line(*place)));
            let what = format!(
                "version {stage} of {name} cannot have been there at any moment of the call{at}: it ended too early"
            );
            (what, calls.clone(), *stage)
        }
    };
    let around = [stage.saturating_sub(1), stage];
    calls.extend(
        around.iter().filter_map(|at| register.chain.entered(*at)).map(|Span { call, .. }| call),
    );
    Violation::new(history, subject, what, calls)
}
