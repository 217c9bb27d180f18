//! The sequential model check: random scripts, every answer of which the executable specification must allow.
//!
//! A script is a list of abstract [`Step`]s, which become operations only when they are executed, by what is known then
//! (ids, fences, versions, due times). So a script stays meaningful when steps are taken out, and
//! shrinks to a minimal one.

mod dice;
mod parallel;
mod script;
mod state;

use std::time::{Duration, Instant};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use queue_core::spec::Latitude;

pub use parallel::{check_parallel, parallel};
pub use script::Step;

use crate::{
    Case, Checked, Stop,
    history::{Call, History},
    report::directory,
};
use script::steps;
use state::{Action, State, uuid};

/// How many scripts are run in one round.
const SCRIPTS: usize = 60;
/// How many times a failing script is run again, to make it smaller.
const SHRINKS: usize = 2_000;
/// For how long, so that a slow store still gets its report within the time limit of the property.
const SHRINK_TIME: Duration = Duration::from_secs(20);

/// Runs random scripts against the store, and checks each answer against the specification.
///
/// # Errors
/// `Skip` without the clock hook; `Fail` with the minimal script and the answer that is not allowed.
pub async fn sequential(case: &Case<'_>) -> Checked {
    case.clock()?;
    let mut runner = runner(case.seed());
    let strategy = steps();
    for number in 0..case.times(SCRIPTS) {
        let tree = strategy.new_tree(&mut runner);
        let mut tree = tree.map_err(|reason| Stop::inconclusive(format!("no script: {reason}")))?;
        let Some(first) = divergence(case, &tree.current()).await? else { continue };
        let smallest = shrink(case, &mut tree, first).await?;
        return Err(Stop::fail(report(case, number, &smallest)));
    }
    Ok(())
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = seed.rotate_left(8 * u32::try_from(at % 8).unwrap_or(0)) as u8 ^ at as u8;
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng)
}

/// A script that went wrong, up to the answer that is not allowed.
struct Divergence {
    history: Vec<Call>,
    why: String,
}

/// proptest's own loop, with an asynchronous test: smaller while it fails, a little larger
/// where it does not.
async fn shrink<T: ValueTree<Value = Vec<Step>> + Send>(
    case: &Case<'_>,
    tree: &mut T,
    first: Divergence,
) -> Checked<Divergence> {
    let mut smallest = first;
    let mut more = tree.simplify();
    let begun = Instant::now();
    for _ in 0..SHRINKS {
        if !more || begun.elapsed() > SHRINK_TIME {
            break;
        }
        more = match divergence(case, &tree.current()).await? {
            Some(smaller) => {
                smallest = smaller;
                tree.simplify()
            }
            None => tree.complicate(),
        };
    }
    Ok(smallest)
}

/// Runs a script against a fresh store, up to the answer that is not allowed, if any is.
async fn divergence(case: &Case<'_>, steps: &[Step]) -> Checked<Option<Divergence>> {
    let (history, why) = execute(case, steps).await?;
    Ok(why.map(|why| Divergence { history, why }))
}

/// What was called, and why the specification does not allow the last answer.
async fn execute(case: &Case<'_>, steps: &[Step]) -> Checked<(Vec<Call>, Option<String>)> {
    let case = case.fresh().await?;
    let clock = case.clock()?;
    let mut state = State::new(case.info().capabilities);
    let mut history = Vec::new();
    for step in steps {
        for action in state.resolve(step, clock.now()) {
            let op = match action {
                Action::Advance(by) => {
                    clock.advance(by);
                    continue;
                }
                Action::Do(op) => op,
            };
            let now = clock.now();
            let answer = op.run(&**case.store()).await;
            history.push(Call::alone(history.len(), now, &op, &answer));
            let verdict = state.spec.check(&op, now, &answer, Latitude::Alone);
            if let queue_core::spec::Verdict::Reject(why) = verdict {
                return Ok((history, Some(why)));
            }
            if let Ok(answer) = &answer {
                state.remember(&op, answer);
            }
        }
    }
    Ok((history, None))
}

