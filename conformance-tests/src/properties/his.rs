//! HIS: long contended runs whose every call is recorded, and the record checked.

mod claims;
mod logs;
mod registers;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{
    Effect,
    spec::{Answer, Op},
};

use super::scene::Store;
use crate::{
    Case, Checked, Property, Stop,
    history::{History, Recorder, Summary, Violation},
    property::group,
    report::directory,
};

group! {
    "HIS-1", "in a long run nobody is given a job that another holds, and no job is overtaken or forgotten" => claims::runs_are_exclusive_and_complete;
    "HIS-2", "in a long run the logs have what was acknowledged, once, in an order that agrees with real time" => logs::logs_only_grow;
    "HIS-3", "in a long run the versions of a job and of a record form one chain that agrees with real time" => registers::versions_form_a_chain;
}

/// A few seconds on a database; on a busy machine, many times that.
const LIMIT: Duration = Duration::from_secs(180);

/// The properties of this group, with the time that they may take.
pub(super) fn long_running() -> Vec<Property> {
    properties().into_iter().map(|property| property.within(LIMIT)).collect()
}

/// Handles for several processes, all of whose calls are recorded.
async fn recorded(case: &Case<'_>, handles: usize) -> Checked<(Recorder, Vec<Store>)> {
    let clock = case.is_clocked().then(|| case.clock().cloned()).transpose()?;
    let recorder = Recorder::new(case.info(), clock);
    let handles = case.handles(handles).await?.into_iter();
    let handles = handles.map(|handle| recorder.wrap(handle)).collect();
    Ok((recorder, handles))
}

/// Carries an operation out. One that may succeed later, or of which it is not known whether it did, is repeated with
/// the same ids, as a worker would: the checkers know that it may have happened more than once.
async fn done(store: &Store, op: Op) -> Checked<Answer> {
    const TRIES: usize = 20;
    for _ in 1..TRIES {
        match op.run(&**store).await {
            Err(error) if error.is_transient() || error.effect() == Effect::Unknown => {
                tokio::task::yield_now().await;
            }
            answer => return Ok(answer?),
        }
    }
    Ok(op.run(&**store).await?)
}

/// Checks what was recorded. A history that is refused is saved.
fn judge(
    case: &Case<'_>,
    history: History,
    check: impl Fn(&History) -> Result<Summary, Violation>,
) -> Checked {
    match check(&history) {
        Ok(summary) => {
            case.note(summary.to_string());
            Ok(())
        }
        Err(violation) => {
            let file = place(case, &history);
            let saved = match history.write(&file) {
                Ok(()) => format!("saved as {}", file.display()),
                Err(error) => format!("not saved: {error}"),
            };
            let calls = history.calls.len();
            Err(Stop::fail(format!("{violation}\n(of {calls} calls, {saved})")))
        }
    }
}

fn place(case: &Case<'_>, history: &History) -> PathBuf {
    directory().join(format!("history-{}-{}.jsonl", history.store.name, case.seed()))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A racer that panicked fails the property; the others may still end.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer of another kind than its operation has.
fn strange(answer: &Answer) -> Stop {
    Stop::fail(format!("an answer of another kind: {answer:?}"))
}
