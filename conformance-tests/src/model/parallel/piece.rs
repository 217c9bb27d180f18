//! Operations as the steps that the contract makes atomic.
//!
//! What is linearised is not always a whole call: the contract makes each item of a batch atomic, and each job of a claim. Splitting
//! a call that others overlap into those pieces lets every correct store pass, at the price of what the contract leaves open anyway.

use queue_core::{
    ClaimRequest, Claimed, Effect, Job, JobFilter, JobId, NewJob, OnConflict, Reaped, Result,
    State, Timestamp,
    spec::{Answer, Latitude, Op, Spec, Verdict, World},
};

use super::{
    event::Event,
    search::{Failure, Node},
};

/// How many jobs a call whose answer was lost is thought to take at most.
const LOST: usize = 4;

/// One atomic step of an event.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) event: usize,
    /// The unit of the same event that comes first.
    pub(super) after: Option<usize>,
    /// Whether it may never happen.
    pub(super) optional: bool,
    piece: Piece,
}

#[derive(Debug)]
enum Piece {
    /// The specification allows this answer.
    Answered(Op, Result<Answer>, Latitude),
    /// It was carried out, and nobody heard the answer.
    Unheard(Op),
    /// A claim takes this job, one of these, or finds that it holds it since an earlier call with its token.
    Take(ClaimRequest, Box<Job>, Vec<JobId>),
    /// A claim takes some job, and nobody heard which.
    TakeUnheard(ClaimRequest),
    /// A claim that got these jobs, fewer than asked for, says when to come back: it has looked at the leases,
    Leases(ClaimRequest, Claimed),
    /// and then at what waits.
    Waiting(ClaimRequest, Claimed),
    /// A reap takes this job.
    Reap(Reaped),
    /// A reap takes some job, and nobody heard which.
    ReapUnheard,
    /// The job that superseded another comes into sight.
    Reveal(JobId),
}

/// Splits the events of a stretch of a history, outside of which nothing overlaps them.
pub(super) fn split(events: &[Event]) -> Result<Vec<Unit>, Failure> {
    let mut units = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let answer = event.answer.to_result();
        let mut rivals = events.iter().enumerate().filter(|(other_at, other)| {
            *other_at != at && event.overlaps(other) && (writes(&event.op) || writes(&other.op))
        });
        let contended = match single(&event.op) {
            // Nothing of it can be seen apart, and readers are in nobody's way.
            true => rivals.any(|(_, other)| writes(&other.op)),
            false => rivals.next().is_some(),
        };
        let mut splitting = Splitting { units: &mut units, event: at };
        match answer {
            Ok(answer) if contended => splitting.contended(&event.op, answer),
            Err(error) if error.effect() == Effect::Unknown => splitting.unheard(&event.op),
            Err(error) if error.is_transient() => {}
            answer => splitting.whole(&event.op, answer, Latitude::Alone),
        }
    }
    Ok(units)
}

/// Whether others can be in the way of this, or see it.
const fn writes(op: &Op) -> bool {
    !matches!(op, Op::Get(..) | Op::Find(_) | Op::Tally(_) | Op::Schedules | Op::Records(_))
}

/// Whether it takes one job at most.
const fn single(op: &Op) -> bool {
    match op {
        Op::Claim(request) => request.limit.get() == 1,
        Op::Reap(limit) => limit.get() == 1,
        _ => false,
    }
}

fn supersedes(job: &NewJob) -> bool {
    job.unique.as_ref().is_some_and(|unique| unique.on_conflict == OnConflict::Supersede)
}

struct Splitting<'a> {
    units: &'a mut Vec<Unit>,
    event: usize,
}

