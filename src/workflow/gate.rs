use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{JobError, Timestamp};
use tokio::sync::{Notify, futures::Notified};

use super::polls::Polls;
use crate::callback::Call;

/// How long a step that was woken may go without a turn before it does not hold up the end of the run any more.
const NEGLECT: Duration = Duration::from_millis(500);

/// Which steps of a workflow run, and whether further ones may start.
///
/// When a step fails, its siblings (the running ones, and those that the body starts in the same
/// poll) are allowed to settle and no further step starts: a failure that will be retried is never
/// shown to the body (the step parks, and the run ends when nothing runs any more); a final one is
/// shown once the siblings have settled.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    used: HashSet<(String, String)>,
    /// Which poll of the body this is.
    poll: u64,
    /// The poll in which the latest failure happened.
    failed_in: Option<u64>,
    running: usize,
    /// Steps that wait for the end of the run.
    parked: usize,
    /// Sleeps that are not over, and a number for each.
    asleep: BTreeSet<(Timestamp, u64)>,
    /// How many sleeps have begun.
    sleeps: u64,
    /// When the run ended because nothing was left but sleeps: the end of the first of them.
    wake_at: Option<Timestamp>,
    /// Final failures that wait to be shown to the body.
    unshown: usize,
    /// The failures that will be retried: the latest date, and the error that it belongs to.
    retry: Option<(Timestamp, JobError)>,
    /// The job cancels itself.
    pub(crate) cancelled: Option<String>,
    /// Whom to tell of failed steps once they are recorded.
    pub(crate) calls: Vec<Call>,
    /// The steps that have not returned, by their numbers.
    steps: BTreeMap<u64, Watched>,
    /// How many steps there were.
    begun: u64,
    /// Whether some of them may be neglected.
    has_neglected: bool,
}

/// A step that has not returned.
#[derive(Debug)]
struct Watched {
    polls: Arc<Polls>,
    /// It counts as running.
    running: bool,
    /// It has a final failure that waits to be shown.
    unshown: bool,
}

enum Admission {
    Enter,
    /// A final failure is about to be shown to the body.
    Wait,
    /// The run is about to end.
    Park,
}

tokio::task_local! {
    /// The step inside which the current code runs.
    static CURRENT: Arc<Node>;
}

/// A step as its nested steps see it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    /// Among the steps of its run.
    number: u64,
    nested: Mutex<Nested>,
}

#[derive(Debug, Default)]
struct Nested {
    /// How many nested steps have not returned. While there is one, the step itself does not count
    /// as running: it waits for that one, and must not hold up the end of the run.
    count: usize,
    /// Whether the step itself has ended; a nested one that is shared can outlive it.
    over: bool,
}

impl Node {
    /// The step inside which this is called.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs the code of this step.
    pub(crate) async fn scope<T>(self: Arc<Self>, run: impl Future<Output = T>) -> T {
        CURRENT.scope(self, run).await
    }

    fn nested(&self) -> MutexGuard<'_, Nested> {
        self.nested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a step as a child of the one around it, from its call to its return.
pub(crate) struct Child<'a> {
    gate: &'a Gate,
    parent: Option<Arc<Node>>,
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        let Some(parent) = &self.parent else { return };
        let mut nested = parent.nested();
        nested.count -= 1;
        if nested.count == 0 && !nested.over {
            self.gate.lock().runs(parent.number, true);
        }
    }
}

/// Forgets a step when it returns.
pub(crate) struct Step<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.gate.lock().steps.remove(&self.number);
    }
}

/// Counts a step as running until it is dropped.
pub(crate) struct Running<'a> {
    gate: &'a Gate,
    node: Arc<Node>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        {
            let mut nested = self.node.nested();
            nested.over = true;
            // With a nested step left, it does not count as it is.
            if nested.count == 0 {
                self.gate.lock().runs(self.node.number, false);
            }
        }
        self.gate.changed.notify_waiters();
    }
}

struct Parked<'a>(&'a Gate);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.lock().parked -= 1;
    }
}

struct Unshown<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for Unshown<'_> {
    fn drop(&mut self) {
        self.gate.lock().is_unshown(self.number, false);
        self.gate.changed.notify_waiters();
    }
}

/// Counts a sleep until it is dropped.
struct Asleep<'a> {
    gate: &'a Gate,
    place: (Timestamp, u64),
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        if !broken!(DroppedSleepsWake) {
            self.gate.lock().asleep.remove(&self.place);
        }
        self.gate.changed.notify_waiters();
    }
}

impl Gate {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inside> {
        // Counters and flags are consistent between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a step. `false` if the key is taken.
    pub(crate) fn register(&self, task: &str, step: &str) -> bool {
        self.lock().used.insert((task.to_owned(), step.to_owned())) || broken!(KeysMayRepeat)
    }

