//! The conformance suite, on a schema of its own per property.

mod database;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait};
use queue_core::{Clock, JobStore, Result};

struct Postgres;

#[async_trait]
impl Harness for Postgres {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let schema = database::Schema::new()?;
        let connections = const { NonZeroU32::new(6).unwrap() };
        let options = schema.options()?.clock(clock.clone()).max_connections(connections);
        let store = options.clone().open().await?;
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(sibling).with_guard(schema))
    }
}

fn main() -> ExitCode {
    Suite::new(Postgres).run()
}
