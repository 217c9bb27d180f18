//! Connections: how they are opened, and how they wait for each other.

use std::{
    cell::Cell,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use queue_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::{
    SqliteOptions, Synchronous,
    error::{STORE, kind_of},
    schema,
};

/// Enough for every statement of the crate.
const STATEMENTS: usize = 128;

/// The longest pause between two attempts to get a lock. A writer that commits back to back leaves
/// short gaps only; whoever waits must look often to find one.
const LONGEST_PAUSE: Duration = Duration::from_millis(4);

thread_local! {
    // SQLite's busy handler is a bare function. A connection stays on the thread that opened it,
    // so what the handler needs to know stands beside it.
    static TIMEOUT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WAITING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    static DICE: Cell<u64> = const { Cell::new(0) };
}

/// Waits a little and asks for another attempt, until the timeout is over.
fn wait_for_lock(attempt: i32) -> bool {
    if attempt == 0 {
        WAITING_SINCE.set(Some(Instant::now()));
    }
    let waited = WAITING_SINCE.get().map_or(Duration::ZERO, |since| since.elapsed());
    let Some(left) = TIMEOUT.get().checked_sub(waited).filter(|left| !left.is_zero()) else {
        return false;
    };
    thread::sleep(pause(attempt).min(left));
    true
}

/// 50 microseconds at first, then ever longer; with jitter, so that processes that were woken
/// together do not collide again.
fn pause(attempt: i32) -> Duration {
    let longest = Duration::from_micros(100).saturating_mul(1 << attempt.clamp(0, 16) as u32);
    longest.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * roll())
}

/// A number from 0 to 1 (xorshift64; G. Marsaglia, "Xorshift RNGs", 2003).
fn roll() -> f64 {
    let mut dice = DICE.get();
    if dice == 0 {
        // Its last eight bytes are random; a generator of this kind must not start at zero.
        dice = uuid::Uuid::now_v7().as_u64_pair().1 | 1;
    }
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    DICE.set(dice);
    (dice >> 11) as f64 / (1_u64 << 53) as f64
}

/// How long the busy handler of this thread's connection waits from now on.
pub(crate) fn set_timeout(timeout: Duration) {
    TIMEOUT.set(timeout);
}

/// Opens the connection that writes, makes the file a database in WAL mode and brings its tables up to date.
pub(crate) fn open_writer(options: &SqliteOptions) -> Result<Connection> {
    TIMEOUT.set(options.busy_timeout);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let named = |error| name_path(&options.path, error);
    let mut db = Connection::open_with_flags(&options.path, flags).map_err(named)?;
    db.busy_handler(Some(wait_for_lock)).map_err(named)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // SQLite opens a file that it may not write read-only, without a word.
    if db.is_readonly("main").map_err(named)? {
        return Err(unusable(&options.path, "it cannot be written"));
    }
    // Asked before anything is changed: a file that is no database, or belongs to a newer
    // version, stays as it is.
    let version = patiently(|| schema::version(&db)).map_err(named)?;
    schema::check_version(version, &options.path)?;
    // Text compares by the bytes of the file's encoding, and claims rely on the order of UTF-8.
    let encoding: String =
        db.pragma_query_value(None, "encoding", |row| row.get(0)).map_err(named)?;
    if encoding != "UTF-8" {
        return Err(unusable(&options.path, &format!("its encoding is {encoding}, not UTF-8")));
    }
    let mode = patiently(|| use_wal(&db)).map_err(named)?;
    if mode != "wal" {
        return Err(unusable(
            &options.path,
            &format!("its file system does not allow a write-ahead log (the journal stays {mode})"),
        ));
    }
    db.pragma_update(None, "journal_size_limit", LOG_LIMIT.cast_signed()).map_err(named)?;
    let synchronous = match options.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    db.pragma_update(None, "synchronous", synchronous).map_err(named)?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(named)?;
    if let Some(bytes) = options.max_bytes {
        limit_size(&db, bytes).map_err(named)?;
    }
    patiently(|| schema::migrate(&mut db)).map_err(named)?;
    // Another process may have migrated the file further since the first look.
    let version = patiently(|| schema::version(&db)).map_err(named)?;
    schema::check_version(version, &options.path)?;
    Ok(db)
}

/// Lets this connection take no page beyond so many bytes.
fn limit_size(db: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0))?;
    // A limit of 0 pages would be none at all (https://www.sqlite.org/pragma.html#pragma_max_page_count).
    let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
    db.pragma_update_and_check(None, "max_page_count", pages.max(1), |_| Ok(()))
}

/// The size of the write-ahead log, in bytes, from which on the writer sees to it that it starts anew.
pub(crate) const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// Which file a path names; a file that was deleted or replaced is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity(Option<(u64, u64)>);

impl FileIdentity {
    #[cfg(unix)]
    pub(crate) fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        FileIdentity(std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino())))
    }

    /// Elsewhere an open file cannot be deleted.
    #[cfg(not(unix))]
    pub(crate) fn of(_: &Path) -> Self {
        FileIdentity(None)
    }
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(options: &SqliteOptions) -> Result<Connection> {
    TIMEOUT.set(options.busy_timeout);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let named = |error| name_path(&options.path, error);
    let db = Connection::open_with_flags(&options.path, flags).map_err(named)?;
    db.busy_handler(Some(wait_for_lock)).map_err(named)?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(named)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// Switches to a write-ahead log, and answers the mode that the file is in then: SQLite keeps the old
/// one, without an error, where it cannot change it.
fn use_wal(db: &Connection) -> rusqlite::Result<String> {
    let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    match mode == "wal" {
        true => Ok(mode),
        false => db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)),
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("cannot use {}: {why}", path.display()))
        .with_operation("open")
        .with_store(STORE)
}

/// Repeats what SQLite refuses at once, without asking the busy handler: the change to WAL, and
/// recovery of a log that others are opening too.
fn patiently<T>(mut work: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let since = Instant::now();
    let mut attempt = 0;
    loop {
        match work() {
            Err(error)
                if kind_of(&error) == ErrorKind::Contention && since.elapsed() < TIMEOUT.get() =>
            {
                thread::sleep(pause(attempt));
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

fn name_path(path: &Path, error: rusqlite::Error) -> Error {
    let kind = kind_of(&error);
    let shown = path.display();
    let message = match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            format!("cannot open {shown}: the directory {} does not exist", parent.display())
        }
        _ if path.is_dir() => format!("cannot open {shown}: it is a directory"),
        _ if kind == ErrorKind::Corrupt => {
            format!("{shown} is not a usable SQLite database: {error}")
        }
        _ => format!("cannot open {shown}: {}", reason(&error)),
    };
    Error::new(kind, message).with_source(error).with_operation("open").with_store(STORE)
}

fn reason(error: &rusqlite::Error) -> String {
    match kind_of(error) {
        ErrorKind::Contention => format!("other processes kept it locked for too long ({error})"),
        _ => error.to_string(),
    }
}
