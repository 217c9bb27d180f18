//! The conformance suite through a pooler in transaction mode, with fewer server connections than the stores think
//! they have: each statement may run on another one.

mod breaking;
mod database;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration};

use conformance_tests::{
    Breakable, Fault, Fixture, Harness, Place, Proxy, Suite, Switch, async_trait, processes,
};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result};
use queue_postgres::PostgresOptions;

struct Pooled;

#[async_trait]
impl Harness for Pooled {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        // Dropped past the pooler: it sets things for its session.
        let schema = database::Schema::new()?;
        let place = schema.name.clone();
        let store = open(place.clone(), clock.clone()).await?;
        Ok(Fixture::new(store).clocked().with_processes(place, clock).with_guard(schema))
    }

    async fn place(&self) -> Result<Option<Place>> {
        breaking::place(|schema| schema.name.clone()).map(Some)
    }

    fn faults(&self) -> Vec<Fault> {
        Proxy::FAULTS.to_vec()
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        breaking::open(fault, clock, Some(pooler()?)).await
    }
}

const CONNECTIONS: NonZeroU32 = NonZeroU32::new(6).unwrap();

fn pooler() -> Result<String> {
    test_servers::find("QUEUE_PGBOUNCER_URL")
        .map_err(|missing| Error::new(ErrorKind::Config, missing))
}

async fn open(schema: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    let url = database::with_parameters(&pooler()?, "pooler=transaction");
    let options = PostgresOptions::from_url(&url)?.schema(schema).max_connections(CONNECTIONS);
    Ok(Arc::new(options.clock(clock).open().await?))
}

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Pooled).named("postgres-pgbouncer").run())
}
