//! How the suite opens a store.

use std::{process::ExitCode, sync::Arc};

use conformance_tests::{Fixture, Harness, Suite, async_trait, processes};
use queue_core::{Clock, JobStore, Result};
use queue_mongo::MongoOptions;

use crate::server::Server;

struct Mongo(Server);

#[async_trait]
impl Harness for Mongo {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let scratch = self.0.scratch()?;
        let place = scratch.name.clone();
        let store = open(self.0, place.clone(), clock.clone()).await?;
        Ok(Fixture::new(store).clocked().with_processes(place, clock).with_guard(scratch))
    }
}

async fn open(server: Server, database: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    let options = MongoOptions::from_url(&server.url()?)?.database(database);
    Ok(Arc::new(options.clock(clock).open().await?))
}

/// The suite, for several processes, with this name in the reports.
pub fn run(server: Server, name: &str) -> ExitCode {
    let open = |database, clock| open(server, database, clock);
    processes::serve(open).unwrap_or_else(|| Suite::new(Mongo(server)).named(name).run())
}
