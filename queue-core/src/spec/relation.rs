use std::fmt;

use crate::{
    ClaimRequest, Claimed, Effect, JobId, Result, Timestamp, check_prefix,
    spec::{Answer, Op, World},
};

/// Whether the contract allows an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It does; the specification has gone on from there.
    Accept,
    /// It does not.
    Reject(String),
}

impl Verdict {
    /// Whether the answer was accepted.
    pub const fn is_accept(&self) -> bool {
        matches!(self, Verdict::Accept)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accepted"),
            Verdict::Reject(why) => write!(f, "rejected: {why}"),
        }
    }
}

/// How much room an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latitude {
    /// No other operation ran meanwhile: a claim takes exactly the first `limit` jobs.
    Alone,
    /// Other operations ran meanwhile: a claim may pass over jobs, if its `next_due` says so.
    Contended,
}

/// The contract as a relation between operations, times and answers.
///
/// An answer is accepted when the contract allows it after the operations accepted so far. Where the contract leaves a
/// choice to the store (the jobs of a contended claim, an earlier `next_due`), the
/// choice is adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spec {
    world: World,
}

impl Spec {
    /// The specification of a store that holds this.
    pub const fn new(world: World) -> Self {
        Spec { world }
    }

    /// What the store holds by now.
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Whether `answer` is allowed for `op`, executed at `now`. On `Reject` the
    /// specification is not to be used further.
    pub fn check(
        &mut self,
        op: &Op,
        now: Timestamp,
        answer: &Result<Answer>,
        latitude: Latitude,
    ) -> Verdict {
        if let Err(error) = answer
            && error.is_transient()
            && error.effect() == Effect::None
        {
            return Verdict::Accept;
        }
        let rejected = match (op, answer) {
            (Op::Claim(request), Ok(Answer::Claimed(claimed))) => {
                self.check_claim(request, now, claimed, latitude)
            }
            (
                Op::UpdateAndClaim(updates, request),
                Ok(Answer::OutcomesAndClaimed(outcomes, claimed)),
            ) => request
                .check()
                .and_then(|()| self.world.update(updates, now))
                .map_err(|error| format!("expected the error {error}"))
                .and_then(|expected| differs(&expected, outcomes))
                .and_then(|()| self.check_claim(request, now, claimed, latitude)),
            _ => {
                let expected = self.answer(op, now);
                match (&expected, answer) {
                    (Ok(expected), Ok(answer)) => differs(expected, answer),
                    (Err(expected), Err(answer)) => differs(&expected.kind(), &answer.kind()),
                    _ => Err(format!("expected {expected:?}\n     got {answer:?}")),
                }
            }
        };
        rejected.map_or_else(Verdict::Reject, |()| Verdict::Accept)
    }

    /// Executes an operation and gives the answer of the reference machine.
    ///
    /// # Errors
    /// Those of the contract.
    pub fn answer(&mut self, op: &Op, now: Timestamp) -> Result<Answer> {
        let world = &mut self.world;
        Ok(match op {
            Op::Insert(jobs) => Answer::Inserted(world.insert(jobs, now)?),
            Op::Claim(request) => Answer::Claimed(world.claim(request, now)?),
            Op::Update(updates) => Answer::Outcomes(world.update(updates, now)?),
            Op::UpdateAndClaim(updates, request) => {
                request.check()?;
                let outcomes = world.update(updates, now)?;
                Answer::OutcomesAndClaimed(outcomes, world.claim(request, now)?)
            }
            Op::Heartbeat(held, lease) => Answer::Outcomes(world.heartbeat(held, *lease, now)?),
            Op::Reap(limit) => Answer::Reaped(world.reap(*limit, now)),
            Op::UpdateWhere(filter, change) => {
                Answer::Bulk(world.update_where(filter, change, now)?)
            }
            Op::Delete(filter, limit) => Answer::Deleted(world.delete(filter, *limit)?),
            Op::Get(ids, log) => Answer::Jobs(world.get(ids, *log)),
            Op::Find(query) => Answer::Page(world.find(query)?),
            Op::Tally(filter) => Answer::Tallies(world.tally(filter)?),
            Op::Fire(fire) => Answer::Fired(world.fire(fire, now)?),
            Op::Schedules => Answer::Schedules(world.schedules()),
            Op::Records(prefix) => {
                check_prefix(prefix)?;
                Answer::Records(world.records(prefix))
            }
            Op::PutRecord(record, expect) => Answer::Put(world.put_record(record, *expect, now)?),
        })
    }

