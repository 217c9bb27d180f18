//! FLT: while the way to the jobs breaks and mends, what was acknowledged is there, nothing happens twice, and afterwards the
//! store works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use self::{ledger::Ledger, worker::Worker};
use crate::{Case, Checked, Fault, Property, Stop, case::Breaking};

mod ledger;
mod worker;

const WORKERS: usize = 4;
/// How often a fault comes and goes.
const GUSTS: usize = 4;
/// And how often more, at most, until every kind of call has met it.
const MORE_GUSTS: usize = 12;
/// A server of one's own takes a while to start, and a driver to find it again.
const LIMIT: Duration = Duration::from_secs(60);

macro_rules! storms {
    ($($id:literal $fault:ident, $sentence:literal;)*) => {
        /// The properties of this group.
        pub fn properties() -> Vec<Property> {
            vec![$(Property::new($id, $sentence, |case| Box::pin(storm(case, Fault::$fault))).within(LIMIT)),*]
        }
    };
}

storms! {
    "FLT-1" Unreachable, "while the server comes and goes, what was acknowledged is there and nothing happens twice";
    "FLT-2" RequestLost, "while requests are lost, what was acknowledged is there and nothing happens twice";
    "FLT-3" AnswerLost, "while answers are lost, what was acknowledged is there and nothing happens twice";
    "FLT-4" Cut, "while connections end within a message, what was acknowledged is there and nothing happens twice";
    "FLT-5" Reset, "while connections are reset, what was acknowledged is there and nothing happens twice";
    "FLT-6" Silent, "while nothing is heard, calls end in time, what was acknowledged is there and nothing happens twice";
    "FLT-7" Slow, "while everything arrives late, what was acknowledged is there and nothing happens twice";
    "FLT-8" Terminated, "while the server ends sessions, what was acknowledged is there and nothing happens twice";
    "FLT-9" Full, "while there is no room, what was acknowledged is there and nothing happens twice";
    "FLT-10" Locked, "while others hold what writers need, what was acknowledged is there and nothing happens twice";
}

/// Several workers do all that workers do while a fault comes and goes; then everything is counted.
pub(crate) async fn storm(case: &Case<'_>, fault: Fault) -> Checked {
    let (broken, breaking) = case.broken_by(fault).await?;
    let ledger = Arc::new(Ledger::new(fault));
    let over = Arc::new(AtomicBool::new(false));
    let mut rng = case.rng();
    let workers: Vec<Worker> = (0..WORKERS)
        .map(|number| Worker::new(number, &broken, &breaking, ledger.clone(), rng.next_u64()))
        .collect();
    let mut working = JoinSet::new();
    for worker in workers {
        let over = over.clone();
        working.spawn(async move {
            let mut worker = worker;
            while !over.load(Ordering::SeqCst) {
                worker.shift().await?;
            }
            worker.rest().await?;
            Ok::<_, Stop>(worker)
        });
    }
    let mut gusts = 0;
    {
        let mut blowing = std::pin::pin!(blow(case, fault, &breaking, &ledger, &mut gusts));
        loop {
            tokio::select! {
                blown = &mut blowing => break blown?,
                // A worker ends before the storm does only if it has found something.
                Some(ended) = working.join_next() => drop(ended??),
            }
        }
    }
    over.store(true, Ordering::SeqCst);
    let mut last = None;
    while let Some(ended) = working.join_next().await {
        last = Some(ended??);
    }
    let Some(mut worker) = last else {
        return Err(Stop::inconclusive("the workers of the suite vanished"));
    };
    let late = worker.finish(&broken).await?;
    ledger.settle_up(broken.store()).await?;
    if broken.has_sibling() {
        ledger.settle_up(&broken.handles(2).await?[1]).await?;
    }
    let counts = ledger.counts();
    let (operations, errors, repeated) = (counts.operations, counts.errors, counts.repeated);
    case.note(format!(
        "{gusts} times {fault}, {operations} operations, {errors} errors ({} with an unknown effect), {repeated} repeated, \
         {late} held by a claim that came late, 0 lost, 0 twice",
        counts.unknown
    ));
    match errors {
        0 if !matches!(fault, Fault::Slow | Fault::Silent | Fault::Locked) => {
            Err(Stop::inconclusive(format!("`{fault}` met none of {operations} operations")))
        }
        _ => Ok(()),
    }
}

/// Has the fault come and go; more often where some kind of call has not met it yet.
async fn blow(
    case: &Case<'_>,
    fault: Fault,
    breaking: &Breaking,
    ledger: &Ledger,
    gusts: &mut usize,
) -> Checked {
    let is_event = matches!(fault, Fault::Cut | Fault::Reset | Fault::Terminated);
    let rounds = if fault == Fault::Restarted { 2 } else { case.times(GUSTS) };
    let is_lasting = !is_event && fault != Fault::Restarted;
    for round in 0..rounds + MORE_GUSTS {
        if round >= rounds && (!is_lasting || ledger.has_met_all()) {
            break;
        }
        // The store does its work again before it is taken from it once more.
        let before = ledger.counts().answered;
        until(Duration::from_secs(30), || ledger.counts().answered >= before + 25).await;
        let errors = ledger.counts().errors;
        ledger.set_mended(false);
        for _ in 0..if is_event { 3 } else { 1 } {
            breaking.on().await?;
            *gusts += 1;
            let (wanted, longest) = match (fault, round % 3) {
                (Fault::Restarted, _) => (4, breaking.patience()),
                // Now and then it lasts until somebody loses patience.
                (Fault::Slow, _) => (usize::MAX, Duration::from_millis(250)),
                (_, 2) if !is_event && round < rounds => (24, breaking.patience() * 3 / 2),
                _ => (8, Duration::from_millis(if is_event { 50 } else { 150 })),
            };
            until(longest, || ledger.counts().errors >= errors.saturating_add(wanted)).await;
        }
        breaking.off().await?;
        ledger.set_mended(true);
    }
    Ok(())
}

/// Waits until something is so, or for so long.
async fn until(longest: Duration, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() && begun.elapsed() < longest {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
