//! The conformance suite, on a file of its own per property, for several processes.

use std::{process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait, processes};
use queue_core::{Clock, JobStore, Result};
use queue_sqlite::SqliteOptions;

struct Sqlite;

#[async_trait]
impl Harness for Sqlite {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let directory = tempfile::tempdir().map_err(|error| {
            queue_core::Error::new(queue_core::ErrorKind::Unavailable, error.to_string())
        })?;
        let path = directory.path().join("jobs.db");
        let place = path.display().to_string();
        let store = SqliteOptions::new(path).clock(clock.clone()).open().await?;
        Ok(Fixture::new(Arc::new(store))
            .clocked()
            .with_processes(place, clock)
            .with_guard(directory))
    }
}

async fn open(path: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    Ok(Arc::new(SqliteOptions::new(path).clock(clock).open().await?))
}

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Sqlite).run())
}