fn report(case: &Case<'_>, number: usize, divergence: &Divergence) -> String {
    let history = History::new(case.info(), divergence.history.clone());
    let script = history.to_text();
    let file = directory().join(format!("model-{}-{}.jsonl", case.info().name, case.seed()));
    let saved = match history.write(&file) {
        Ok(()) => format!("saved as {}", file.display()),
        Err(error) => format!("not saved: {error}"),
    };
    format!(
        "script {number} of seed {} diverges from the specification at the last of these operations \
         ({saved}):\n{script}{}",
        case.seed(),
        divergence.why
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use queue_core::{Clock, MemoryStore, Result, async_trait};

    use super::*;
    use crate::{
        Fixture, Harness,
        history::{check_claims, check_logs, check_register, check_sequence},
        mutants,
    };

    struct Memory;

    #[async_trait]
    impl Harness for Memory {
        async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
            Ok(Fixture::new(Arc::new(MemoryStore::with_clock(clock.clone()))).clocked())
        }
    }

    struct Unclocked;

    #[async_trait]
    impl Harness for Unclocked {
        async fn fresh(&self, _: &Clock) -> Result<Fixture> {
            Ok(Fixture::new(Arc::new(MemoryStore::new())))
        }
    }

    async fn run(harness: &dyn Harness, seed: u64) -> Checked {
        sequential(&Case::open(harness, seed, 1).await?).await
    }

    #[tokio::test]
    async fn the_memory_store_satisfies_the_specification() {
        assert_eq!(run(&Memory, 1).await, Ok(()));
    }

    #[tokio::test]
    async fn without_a_clock_there_is_nothing_to_check() {
        assert_eq!(run(&Unclocked, 1).await, Err(Stop::skip("no clock hook")));
    }

    #[tokio::test]
    async fn a_divergence_shrinks_to_a_script_that_replays() {
        let mutants = mutants::mutants();
        let mutant = mutants.iter().find(|m| m.name == "claim-limit-plus-one").unwrap();
        let case = Case::open(mutant, 3, 1).await.unwrap();
        let mut runner = runner(3);
        for _ in 0..SCRIPTS {
            let mut tree = steps().new_tree(&mut runner).unwrap();
            let Some(first) = divergence(&case, &tree.current()).await.unwrap() else { continue };
            let smallest = shrink(&case, &mut tree, first).await.unwrap();
            assert!(smallest.history.len() <= 3, "{} operations are left", smallest.history.len());
            let saved = History::new(case.info(), smallest.history.clone()).to_text();
            let mut history = History::from_text(&saved).unwrap();
            assert!(check_sequence(&history).unwrap().is_err());
            history.calls.pop();
            assert_eq!(check_sequence(&history), Some(Ok(())));
            return;
        }
        panic!("no script met the flaw");
    }

    /// The scripts have all that the workloads of long runs leave out: time that passes, cancels, deletes, pauses, lanes,
    /// unique keys.
    #[tokio::test]
    async fn what_the_specification_allows_the_history_checkers_accept() {
        let case = Case::open(&Memory, 8, 1).await.unwrap();
        let mut runner = runner(8);
        for _ in 0..300 {
            let tree = steps().new_tree(&mut runner).unwrap();
            let (calls, why) = execute(&case, &tree.current()).await.unwrap();
            assert_eq!(why, None);
            let history = History::new(case.info(), calls);
            for check in [check_claims, check_logs, check_register] {
                if let Err(violation) = check(&history) {
                    panic!("{violation}\n{}", history.to_text());
                }
            }
        }
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_scripts() {
        let scripts = |seed| {
            let mut runner = runner(seed);
            (0..3).map(|_| steps().new_tree(&mut runner).unwrap().current()).collect::<Vec<_>>()
        };
        assert_eq!(scripts(5), scripts(5));
        assert_ne!(scripts(5), scripts(6));
    }
}