impl Splitting<'_> {
    fn add(&mut self, piece: Piece, after: Option<usize>, optional: bool) -> usize {
        self.units.push(Unit { event: self.event, after, optional, piece });
        self.units.len() - 1
    }

    fn whole(&mut self, op: &Op, answer: Result<Answer>, latitude: Latitude) {
        self.add(Piece::Answered(op.clone(), answer, latitude), None, false);
    }

    fn item(&mut self, op: Op, answer: Answer, after: Option<usize>) -> usize {
        self.add(Piece::Answered(op, Ok(answer), Latitude::Contended), after, false)
    }

    fn contended(&mut self, op: &Op, answer: Answer) {
        match (op, answer) {
            (Op::Insert(jobs), Answer::Inserted(answers)) if jobs.len() == answers.len() => {
                let mut last = None;
                for (job, answer) in jobs.iter().zip(answers) {
                    let one = Op::Insert(vec![job.clone()]);
                    let unit = self.item(one, Answer::Inserted(vec![answer]), last);
                    last = Some(unit);
                    if supersedes(job) && answer.is_new() {
                        last = Some(self.add(Piece::Reveal(job.id), last, false));
                    }
                }
            }
            (Op::Fire(fire), answer @ Answer::Fired(_)) => {
                let unit = self.item(op.clone(), answer, None);
                if let Some(job) = fire.job.as_ref().filter(|job| supersedes(job)) {
                    self.add(Piece::Reveal(job.id), Some(unit), false);
                }
            }
            (Op::Update(updates), Answer::Outcomes(answers)) if updates.len() == answers.len() => {
                for (update, answer) in updates.iter().zip(answers) {
                    let one = Op::Update(vec![update.clone()]);
                    self.item(one, Answer::Outcomes(vec![answer]), None);
                }
            }
            (Op::Heartbeat(held, lease), Answer::Outcomes(answers))
                if held.len() == answers.len() =>
            {
                for (held, answer) in held.iter().zip(answers) {
                    let one = Op::Heartbeat(vec![held.clone()], *lease);
                    self.item(one, Answer::Outcomes(vec![answer]), None);
                }
            }
            (Op::Get(ids, log), Answer::Jobs(answers)) if ids.len() == answers.len() => {
                for (id, answer) in ids.iter().zip(answers) {
                    self.item(Op::Get(vec![*id], *log), Answer::Jobs(vec![answer]), None);
                }
            }
            (Op::Reap(limit), Answer::Reaped(answers))
                if u32::try_from(answers.len()).is_ok_and(|many| many <= limit.get()) =>
            {
                for reaped in answers {
                    self.add(Piece::Reap(reaped), None, false);
                }
            }
            (Op::Claim(request), Answer::Claimed(claimed)) => self.claim(op, request, claimed),
            (
                Op::UpdateAndClaim(updates, request),
                Answer::OutcomesAndClaimed(answers, claimed),
            ) if updates.len() == answers.len() => {
                self.contended(&Op::Update(updates.clone()), Answer::Outcomes(answers));
                self.claim(&Op::Claim(request.clone()), request, claimed);
            }
            (_, answer) => self.whole(op, Ok(answer), Latitude::Contended),
        }
    }

    fn claim(&mut self, op: &Op, request: &ClaimRequest, claimed: Claimed) {
        let limit = usize::try_from(request.limit.get()).unwrap_or(usize::MAX);
        let full = claimed.jobs.len() == limit;
        if claimed.jobs.len() > limit || (full && claimed.next_due.is_some()) {
            // The specification says what is wrong with it.
            return self.whole(op, Ok(Answer::Claimed(claimed)), Latitude::Contended);
        }
        for job in &claimed.jobs {
            let all = claimed.jobs.iter().map(|job| job.id).collect();
            self.add(Piece::Take(request.clone(), Box::new(job.clone()), all), None, false);
        }
        if !full {
            // Two looks need not be one, if a run that ends between them is seen in one of the two.
            let leases = Piece::Leases(request.clone(), claimed.clone());
            let leases = self.add(leases, None, false);
            self.add(Piece::Waiting(request.clone(), claimed), Some(leases), false);
        }
    }

    fn unheard(&mut self, op: &Op) {
        let taken = |limit: std::num::NonZeroU32| {
            usize::try_from(limit.get()).map_or(LOST, |limit| limit.min(LOST))
        };
        match op {
            Op::Insert(jobs) => {
                for job in jobs {
                    let unit = self.unheard_item(Op::Insert(vec![job.clone()]));
                    if supersedes(job) {
                        self.add(Piece::Reveal(job.id), Some(unit), true);
                    }
                }
            }
            Op::Update(updates) => {
                for update in updates {
                    self.unheard_item(Op::Update(vec![update.clone()]));
                }
            }
            Op::Heartbeat(held, lease) => {
                for held in held {
                    self.unheard_item(Op::Heartbeat(vec![held.clone()], *lease));
                }
            }
            Op::UpdateAndClaim(updates, request) => {
                self.unheard(&Op::Update(updates.clone()));
                self.unheard(&Op::Claim(request.clone()));
            }
            Op::Claim(request) => {
                for _ in 0..taken(request.limit) {
                    self.add(Piece::TakeUnheard(request.clone()), None, true);
                }
            }
            Op::Reap(limit) => {
                for _ in 0..taken(*limit) {
                    self.add(Piece::ReapUnheard, None, true);
                }
            }
            op if writes(op) => {
                self.unheard_item(op.clone());
            }
            _ => {}
        }
    }

    fn unheard_item(&mut self, op: Op) -> usize {
        self.add(Piece::Unheard(op), None, true)
    }
}

