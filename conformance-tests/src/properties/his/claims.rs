//! Many jobs, many workers: batches, releases, retries, abandoned jobs that are reaped, zombies.

use std::sync::{Arc, Mutex};

use queue_core::{
    Claimed, Held, Job, JobId, JobPatch, JobUpdate, LogRead, NewJob, Progress, Timestamp,
    Transition, When,
    spec::{Answer, Op},
};

use super::super::scene::{LEASE, Store, complete, fail, n, release, retry, secs, value, wanted};
use super::{done, judge, locked, recorded, strange};
use crate::{Case, Checked, Rng, check, history::check_claims, race};

/// The jobs that come in a round. Each is claimed about four times before it ends.
const JOBS: usize = 60;
const ROUNDS: usize = 10;
const WORKERS: usize = 8;
/// So many rounds' jobs are one worker's alone in the end: then nothing excuses that one of them was overtaken.
const ALONE: usize = 4;
/// After so many claims in a row that took nothing and say that there is something, a worker goes: what is left is told
/// at the end.
const PATIENCE: usize = 1_000;
const HANDLES: usize = 4;

/// What the workers of a round share.
struct Round {
    /// Batches that nobody has inserted yet.
    coming: Mutex<Vec<Vec<NewJob>>>,
    /// Jobs that their holders have forgotten, by this round and by the one before it.
    abandoned: Mutex<Vec<Job>>,
    zombies: Vec<Job>,
    /// The times at which jobs fall due lie before this.
    base: Timestamp,
    abandons: bool,
}

pub(super) async fn runs_are_exclusive_and_complete(case: &Case<'_>) -> Checked {
    let (recorder, handles) = recorded(case, HANDLES).await?;
    let mut rng = case.rng();
    let (mut all, mut zombies) = (Vec::new(), Vec::new());
    let rounds = case.times(ROUNDS);
    for number in 0..=rounds {
        let is_last = number == rounds;
        let slack = case.info().capabilities.schedule_slack;
        let base = handles[0].ping().await?.minus(slack).minus(secs(1));
        let jobs = new_jobs(&mut rng, base, if is_last { ALONE * JOBS } else { JOBS });
        all.extend(jobs.iter().map(|job| job.id));
        let round = Arc::new(Round {
            coming: Mutex::new(jobs.chunks(7).map(<[NewJob]>::to_vec).collect()),
            abandoned: Mutex::default(),
            zombies,
            base,
            abandons: case.is_clocked(),
        });
        let seed = rng.next_u64();
        if is_last {
            haunt(&handles[0], &round, Rng::new(seed)).await?;
            work(&handles[0], &round, Rng::new(!seed)).await?;
        } else {
            at_once(&handles, &round, seed).await?;
        }
        zombies = std::mem::take(&mut locked(&round.abandoned));
        if case.is_clocked() {
            // Between the rounds, when no call is under way: every lease that is left is over.
            case.advance(LEASE + secs(1))?;
        }
    }
    drain(&handles[1], all.len()).await?;
    let mut unfinished = Vec::new();
    for ids in all.chunks(200) {
        let answer = done(&handles[0], Op::Get(ids.to_vec(), LogRead::None)).await?;
        let Answer::Jobs(jobs) = answer else { return Err(strange(&answer)) };
        unfinished.extend(jobs.into_iter().flatten().filter(|job| !job.state.is_final()));
    }
    judge(case, recorder.take(), check_claims)?;
    let unfinished: Vec<JobId> = unfinished.iter().map(|job| job.id).collect();
    check!(unfinished.is_empty(), "jobs that cannot be had, and have not ended: {unfinished:?}");
    Ok(())
}

/// All workers, and the holders of the round before.
async fn at_once(handles: &[Store], round: &Arc<Round>, seed: u64) -> Checked {
    race(WORKERS + 1, |who| {
        let (store, round) = (handles[who % HANDLES].clone(), round.clone());
        let rng = Rng::new(seed ^ (who as u64) << 32);
        async move {
            match who {
                WORKERS => haunt(&store, &round, rng).await,
                _ => work(&store, &round, rng).await,
            }
        }
    })
    .await
    .map(drop)
}

fn new_jobs(rng: &mut Rng, base: Timestamp, count: usize) -> Vec<NewJob> {
    let mut jobs: Vec<NewJob> = (0..count).map(|i| NewJob::new("plain", value(i))).collect();
    // Ids that do not ascend in the order of the insertions.
    rng.shuffle(&mut jobs);
    for job in &mut jobs {
        job.when = due(rng, base);
        if rng.below(5) == 0 {
            job.priority = rng.below(3) as i16 - 1;
        }
    }
    jobs
}

