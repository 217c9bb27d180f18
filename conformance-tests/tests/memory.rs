//! The suite against the reference store.

use std::{process::ExitCode, sync::Arc, time::Duration};

use conformance_tests::{Breakable, ChaosStore, Fault, Fixture, Harness, Suite, async_trait};
use queue_core::{Clock, JobStore, MemoryStore, Result};

struct Memory;

#[async_trait]
impl Harness for Memory {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let store = MemoryStore::with_clock(clock.clone());
        let sibling = store.clone();
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(move || {
            let sibling: Arc<dyn JobStore> = Arc::new(sibling.clone());
            Box::pin(async move { Ok(sibling) })
        }))
    }

    fn faults(&self) -> Vec<Fault> {
        ChaosStore::FAULTS.to_vec()
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        let store = MemoryStore::with_clock(clock.clone());
        let chaos = ChaosStore::new(Arc::new(store.clone()), 1).with_patience(PATIENCE);
        let fixture = Fixture::new(chaos.store()).clocked().with_sibling(move || {
            let sibling: Arc<dyn JobStore> = Arc::new(store.clone());
            Box::pin(async move { Ok(sibling) })
        });
        Ok(Breakable::new(fixture, chaos.switch(fault)).with_patience(PATIENCE))
    }
}

const PATIENCE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    Suite::new(Memory).run()
}
