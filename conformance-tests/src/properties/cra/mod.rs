//! CRA: what is left when a process is killed.
//!
//! What dies is a process, not the machine: whether what was acknowledged survives the loss of power is beyond these
//! properties, and a promise of the store.

mod actor;
mod bulk;
mod deeds;
mod patches;
mod resume;
pub(super) mod site;

use std::time::Duration;

use queue_core::Reaped;
use tokio::task::JoinSet;

use super::{
    flt,
    scene::{job, n, put, read, secs, take_id},
};
use crate::{Case, Checked, Fault, Property, Rng, Stop, check, check_eq};
use actor::{Actor, Called};
use site::{Life, Pace, Site, moment};

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let one = Duration::from_secs(120);
    vec![
        Property::new(
            "CRA-1",
            "what was acknowledged survives the death of its process, and what was not happened whole or not at all",
            |case| Box::pin(acknowledged(case)),
        )
        .within(one),
        Property::new(
            "CRA-2",
            "what one call changes together is never apart after a crash",
            |case| Box::pin(patches::never_apart(case)),
        )
        .within(one),
        Property::new(
            "CRA-3",
            "while the server dies and comes back, what was acknowledged is there and nothing happens twice",
            |case| Box::pin(flt::storm(case, Fault::Restarted)),
        )
        .within(one),
        Property::new(
            "CRA-4",
            "a store that is opened again goes on: leases, fences, tokens, settles and lanes are as they were",
            |case| Box::pin(resume::goes_on(case)),
        )
        .within(one),
        Property::new(
            "CRA-5",
            "of many jobs in one call, each is whole after a crash",
            |case| Box::pin(bulk::each_is_whole(case)),
        )
        .within(one),
        Property::new(
            "CRA-6",
            "the death of one process harms no other",
            |case| Box::pin(unharmed(case)),
        )
        .within(one),
        Property::new(
            "CRA-7",
            "a place whose opening was cut short can be opened",
            |case| Box::pin(cut_short(case)),
        )
        .within(one),
    ]
}

/// How many work at once.
const ACTORS: usize = 4;

fn cast(case: &Case<'_>, site: &Site, life: &Life, names: &str) -> Checked<Vec<Actor>> {
    let mut rng = case.rng();
    (0..ACTORS)
        .map(|i| {
            let rng = Rng::new(rng.next_u64());
            Actor::new(&format!("{names}{i}"), &life.store, site.clock(), rng)
        })
        .collect()
}

/// Has the actors work until their calls are lost; kills the process after so many calls.
async fn work_until_killed(
    life: &Life,
    actors: Vec<Actor>,
    calls: usize,
    rng: &mut Rng,
) -> Checked<Vec<Actor>> {
    let pace = Pace::default();
    let mut working = JoinSet::new();
    for mut actor in actors {
        let (store, pace) = (life.store.clone(), pace.clone());
        working.spawn(async move {
            let worked = actor.work(&store, &pace, || false).await;
            pace.end();
            worked.map(|_| actor)
        });
    }
    pace.kill_at(calls, &life.process, rng).await;
    all(working).await
}

/// Has everybody find what became of the calls that were lost. Answers how many were.
async fn recover(life: &Life, actors: &mut [Actor]) -> Checked<usize> {
    let mut lost = 0;
    for actor in actors {
        lost += usize::from(actor.recover(&life.store).await?);
    }
    Ok(lost)
}

/// Reaps what is over, which must be what the actors know.
async fn reap(life: &Life, actors: &mut [Actor]) -> Checked<usize> {
    let mut expected: Vec<Reaped> = actors.iter_mut().flat_map(Actor::reap).collect();
    let mut reaped = life.store.reap(n(1_000)).await?;
    expected.sort_by_key(|reaped| reaped.id);
    reaped.sort_by_key(|reaped| reaped.id);
    check_eq!(reaped, expected, "what is reaped after a crash");
    Ok(reaped.len())
}

async fn acknowledged(case: &Case<'_>) -> Checked {
    case.clock()?;
    let (site, mut life) = Site::durable(case).await?;
    let mut rng = case.rng();
    let mut actors = cast(case, &site, &life, "actor ")?;
    let (kills, mut lost, mut reaped) = (case.times(6), 0, 0);
    for _ in 0..kills {
        let calls = 1 + rng.below(80);
        actors = work_until_killed(&life, actors, calls, &mut rng).await?;
        life = site.reopen().await?;
        lost += recover(&life, &mut actors).await?;
        site.clock().advance(secs(rng.below(40) as u64));
        reaped += reap(&life, &mut actors).await?;
    }
    // Ended in peace this time.
    drop(life);
    let life = site.open().await?;
    for actor in &actors {
        actor.verify(&life.store, "after all crashes").await?;
    }
    let sum = |of: fn(&Actor) -> usize| actors.iter().map(of).sum::<usize>();
    case.note(format!(
        "{kills} kills, {} acknowledged operations, {lost} lost, of which {} had happened; {reaped} leases over, {} jobs",
        sum(|actor| actor.acknowledged),
        sum(|actor| actor.happened.0),
        sum(|actor| actor.world().jobs().count()),
    ));
    Ok(())
}

