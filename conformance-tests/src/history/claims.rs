//! Who held which job when.

use std::collections::{BTreeMap, HashMap, HashSet};

use queue_core::{
    Claimed, Fence, Fired, Guard, Inserted, Job, JobId, JobUpdate, Outcome, Reaped, State, Uuid,
    spec::{Answer, Op},
};

use super::{
    Call, History, Summary, Violation,
    chain::{Break, Chain, Fill, Sight, Span},
    format::Fate,
    queue,
    show::{Subject, line},
};

/// Checks who held which job when.
///
/// * A claim has the fence after the one before it, with its own token, and no fence is given to two requests. A claim
///   answers no more jobs than it may.
/// * A run ends once: by its holder, or by a reap after which no write under its fence is accepted. The next claim of a job
///   happens after the end of the run before it: there are moments, each within its call, in that order. So nobody is
///   given a job that is certainly held, from the end of the claim's call to the begin of the call that ends it.
/// * A holder is not refused before something has ended its run.
/// * What is read of a job (state and fence) is what it was at a moment of the read.
/// * A claim that answers fewer jobs than it may, while a job that it matches was due and waiting from before it began until after it
///   ended, has a `next_due` that is not later than the store's now.
/// * A FIFO claim takes no job before one that goes before it (priority, `run_at`, id), was due and waiting all the while, and that
///   nobody else had his hands on: no other call named it meanwhile, and no claim or reap was under way that had begun before
///   the job began to wait. A claim that takes as many as it may has no way to say that it passed over a job.
///
/// The last two are asked of claims without a filter, the last one of FIFO claims; and not of jobs with a lane or a unique
/// key, nor of jobs and queues once they are changed in bulk, deleted or paused.
///
/// Takes `n log n` steps for `n` calls and jobs in them.
///
/// # Errors
/// The first breach found, job by job.
pub fn check_claims(history: &History) -> Result<Summary, Violation> {
    let lives = Lives::of(history)?;
    for (id, life) in lives.sorted() {
        life.chain.check(0, &lives.unknown).map_err(|broken| tell(history, id, life, &broken))?;
    }
    let asked = queue::check(history, &lives)?;
    let runs = lives.jobs.values().map(|life| life.runs.len() as u64).sum();
    Ok(Summary::new([
        (history.calls.len() as u64, "calls"),
        (runs, "claims"),
        (lives.reaped, "reaped"),
        (lives.refused, "holders refused"),
        (asked.short, "short answers judged"),
        (asked.ordered, "claims judged for order"),
    ]))
}

/// What is known of a run from the answer to its claim.
pub(super) struct Run<'h> {
    pub job: &'h Job,
    pub call: usize,
}

#[derive(Default)]
pub(super) struct Life<'h> {
    /// Stage `2 c - 1` is the run of claim `c`, stage `2 c` the time after it.
    pub chain: Chain,
    /// The runs that were answered, by the count of their fence.
    pub runs: BTreeMap<u64, Run<'h>>,
    /// What the last read has shown of the time after a run, and when that read began.
    pub read: BTreeMap<u64, (u64, &'h Job)>,
}

#[derive(Default)]
pub(super) struct Lives<'h> {
    pub jobs: HashMap<JobId, Life<'h>>,
    /// Calls of unknown effect that may have taken or reaped any job.
    unknown: Vec<(Fill, u64)>,
    /// For each token: the first call with it, and when it began.
    pub tokens: HashMap<Uuid, (usize, u64)>,
    reaped: u64,
    refused: u64,
}

/// The stage that claim `count` begins, and the one after it.
const fn held(count: u64) -> u64 {
    (2 * count).saturating_sub(1)
}

pub(super) const fn after(count: u64) -> u64 {
    2 * count
}

