//! Claiming: which jobs are taken, in which order, and when to come back.

use std::{cmp::Reverse, collections::BTreeSet};

use futures::TryStreamExt;
use mongodb::{bson::doc, options::ReturnDocument};
use queue_core::{Claim, ClaimRequest, Claimed, Job, JobId, Order, Result, State, Timestamp};

use crate::{
    batch::{self, Statement, Verdict},
    change::Change,
    codec,
    connect::Db,
    error::{Call, DUPLICATE, TOO_LARGE, code_of, from_driver},
};

mod lanes;
mod look;
mod marks;
#[cfg(test)]
mod marks_tests;
#[cfg(test)]
mod plan_tests;
mod ranges;
mod seen;
mod wanted;

use lanes::Lanes;
use marks::Mark;
pub(crate) use marks::{Last, mark, mark_in, repair};
pub(crate) use seen::Seen;
use wanted::{Candidate, Wanted};

/// How often candidates are looked for anew because others took them.
const ROUNDS: usize = 8;
/// About the size of a claiming statement.
const STATEMENT_BYTES: usize = 1024;

fn failed(error: mongodb::error::Error) -> queue_core::Error {
    from_driver(Call::Read, error)
}

/// How many candidates a claim looks at that has met full lanes, so that their jobs are put aside in few trips.
const BEHIND: usize = 500;

/// Takes the first due jobs that the request matches.
///
/// One look finds what is paused, what the token holds already, and the candidates. One guarded write each, all in one
/// command, takes them: a candidate that another was faster with is made up for by a further look.
///
/// Looks go on, and park what is behind full lanes, until there is enough to take; the leases begin after that.
pub(crate) async fn claim(db: &Db, request: &ClaimRequest) -> Result<Claimed> {
    let now = db.now().await?;
    let limit = usize::try_from(request.limit.get()).unwrap_or(usize::MAX);
    let mut wanted = Wanted::new(request, &db.seen, now);
    let mut lanes = Lanes::default();
    let mut first = look::first(db, &wanted, limit).await?;
    if first.is_repeat {
        return repeated(db, request, now).await;
    }
    let mut look_again = wanted.learn(db, &first).await? || request.order == Order::Lifo;
    if !first.marks.is_empty() {
        let marks = std::mem::take(&mut first.marks);
        wanted.marks = marks.iter().flat_map(Mark::signs).collect();
        look_again |= marks::reopen(db, &mut wanted, &mut lanes, marks, limit).await?;
    }
    let mut candidates = match look_again {
        true => look::again(db, &wanted, limit).await?,
        false => first.candidates,
    };
    let mut taking = Taking::default();
    let (mut round, mut most, mut own) = (0, limit, Vec::new());
    let mut is_wide = false;
    while !candidates.is_empty() {
        let (picked, behind) = lanes.pick(db, &candidates, limit - taking.taken()).await?;
        let is_cut = candidates.len() == most;
        is_wide |= !behind.is_empty();
        // What is behind slots that are only to be taken is not parked yet: it would be lost from sight if they were not.
        let (mine, others): (Vec<_>, Vec<_>) =
            behind.into_iter().partition(|Behind { lane, .. }| {
                picked.iter().any(|pick| pick.lane() == Some(lane.as_str()))
            });
        let mut back = match others.is_empty() {
            true => false,
            false => marks::park(db, &mut lanes, &others, now).await?,
        };
        own.extend(mine);
        if picked.len() < limit - taking.taken() && (is_cut || back) {
            round += usize::from(back);
            if taking.taken() == 0 && round < ROUNDS {
                // Parking may take long, and a lease begins with the taking: that comes last.
                wanted.pass_by(&lanes, &picked);
                lanes.unpick(&picked);
                most = BEHIND.max(limit);
                candidates = look::again(db, &wanted, most).await?;
                continue;
            }
            round = ROUNDS;
        }
        taking.take(db, &mut wanted, &mut lanes, picked).await?;
        if taking.is_repeat {
            return repeated(db, request, now).await;
        }
        // Those of the last round as well, or each claim would read past them anew.
        let hidden = wanted.pass_by_none();
        if !own.is_empty() {
            back |= marks::park(db, &mut lanes, &std::mem::take(&mut own), now).await?;
        }
        if taking.taken() == limit || !(taking.is_lost || back || is_cut || hidden) {
            break;
        }
        round += 1;
        if round >= ROUNDS {
            return repeated(db, request, now).await;
        }
        most = if is_wide { BEHIND.max(limit) } else { limit - taking.taken() };
        candidates = look::again(db, &wanted, most).await?;
    }
    let jobs = match (taking.taken(), taking.alone) {
        (0, _) => Vec::new(),
        (1, Some(job)) => vec![job],
        _ => held(db, request).await?,
    };
    if jobs.len() >= limit {
        return Ok(Claimed::new(jobs, None));
    }
    if marks::repair_when_short(db).await {
        return Ok(Claimed::new(jobs, Some(now)));
    }
    let next_due = look::next_due(db, &wanted).await?;
    Ok(Claimed::new(jobs, next_due))
}

/// The answer where this token has taken jobs before, or takes some meanwhile: who gives a call up does not know whether it
/// has ended, and asks again.
async fn repeated(db: &Db, request: &ClaimRequest, now: Timestamp) -> Result<Claimed> {
    // What the first try took may not have been acknowledged yet. What is answered now must not be taken back.
    db.wait_for_majority().await?;
    let jobs = held(db, request).await?;
    let is_full = u32::try_from(jobs.len()).is_ok_and(|held| held >= request.limit.get());
    Ok(Claimed::new(jobs, (!is_full).then_some(now)))
}