    /// Polls a step, and watches whether the body does.
    pub(crate) async fn watch<T, F>(&self, id: &str, step: impl FnOnce(Arc<Node>) -> F) -> T
    where
        F: Future<Output = T>,
    {
        let polls = Arc::<Polls>::default();
        let number = {
            let mut inside = self.lock();
            inside.begun += 1;
            let number = inside.begun;
            let watched = Watched { polls: polls.clone(), running: false, unshown: false };
            inside.steps.insert(number, watched);
            number
        };
        let _step = Step { gate: self, number };
        let node = Node { id: id.to_owned(), number, nested: Mutex::default() };
        polls.watch(step(Arc::new(node))).await
    }

    /// Resolves when steps that hold up the end of the run were woken and left alone by the body; they hold it up no more.
    pub(crate) async fn neglect(&self, stop: impl Future<Output = ()>) {
        if !self.lock().is_held_up() {
            // That a run begins to end is a change, after which this is asked again.
            stop.await;
        }
        let mut before = self.lock().waiting();
        loop {
            tokio::time::sleep(NEGLECT).await;
            let mut inside = self.lock();
            let waiting = inside.waiting();
            let mut found = false;
            for (number, turns) in &waiting {
                if before.get(number) == Some(turns)
                    && let Some(step) = inside.steps.get(number)
                    && !step.polls.is_neglected()
                {
                    step.polls.neglect();
                    found = true;
                }
            }
            if found {
                inside.has_neglected = true;
                drop(inside);
                return self.changed.notify_waiters();
            }
            before = waiting;
        }
    }

    /// Notes that the step around this call waits for a nested one.
    pub(crate) fn nest(&self, parent: Option<Arc<Node>>) -> Child<'_> {
        if let Some(parent) = &parent {
            let mut nested = parent.nested();
            nested.count += 1;
            if nested.count == 1 && !nested.over {
                self.lock().runs(parent.number, false);
                // A final failure may wait for just this.
                self.changed.notify_waiters();
            }
        }
        Child { gate: self, parent }
    }

