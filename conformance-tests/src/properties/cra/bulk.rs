//! CRA-5.

use std::time::{Duration, Instant};

use queue_core::{
    BulkChange, ClaimRequest, EntryKind, Job, JobFilter, JobPatch, JobUpdate, Lane, LogRead,
    NewEntry, NewJob, Progress, Queues, States, Transition, spec::Op,
};

use super::{
    actor::{Actor, Called},
    site::{Pace, Site, moment},
};
use crate::{
    Case, Checked, Stop,
    properties::scene::{HOUR, n, value},
};

/// How many jobs a call is about.
const JOBS: u32 = 120;

/// The calls, one after the other; each finds what the one before it has left.
const STEPS: [&str; 6] = ["insert", "prioritise", "claim", "append", "settle", "delete"];

fn held(actor: &Actor) -> Vec<Job> {
    let ids: Vec<_> = actor.world().running().collect();
    actor.world().get(&ids, LogRead::None).into_iter().flatten().collect()
}

/// The next call, about everything that is there.
fn deed(step: &str, round: usize, actor: &Actor) -> Op {
    let all = JobFilter::queue(actor.queue.clone());
    let ending = |transition, mut patch: JobPatch| {
        patch.transition = transition;
        patch
    };
    let updates = |transition: Option<Transition>| {
        let patch = |job: &Job| {
            let entries = (0..2).map(|i| NewEntry::new(EntryKind::Step, value(i)));
            let patch = JobPatch::append(entries)
                .with_label("round", round.to_string())
                .with_progress(Progress::new(50));
            JobUpdate::held(job.id, job.fence, ending(transition.clone(), patch))
        };
        Op::Update(held(actor).iter().map(patch).collect())
    };
    match step {
        "insert" => Op::Insert(
            (0..JOBS)
                .map(|i| {
                    let mut job = NewJob::new("bulk", value(i));
                    job.queue = actor.queue.clone();
                    job.lane = i.is_multiple_of(10).then(|| Lane::new(format!("bulk {round} {i}")));
                    job
                })
                .collect(),
        ),
        "prioritise" => {
            Op::UpdateWhere(all, BulkChange::Priority(i16::try_from(round + 1).unwrap_or(1)))
        }
        "claim" => {
            let queues = Queues::from(actor.queue.clone());
            Op::Claim(ClaimRequest::new(queues, "bulk", n(JOBS), HOUR))
        }
        "append" => updates(None),
        "settle" => updates(Some(Transition::Complete { output: Some(value("done")) })),
        _ => Op::Delete(all.with_states(States::FINAL), n(10 * JOBS)),
    }
}

/// Each kind of call is made once undisturbed, which tells how long it takes, and killed in a moment of that time ever after.
pub(super) async fn each_is_whole(case: &Case<'_>) -> Checked {
    case.clock()?;
    let (site, mut life) = Site::durable(case).await?;
    let mut rng = case.rng();
    let mut actor = Actor::new("bulk", &life.store, site.clock(), case.rng())?;
    let mut took = [Duration::ZERO; STEPS.len()];
    for (step, took) in STEPS.iter().zip(&mut took) {
        let begun = Instant::now();
        let op = deed(step, 0, &actor);
        if actor.call(&life.store, op, &Pace::default()).await? == Called::Lost {
            return Err(Stop::fail(format!("the store lost a call: {step}")));
        }
        *took = begun.elapsed();
    }
    let (rounds, mut kills, mut lost) = (case.times(3), 0, 0);
    for round in 1..=rounds {
        for (step, took) in STEPS.iter().zip(&took) {
            let op = deed(step, round, &actor);
            let pace = Pace::default();
            let store = life.store.clone();
            let calling = tokio::spawn(async move {
                let called = actor.call(&store, op, &pace).await;
                (called, actor)
            });
            // Not to wait for anything: the moment of death is to be any.
            tokio::time::sleep(moment(*took, round - 1, rounds, &mut rng)).await;
            life.process.kill();
            kills += 1;
            let (called, back) = calling.await?;
            actor = back;
            called?;
            life = site.reopen().await?;
            lost += usize::from(actor.recover(&life.store).await?);
        }
    }
    let (happened, partly) = actor.happened;
    case.note(format!(
        "{kills} kills, {lost} calls about {JOBS} jobs lost, of which {happened} had happened for some or all and {partly} for none"
    ));
    Ok(())
}