/// How many calls the one that lives must make after the other has died.
const AFTERWARDS: usize = 40;

/// In every second round the one that lives is silent until the other is dead: whatever is held then, the dead one held.
async fn unharmed(case: &Case<'_>) -> Checked {
    case.clock()?;
    let (site, survivor) = Site::durable(case).await?;
    if !survivor.is_shared() {
        return Err(Stop::skip("one process at a time, as the store says"));
    }
    let mut rng = case.rng();
    let mut living = cast(case, &site, &survivor, "living ")?;
    let (kills, mut lost) = (case.times(4), 0);
    let mut acknowledged = 0;
    for round in 0..kills {
        let life = site.open().await?;
        let doomed = cast(case, &site, &life, &format!("doomed {round} "))?;
        let calls = 1 + rng.below(60);
        let death = Pace::default();
        let (now, later) = match round.is_multiple_of(2) {
            true => (Vec::new(), living),
            false => (living, Vec::new()),
        };
        let mut working = live_on(&survivor, now, &death);
        let doomed = work_until_killed(&life, doomed, calls, &mut rng).await;
        death.acknowledge();
        if !later.is_empty() {
            working = live_on(&survivor, later, &death);
        }
        living = all(working).await?;
        let mut doomed = doomed?;
        // The one that lives sees what the dead one had acknowledged.
        if survivor.capabilities().reach == queue_core::Reach::Network {
            drop(site.reopen().await?);
        }
        lost += recover(&survivor, &mut doomed).await?;
        recover(&survivor, &mut living).await?;
        acknowledged += doomed.iter().map(|actor| actor.acknowledged).sum::<usize>();
    }
    let others = living.iter().map(|actor| actor.acknowledged).sum::<usize>();
    case.note(format!(
        "{kills} kills, {acknowledged} operations acknowledged by the dead, {lost} lost; {others} by the living"
    ));
    Ok(())
}

/// Has the actors work until each has made so many calls after the death of the others.
fn live_on(survivor: &Life, living: Vec<Actor>, death: &Pace) -> JoinSet<Checked<Actor>> {
    let (pace, mut working) = (Pace::default(), JoinSet::new());
    for mut actor in living {
        let (store, pace, death) = (survivor.store.clone(), pace.clone(), death.clone());
        working.spawn(async move {
            let mut left = AFTERWARDS;
            let enough = || {
                left -= death.acknowledged().min(left);
                left == 0
            };
            let worked = actor.work(&store, &pace, enough).await?;
            check!(worked == Called::Answered, "a process lost a call when another one was killed");
            Ok(actor)
        });
    }
    working
}

async fn all(mut working: JoinSet<Checked<Actor>>) -> Checked<Vec<Actor>> {
    let mut back = Vec::new();
    while let Some(ended) = working.join_next().await {
        back.push(ended??);
    }
    back.sort_by(|one, other| one.queue.cmp(&other.queue));
    Ok(back)
}

async fn cut_short(case: &Case<'_>) -> Checked {
    let (site, life) = Site::durable(case).await?;
    drop((site, life));
    let mut rng = case.rng();
    // How long an opening takes that nobody disturbs, its process included.
    let begun = std::time::Instant::now();
    let (site, life) = Site::durable(case).await?;
    let whole = begun.elapsed();
    drop((site, life));
    let (rounds, mut cut) = (case.times(6), 0);
    for round in 0..rounds {
        let site = Site::new(case).await?;
        let process = site.start()?;
        let opening = {
            let process = process.clone();
            tokio::spawn(async move { process.open().await.map(drop) })
        };
        // Not to wait for anything: the moment of death is to be any.
        tokio::time::sleep(moment(whole, round, rounds, &mut rng)).await;
        process.kill();
        cut += usize::from(opening.await?.is_err());
        let life = site.open().await?;
        let id = put(&life.store, &job("first")).await?;
        let held = take_id(&life.store, id).await?;
        drop(life);
        let life = site.open().await?;
        check_eq!(read(&life.store, id).await?, held, "a job of a place opened for the third time");
    }
    case.note(format!("{cut} of {rounds} openings cut short, of {whole:?} each"));
    Ok(())
}
