//! How the suite opens a store.

use std::sync::Arc;

use conformance_tests::{Fixture, Harness, async_trait};
use queue_core::{Clock, JobStore, Result};

use crate::server::Server;

pub struct Mongo(pub Server);

#[async_trait]
impl Harness for Mongo {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let scratch = self.0.scratch()?;
        let options = scratch.options(clock)?;
        let store = options.clone().open().await?;
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(sibling).with_guard(scratch))
    }
}
