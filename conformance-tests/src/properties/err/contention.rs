use std::time::Duration;

use queue_core::{
    ClaimRequest, Error, ErrorKind, Fire, Guard, Held, Job, JobFilter, JobPatch, JobUpdate,
    Outcome, Record, Result, Unique, spec::Op,
};

use super::super::scene::{
    HOUR, LEASE, Store, cancelling, complete, entry, job, n, release, secs, value, wanted,
};
use crate::{Case, Checked, Rng, Stop, check, race, start};

const HANDLES: usize = 4;
const RACERS: usize = 8;
const CALLS: usize = 30;
/// How often a store may say that there were too many at once, one time after the other.
const PATIENCE: usize = 20;

/// Racers that all want the same few jobs, keys, slots and records.
pub(super) async fn is_waited_out(case: &Case<'_>) -> Checked {
    let handles = case.handles(HANDLES).await?;
    let mut first = job("plain");
    first.unique = Some(Unique::new("the key"));
    case.store().insert(&[first]).await?;
    let calls = case.times(CALLS);
    let mut rng = case.rng();
    let seeds: Vec<u64> = (0..RACERS).map(|_| rng.next_u64()).collect();
    let given_up = race(RACERS, |racer| {
        let store = handles[racer % HANDLES].clone();
        let mut rng = Rng::new(seeds[racer]);
        async move {
            let mut given_up = 0;
            for call in 0..calls {
                given_up += one(&store, &mut rng, racer, call).await?;
            }
            Ok(given_up)
        }
    })
    .await?;
    case.note(format!(
        "{} calls at once on the same few rows, {} times `contention` and then an answer",
        RACERS * calls,
        given_up.iter().sum::<usize>()
    ));
    Ok(())
}

/// A call that others make as well, repeated while the store says that there are too many.
async fn one(store: &Store, rng: &mut Rng, racer: usize, call: usize) -> Checked<usize> {
    let mut given_up = 0;
    let op = match rng.below(7) {
        0 => {
            let mut wanted = wanted(1 + rng.below(2) as u32);
            wanted.lease = LEASE;
            given_up += take_and_settle(store, wanted, rng).await?;
            return Ok(given_up);
        }
        1 => {
            let mut keyed = job("plain");
            keyed.unique = Some(match rng.below(2) {
                0 => Unique::new("the key"),
                _ => Unique::supersede("the key"),
            });
            Op::Insert(vec![keyed])
        }
        2 => {
            Op::UpdateWhere(JobFilter::kind("plain"), queue_core::BulkChange::Priority(call as i16))
        }
        3 => {
            let slot = start().plus(secs(call as u64));
            Op::Fire(Box::new(Fire::new("the schedule", slot, job("plain"))))
        }
        4 => Op::PutRecord(Record::new("the record", value(racer)), None),
        5 => Op::Reap(n(10)),
        _ => Op::Delete(JobFilter::kind("plain").with_states(queue_core::States::FINAL), n(3)),
    };
    given_up += answered(|| async { op.run(&**store).await.map(drop) }).await?.0;
    if rng.below(12) == 0 {
        let cancel = Op::UpdateWhere(JobFilter::kind("plain"), cancelling("room"));
        given_up += answered(|| async { cancel.run(&**store).await.map(drop) }).await?.0;
    }
    Ok(given_up)
}

async fn take_and_settle(store: &Store, wanted: ClaimRequest, rng: &mut Rng) -> Checked<usize> {
    let (mut given_up, claimed) = answered(|| store.claim(&wanted)).await?;
    for job in claimed.jobs {
        let held = [Held::new(job.id, job.fence)];
        given_up += answered(|| store.heartbeat(&held, HOUR)).await?.0;
        let updates = [edit(&job), end(&job, rng)];
        for update in updates {
            let update = [update];
            let (times, outcomes) = answered(|| store.update_jobs(&update)).await?;
            given_up += times;
            let is_fit = !matches!(outcomes.first(), None | Some(Outcome::TooLarge { .. }));
            check!(is_fit, "an update in a crowd answered {outcomes:?}");
        }
    }
    Ok(given_up)
}

fn edit(job: &Job) -> JobUpdate {
    let patch = JobPatch::append([entry("x")]).with_label("who", "anybody");
    JobUpdate::new(job.id, Guard::None, patch)
}

fn end(job: &Job, rng: &mut Rng) -> JobUpdate {
    let transition = match rng.below(2) {
        0 => complete(),
        _ => release(queue_core::When::Now),
    };
    JobUpdate::held(job.id, job.fence, JobPatch::transition(transition))
}

/// The answer, and how often there was none for the crowd.
async fn answered<T, F>(call: impl Fn() -> F) -> Checked<(usize, T)>
where
    F: Future<Output = Result<T>>,
{
    for times in 0..PATIENCE {
        match call().await {
            Ok(answer) => return Ok((times, answer)),
            Err(error) if error.kind() == ErrorKind::Contention => {
                tokio::time::sleep(Duration::from_millis(1 + times as u64)).await;
            }
            Err(error) => return Err(surfaced(&error)),
        }
    }
    Err(Stop::fail(format!("a call in a crowd was answered `contention` {PATIENCE} times")))
}

fn surfaced(error: &Error) -> Stop {
    Stop::fail(format!(
        "a call in a crowd was answered the error `{error}` ({:?}) where there is nothing wrong but the crowd",
        error.kind()
    ))
}
