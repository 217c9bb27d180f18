//! Claiming: which jobs are taken, in which order, and when to come back.

use std::cmp::Reverse;

use futures::TryStreamExt;
use mongodb::{bson::doc, options::ReturnDocument};
use queue_core::{Claim, ClaimRequest, Claimed, Job, Order, Result, State};

use crate::{
    batch::{self, Statement, Verdict},
    change::Change,
    codec,
    connect::Db,
    error::{Call, from_driver},
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
pub(crate) use marks::{Last, mark, repair};
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
pub(crate) async fn claim(db: &Db, request: &ClaimRequest) -> Result<Claimed> {
    let now = db.now().await?;
    let limit = usize::try_from(request.limit.get()).unwrap_or(usize::MAX);
    let mut wanted = Wanted::new(request, &db.seen, now);
    let mut lanes = Lanes::default();
    let mut first = look::first(db, &wanted, limit).await?;
    if first.is_repeat {
        let jobs = held(db, request).await?;
        let next_due = (jobs.len() < limit).then_some(now);
        return Ok(Claimed::new(jobs, next_due));
    }
    let mut look_again = wanted.learn(db, &first).await? || request.order == Order::Lifo;
    if !first.marks.is_empty() {
        let marks = std::mem::take(&mut first.marks);
        look_again |= marks::reopen(db, &mut wanted, &mut lanes, marks, limit).await?;
    }
    let mut candidates = match look_again {
        true => look::again(db, &wanted, limit).await?,
        false => first.candidates,
    };
    let claim = Claim::of(request, now);
    let (mut taken, mut alone, mut round, mut most) = (0, None, 0, limit);
    while !candidates.is_empty() {
        let (picked, behind) = lanes.pick(db, &candidates, limit - taken).await?;
        let mut lost = false;
        if let ([pick], 0) = (&picked[..], taken) {
            alone = take_one(db, &wanted, &claim, pick).await?;
            taken += usize::from(alone.is_some());
            lost = alone.is_none();
            lost.then(|| pass_over(pick, &mut lanes, &mut wanted));
        } else {
            for (pick, won) in picked.iter().zip(take(db, &wanted, &claim, &picked).await?) {
                taken += usize::from(won);
                lost |= !won;
                (!won).then(|| pass_over(pick, &mut lanes, &mut wanted));
            }
        }
        // Those of the last round as well, or each claim would read past them anew.
        let back = match behind.is_empty() {
            true => false,
            false => marks::park(db, &mut lanes, &behind).await?,
        };
        if taken == limit || !(lost || back || candidates.len() == most) {
            break;
        }
        // Rounds in which jobs are put aside come to an end by themselves.
        round += usize::from(lost || behind.is_empty());
        if round == ROUNDS {
            return Ok(Claimed::new(held(db, request).await?, Some(now)));
        }
        most = limit - taken;
        if !behind.is_empty() {
            most = most.max(BEHIND);
        }
        candidates = look::again(db, &wanted, most).await?;
    }
    let jobs = match (taken, alone) {
        (0, _) => Vec::new(),
        (1, Some(job)) => vec![job],
        _ => held(db, request).await?,
    };
    if taken == limit {
        return Ok(Claimed::new(jobs, None));
    }
    let next_due = look::next_due(db, &wanted).await?;
    Ok(Claimed::new(jobs, next_due))
}

/// Another was faster: with the job, or with its slot. A job in a lane is looked for again, after a new look at
/// the lane.
fn pass_over(pick: &Pick, lanes: &mut Lanes, wanted: &mut Wanted<'_>) {
    match &pick.candidate.lane {
        Some(lane) => lanes.forget(&lane.key),
        None => wanted.set_lost(pick.candidate.id),
    }
}

/// A candidate with the slot of its lane that it gets.
pub(crate) struct Pick {
    candidate: Candidate,
    slot: Option<u32>,
}

/// The write that takes a job: only if it still is what was looked for.
fn statement(wanted: &Wanted<'_>, claim: &Claim, pick: &Pick) -> Statement {
    let mut before = codec::blank();
    before.control.wake = true;
    before.control.lane.clone_from(&pick.candidate.lane);
    before.control.unique.clone_from(&pick.candidate.yielding);
    let mut after = before.clone();
    after.control.claim(claim, pick.slot);
    let change = Change::between(&before, &after);
    Statement {
        filter: wanted.still(&pick.candidate),
        update: change.into_update(),
        bytes: STATEMENT_BYTES,
    }
}

/// Takes one job and reads it in the same trip.
async fn take_one(db: &Db, wanted: &Wanted<'_>, claim: &Claim, pick: &Pick) -> Result<Option<Job>> {
    let Statement { filter, update, .. } = statement(wanted, claim, pick);
    let found = db
        .jobs
        .find_one_and_update(filter, update)
        .projection(codec::with_log(wanted.request.log))
        .return_document(ReturnDocument::After)
        .await;
    match found {
        Ok(document) => {
            document.map(|document| codec::read_job(&document, wanted.request.log)).transpose()
        }
        // The slot was taken meanwhile.
        Err(error) if crate::error::code_of(&error) == Some(crate::error::DUPLICATE) => Ok(None),
        Err(error) => Err(from_driver(Call::Write, error)),
    }
}

/// Takes jobs, and says of each whether it was to be had.
async fn take(db: &Db, wanted: &Wanted<'_>, claim: &Claim, picked: &[Pick]) -> Result<Vec<bool>> {
    let statements = picked.iter().map(|pick| statement(wanted, claim, pick)).collect();
    let verdicts = batch::run(db, statements).await?;
    Ok(verdicts.into_iter().map(|verdict| verdict == Verdict::Applied).collect())
}

/// What is held under the request's token, in the order in which it should run.
async fn held(db: &Db, request: &ClaimRequest) -> Result<Vec<Job>> {
    let held = doc! {
        "state": i32::from(State::Running.code()),
        "nonce": codec::uuid(&request.token),
    };
    let mut found =
        db.jobs.find(held).projection(codec::with_log(request.log)).await.map_err(failed)?;
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
