//! The conformance suite, on a schema of its own per property, for several processes.

mod breaking;
mod database;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration};

use conformance_tests::{
    Breakable, Fault, Fixture, Harness, Place, Proxy, Suite, Switch, async_trait, processes,
};
use queue_core::{Clock, JobStore, Result};
use queue_postgres::PostgresOptions;
use test_servers::Role;

struct Postgres;

#[async_trait]
impl Harness for Postgres {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        // A role of its own, so that the server counts its statements apart.
        let role = Role::new();
        let store = open_at(&role.url(), clock.clone()).await?;
        let name = role.name().to_owned();
        let count = move || Box::pin(Role::calls_of(name.clone())) as _;
        let fixture = Fixture::new(store).clocked().with_processes(role.url(), clock);
        Ok(fixture.with_trips(count).with_guard(role))
    }

    async fn place(&self) -> Result<Option<Place>> {
        breaking::place(database::Schema::url_with_schema).map(Some)
    }

    fn faults(&self) -> Vec<Fault> {
        breaking::faults()
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        breaking::open(fault, clock, None).await
    }
}

async fn open_at(url: &str, clock: Clock) -> Result<Arc<dyn JobStore>> {
    let options = PostgresOptions::from_url(url)?.clock(clock);
    Ok(Arc::new(options.max_connections(CONNECTIONS).open().await?))
}

async fn open(place: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    open_at(&place, clock).await
}

const CONNECTIONS: NonZeroU32 = NonZeroU32::new(6).unwrap();

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Postgres).run())
}
