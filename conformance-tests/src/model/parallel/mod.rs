//! The parallel model check: operations that overlap must have taken effect as if one after the other.
//!
//! A script makes a few operations one after the other, then has three handles make up to four each at the same time, and reads what
//! came of it. What was answered is a history with intervals, for which an order is searched that the executable specification
//! allows. What the handles do is fixed before they start, from what is known then, so that they reach for the same jobs.

mod event;
mod piece;
mod plan;
mod script;
mod search;
#[cfg(test)]
mod tests;
mod themes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use queue_core::{JobStore, Timestamp, spec::Op};
use tokio::{sync::Barrier, task::JoinSet};

pub use event::check_parallel;

use self::{
    event::{Checker, Event},
    plan::{BEYOND, Known, Planner},
    script::{Act, BRANCHES, Episode, Script, Step, episode, smaller},
    search::Failure,
};
use crate::{Case, Checked, Stop, history::History, report::directory};

/// How often every duel and every theme has its turn: as often as there is time for, between these.
const TURNS: usize = 1;
const MOST_TURNS: usize = 8;
const TIME: Duration = Duration::from_secs(3);
/// A store that is opened as quickly as this is opened for every episode, and has more turns: what is broken must
/// fail there every time.
const QUICK: Duration = Duration::from_millis(10);
const QUICK_TURNS: usize = 4;
/// How many episodes another store sees.
const EPISODES: usize = 16;
/// How often a smaller script is run, which may need luck to fail.
const ATTEMPTS: usize = 10;
/// For how many times the duration of the failing run it is made smaller, and the longest time for that.
const SHRINK_RUNS: u32 = 100;
const SHRINK_TIME: Duration = Duration::from_secs(20);

/// Has handles work at the same time, and searches an order of their operations that the specification allows.
///
/// # Errors
/// `Skip` without the clock hook; `Fail` with a script made small, its history with intervals, and what no order
/// explains; `Inconclusive` when a search is given up.
pub async fn parallel(case: &Case<'_>) -> Checked {
    case.clock()?;
    let (mut rng, begun) = (case.rng(), Instant::now());
    case.fresh().await?.handles(BRANCHES).await?;
    let (together, turns) =
        if begun.elapsed() < QUICK { (1, QUICK_TURNS) } else { (EPISODES, TURNS) };
    let mut figures = Figures::default();
    let (least, most) = (case.times(turns), case.times(MOST_TURNS));
    for turn in 0..most {
        if turn >= least && begun.elapsed() > TIME.saturating_mul(case.rounds()) {
            break;
        }
        let episodes = turn * script::ROUND..(turn + 1) * script::ROUND;
        let episodes: Vec<Episode> = episodes.map(|number| episode(number, &mut rng)).collect();
        for script in episodes.chunks(together) {
            let begun = Instant::now();
            let run = run(case, script).await?;
            figures.add(&run.figures);
            match run.failure {
                None => {}
                Some(Failure::GivenUp(why)) => return Err(Stop::inconclusive(why)),
                Some(Failure::Refused(_)) => {
                    let patience = (begun.elapsed() * SHRINK_RUNS).min(SHRINK_TIME);
                    let (script, run) = shrink(case, script.to_vec(), run, patience).await?;
                    return Err(Stop::fail(report(case, figures.episodes, &script, &run)));
                }
            }
        }
    }
    case.note(figures.text());
    Ok(())
}

/// What was done, to be told.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    episodes: usize,
    /// Episodes in which operations of two handles overlapped.
    overlapping: usize,
    operations: usize,
    /// Operations that ended with an unknown effect.
    unknown: usize,
    /// The most states that one search visited.
    visited: usize,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.episodes += other.episodes;
        self.overlapping += other.overlapping;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.visited = self.visited.max(other.visited);
    }

    fn text(&self) -> String {
        let Figures { episodes, overlapping, operations, unknown, visited } = self;
        format!(
            "{operations} operations in {episodes} episodes, {overlapping} with overlaps; {unknown} of unknown \
             effect; at most {visited} states a search"
        )
    }
}

/// What came of a script.
struct Run {
    events: Vec<Event>,
    failure: Option<Failure>,
    figures: Figures,
}

/// A script under way.
struct Running<'c, 'h> {
    case: &'c Case<'h>,
    handles: Vec<Arc<dyn JobStore>>,
    ticks: Arc<AtomicU64>,
    checker: Checker,
    planner: Planner,
    run: Run,
}

/// Runs a script against a fresh store, up to the first answer that nothing explains.
async fn run(case: &Case<'_>, script: &[Episode]) -> Checked<Run> {
    let case = case.fresh().await?;
    let mut running = Running {
        handles: case.handles(BRANCHES).await?,
        ticks: Arc::default(),
        checker: Checker::new(case.info().capabilities),
        planner: Planner::default(),
        run: Run { events: Vec::new(), failure: None, figures: Figures::default() },
        case: &case,
    };
    for episode in script {
        running.episode(episode).await?;
        // With something still under way, nothing certain is known to go on from.
        if running.run.failure.is_some() || running.checker.is_open() {
            break;
        }
    }
    running.run.figures.visited = running.checker.visited;
    Ok(running.run)
}

impl Running<'_, '_> {
    async fn episode(&mut self, episode: &Episode) -> Checked {
        self.run.figures.episodes += 1;
        self.clear().await?;
        if self.run.failure.is_none() {
            self.alone(&episode.prefix).await?;
        }
        if self.run.failure.is_some() || self.checker.is_open() {
            return Ok(());
        }
        self.together(episode).await?;
        if self.run.failure.is_none() {
            self.alone(&episode.suffix).await?;
        }
        Ok(())
    }

