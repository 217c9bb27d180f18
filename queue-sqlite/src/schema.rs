//! The tables, and how they came to be what they are.

use std::path::Path;

use queue_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::{error::STORE, sql};

/// One batch of statements per version: the first makes version 1.
const MIGRATIONS: [&str; 1] = [sql::SCHEMA_1];

/// The version that this code works with.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version of the tables in the file; 0 when there are none.
pub(crate) fn version(db: &Connection) -> rusqlite::Result<i64> {
    let known = db
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'queue_schema'", [], |_| Ok(()))
        .optional()?;
    match known {
        None => Ok(0),
        Some(()) => {
            db.query_row("SELECT coalesce(max(version), 0) FROM queue_schema", [], |row| row.get(0))
        }
    }
}

/// Refuses a file that a newer version of this crate has migrated.
pub(crate) fn check_version(found: i64, path: &Path) -> Result<()> {
    match found > VERSION {
        true => Err(Error::new(
            ErrorKind::Config,
            format!(
                "the tables in {} have schema version {found}, and this build knows versions up to \
                 {VERSION}; use a newer build",
                path.display()
            ),
        )
        .with_operation("open")
        .with_store(STORE)),
        false => Ok(()),
    }
}

/// Brings the tables up to date: each missing version in order, all in one transaction.
///
/// Of several processes that migrate at once, one does and the others, having waited for its
/// commit, find it done: the version is read again under the write lock.
pub(crate) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    if version(db)? >= VERSION {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS queue_schema (version INTEGER NOT NULL PRIMARY KEY) STRICT",
    )?;
    let found = version(&tx)?;
    for (number, migration) in (1_i64..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
        tx.execute_batch(migration)?;
        tx.execute("INSERT INTO queue_schema (version) VALUES (?1)", [number])?;
    }
    tx.commit()
}
