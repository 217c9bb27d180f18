//! The suite against the reference store.

use std::{process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait};
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
}

fn main() -> ExitCode {
    Suite::new(Memory).run()
}