/// Takes a step: every state that it may lead to, or why it may not be taken.
pub(super) fn apply(unit: &Unit, node: &Node, now: Timestamp) -> Result<Vec<Node>, String> {
    if let Piece::Reveal(id) = &unit.piece {
        let mut next = node.clone();
        next.hidden.remove(id);
        return Ok(vec![next]);
    }
    let mut next = node.clone();
    if let Piece::Answered(op @ (Op::Insert(_) | Op::Fire(_)), ..)
    | Piece::Unheard(op @ (Op::Insert(_) | Op::Fire(_))) = &unit.piece
    {
        // Whoever asks for its key meets a job that is not in sight, too.
        let mut worlds = step(&unit.piece, node.world.clone(), now)?;
        next.world = worlds.remove(0);
        next.hidden.extend(superseding(op, &node.world, &next.world));
        return Ok(vec![next]);
    }
    let mut seen = node.world.clone();
    let unseen: Vec<_> = node.hidden.iter().filter_map(|id| seen.take(*id)).collect();
    let worlds = step(&unit.piece, seen, now)?.into_iter().map(|mut world| {
        unseen.iter().for_each(|stored| world.place(stored.clone()));
        Node { world, hidden: node.hidden.clone() }
    });
    Ok(worlds.collect())
}

/// The job of this call that took the place of another between these two.
fn superseding(op: &Op, was: &World, is: &World) -> Option<JobId> {
    let job = match op {
        Op::Insert(jobs) => jobs.first()?,
        Op::Fire(fire) => fire.job.as_ref()?,
        _ => return None,
    };
    let held = was.key_holder(&job.unique.as_ref()?.key)?;
    let ended = is.job(held)?.row.control.state == State::Cancelled;
    (ended && was.job(job.id).is_none() && is.job(job.id).is_some()).then_some(job.id)
}

