//! What SQLite's result codes mean to a caller.

use queue_core::{Effect, Error, ErrorKind};
use rusqlite::ErrorCode;

/// The name of the store, in errors and in its description.
pub(crate) const STORE: &str = "sqlite";

/// Trouble inside an operation: SQLite's, or the contract's own.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Contract(Error),
}

/// The result of a piece of an operation.
pub(crate) type Db<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Contract(error)
    }
}

impl Fault {
    /// The error for the caller of an operation that was rolled back.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Fault::Sql(error) => from_sqlite(error),
            Fault::Contract(error) => error,
        }
        .with_operation(operation)
        .with_store(STORE)
    }
}

/// The stored data does not have the shape in which this crate writes it.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a stored value cannot be read: {what}"))
}

/// SQLite's error, as one that changed nothing.
pub(crate) fn from_sqlite(error: rusqlite::Error) -> Error {
    let kind = kind_of(&error);
    let message = match kind {
        ErrorKind::Contention => {
            format!(
                "other connections kept the database locked for longer than the busy timeout ({error})"
            )
        }
        _ => error.to_string(),
    };
    Error::new(kind, message).with_source(error)
}

/// The kind of trouble behind a result code (<https://www.sqlite.org/rescode.html>).
pub(crate) fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed => ErrorKind::Contention,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => ErrorKind::Corrupt,
            ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                ErrorKind::Config
            }
            ErrorCode::TooBig => ErrorKind::TooLarge,
            // A full disk, a disk that fails: the same call may succeed once that is mended.
            ErrorCode::DiskFull | ErrorCode::SystemIoFailure => ErrorKind::Unavailable,
            ErrorCode::OperationInterrupted => ErrorKind::Timeout,
            _ => ErrorKind::Backend,
        },
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..) => ErrorKind::Corrupt,
        _ => ErrorKind::Backend,
    }
}

/// Whether a failed COMMIT certainly changed nothing: SQLite was kept from trying. After any other
/// failure the commit record may have reached the log, and a recovery may find it there.
pub(crate) fn effect_of_commit(error: &rusqlite::Error) -> Effect {
    match kind_of(error) {
        ErrorKind::Contention => Effect::None,
        _ => Effect::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn result_codes_have_kinds() {
        for (code, kind) in [
            (ffi::SQLITE_BUSY, ErrorKind::Contention),
            (ffi::SQLITE_BUSY_SNAPSHOT, ErrorKind::Contention),
            (ffi::SQLITE_LOCKED, ErrorKind::Contention),
            (ffi::SQLITE_CORRUPT, ErrorKind::Corrupt),
            (ffi::SQLITE_NOTADB, ErrorKind::Corrupt),
            (ffi::SQLITE_FULL, ErrorKind::Unavailable),
            (ffi::SQLITE_IOERR_FSYNC, ErrorKind::Unavailable),
            (ffi::SQLITE_READONLY, ErrorKind::Config),
            (ffi::SQLITE_CANTOPEN, ErrorKind::Config),
            (ffi::SQLITE_TOOBIG, ErrorKind::TooLarge),
            (ffi::SQLITE_CONSTRAINT, ErrorKind::Backend),
        ] {
            assert_eq!(kind_of(&failure(code)), kind, "result code {code}");
        }
    }

    #[test]
    fn only_a_commit_that_never_began_certainly_changed_nothing() {
        assert_eq!(effect_of_commit(&failure(ffi::SQLITE_BUSY)), Effect::None);
        assert_eq!(effect_of_commit(&failure(ffi::SQLITE_IOERR)), Effect::Unknown);
        assert_eq!(effect_of_commit(&failure(ffi::SQLITE_FULL)), Effect::Unknown);
    }

    #[test]
    fn an_error_names_store_and_operation() {
        let error = Fault::from(failure(ffi::SQLITE_BUSY)).into_error("claim");
        assert!(error.to_string().starts_with("sqlite: claim: contention: "), "{error}");
        assert_eq!((error.effect(), error.is_transient()), (Effect::None, true));
    }
}
