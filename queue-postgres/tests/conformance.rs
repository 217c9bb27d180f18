//! The conformance suite, on a schema of its own per property, for several processes.

mod database;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait, processes};
use queue_core::{Clock, JobStore, Result};
use queue_postgres::PostgresOptions;

struct Postgres;

#[async_trait]
impl Harness for Postgres {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let schema = database::Schema::new()?;
        let place = schema.name.clone();
        let store = open(place.clone(), clock.clone()).await?;
        Ok(Fixture::new(store).clocked().with_processes(place, clock).with_guard(schema))
    }
}

async fn open(schema: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    let connections = const { NonZeroU32::new(6).unwrap() };
    let options = PostgresOptions::from_url(&database::url()?)?.schema(schema);
    Ok(Arc::new(options.clock(clock).max_connections(connections).open().await?))
}

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Postgres).run())
}