impl<'h> Lives<'h> {
    fn of(history: &'h History) -> Result<Self, Violation> {
        let mut lives = Lives::default();
        let mut claims = Vec::new();
        for (place, call) in history.numbered() {
            if let Op::Claim(request) | Op::UpdateAndClaim(_, request) = &call.op {
                lives.tokens.entry(request.token).or_insert((place, call.begin));
                claims.push(place);
            }
        }
        // Claims in the order of their ends: the first that answers a run with its token is the one that took it, or the
        // repeat of it.
        claims.sort_by_key(|place| history.calls[*place].settled());
        for place in claims {
            lives.claim(history, place)?;
        }
        for (place, call) in history.numbered() {
            lives.others(history, place, call)?;
        }
        lives.insertions(history);
        Ok(lives)
    }

    /// Jobs by id, so that the same history is always refused for the same reason.
    pub fn sorted(&self) -> impl Iterator<Item = (JobId, &Life<'h>)> {
        let mut ids: Vec<JobId> = self.jobs.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| (id, &self.jobs[&id]))
    }

    /// When the first claim of unknown effect began.
    pub fn first_unknown_claim(&self) -> u64 {
        let claims = self.unknown.iter().filter(|(fill, _)| *fill == Fill::Odd);
        claims.map(|(_, begin)| *begin).min().unwrap_or(u64::MAX)
    }

    fn life(&mut self, id: JobId) -> &mut Life<'h> {
        self.jobs.entry(id).or_default()
    }

    fn claim(&mut self, history: &'h History, place: usize) -> Result<(), Violation> {
        let call = &history.calls[place];
        let (Op::Claim(request) | Op::UpdateAndClaim(_, request)) = &call.op else { return Ok(()) };
        let claimed = match (call.fate(), claimed(call)) {
            (Fate::Maybe, _) => {
                self.unknown.push((Fill::Odd, call.begin));
                return Ok(());
            }
            (_, Some(claimed)) => claimed,
            _ => return Ok(()),
        };
        if claimed.jobs.len() as u64 > u64::from(request.limit.get()) {
            let (most, id) = (request.limit, claimed.jobs[0].id);
            let what = format!("a claim of {most} answered {} jobs", claimed.jobs.len());
            return Err(Violation::new(history, &Subject::Claim(id), what, [place]));
        }
        let begin = self.tokens.get(&request.token).map_or(call.begin, |(_, begin)| *begin);
        for job in &claimed.jobs {
            let (id, count) = (job.id, job.fence.count);
            if job.fence.nonce != request.token || job.state != State::Running || count == 0 {
                let what = format!("a claim answered job {id}, which it does not hold");
                return Err(Violation::new(history, &Subject::Job(id), what, [place]));
            }
            let life = self.life(id);
            match life.runs.get(&count) {
                Some(run) if run.job.fence == job.fence && run.call != place => {
                    life.chain.see(held(count), Sight::Exactly, span(call, place));
                }
                _ => {
                    let taken = Span { begin, end: call.settled(), call: place };
                    life.chain.enter(held(count), taken);
                    life.runs.entry(count).or_insert(Run { job, call: place });
                }
            }
        }
        Ok(())
    }

    fn others(
        &mut self,
        history: &'h History,
        place: usize,
        call: &'h Call,
    ) -> Result<(), Violation> {
        let fate = call.fate();
        match &call.op {
            Op::Update(updates) | Op::UpdateAndClaim(updates, _) => {
                let outcomes = match fate {
                    Fate::Nothing => return Ok(()),
                    Fate::Maybe => None,
                    Fate::Done(
                        Answer::Outcomes(outcomes) | Answer::OutcomesAndClaimed(outcomes, _),
                    ) => Some(outcomes),
                    Fate::Done(_) => return Ok(()),
                };
                for (at, update) in updates.iter().enumerate() {
                    let outcome = outcomes.map(|outcomes| outcomes.get(at));
                    self.update(history, place, update, outcome)?;
                }
            }
            Op::Heartbeat(beaten, _) => {
                let Fate::Done(Answer::Outcomes(outcomes)) = fate else { return Ok(()) };
                for (held, outcome) in beaten.iter().zip(outcomes) {
                    self.write(history, place, held.id, held.fence, outcome)?;
                }
            }
            Op::Reap(_) => match fate {
                Fate::Done(Answer::Reaped(reaped)) => {
                    reaped.iter().try_for_each(|one| self.reap(history, place, one))?;
                }
                Fate::Maybe => self.unknown.push((Fill::Even, call.begin)),
                _ => {}
            },
            _ => {}
        }
        let read: Vec<&'h Job> = match call.fate() {
            Fate::Done(Answer::Jobs(jobs)) => jobs.iter().flatten().collect(),
            Fate::Done(Answer::Page(page)) => page.items.iter().collect(),
            _ => Vec::new(),
        };
        for job in read {
            let count = job.fence.count;
            let life = self.life(job.id);
            let stage = if job.state == State::Running { held(count) } else { after(count) };
            life.chain.see(stage, Sight::Exactly, span(call, place));
            if job.state == State::Waiting {
                life.read.insert(count, (call.begin, job));
            }
        }
        Ok(())
    }

    /// `outcome`: `None` when it is not known, `Some(None)` when the answer has none.
    fn update(
        &mut self,
        history: &'h History,
        place: usize,
        update: &JobUpdate,
        outcome: Option<Option<&Outcome>>,
    ) -> Result<(), Violation> {
        let Guard::Fence(fence) = update.guard else { return Ok(()) };
        let call = &history.calls[place];
        let settles = update.patch.transition.is_some();
        match outcome {
            None if settles => {
                self.life(update.id).chain.fill(Fill::At(after(fence.count)), call.begin);
                Ok(())
            }
            Some(Some(Outcome::Applied(_))) if settles => {
                self.known(history, place, update.id, fence)?;
                self.life(update.id).chain.enter(after(fence.count), span(call, place));
                Ok(())
            }
            Some(Some(outcome)) => self.write(history, place, update.id, fence, outcome),
            _ => Ok(()),
        }
    }

    /// A write under a fence that does not end the run.
    fn write(
        &mut self,
        history: &'h History,
        place: usize,
        id: JobId,
        fence: Fence,
        outcome: &Outcome,
    ) -> Result<(), Violation> {
        let (stage, sight) = match outcome {
            Outcome::Applied(_) => (held(fence.count), Sight::Exactly),
            Outcome::Repeated(_) | Outcome::Fenced | Outcome::Illegal { .. } | Outcome::Missing => {
                (after(fence.count), Sight::AtLeast)
            }
            _ => return Ok(()),
        };
        let accepted = matches!(outcome, Outcome::Applied(_) | Outcome::Repeated(_));
        if accepted {
            self.known(history, place, id, fence)?;
        } else {
            self.refused += 1;
            let claimed = self.jobs.get(&id).and_then(|life| life.runs.get(&fence.count));
            // A fence that no claim is known to have given says nothing about the run of that number.
            if claimed.is_none_or(|run| run.job.fence != fence) {
                return Ok(());
            }
        }
        self.life(id).chain.see(stage, sight, span(&history.calls[place], place));
        Ok(())
    }

    fn reap(
        &mut self,
        history: &'h History,
        place: usize,
        reaped: &Reaped,
    ) -> Result<(), Violation> {
        self.reaped += 1;
        self.known(history, place, reaped.id, reaped.fence)?;
        let ended = span(&history.calls[place], place);
        self.life(reaped.id).chain.enter(after(reaped.fence.count), ended);
        Ok(())
    }

    /// What is accepted under a fence must be accepted under the fence of a claim.
    fn known(
        &self,
        history: &History,
        place: usize,
        id: JobId,
        fence: Fence,
    ) -> Result<(), Violation> {
        let run = self.jobs.get(&id).and_then(|life| life.runs.get(&fence.count));
        match run {
            Some(run) if run.job.fence != fence => {
                let what = format!(
                    "a call under claim {} of job {id} was accepted with a token that is not the claim's",
                    fence.count
                );
                Err(Violation::new(history, &Subject::Job(id), what, [run.call, place]))
            }
            _ => Ok(()),
        }
    }

    /// When jobs came. One that came twice was deleted in between, and is left out.
    fn insertions(&mut self, history: &'h History) {
        let mut first: HashMap<JobId, u64> = HashMap::new();
        let mut came: HashMap<JobId, Span> = HashMap::new();
        let mut twice: HashSet<JobId> = HashSet::new();
        for (place, call) in history.numbered() {
            match (&call.op, call.fate()) {
                (Op::Insert(jobs), Fate::Maybe | Fate::Done(Answer::Inserted(_))) => {
                    for job in jobs {
                        first.entry(job.id).or_insert(call.begin);
                    }
                }
                (Op::Fire(fire), Fate::Maybe | Fate::Done(Answer::Fired(_))) => {
                    if let Some(job) = &fire.job {
                        first.entry(job.id).or_insert(call.begin);
                    }
                }
                _ => {}
            }
            let new: Vec<JobId> = match call.fate() {
                Fate::Done(Answer::Inserted(answers)) => {
                    let new = answers.iter().filter(|answer| matches!(answer, Inserted::New(_)));
                    new.map(|answer| answer.id()).collect()
                }
                Fate::Done(Answer::Fired(Fired::Enqueued(id))) => vec![*id],
                _ => Vec::new(),
            };
            for id in new {
                if came.insert(id, span(call, place)).is_some() {
                    twice.insert(id);
                }
            }
        }
        for (id, span) in came {
            let begin = first.get(&id).map_or(span.begin, |begin| *begin.min(&span.begin));
            self.life(id).chain.enter(0, Span { begin, ..span });
        }
        self.jobs.retain(|id, _| !twice.contains(id));
    }
}