/// Due by now: at one of a few instants, so that time and id decide, or just now.
fn due(rng: &mut Rng, base: Timestamp) -> When {
    match rng.below(4) {
        0 => When::Now,
        _ => When::At(base.minus(secs(rng.below(20) as u64))),
    }
}

/// Inserts, claims and settles until nothing is left.
async fn work(store: &Store, round: &Round, mut rng: Rng) -> Checked {
    let mut settling: Vec<JobUpdate> = Vec::new();
    let mut in_vain = 0;
    while in_vain < PATIENCE {
        let batch = locked(&round.coming).pop();
        let brought = batch.is_some();
        if let Some(batch) = batch {
            done(store, Op::Insert(batch)).await?;
        }
        if round.abandons && rng.below(8) == 0 {
            done(store, Op::Reap(n(1 + rng.below(4) as u32))).await?;
        }
        let mut request = wanted(1 + rng.below(8) as u32);
        request.log = LogRead::None;
        let updates = std::mem::take(&mut settling);
        let op = match (updates.is_empty(), rng.below(2)) {
            (true, _) => Op::Claim(request),
            (false, 0) => Op::UpdateAndClaim(updates, request),
            _ => {
                done(store, Op::Update(updates)).await?;
                Op::Claim(request)
            }
        };
        let answer = done(store, op).await?;
        let (Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed)) = answer else {
            return Err(strange(&answer));
        };
        if is_over(store, &claimed, &mut rng).await? && !brought {
            return Ok(());
        }
        in_vain = if claimed.jobs.is_empty() { in_vain + 1 } else { 0 };
        for job in claimed.jobs {
            settling.extend(run(store, round, job, &mut rng).await?);
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Whether the claim says that nothing is to be had. Where leases are over, they are reaped.
async fn is_over(store: &Store, claimed: &Claimed, rng: &mut Rng) -> Checked<bool> {
    if !claimed.jobs.is_empty() {
        return Ok(false);
    }
    let Some(due) = claimed.next_due else { return Ok(true) };
    if due > store.ping().await? {
        return Ok(true);
    }
    done(store, Op::Reap(n(1 + rng.below(4) as u32))).await?;
    Ok(false)
}

/// Does something with a job, and says how its run is to end.
async fn run(store: &Store, round: &Round, job: Job, rng: &mut Rng) -> Checked<Option<JobUpdate>> {
    let end = match rng.below(100) {
        0..25 => complete(),
        25..27 => fail(),
        27..55 => release(due(rng, round.base)),
        55..85 => retry(due(rng, round.base)),
        85..90 => {
            done(store, Op::Heartbeat(vec![Held::new(job.id, job.fence)], LEASE)).await?;
            retry(due(rng, round.base))
        }
        90..95 => {
            let patch = JobPatch::progress(Progress::new(rng.below(100) as u8));
            done(store, Op::Update(vec![JobUpdate::held(job.id, job.fence, patch)])).await?;
            complete()
        }
        _ if round.abandons => {
            locked(&round.abandoned).push(job);
            return Ok(None);
        }
        _ => release(due(rng, round.base)),
    };
    Ok(Some(settle(&job, end)))
}

fn settle(job: &Job, end: Transition) -> JobUpdate {
    JobUpdate::held(job.id, job.fence, JobPatch::transition(end))
}

/// Holders of the round before come back after their leases, while others reap: some are in time.
async fn haunt(store: &Store, round: &Round, mut rng: Rng) -> Checked {
    for job in &round.zombies {
        if rng.below(3) == 0 {
            // This one is gone for good.
            continue;
        }
        if rng.below(2) == 0 {
            done(store, Op::Reap(n(3))).await?;
        }
        if rng.below(2) == 0 {
            done(store, Op::Heartbeat(vec![Held::new(job.id, job.fence)], LEASE)).await?;
        }
        let end = if rng.below(2) == 0 { complete() } else { release(due(&mut rng, round.base)) };
        done(store, Op::Update(vec![settle(job, end)])).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Ends what is left, one claim after the other.
async fn drain(store: &Store, jobs: usize) -> Checked {
    // More often than jobs can be given back by then; a store that never ends is told by what is left.
    for _ in 0..2 * jobs + 10 {
        done(store, Op::Reap(n(100))).await?;
        let mut request = wanted(50);
        request.log = LogRead::None;
        let answer = done(store, Op::Claim(request)).await?;
        let Answer::Claimed(claimed) = answer else { return Err(strange(&answer)) };
        let updates: Vec<JobUpdate> =
            claimed.jobs.iter().map(|job| settle(job, complete())).collect();
        if updates.is_empty() {
            return Ok(());
        }
        done(store, Op::Update(updates)).await?;
    }
    Ok(())
}
