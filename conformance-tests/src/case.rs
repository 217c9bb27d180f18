use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use queue_core::{Clock, JobStore, StoreInfo, Timestamp};

use crate::{
    Checked, Fixture, Harness, Place, Rng, Stop,
    faults::{Breakable, Fault, Switch},
    start,
};

/// What the properties have to say beside their verdict.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    /// One text of all that was noted.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("; ")
    }
}

/// The longest time that a property lets pass in earnest where the store has no clock hook.
const REAL_WAIT: Duration = Duration::from_millis(400);

/// What a property works with: a fresh store, its hooks, a clock and a seed.
pub struct Case<'h> {
    fixture: Fixture,
    harness: &'h dyn Harness,
    clock: Clock,
    seed: u64,
    rounds: u32,
    notes: Notes,
}

impl<'h> Case<'h> {
    /// Opens a store for one property.
    ///
    /// # Errors
    /// `Fail` when the harness cannot open one.
    pub async fn open(harness: &'h dyn Harness, seed: u64, rounds: u32) -> Checked<Case<'h>> {
        Case::noted(harness, seed, rounds, Notes::default()).await
    }

    pub(crate) async fn noted(
        harness: &'h dyn Harness,
        seed: u64,
        rounds: u32,
        notes: Notes,
    ) -> Checked<Case<'h>> {
        let clock = Clock::manual(start());
        let fixture = harness
            .fresh(&clock)
            .await
            .map_err(|error| Stop::fail(format!("the harness could not open a store: {error}")))?;
        Ok(Case { fixture, harness, clock, seed, rounds, notes })
    }

    /// Another case, with an empty store and a clock of its own.
    ///
    /// # Errors
    /// `Fail` when the harness cannot open one.
    pub async fn fresh(&self) -> Checked<Case<'h>> {
        Case::noted(self.harness, self.seed, self.rounds, self.notes.clone()).await
    }

    /// Another case, with an empty store that can be broken in this way.
    ///
    /// # Errors
    /// `Skip` when the harness does not say that it can do that, `Fail` when it cannot open one all the same.
    pub async fn broken_by(&self, fault: Fault) -> Checked<(Case<'h>, Breaking)> {
        if !self.harness.faults().contains(&fault) {
            return Err(Stop::skip(format!("the harness has no fault `{fault}`")));
        }
        let clock = Clock::manual(start());
        let opened = self.harness.breakable(fault, &clock).await;
        let Breakable { fixture, switch, patience } = opened.map_err(|error| {
            Stop::fail(format!("the harness could not open a store that is `{fault}`: {error}"))
        })?;
        let (harness, seed, rounds) = (self.harness, self.seed, self.rounds);
        let case = Case { fixture, harness, clock, seed, rounds, notes: self.notes.clone() };
        Ok((case, Breaking { switch, patience }))
    }

    /// An empty place that nobody has opened.
    ///
    /// # Errors
    /// `Skip` without the hook, `Fail` when the harness cannot make one.
    pub async fn place(&self) -> Checked<Place> {
        let place = self.harness.place().await;
        let place = place
            .map_err(|error| Stop::fail(format!("the harness could not make a place: {error}")))?;
        place.ok_or_else(|| Stop::skip("no place hook"))
    }

    /// Adds a figure to the report of the property: what was done, how often, with what outcome.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// The trips of the store to its database so far.
    ///
    /// # Errors
    /// `Skip` without the hook.
    pub async fn trips(&self) -> Checked<u64> {
        match &self.fixture.trips {
            Some(count) => Ok(count().await),
            None => Err(Stop::skip("no trips hook")),
        }
    }

    /// The password of the store, if the harness says it.
    pub fn secret(&self) -> Option<&str> {
        self.fixture.secret.as_deref()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn JobStore> {
        &self.fixture.store
    }

    /// `n` handles: the store, then siblings where the harness can open them, else clones.
    ///
    /// # Errors
    /// `Fail` when a sibling cannot be opened.
    pub async fn handles(&self, n: usize) -> Checked<Vec<Arc<dyn JobStore>>> {
        let mut handles = vec![self.store().clone()];
        while handles.len() < n {
            handles.push(match &self.fixture.sibling {
                None => self.store().clone(),
                Some(open) => open().await.map_err(|error| {
                    Stop::fail(format!("the harness could not open a sibling: {error}"))
                })?,
            });
        }
        Ok(handles)
    }

    /// Whether the harness can open siblings.
    pub fn has_sibling(&self) -> bool {
        self.fixture.sibling.is_some()
    }

    /// Whether the store's clock stands still unless the property moves it.
    pub fn is_clocked(&self) -> bool {
        self.fixture.clocked
    }

    /// The clock that drives the store.
    ///
    /// # Errors
    /// `Skip` without the clock hook.
    pub fn clock(&self) -> Checked<&Clock> {
        match self.is_clocked() {
            true => Ok(&self.clock),
            false => Err(Stop::skip("no clock hook")),
        }
    }

    /// Moves the store's clock forward.
    ///
    /// # Errors
    /// `Skip` without the clock hook.
    pub fn advance(&self, by: Duration) -> Checked {
        self.clock()?.advance(by);
        Ok(())
    }

    /// Lets this much time pass for the store: by its clock, or in earnest where that is quick.
    ///
    /// # Errors
    /// `Skip` without the clock hook when it would take longer than 400 ms.
    pub async fn pass(&self, time: Duration) -> Checked {
        match self.is_clocked() {
            true => self.clock.advance(time),
            false if time <= REAL_WAIT => tokio::time::sleep(time).await,
            false => return Err(Stop::skip("no clock hook")),
        }
        Ok(())
    }

    /// The store's now.
    ///
    /// # Errors
    /// `Fail` when the store does not answer.
    pub async fn now(&self) -> Checked<Timestamp> {
        Ok(self.store().ping().await?)
    }

    /// Who the store is and what it promises.
    pub fn info(&self) -> StoreInfo {
        self.store().info()
    }

    /// The property's own seed, made from the run's.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// A generator with the property's seed; the same one at every call.
    pub const fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }

    /// By how much `CONFORMANCE_ROUNDS` multiplies the work; 1 by default.
    pub const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// `base` rounds, multiplied by [`Case::rounds`].
    pub fn times(&self, base: usize) -> usize {
        base.saturating_mul(usize::try_from(self.rounds).unwrap_or(usize::MAX))
    }
}

/// The switch of a store that can be broken, and how long it may take to give up.
pub struct Breaking {
    switch: Arc<dyn Switch>,
    patience: Duration,
}

impl Breaking {
    /// Breaks the store.
    ///
    /// # Errors
    /// `Inconclusive` when the harness cannot.
    pub async fn on(&self) -> Checked {
        self.switch.on().await.map_err(|error| {
            Stop::inconclusive(format!("the harness could not make the fault: {error}"))
        })
    }

    /// Lets the store work again.
    ///
    /// # Errors
    /// `Inconclusive` when the harness cannot.
    pub async fn off(&self) -> Checked {
        self.switch.off().await.map_err(|error| {
            Stop::inconclusive(format!("the harness could not end the fault: {error}"))
        })
    }

    /// After how long at most the store gives up a call.
    pub const fn patience(&self) -> Duration {
        self.patience
    }
}

impl fmt::Debug for Breaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaking").field("patience", &self.patience).finish_non_exhaustive()
    }
}