    fn check_claim(
        &mut self,
        request: &ClaimRequest,
        now: Timestamp,
        claimed: &Claimed,
        latitude: Latitude,
    ) -> Result<(), String> {
        if let Err(error) = request.check() {
            return Err(format!("expected the error {error}"));
        }
        let limit = usize::try_from(request.limit.get()).unwrap_or(usize::MAX);
        if let Some(expected) = self.world.repeated_claim(request, now) {
            differs(&expected.jobs, &claimed.jobs)?;
            return self.check_repeat_due(request, now, claimed);
        }
        let first = self.world.pick(request, now);
        let exact = same_ids(&first, claimed);
        let picked = match latitude {
            Latitude::Alone => first,
            Latitude::Contended if exact => first,
            Latitude::Contended => self.adopt(request, now, claimed)?,
        };
        let expected = self.world.claim_these(&picked, request, now);
        differs(&expected, &claimed.jobs)?;
        if claimed.jobs.len() == limit {
            return differs(&None, &claimed.next_due);
        }
        if !exact {
            return match claimed.next_due {
                Some(due) if due <= now => Ok(()),
                due => Err(format!(
                    "jobs were passed over, so next_due must not be later than now ({now}), but it is {due:?}"
                )),
            };
        }
        self.check_next_due(request, now, claimed.next_due, latitude)
    }

    fn check_next_due(
        &self,
        request: &ClaimRequest,
        now: Timestamp,
        answer: Option<Timestamp>,
        latitude: Latitude,
    ) -> Result<(), String> {
        let exact = self.world.next_due(request, now);
        let allowed = match (exact, answer) {
            (Some(exact), Some(due)) if exact <= now => due <= now,
            (Some(exact), Some(due)) => {
                due <= exact && (due > now || latitude == Latitude::Contended)
            }
            (Some(_), None) => false,
            (None, Some(due)) => due > now || latitude == Latitude::Contended,
            (None, None) => true,
        };
        match allowed {
            true => Ok(()),
            false => {
                Err(format!("next_due should be {exact:?} (now is {now}), but it is {answer:?}"))
            }
        }
    }

    /// A repeat takes nothing, and need not look whether there is more: it may say "now" in vain.
    fn check_repeat_due(
        &self,
        request: &ClaimRequest,
        now: Timestamp,
        claimed: &Claimed,
    ) -> Result<(), String> {
        let is_full =
            u32::try_from(claimed.jobs.len()).is_ok_and(|many| many >= request.limit.get());
        if is_full {
            return differs(&None, &claimed.next_due);
        }
        let latest = self.world.next_due(request, now).map_or(now, |exact| exact.max(now));
        match claimed.next_due {
            Some(due) if due <= latest => Ok(()),
            due => Err(format!(
                "next_due of a repeated claim should be {latest} at the latest (now is {now}), but it is {due:?}"
            )),
        }
    }

    /// The choice of a contended claim, with the slots that the jobs get.
    fn adopt(
        &self,
        request: &ClaimRequest,
        now: Timestamp,
        claimed: &Claimed,
    ) -> Result<Vec<(JobId, Option<u32>)>, String> {
        let among = |id: &JobId| claimed.jobs.iter().any(|job| job.id == *id);
        let picked = self.world.pick_where(request, now, among);
        match same_ids(&picked, claimed) {
            true => Ok(picked),
            false => Err(format!(
                "of the answered jobs only {:?} were to be had, in this order",
                picked.iter().map(|(id, _)| id).collect::<Vec<_>>()
            )),
        }
    }
}

fn same_ids(picked: &[(JobId, Option<u32>)], claimed: &Claimed) -> bool {
    picked.iter().map(|(id, _)| *id).eq(claimed.jobs.iter().map(|job| job.id))
}

