//! A file that can be made to fail.

use std::{
    fs::OpenOptions,
    io,
    ops::Bound,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use conformance_tests::{Fault, Switch, async_trait};
use queue_core::Result;
use redb::{BackendError, Database, DatabaseError, StorageBackend, backends::FileBackend};

/// A file, the fault that it can have, and whether it has it.
#[derive(Clone, Debug)]
pub struct Switchable {
    path: PathBuf,
    fault: Fault,
    broken: Arc<AtomicBool>,
    /// A sync waits for it.
    pub gate: Arc<Mutex<()>>,
}

impl Switchable {
    pub fn new(path: PathBuf, fault: Fault) -> Self {
        Switchable { path, fault, broken: Arc::default(), gate: Arc::default() }
    }

    /// Opens the file as a database; broken or not, as the switch stands and will stand.
    pub fn open(&self) -> std::result::Result<Database, DatabaseError> {
        self.reached()?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path);
        let file = FileBackend::new(file?)?;
        Database::builder().create_with_backend(Failing { medium: self.clone(), file })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault && self.broken.load(SeqCst)
    }

    /// Fails while the medium is gone.
    fn reached(&self) -> io::Result<()> {
        match self.has(Fault::Unreachable) {
            true => Err(io::Error::other("the medium is gone")),
            false => Ok(()),
        }
    }

    /// Fails while the medium is gone or takes no more.
    fn taken(&self) -> io::Result<()> {
        match self.has(Fault::Full) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.reached(),
        }
    }
}

#[async_trait]
impl Switch for Switchable {
    async fn on(&self) -> Result<()> {
        self.broken.store(true, SeqCst);
        Ok(())
    }

    async fn off(&self) -> Result<()> {
        self.broken.store(false, SeqCst);
        Ok(())
    }
}

#[derive(Debug)]
struct Failing {
    medium: Switchable,
    file: FileBackend,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.medium.reached()?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.medium.reached()?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.taken()?;
        self.file.set_len(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.medium.taken()?;
        self.file.write(offset, data)
    }

    /// What was written is on the medium, and nobody learns of it.
    fn sync_data(&self) -> io::Result<()> {
        drop(self.medium.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.medium.taken()?;
        self.file.sync_data()?;
        match self.medium.has(Fault::AnswerLost) {
            true => Err(io::Error::other("the answer to a sync was lost")),
            false => Ok(()),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> std::result::Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
