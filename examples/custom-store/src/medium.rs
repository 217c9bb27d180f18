//! The open database, its loss and its reopening, and the one place where its errors become those of the contract.

use std::{
    fmt, io,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use queue_core::{Effect, Error as ContractError, ErrorKind};
use redb::{Database, DatabaseError, Error};

type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// A database that is opened again after an I/O error, as redb asks for.
pub(crate) struct Medium {
    open: Open,
    database: RwLock<Option<Database>>,
    uses: AtomicU64,
}

impl Medium {
    /// Opens the database.
    pub(crate) fn new(open: Open) -> Result<Self, Error> {
        let database = RwLock::new(Some(open()?));
        Ok(Medium { open, database, uses: AtomicU64::new(0) })
    }

    /// Uses the database. What fails with an I/O error is not repeated: the next use opens the database anew.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        loop {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = open.as_ref() else {
                drop(open);
                self.reopen()?;
                continue;
            };
            let done = work(database);
            drop(open);
            if done.as_ref().is_err_and(|failure| failure.is_lost) {
                // Every use of the old one has ended when the lock is given, so its lock of the file goes with it.
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            return done;
        }
    }

    /// How often the database was used.
    pub(crate) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    fn reopen(&self) -> Result<(), Failure> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some((self.open)().map_err(Error::from)?);
        }
        Ok(())
    }
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Medium").finish_non_exhaustive()
    }
}

/// Why a transaction failed; can be told to every call that was part of it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    pub(crate) effect: Effect,
    message: String,
    /// Whether redb wants the database to be opened anew.
    is_lost: bool,
}

impl Failure {
    /// The same, of a commit: it may have reached the file or not.
    pub(crate) fn of_commit(self) -> Self {
        Failure { effect: Effect::Unknown, ..self }
    }

    pub(crate) fn other_format(found: u64, known: u64) -> Self {
        Failure {
            kind: ErrorKind::Config,
            effect: Effect::None,
            message: format!(
                "the file has format version {found}, and this release reads version {known}: use a newer release"
            ),
            is_lost: false,
        }
    }

    /// A call that was committed and has no answer, which no call can be.
    pub(crate) fn unanswered() -> Self {
        Failure {
            kind: ErrorKind::Backend,
            effect: Effect::Unknown,
            message: "the call was not carried out".to_owned(),
            is_lost: false,
        }
    }

    /// What the contract calls it.
    pub(crate) fn into_error(self, operation: &'static str) -> ContractError {
        let error = ContractError::new(self.kind, self.message).with_effect(self.effect);
        error.with_store(crate::NAME).with_operation(operation)
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_lost = matches!(&error, Error::Io(_) | Error::PreviousIo | Error::DatabaseClosed);
        let (kind, message) = match &error {
            Error::DatabaseAlreadyOpen => (
                ErrorKind::Unavailable,
                "the file is open already; one process opens it once, and shares clones of the store".to_owned(),
            ),
            Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                (ErrorKind::Corrupt, "this is not a redb file".to_owned())
            }
            Error::Io(_) | Error::PreviousIo | Error::DatabaseClosed => {
                (ErrorKind::Unavailable, error.to_string())
            }
            Error::Corrupted(_) => (ErrorKind::Corrupt, error.to_string()),
            Error::UpgradeRequired(_) | Error::TableTypeMismatch { .. } => {
                (ErrorKind::Config, error.to_string())
            }
            _ => (ErrorKind::Backend, error.to_string()),
        };
        Failure { kind, effect: Effect::None, message, is_lost }
    }
}
