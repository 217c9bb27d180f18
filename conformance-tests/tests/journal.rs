//! The suite against the second reference store, a file of operations, for several processes that may be killed.

use std::{
    fs::File,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conformance_tests::{
    Breakable, Fault, Fixture, Harness, Place, Suite, Switch, async_trait, mutants::Journal,
    processes,
};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result, Uuid};

struct Journals;

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, error.to_string())
}

/// A directory with a journal, which goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("queue-journal-{}", Uuid::now_v7()));
        std::fs::create_dir(&path).map_err(failed)?;
        Ok(Directory(path))
    }

    fn journal(&self) -> PathBuf {
        self.0.join("jobs.journal")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[async_trait]
impl Harness for Journals {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let directory = Directory::new()?;
        let path = directory.journal();
        let journal = Journal::open(&path, clock.clone()).await?;
        let counted = journal.clone();
        let trips = move || {
            let trips = counted.trips();
            Box::pin(async move { trips }) as _
        };
        Ok(Fixture::new(Arc::new(journal.into_store()))
            .clocked()
            .with_processes(path.display().to_string(), clock)
            .with_trips(trips)
            .with_guard(directory))
    }

    fn faults(&self) -> Vec<Fault> {
        vec![Fault::Locked]
    }

    async fn breakable(&self, _: Fault, clock: &Clock) -> Result<Breakable> {
        let directory = Directory::new()?;
        let path = directory.journal();
        let journal = Journal::open(&path, clock.clone()).await?;
        let fixture = Fixture::new(Arc::new(journal.into_store())).clocked().with_guard(directory);
        let lock = Lock(Mutex::new(File::options().read(true).open(path).map_err(failed)?));
        Ok(Breakable::new(fixture, lock).with_patience(Duration::from_secs(5)))
    }

    async fn place(&self) -> Result<Option<Place>> {
        let directory = Directory::new()?;
        let (path, aged) = (directory.journal(), directory.journal());
        let place = Place::new(path.display().to_string())
            .with_later_release(move || {
                let aged = aged.clone();
                Box::pin(async move { Journal::age(aged) })
            })
            .with_contents(move || {
                let path = path.clone();
                Box::pin(async move { std::fs::read(path).map_err(failed) })
            });
        Ok(Some(place.with_guard(directory)))
    }
}

/// Holds the lock of the file.
struct Lock(Mutex<File>);

#[async_trait]
impl Switch for Lock {
    async fn on(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lock().map_err(failed)
    }

    async fn off(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unlock().map_err(failed)
    }
}

async fn open(path: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    Ok(Arc::new(Journal::open(path, clock).await?.into_store()))
}

fn main() -> ExitCode {
    processes::serve(open).unwrap_or_else(|| Suite::new(Journals).run())
}