fn step(piece: &Piece, mut world: World, now: Timestamp) -> Result<Vec<World>, String> {
    match piece {
        Piece::Answered(op, answer, latitude) => {
            let mut spec = Spec::new(world);
            match spec.check(op, now, answer, *latitude) {
                Verdict::Accept => Ok(vec![spec.world().clone()]),
                Verdict::Reject(why) => Err(why),
            }
        }
        Piece::Unheard(op) => {
            let mut spec = Spec::new(world);
            spec.answer(op, now).map_err(|error| error.to_string())?;
            Ok(vec![spec.world().clone()])
        }
        Piece::Take(request, job, all) => {
            repeats(&world, request, all, now)?;
            let held = world.job(job.id).map(|stored| &stored.row.control);
            let held = held.is_some_and(|control| {
                control.state == State::Running && control.fence.nonce == request.token
            });
            let expected = match held {
                true => world.get(&[job.id], request.log).remove(0),
                false => take(&mut world, request, job.id, now),
            };
            match expected {
                None => Err(format!("job {} was not to be had", job.id)),
                Some(expected) if expected == **job => Ok(vec![world]),
                Some(expected) => Err(format!("expected {expected:#?}\n     got {job:#?}")),
            }
        }
        Piece::TakeUnheard(request) => {
            let waiting = world.jobs().filter(|stored| stored.row.control.state == State::Waiting);
            let waiting: Vec<JobId> = waiting.map(|stored| stored.row.id).collect();
            let taken = waiting.into_iter().filter_map(|id| {
                let mut world = world.clone();
                take(&mut world, request, id, now).map(|_| world)
            });
            Ok(taken.collect())
        }
        Piece::Leases(request, claimed) => {
            let after = taken(&world, request, claimed, now)?;
            let leases = after.running().filter_map(|id| after.job(id)?.row.control.lease_until);
            not_later(leases.min(), claimed, now)?;
            Ok(vec![world])
        }
        Piece::Waiting(request, claimed) => {
            let mut after = taken(&world, request, claimed, now)?;
            for id in after.running().collect::<Vec<JobId>>() {
                after.edit(id, |stored| stored.row.control.lease_until = None);
            }
            not_later(after.next_due(request, now), claimed, now)?;
            Ok(vec![world])
        }
        Piece::Reap(reaped) => {
            let expired = |world: &World| {
                world.job(reaped.id).is_some_and(|stored| stored.row.control.is_expired(now))
            };
            let expected = expired(&world).then(|| world.reap_one(reaped.id, now)).flatten();
            match expected.as_ref() == Some(reaped) {
                true => Ok(vec![world]),
                false => Err(format!("expected {expected:?}\n     got {reaped:?}")),
            }
        }
        Piece::ReapUnheard => {
            let expired = world.jobs().filter(|stored| stored.row.control.is_expired(now));
            let expired: Vec<JobId> = expired.map(|stored| stored.row.id).collect();
            let reaped = expired.into_iter().map(|id| {
                let mut world = world.clone();
                world.reap_one(id, now);
                world
            });
            Ok(reaped.collect())
        }
        Piece::Reveal(_) => Ok(vec![world]),
    }
}

/// Takes this one job, passing over all others, if it is to be had.
fn take(world: &mut World, request: &ClaimRequest, id: JobId, now: Timestamp) -> Option<Job> {
    let mut wanted = request.filter.clone().unwrap_or_else(JobFilter::all);
    if wanted.ids.as_ref().is_some_and(|ids| !ids.contains(&id)) {
        return None;
    }
    wanted.ids = Some(vec![id]);
    let mut alone = request.clone();
    alone.filter = Some(wanted);
    let picked = world.pick(&alone, now);
    let mut jobs = world.claim_these(&picked, request, now);
    jobs.pop()
}

/// Jobs that are still held since an earlier call with the token must be answered.
fn repeats(
    world: &World,
    request: &ClaimRequest,
    answered: &[JobId],
    now: Timestamp,
) -> Result<(), String> {
    let held = world.repeated_claim(request, now).map(|claimed| claimed.jobs).unwrap_or_default();
    match held.iter().find(|job| !answered.contains(&job.id)) {
        None => Ok(()),
        Some(job) => Err(format!("job {} is still held under the token", job.id)),
    }
}

/// The store as a claim leaves it which may still be about to take some of its jobs.
fn taken(
    world: &World,
    request: &ClaimRequest,
    claimed: &Claimed,
    now: Timestamp,
) -> Result<World, String> {
    let answered: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
    repeats(world, request, &answered, now)?;
    let mut world = world.clone();
    for id in answered {
        let waits = world.job(id).map(|stored| stored.row.control.state == State::Waiting);
        if waits == Some(true) && take(&mut world, request, id, now).is_none() {
            world.take(id);
        }
    }
    Ok(world)
}

/// Whether a claim says to come back by then.
fn not_later(due: Option<Timestamp>, claimed: &Claimed, now: Timestamp) -> Result<(), String> {
    match (due, claimed.next_due) {
        (None, _) => Ok(()),
        (Some(due), Some(answer)) if answer <= due.max(now) => Ok(()),
        (Some(due), answer) => {
            Err(format!("next_due must not be later than {due}, but it is {answer:?}"))
        }
    }
}
