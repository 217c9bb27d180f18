//! The conformance suite of `queue` on the store, with every hook that an embedded store has.

mod medium;

use std::{path::Path, process::ExitCode, sync::Arc};

use conformance_tests::{Breakable, Fault, Fixture, Harness, Place, Suite, async_trait, processes};
use custom_store::RedbStore;
use queue_core::{Clock, Error, ErrorKind, JobStore, Result};
use redb::{Database, TableDefinition};
use tempfile::TempDir;

use crate::medium::Switchable;

struct Redb;

#[async_trait]
impl Harness for Redb {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let dir = directory()?;
        Ok(fixture(RedbStore::open(file(&dir), clock.clone())?, dir))
    }

    /// Only what the suite means by it: reads are answered from memory, whatever has become of the medium, so that it
    /// is not `Unreachable` for every call, nor is every answer lost. `tests/file.rs` has these.
    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Full]
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        let dir = directory()?;
        let medium = Switchable::new(file(&dir).into(), fault);
        let opened = medium.clone();
        let store = RedbStore::on(move || opened.open(), clock.clone())?;
        Ok(Breakable::new(fixture(store, dir), medium))
    }

    async fn place(&self) -> Result<Option<Place>> {
        let dir = directory()?;
        let path = file(&dir);
        let place = Place::new(path.clone()).with_guard(dir);
        Ok(Some(place.with_later_release(move || {
            let path = path.clone();
            Box::pin(async move { age(&path).map_err(failed) })
        })))
    }
}

fn directory() -> Result<TempDir> {
    tempfile::tempdir().map_err(failed)
}

fn file(dir: &TempDir) -> String {
    dir.path().join("jobs.redb").to_string_lossy().into_owned()
}

/// The store by a manual clock, with clones of it as siblings: a file is open in one process, by one handle and its clones.
fn fixture(store: RedbStore, dir: TempDir) -> Fixture {
    let (sibling, counted) = (store.clone(), store.clone());
    Fixture::new(Arc::new(store))
        .clocked()
        .with_sibling(move || {
            let sibling: Arc<dyn JobStore> = Arc::new(sibling.clone());
            Box::pin(async { Ok(sibling) })
        })
        .with_trips(move || {
            let trips = counted.transactions();
            Box::pin(async move { trips })
        })
        .with_guard(dir)
}

/// Makes the file look as if a later release had written it.
fn age(path: &str) -> std::result::Result<(), redb::Error> {
    let database = Database::open(Path::new(path))?;
    let transaction = database.begin_write()?;
    transaction
        .open_table(TableDefinition::<&str, u64>::new("meta"))?
        .insert("format", u64::MAX)?;
    Ok(transaction.commit()?)
}

fn failed(error: impl std::error::Error) -> Error {
    Error::new(ErrorKind::Backend, error.to_string())
}

fn main() -> ExitCode {
    let open = |place: String, clock| async move {
        RedbStore::open(place, clock).map(|store| Arc::new(store) as Arc<dyn JobStore>)
    };
    processes::serve(open).unwrap_or_else(|| Suite::new(Redb).run())
}
