//! The conformance suite, on a file of its own per property, for several processes, some of which are killed.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conformance_tests::{
    Breakable, Fault, Fixture, Harness, Place, Suite, Switch, async_trait, processes,
};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result};
use queue_sqlite::{SqliteOptions, SqliteStore, rusqlite::Connection};
use tempfile::TempDir;

struct Sqlite;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, error.to_string())
}

fn scratch() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir().map_err(failed)?;
    let path = directory.path().join("jobs.db");
    Ok((directory, path))
}

fn with_trips(store: &SqliteStore) -> Fixture {
    let counted = store.clone();
    Fixture::new(Arc::new(store.clone())).clocked().with_trips(move || {
        let trips = counted.transactions() + counted.reads();
        Box::pin(async move { trips })
    })
}

/// How large the file may become that is to be full: more than the jobs of the run take, which a soak has more of.
fn full() -> i64 {
    let rounds = std::env::var("CONFORMANCE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: i64 = rounds.unwrap_or(1);
    (8 << 20) * (rounds / 8).clamp(1, 128)
}

/// How long a store waits whose file is locked.
const BUSY: Duration = Duration::from_millis(300);

#[async_trait]
impl Harness for Sqlite {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let (directory, path) = scratch()?;
        let place = path.display().to_string();
        let store = SqliteOptions::new(path).clock(clock.clone()).open().await?;
        Ok(with_trips(&store).with_processes(place, clock).with_guard(directory))
    }

    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Full, Fault::Locked]
    }

    async fn breakable(&self, fault: Fault, clock: &Clock) -> Result<Breakable> {
        let (directory, path) = scratch()?;
        let mut options = SqliteOptions::new(&path).clock(clock.clone());
        if fault == Fault::Full {
            options = options.max_bytes(full().unsigned_abs());
        }
        let store = options.busy_timeout(BUSY).open().await?;
        let place = path.display().to_string();
        let fixture = with_trips(&store).with_processes(place, clock).with_guard(directory);
        let patience = Duration::from_secs(5);
        Ok(match fault {
            Fault::Full => Breakable::new(fixture, Ballast(path)),
            _ => Breakable::new(fixture, Lock(path, Mutex::default())),
        }
        .with_patience(patience))
    }

    async fn place(&self) -> Result<Option<Place>> {
        let (directory, path) = scratch()?;
        let (aged, looked) = (path.clone(), path.clone());
        let place = Place::new(path.display().to_string())
            .with_later_release(move || {
                let migrated = migrate_further(&aged);
                Box::pin(async move { migrated })
            })
            .with_contents(move || {
                let bytes = std::fs::read(&looked).map_err(failed);
                Box::pin(async move { bytes })
            });
        Ok(Some(place.with_guard(directory)))
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path).map_err(failed)?;
    db.busy_timeout(Duration::from_secs(20)).map_err(failed)?;
    Ok(db)
}

fn migrate_further(path: &Path) -> Result<()> {
    let later = "INSERT INTO queue_schema SELECT max(version) + 1 FROM queue_schema";
    connect(path)?.execute_batch(later).map_err(failed)
}

/// Takes all room that a file may have: another table, of a connection whose size is not limited.
struct Ballast(PathBuf);

#[async_trait]
impl Switch for Ballast {
    async fn on(&self) -> Result<()> {
        let db = connect(&self.0)?;
        let ask = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        db.execute_batch("CREATE TABLE IF NOT EXISTS ballast (bytes BLOB)").map_err(failed)?;
        let page = ask("page_size").map_err(failed)?;
        loop {
            let (used, free) =
                (ask("page_count").map_err(failed)?, ask("freelist_count").map_err(failed)?);
            // Of the pages that were free, none may be left.
            let more = free.max(full() / page - used);
            if more == 0 {
                return Ok(());
            }
            db.execute("INSERT INTO ballast VALUES (zeroblob(?1))", [more * page])
                .map_err(failed)?;
        }
    }

    async fn off(&self) -> Result<()> {
        connect(&self.0)?.execute_batch("DROP TABLE IF EXISTS ballast").map_err(failed)
    }
}

/// Holds the lock that writers need.
struct Lock(PathBuf, Mutex<Option<Connection>>);

#[async_trait]
impl Switch for Lock {
    async fn on(&self) -> Result<()> {
        let db = connect(&self.0)?;
        db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(db);
        Ok(())
    }

    async fn off(&self) -> Result<()> {
        // A connection that is closed rolls back.
        drop(self.1.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }
}

async fn open(path: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    Ok(Arc::new(SqliteOptions::new(path).clock(clock).open().await?))
}

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Sqlite).run())
}
