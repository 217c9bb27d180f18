//! The conformance suite, on a file of its own per property.

use std::{process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait};
use queue_core::{Clock, JobStore, Result};
use queue_sqlite::SqliteOptions;

struct Sqlite;

#[async_trait]
impl Harness for Sqlite {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let directory = tempfile::tempdir().map_err(|error| {
            queue_core::Error::new(queue_core::ErrorKind::Unavailable, error.to_string())
        })?;
        let options = SqliteOptions::new(directory.path().join("jobs.db")).clock(clock.clone());
        let store = options.clone().open().await?;
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        Ok(Fixture::new(Arc::new(store)).clocked().with_sibling(sibling).with_guard(directory))
    }
}

fn main() -> ExitCode {
    Suite::new(Sqlite).run()
}
