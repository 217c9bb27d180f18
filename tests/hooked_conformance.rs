//! The conformance suite, on the reference store behind hooks that do nothing: a hooked store is a store.

use std::{process::ExitCode, sync::Arc, time::Duration};

use conformance_tests::{Breakable, ChaosStore, Fault, Fixture, Harness, Suite};
use queue::{Clock, Hooked, Hooks, JobStore, MemoryStore, Result, core::async_trait};

#[derive(Debug)]
struct Silent;

#[async_trait]
impl Hooks for Silent {}

struct HookedMemory;

fn hooked(store: Arc<dyn JobStore>) -> Arc<dyn JobStore> {
    Arc::new(Hooked::new(store, Silent))
}

/// Both handles go through hooks of their own.
fn with_sibling(store: Arc<dyn JobStore>, memory: MemoryStore) -> Fixture {
    Fixture::new(hooked(store)).clocked().with_sibling(move || {
        let sibling = hooked(Arc::new(memory.clone()));
        Box::pin(async move { Ok(sibling) })
    })
}

#[async_trait]
impl Harness for HookedMemory {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let memory = MemoryStore::with_clock(clock.clone());
        Ok(with_sibling(Arc::new(memory.clone()), memory))
    }

    fn faults(&self) -> Vec<Fault> {
        ChaosStore::FAULTS.to_vec()
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        let memory = MemoryStore::with_clock(clock.clone());
        let chaos = ChaosStore::new(Arc::new(memory.clone()), 1).with_patience(PATIENCE);
        let fixture = with_sibling(chaos.store(), memory);
        Ok(Breakable::new(fixture, chaos.switch(fault)).with_patience(PATIENCE))
    }
}

const PATIENCE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    Suite::new(HookedMemory).named("hooked").run()
}