fn differs<T: PartialEq + fmt::Debug>(expected: &T, answer: &T) -> Result<(), String> {
    match expected == answer {
        true => Ok(()),
        false => Err(format!("expected {expected:#?}\n     got {answer:#?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{JobFilter, Lane, NewJob, Payload, Queues};

    #[test]
    fn a_contended_claim_may_pass_over_the_first_job_of_a_lane_and_take_the_second() {
        let mut jobs = [NewJob::new("x", Payload::null()), NewJob::new("x", Payload::null())];
        for job in &mut jobs {
            job.lane = Some(Lane::new("one at a time"));
        }
        let now = Timestamp::EPOCH;
        let mut spec = Spec::new(World::default());
        spec.answer(&Op::Insert(jobs.to_vec()), now).unwrap();
        let lease = std::time::Duration::from_secs(9);
        let request = ClaimRequest::new(Queues::All, "w", NonZeroU32::new(2).unwrap(), lease);
        // What a store answers that found the first one locked.
        let mut second = request.clone();
        second.filter = Some(JobFilter::id(jobs[1].id));
        let taken = spec.clone().answer(&Op::Claim(second), now).unwrap();
        let Answer::Claimed(mut claimed) = taken else { panic!("not a claim: {taken:?}") };
        claimed.next_due = Some(now);
        let answer = Ok(Answer::Claimed(claimed));
        let op = Op::Claim(request);
        assert!(!spec.clone().check(&op, now, &answer, Latitude::Alone).is_accept());
        assert!(spec.check(&op, now, &answer, Latitude::Contended).is_accept());
    }

    #[test]
    fn the_repeat_of_a_claim_may_say_now_in_vain_but_never_later_than_there_is_more() {
        let jobs = [NewJob::new("x", Payload::null()), NewJob::new("x", Payload::null())];
        let (now, lease) = (Timestamp::EPOCH, std::time::Duration::from_secs(9));
        let request = ClaimRequest::new(Queues::All, "w", NonZeroU32::new(2).unwrap(), lease);
        let mut spec = Spec::new(World::default());
        spec.answer(&Op::Insert(jobs[..1].to_vec()), now).unwrap();
        let claim = Op::Claim(request);
        let taken = spec.answer(&claim, now).unwrap();
        let saying = |due| {
            let Answer::Claimed(mut claimed) = taken.clone() else { panic!("not a claim") };
            claimed.next_due = due;
            Ok(Answer::Claimed(claimed))
        };
        let is_allowed = |spec: &Spec, due| {
            spec.clone().check(&claim, now, &saying(due), Latitude::Alone).is_accept()
        };
        let over = now.plus(lease);
        assert!(is_allowed(&spec, Some(now)) && is_allowed(&spec, Some(over)));
        assert!(!is_allowed(&spec, None));
        assert!(!is_allowed(&spec, Some(over.plus(lease))));
        spec.answer(&Op::Insert(jobs[1..].to_vec()), now).unwrap();
        assert!(is_allowed(&spec, Some(now)));
        assert!(!is_allowed(&spec, Some(over)));
    }

    #[test]
    fn the_repeat_of_a_full_claim_says_that_there_is_nothing_to_wait_for() {
        let now = Timestamp::EPOCH;
        let lease = std::time::Duration::from_secs(9);
        let claim = Op::Claim(ClaimRequest::new(Queues::All, "w", NonZeroU32::MIN, lease));
        let mut spec = Spec::new(World::default());
        spec.answer(&Op::Insert(vec![NewJob::new("x", Payload::null())]), now).unwrap();
        let taken = spec.answer(&claim, now).unwrap();
        assert!(spec.clone().check(&claim, now, &Ok(taken.clone()), Latitude::Alone).is_accept());
        let Answer::Claimed(mut claimed) = taken else { panic!("not a claim: {taken:?}") };
        claimed.next_due = Some(now);
        let answer = Ok(Answer::Claimed(claimed));
        assert!(!spec.check(&claim, now, &answer, Latitude::Alone).is_accept());
    }
}
