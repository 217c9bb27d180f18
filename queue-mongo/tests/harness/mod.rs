//! How the suite opens a store.

use std::{process::ExitCode, sync::Arc};

use conformance_tests::{Breakable, Fault, Fixture, Harness, Place, Suite, async_trait, processes};
use queue_core::{Clock, JobStore, Result};
use queue_mongo::{
    MongoOptions, MongoStore,
    mongodb::{
        self,
        bson::{Document, doc},
    },
};

use crate::server::{Scratch, Server};

mod breaking;

struct Mongo(Server);

#[async_trait]
impl Harness for Mongo {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let scratch = self.0.scratch()?;
        let place = scratch.name.clone();
        let store = open_at(self.0, place.clone(), clock.clone()).await?;
        let counted = store.clone();
        let count = move || {
            let commands = counted.commands();
            Box::pin(async move { commands }) as _
        };
        let fixture = Fixture::new(Arc::new(store)).clocked().with_processes(place, clock);
        Ok(fixture.with_trips(count).with_guard(scratch))
    }

    async fn place(&self) -> Result<Option<Place>> {
        let scratch = Arc::new(self.0.scratch()?);
        let (aged, looked) = (scratch.clone(), scratch.clone());
        let place = Place::new(scratch.name.clone())
            .with_later_release(move || {
                let scratch = aged.clone();
                Box::pin(async move {
                    let schema = database(&scratch).await.collection::<Document>("schema");
                    let later = schema
                        .update_one(
                            doc! { "_id": "version" },
                            doc! { "$inc": { "version": 1_i64 } },
                        )
                        .await;
                    assert_eq!(later.unwrap().modified_count, 1);
                    Ok(())
                })
            })
            .with_contents(move || {
                let scratch = looked.clone();
                Box::pin(async move { Ok(contents(&scratch).await.into_bytes()) })
            });
        Ok(Some(place.with_guard(scratch)))
    }

    fn faults(&self) -> Vec<Fault> {
        breaking::faults()
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        breaking::open(self.0, fault, clock).await
    }
}

async fn database(scratch: &Scratch) -> mongodb::Database {
    mongodb::Client::with_uri_str(&scratch.url).await.unwrap().database(&scratch.name)
}

/// The collections with their indexes, and the version of the schema, as a text.
async fn contents(scratch: &Scratch) -> String {
    let database = database(scratch).await;
    let mut names = database.list_collection_names().await.unwrap();
    names.sort();
    let schema = database.collection::<Document>("schema").find_one(doc! {}).await.unwrap();
    let mut text = format!("{schema:?}");
    for name in names {
        let indexes = database.collection::<Document>(&name).list_index_names().await.unwrap();
        text.push_str(&format!("\n{name} {indexes:?}"));
    }
    text
}

async fn open_at(server: Server, database: String, clock: Clock) -> Result<MongoStore> {
    MongoOptions::from_url(&server.url()?)?.database(database).clock(clock).open().await
}

async fn open(server: Server, database: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    Ok(Arc::new(open_at(server, database, clock).await?))
}

/// The suite, for several processes, with this name in the reports.
pub fn run(server: Server, name: &str) -> ExitCode {
    let open = |database, clock| open(server, database, clock);
    processes::serve(open).unwrap_or_else(|| Suite::new(Mongo(server)).named(name).run())
}