/// What a claim has taken.
#[derive(Default)]
struct Taking {
    /// The places of its jobs, which are unique among those of this token.
    places: BTreeSet<i64>,
    /// The first one, if it was taken alone.
    alone: Option<Job>,
    /// Whether some of the last ones were not to be had.
    is_lost: bool,
    /// Whether the same claim takes jobs elsewhere.
    is_repeat: bool,
}

impl Taking {
    fn taken(&self) -> usize {
        self.places.len()
    }

    /// Takes candidates. Their leases begin now.
    async fn take(
        &mut self,
        db: &Db,
        wanted: &mut Wanted<'_>,
        lanes: &mut Lanes,
        picked: Vec<Pick>,
    ) -> Result<()> {
        self.is_lost = false;
        if picked.is_empty() {
            return Ok(());
        }
        let claim = Claim::of(wanted.request, db.now().await?);
        let free = (1..).filter(|place| !self.places.contains(place));
        let picked: Vec<(Pick, i64)> = picked.into_iter().zip(free).collect();
        let verdicts = match &picked[..] {
            [(pick, place)] if self.places.is_empty() => {
                let (verdict, job) = take_one(db, wanted, &claim, pick, *place).await?;
                self.alone = job;
                vec![verdict]
            }
            _ => {
                let statements =
                    picked.iter().map(|(pick, place)| statement(wanted, &claim, pick, *place));
                batch::run(db, statements.collect()).await?
            }
        };
        for ((pick, place), verdict) in picked.iter().zip(verdicts) {
            match verdict {
                Verdict::Applied => {
                    self.places.insert(*place);
                    wanted.set_taken(pick.candidate.id);
                }
                // It has no slot that another could have: it is its place that is taken.
                Verdict::Taken if pick.slot.is_none() => self.is_repeat = true,
                _ => {
                    self.is_lost = true;
                    pass_over(pick, verdict, lanes, wanted);
                }
            }
        }
        Ok(())
    }
}

/// Another was faster: with the job, or with its slot. A job in a lane is looked for again, after a new look at
/// the lane; one whose document has no room for a holder is not.
fn pass_over(pick: &Pick, verdict: Verdict, lanes: &mut Lanes, wanted: &mut Wanted<'_>) {
    if let Some(lane) = pick.lane() {
        lanes.forget(lane);
    }
    if pick.lane().is_none() || verdict == Verdict::TooLarge {
        wanted.set_lost(pick.candidate.id);
    }
}

/// A candidate with the slot of its lane that it gets.
pub(crate) struct Pick {
    candidate: Candidate,
    slot: Option<u32>,
}

impl Pick {
    fn lane(&self) -> Option<&str> {
        self.candidate.lane.as_ref().map(|lane| lane.key.as_str())
    }
}

/// A candidate whose lane is full.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    id: JobId,
    lane: String,
    limit: u32,
}

/// The write that takes a job: only if it still is what was looked for.
fn statement(wanted: &Wanted<'_>, claim: &Claim, pick: &Pick, place: i64) -> Statement {
    let mut before = codec::blank();
    before.control.wake = true;
    before.control.lane.clone_from(&pick.candidate.lane);
    before.control.unique.clone_from(&pick.candidate.yielding);
    let mut after = before.clone();
    after.control.claim(claim, pick.slot);
    let mut change = Change::between(&before, &after);
    change.set.insert("claim_place", place);
    Statement {
        filter: wanted.still(&pick.candidate),
        update: change.into_update(),
        bytes: STATEMENT_BYTES,
    }
}

/// Takes one job and reads it in the same trip.
async fn take_one(
    db: &Db,
    wanted: &Wanted<'_>,
    claim: &Claim,
    pick: &Pick,
    place: i64,
) -> Result<(Verdict, Option<Job>)> {
    let Statement { filter, update, .. } = statement(wanted, claim, pick, place);
    let found = db
        .jobs
        .find_one_and_update(filter, update)
        .projection(codec::with_log(wanted.request.log))
        .return_document(ReturnDocument::After)
        .await;
    match found {
        Ok(None) => Ok((Verdict::NotMatched, None)),
        Ok(Some(document)) => {
            Ok((Verdict::Applied, Some(codec::read_job(&document, wanted.request.log)?)))
        }
        Err(error) => match code_of(&error) {
            // The slot or the place was taken meanwhile.
            Some(DUPLICATE) => Ok((Verdict::Taken, None)),
            Some(code) if TOO_LARGE.contains(&code) => Ok((Verdict::TooLarge, None)),
            _ => Err(from_driver(Call::Write, error)),
        },
    }
}

/// What is held under the request's token, in the order in which it should run.
async fn held(db: &Db, request: &ClaimRequest) -> Result<Vec<Job>> {
    let held = doc! {
        "state": i32::from(State::Running.code()),
        "nonce": codec::uuid(&request.token),
    };
    let found = db.settled_jobs.find(held).projection(codec::with_log(request.log));
    let mut found = found.await.map_err(failed)?;
    let mut jobs: Vec<Job> = Vec::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        jobs.push(codec::read_job(&document, request.log)?);
    }
    jobs.sort_by(|a, b| {
        let places = ((a.run_at, a.id), (b.run_at, b.id));
        let among = match request.order {
            Order::Fifo => places.0.cmp(&places.1),
            Order::Lifo => places.1.cmp(&places.0),
        };
        Reverse(a.priority).cmp(&Reverse(b.priority)).then(among)
    });
    Ok(jobs)
}