pub(super) const fn span(call: &Call, place: usize) -> Span {
    Span { begin: call.begin, end: call.settled(), call: place }
}

pub(super) const fn claimed(call: &Call) -> Option<&Claimed> {
    match call.fate() {
        Fate::Done(Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed)) => {
            Some(claimed)
        }
        _ => None,
    }
}

fn tell(history: &History, id: JobId, life: &Life<'_>, broken: &Break) -> Violation {
    let (stage, mut calls) = match broken {
        Break::Twice { stage, calls } => (*stage, calls.to_vec()),
        Break::Gap { stage, calls } | Break::Order { stage, calls } => (*stage, calls.clone()),
    };
    let count = stage.div_ceil(2);
    let is_claim = stage % 2 == 1;
    let last = calls.last().and_then(|place| history.calls.get(*place));
    let at = calls.last().map_or_else(String::new, |place| format!(" of line {}", line(*place)));
    let reads = last.is_some_and(|call| matches!(call.op, Op::Get(..) | Op::Find(_)));
    let what = match (broken, is_claim) {
        (Break::Twice { .. }, true) => format!("claim {count} of job {id} was given twice"),
        (Break::Twice { .. }, false) => format!("the run of claim {count} of job {id} ended twice"),
        (Break::Gap { .. }, true) => {
            format!("no call can have made claim {count} of job {id}, and yet it is there")
        }
        (Break::Gap { .. }, false) => format!(
            "job {id} was lost to its holder, or given to another, though no call can have ended the run of claim {count}"
        ),
        (Break::Order { .. }, _) if reads => {
            format!("the read{at} shows job {id} as it was at no moment of the read")
        }
        (Break::Order { .. }, true) => format!(
            "claim {count} of job {id} cannot have been held at any moment of the call{at}: it ended too early"
        ),
        (Break::Order { .. }, false) => format!(
            "the run of claim {count} of job {id} cannot have been over at any moment of the call{at}: it ended too early"
        ),
    };
    // The claim itself and the end before it say who held it.
    for stage in [stage.saturating_sub(2), stage.saturating_sub(1), stage] {
        calls.extend(life.chain.entered(stage).map(|span| span.call));
    }
    Violation::new(history, &Subject::Job(id), what, calls)
}
