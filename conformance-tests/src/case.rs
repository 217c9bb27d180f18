use std::{sync::Arc, time::Duration};

use queue_core::{Clock, JobStore, StoreInfo, Timestamp};

use crate::{Checked, Fixture, Harness, Rng, Stop, start};

/// The longest time that a property lets pass in earnest where the store has no clock hook.
const REAL_WAIT: Duration = Duration::from_millis(400);

/// What a property works with: a fresh store, its hooks, a clock and a seed.
pub struct Case<'h> {
    fixture: Fixture,
    harness: &'h dyn Harness,
    clock: Clock,
    seed: u64,
    rounds: u32,
}

impl<'h> Case<'h> {
    /// Opens a store for one property.
    ///
    /// # Errors
    /// `Fail` when the harness cannot open one.
    pub async fn open(harness: &'h dyn Harness, seed: u64, rounds: u32) -> Checked<Case<'h>> {
        let clock = Clock::manual(start());
        let fixture = harness
            .fresh(&clock)
            .await
            .map_err(|error| Stop::fail(format!("the harness could not open a store: {error}")))?;
        Ok(Case { fixture, harness, clock, seed, rounds })
    }

    /// Another case, with an empty store and a clock of its own.
    ///
    /// # Errors
    /// `Fail` when the harness cannot open one.
    pub async fn fresh(&self) -> Checked<Case<'h>> {
        Case::open(self.harness, self.seed, self.rounds).await
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
