use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use queue_core::{Clock, Error, ErrorKind, Result, percent_decode};

use crate::{SqliteStore, error::STORE};

/// When SQLite waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// At every commit: what was acknowledged survives the loss of power.
    #[default]
    Full,
    /// At checkpoints: what was acknowledged survives the end of the process, but the last moments
    /// before a loss of power may be lost. The store then reports `durable: false`.
    Normal,
}

/// How to open a [`SqliteStore`].
///
/// ```
/// # use std::time::Duration;
/// use queue_sqlite::{SqliteOptions, Synchronous};
///
/// let options = SqliteOptions::new("jobs.db")
///     .synchronous(Synchronous::Normal)
///     .busy_timeout(Duration::from_secs(30));
/// assert_eq!(
///     SqliteOptions::from_url("sqlite:jobs.db?synchronous=normal&busy_timeout_ms=30000")?,
///     options
/// );
/// # queue_sqlite::Result::<()>::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub(crate) path: PathBuf,
    pub(crate) synchronous: Synchronous,
    pub(crate) busy_timeout: Duration,
    pub(crate) readers: NonZeroUsize,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) clock: Clock,
    #[cfg(test)]
    pub(crate) mutation: Option<std::sync::Arc<crate::mutant_tests::Mutation>>,
}

impl PartialEq for SqliteOptions {
    /// Whether both open the same file in the same way; clocks are not compared.
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.synchronous, self.busy_timeout, self.readers, self.max_bytes)
            == (&other.path, other.synchronous, other.busy_timeout, other.readers, other.max_bytes)
    }
}

impl SqliteOptions {
    /// The file at this path, created when it is missing: synchronous, a busy timeout of 10 seconds,
    /// two reading connections, no limit to its size, the machine's clock.
    pub fn new(path: impl AsRef<Path>) -> Self {
        SqliteOptions {
            path: path.as_ref().to_owned(),
            synchronous: Synchronous::Full,
            busy_timeout: Duration::from_secs(10),
            readers: const { NonZeroUsize::new(2).unwrap() },
            max_bytes: None,
            clock: Clock::system(),
            #[cfg(test)]
            mutation: None,
        }
    }

    /// What a URL says: `sqlite:path/to/file.db` (or `sqlite://path`, or `sqlite:///absolute/path`),
    /// percent-encoded where need be, with the parameters `synchronous` (`full` or `normal`),
    /// `busy_timeout_ms` and `max_bytes`.
    ///
    /// # Errors
    /// `Config`: another scheme, no path, `:memory:`, an unknown parameter or value.
    pub fn from_url(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("sqlite:") else {
            return Err(config("a SQLite URL begins with \"sqlite:\", for example sqlite:jobs.db"));
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = SqliteOptions::new(decoded(path)?);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            options = options.parameter(name, &decoded(value)?)?;
        }
        options.check()?;
        Ok(options)
    }

    fn parameter(self, name: &str, value: &str) -> Result<Self> {
        match (name, value) {
            ("synchronous", "full") => Ok(self.synchronous(Synchronous::Full)),
            ("synchronous", "normal") => Ok(self.synchronous(Synchronous::Normal)),
            ("synchronous", _) => {
                Err(config(format!("synchronous is `full` or `normal`, not {value:?}")))
            }
            ("busy_timeout_ms", _) => match value.parse() {
                Ok(millis) => Ok(self.busy_timeout(Duration::from_millis(millis))),
                Err(_) => Err(config(format!(
                    "busy_timeout_ms is a whole number of milliseconds, not {value:?}"
                ))),
            },
            ("max_bytes", _) => match value.parse() {
                Ok(bytes) => Ok(self.max_bytes(bytes)),
                Err(_) => Err(config(format!("max_bytes is a whole number, not {value:?}"))),
            },
            _ => Err(config(format!(
                "unknown URL parameter {name:?}; known are synchronous, busy_timeout_ms, max_bytes"
            ))),
        }
    }

    /// Waits for the disk so.
    #[must_use]
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Waits so long for other processes that are writing; then the call fails with `Contention`
    /// and has changed nothing.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Lets the file grow to so many bytes (in whole pages) and no further. What this store writes beyond that fails with
    /// `Unavailable`, as on a full disk, and has changed nothing; jobs that are deleted make room again.
    ///
    /// A file that is larger already keeps its size. The write-ahead log beside it, which is started anew from 16 MiB on, is not
    /// counted, and what others write to the file is not kept back.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Reads with so many connections, each with a thread of its own.
    #[must_use]
    pub fn readers(mut self, readers: NonZeroUsize) -> Self {
        self.readers = readers;
        self
    }

    /// Takes "now" from this clock. All stores on one file should agree on it.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store, creating file and tables when they are missing and migrating older ones.
    ///
    /// # Errors
    /// `Config`: the directory does not exist, the file cannot be opened or written, its schema is newer
    /// than this code. `Corrupt`: it is no database, or a damaged one. `Contention`: other
    /// processes kept it locked for longer than the busy timeout. Nothing was changed then.
    pub async fn open(mut self) -> Result<SqliteStore> {
        self.check()?;
        // The process may change its directory later.
        self.path = std::path::absolute(&self.path)
            .map_err(|error| config(format!("cannot tell where the file is: {error}")))?;
        SqliteStore::start(self).await
    }

    fn check(&self) -> Result<()> {
        match self.path.to_str() {
            Some(path) if path.contains('\0') => Err(config("the path of the file contains a NUL")),
            Some("") => Err(config("the URL names no file; write for example sqlite:jobs.db")),
            Some(":memory:") => Err(config(
                "a SQLite store needs a file, because it reads and writes through several connections; \
                 for jobs in memory use the store memory:",
            )),
            _ => Ok(()),
        }
    }
}

fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, message).with_operation("open").with_store(STORE)
}

fn decoded(text: &str) -> Result<String> {
    percent_decode(text)
        .ok_or_else(|| config(format!("{text:?} is not well percent-encoded UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_path_in_three_ways_and_may_be_percent_encoded() {
        for (url, path) in [
            ("sqlite:a/b.db", "a/b.db"),
            ("sqlite://a/b.db", "a/b.db"),
            ("sqlite:///a/b.db", "/a/b.db"),
            ("sqlite:/a/b.db", "/a/b.db"),
            ("sqlite:a%20b%3F%C3%A9.db?synchronous=full", "a b?\u{e9}.db"),
        ] {
            let options = SqliteOptions::from_url(url).unwrap();
            assert_eq!(options.path, Path::new(path), "{url}");
        }
    }

    #[test]
    fn a_url_that_means_nothing_is_refused_with_what_would_work() {
        for (url, hint) in [
            ("postgres://x", "begins with \"sqlite:\""),
            ("sqlite:", "names no file"),
            ("sqlite:?synchronous=full", "names no file"),
            ("sqlite::memory:", "use the store memory:"),
            ("sqlite:a.db?sync=off", "known are synchronous, busy_timeout_ms, max_bytes"),
            ("sqlite:a.db?synchronous=off", "`full` or `normal`"),
            ("sqlite:a.db?busy_timeout_ms=soon", "whole number of milliseconds"),
            ("sqlite:a.db?max_bytes=1G", "max_bytes is a whole number"),
            ("sqlite:a%2.db", "percent-encoded"),
            ("sqlite:a%ff.db", "percent-encoded"),
        ] {
            let error = SqliteOptions::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(hint), "{url}: {error}");
        }
    }
}