    /// Waits until the step may start; for ever when the run is about to end.
    pub(crate) async fn enter(
        &self,
        node: Arc<Node>,
        is_stopping: impl Fn() -> bool,
    ) -> Running<'_> {
        let begin = |inside: &mut Inside| {
            inside.runs(node.number, true);
            // A sleep beside it must be recorded before this step ends.
            if !inside.asleep.is_empty() {
                self.changed.notify_waiters();
            }
        };
        self.admission(is_stopping, begin).await;
        Running { gate: self, node }
    }

    /// Waits until the sleep may begin, as a step would; then counts it as asleep while `asleep` runs.
    pub(crate) async fn sleep<T>(
        &self,
        until: Timestamp,
        is_stopping: impl Fn() -> bool,
        asleep: impl Future<Output = T>,
    ) -> T {
        let mut number = 0;
        let begin = |inside: &mut Inside| {
            inside.sleeps += 1;
            number = inside.sleeps;
            inside.asleep.insert((until, number));
            inside.wake_at = broken!(StopWaitsForSleeps).then_some(until);
        };
        self.admission(is_stopping, begin).await;
        let _asleep = Asleep { gate: self, place: (until, number) };
        self.changed.notify_waiters();
        asleep.await
    }

    /// Waits until something may start, and counts it in the same breath; for ever when the run is
    /// about to end.
    async fn admission(&self, is_stopping: impl Fn() -> bool, mut count: impl FnMut(&mut Inside)) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.admit(is_stopping(), &mut count) {
                Admission::Enter => return,
                Admission::Park => return self.park().await,
                Admission::Wait => changed.await,
            }
        }
    }

    fn admit(&self, stopping: bool, count: impl FnOnce(&mut Inside)) -> Admission {
        let mut inside = self.lock();
        let sibling = inside.failed_in == Some(inside.poll);
        let stopping = stopping && !broken!(CancelLetsStepsStart);
        if stopping || (inside.is_ending() && !sibling) {
            Admission::Park
        } else if inside.unshown() > 0 && !sibling {
            Admission::Wait
        } else {
            count(&mut inside);
            Admission::Enter
        }
    }

    /// Waits for the end of the run.
    pub(crate) async fn park<T>(&self) -> T {
        self.lock().parked += 1;
        let _parked = Parked(self);
        self.changed.notify_waiters();
        std::future::pending().await
    }

    /// Waits until no step runs, then shows a final failure to the body.
    pub(crate) async fn show_when_quiet(&self, node: &Node) {
        self.lock().is_unshown(node.number, true);
        let _unshown = Unshown { gate: self, number: node.number };
        // The siblings that stand behind this step in a `join` have their first poll yet to come.
        tokio::task::yield_now().await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_idle() || broken!(FinalFailureDropsSiblings) {
                return;
            }
            changed.await;
        }
    }

    /// Counts the polls of the body.
    pub(crate) fn begin_poll(&self) {
        self.lock().poll += 1;
    }

    /// Whether the body waits for nothing but the end of the run.
    pub(crate) fn is_quiet(&self) -> bool {
        let inside = self.lock();
        let asleep = if broken!(SleepHoldsItsSlot) { 0 } else { inside.asleep.len() };
        let waiting = inside.parked + asleep;
        let idle = inside.running() == 0 || broken!(ReleasedWhileSiblingsRun);
        idle && inside.unshown() == 0 && waiting > 0
    }

    /// Notes how the run ends, before the body is dropped and what waits in it with it.
    pub(crate) fn note_end(&self) {
        let mut inside = self.lock();
        let only_sleeps = inside.running == 0 && inside.parked == 0;
        let first = match broken!(LastSleepWakes) {
            true => inside.asleep.last(),
            false => inside.asleep.first(),
        };
        let first = first.map(|(until, _)| *until);
        if let (Some(first), Some((at, _)), true) =
            (first, &mut inside.retry, broken!(SleepPutsOffRetries))
        {
            *at = first.max(*at);
        }
        inside.wake_at = first.filter(|_| only_sleeps);
    }

    /// Whether a step has failed, so that the run is to end or its failure to be shown.
    #[cfg(feature = "flow")]
    pub(crate) fn is_failing(&self) -> bool {
        self.lock().is_held_up()
    }

    /// Whether no step runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().running() == 0
    }

    /// Resolves at the next change of what runs, counted from this call on.
    pub(crate) fn change(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

impl Inside {
    /// Notes that a step counts as running, or does so no more.
    fn runs(&mut self, number: u64, running: bool) {
        if running {
            self.running += 1;
        } else {
            self.running -= 1;
        }
        if let Some(step) = self.steps.get_mut(&number) {
            step.running = running;
        }
    }

    /// Notes that the final failure of a step waits to be shown, or does so no more.
    fn is_unshown(&mut self, number: u64, unshown: bool) {
        if unshown {
            self.unshown += 1;
        } else {
            self.unshown -= 1;
        }
        if let Some(step) = self.steps.get_mut(&number) {
            step.unshown = unshown;
        }
    }

    /// How many steps run that the body does not leave alone.
    fn running(&self) -> usize {
        self.running - self.neglected(|step| step.running)
    }

    /// How many failures wait to be shown by steps that the body does not leave alone.
    fn unshown(&self) -> usize {
        self.unshown - self.neglected(|step| step.unshown)
    }

    fn neglected(&self, which: impl Fn(&Watched) -> bool) -> usize {
        if !self.has_neglected || broken!(NeglectedStepsHoldTheRun) {
            return 0;
        }
        self.steps.values().filter(|step| step.polls.is_neglected() && which(step)).count()
    }

    /// Whether something waits for steps to settle.
    fn is_held_up(&self) -> bool {
        self.is_ending() || self.unshown > 0
    }

    /// The steps that were woken and had no turn since, with how many turns they have had.
    fn waiting(&self) -> BTreeMap<u64, u64> {
        let waits = |(number, step): (&u64, &Watched)| Some((*number, step.polls.waits_since()?));
        self.steps.iter().filter_map(waits).collect()
    }

    /// Notes that a step failed, in this poll of the body.
    pub(crate) const fn note_failure(&mut self) {
        // A later failure must not open the gate of a run that is ending already.
        if self.retry.is_none() && self.cancelled.is_none() && self.unshown == 0 {
            self.failed_in = Some(self.poll);
        }
    }

    /// Whether the run is to end as soon as nothing runs.
    fn is_ending(&self) -> bool {
        self.retry.is_some() || self.cancelled.is_some()
    }

    /// Notes a failure that will be retried. Of several, the latest date counts.
    pub(crate) fn retry_at(&mut self, at: Timestamp, error: JobError) {
        let later = |(latest, _): &(Timestamp, JobError)| match broken!(EarliestRetryWins) {
            true => at < *latest,
            false => at > *latest,
        };
        if self.retry.as_ref().is_none_or(later) {
            self.retry = Some((at, error));
        }
    }

    /// When the run is to be repeated, and why.
    pub(crate) const fn retry(&self) -> Option<&(Timestamp, JobError)> {
        self.retry.as_ref()
    }

    /// When the job is to be woken: only sleeps were left when its run ended.
    pub(crate) const fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }
}