    fn now(&self) -> Checked<Timestamp> {
        Ok(self.case.clock()?.now())
    }

    /// Deletes what the episode before left.
    async fn clear(&mut self) -> Checked {
        if self.checker.world().jobs().next().is_none() {
            return Ok(());
        }
        self.case.advance(2 * BEYOND)?;
        let now = self.now()?;
        for op in self.planner.clear() {
            let event = timed(0, &*self.handles[0], &self.ticks, now, &op).await;
            self.take(vec![event]);
            if self.run.failure.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Steps one after the other.
    async fn alone(&mut self, steps: &[Step]) -> Checked {
        for step in steps {
            // What is under way has the time of its call, and takes effect by that time only.
            if step.act == Act::Expire && !self.checker.is_open() {
                self.case.advance(BEYOND)?;
            }
            let now = self.now()?;
            let mut known = Known { world: self.checker.world(), now, tokens: Vec::new() };
            for op in self.planner.resolve(step, &mut known) {
                let event = timed(0, &*self.handles[0], &self.ticks, now, &op).await;
                self.take(vec![event]);
                if self.run.failure.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The branches at the same time.
    async fn together(&mut self, episode: &Episode) -> Checked {
        let now = self.now()?;
        let mut known = Known { world: self.checker.world(), now, tokens: Vec::new() };
        let mut branches = Vec::new();
        for steps in &episode.branches {
            let mut ops: Vec<(Op, u8)> = Vec::new();
            for step in steps {
                let steps = self.planner.resolve(step, &mut known);
                ops.extend(steps.into_iter().map(|op| (op, step.lag)));
            }
            branches.push(ops);
        }
        let gate = Arc::new(Barrier::new(branches.len()));
        let mut working = JoinSet::new();
        for (handle, ops) in branches.into_iter().enumerate() {
            let (store, ticks) = (self.handles[handle].clone(), self.ticks.clone());
            let gate = gate.clone();
            working.spawn(async move {
                let mut events = Vec::with_capacity(ops.len());
                gate.wait().await;
                for (op, lag) in ops {
                    // Now this one is ahead, now another.
                    for _ in 0..lag {
                        tokio::task::yield_now().await;
                    }
                    events.push(timed(handle, &*store, &ticks, now, &op).await);
                }
                events
            });
        }
        let mut events = Vec::new();
        while let Some(ended) = working.join_next().await {
            events.extend(ended?);
        }
        events.sort_by_key(|event| event.begin);
        let figures = &mut self.run.figures;
        figures.operations += events.len();
        figures.unknown += events.iter().filter(|event| event.is_open()).count();
        let overlap = |one: &Event| {
            events.iter().any(|other| other.handle != one.handle && one.overlaps(other))
        };
        figures.overlapping += usize::from(events.iter().any(overlap));
        self.take(events);
        Ok(())
    }

    fn take(&mut self, events: Vec<Event>) {
        self.run.failure = self.checker.take(&events).err();
        self.run.events.extend(events);
    }
}

/// Calls the store, and notes when.
async fn timed(
    handle: usize,
    store: &dyn JobStore,
    ticks: &AtomicU64,
    now: Timestamp,
    op: &Op,
) -> Event {
    let begin = ticks.fetch_add(1, Ordering::SeqCst);
    let answer = op.run(store).await;
    let end = ticks.fetch_add(1, Ordering::SeqCst);
    Event::new(handle, (begin, end), now, op, &answer)
}

/// Takes out of a failing script what it does not need. A smaller one counts as failing when one of some runs fails.
async fn shrink(
    case: &Case<'_>,
    script: Script,
    failed: Run,
    patience: Duration,
) -> Checked<(Script, Run)> {
    let begun = Instant::now();
    let (mut script, mut failed) = (script, failed);
    script.truncate(failed.figures.episodes);
    'smaller: loop {
        for less in smaller(&script) {
            for _ in 0..ATTEMPTS {
                if begun.elapsed() > patience {
                    break 'smaller;
                }
                let run = run(case, &less).await?;
                if matches!(run.failure, Some(Failure::Refused(_))) {
                    script = less;
                    script.truncate(run.figures.episodes);
                    failed = run;
                    continue 'smaller;
                }
            }
        }
        break;
    }
    Ok((script, failed))
}

fn report(case: &Case<'_>, episodes: usize, script: &Script, run: &Run) -> String {
    let history = History::new(case.info(), run.events.iter().map(Event::to_call).collect());
    let file = directory().join(format!("parallel-{}-{}.jsonl", case.info().name, case.seed()));
    let saved = match history.write(&file) {
        Ok(()) => format!("saved as {}", file.display()),
        Err(error) => format!("not saved: {error}"),
    };
    let branches = script.last().map(|episode| {
        let acts = |steps: &[Step]| {
            let acts: Vec<String> = steps.iter().map(|step| format!("{:?}", step.act)).collect();
            acts.join(" ")
        };
        let branches: Vec<String> = episode.branches.iter().map(|steps| acts(steps)).collect();
        format!("{}; then {}", acts(&episode.prefix), branches.join(" | "))
    });
    let why = run.failure.as_ref().map(Failure::to_string).unwrap_or_default();
    format!(
        "after {episodes} episodes of seed {}: {} has no order that explains its history ({saved}):\n{}\n{why}",
        case.seed(),
        branches.unwrap_or_default(),
        history.to_text().trim_end(),
    )
}
