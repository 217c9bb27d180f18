use std::{fmt, time::Duration};

use mongodb::options::ClientOptions;
use queue_core::{Clock, Error, ErrorKind, Result};

use crate::{MongoStore, error::STORE};

/// Whether a store listens for wake-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// By a change stream where the server is a replica set; otherwise workers poll.
    #[default]
    ChangeStream,
    /// Never: workers poll.
    Poll,
}

/// A place at which a store stops as if its process had died; for tests of what remains then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopAfter {
    /// The write that cancels a superseded job and carries the job that takes its place.
    Supersede,
    /// The write that takes a schedule's slot and carries its job.
    Slot,
    /// The write that inserts the job of a slot, before the slot is counted.
    SlotJob,
}

/// How to open a [`MongoStore`].
#[derive(Clone)]
pub struct MongoOptions {
    pub(crate) url: String,
    pub(crate) database: Option<String>,
    pub(crate) clock: Clock,
    pub(crate) wake: Wake,
    pub(crate) timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) stop_after: Option<StopAfter>,
}

/// The URL is left out: there may be a password in it.
impl fmt::Debug for MongoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoOptions")
            .field("database", &self.database)
            .field("clock", &self.clock)
            .field("wake", &self.wake)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl MongoOptions {
    /// The deployment that a connection string names. The database is the one in its path, or `queue`.
    ///
    /// Own parameters, taken out before the driver reads the rest: `wakeups` (`change-stream` or `poll`), `call_timeout_ms`.
    ///
    /// # Errors
    /// `Config`: another scheme, an unknown value of an own parameter.
    pub fn from_url(url: &str) -> Result<Self> {
        if !["mongodb://", "mongodb+srv://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(config(
                "a MongoDB URL begins with mongodb:// or mongodb+srv://, for example \
                 mongodb://localhost/queue?replicaSet=rs0",
            ));
        }
        let mut options = MongoOptions {
            url: url.to_owned(),
            database: None,
            clock: Clock::system(),
            wake: Wake::default(),
            timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            stop_after: None,
        };
        let Some((place, query)) = url.split_once('?') else { return Ok(options) };
        let mut others = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("wakeups", "change-stream") => options.wake = Wake::ChangeStream,
                ("wakeups", "poll") => options.wake = Wake::Poll,
                ("wakeups", other) => {
                    return Err(config(format!(
                        "wakeups is `change-stream` or `poll`, not {other:?}"
                    )));
                }
                ("call_timeout_ms", millis) => match millis.parse() {
                    Ok(millis) => options.call_timeout = Duration::from_millis(millis),
                    Err(_) => {
                        return Err(config(format!(
                            "call_timeout_ms is a whole number of milliseconds, not {millis:?}"
                        )));
                    }
                },
                _ => others.push(parameter),
            }
        }
        options.url = match others.is_empty() {
            true => place.to_owned(),
            false => format!("{place}?{}", others.join("&")),
        };
        Ok(options)
    }

    /// Keeps the jobs in this database, whatever the URL says.
    #[must_use]
    pub fn database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// Takes "now" from this clock if it is a manual one; otherwise the server's clock decides.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Listens for wake-ups so.
    #[must_use]
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// Gives up after so long when no server can be reached, and after about twice as long on one that took a command and
    /// hangs; 10 seconds unless it is said. `serverSelectionTimeoutMS`, `connectTimeoutMS` and `heartbeatFrequencyMS` in
    /// the URL go before.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits so long for a call as a whole; then it fails with `Timeout` and `Effect::Unknown`: the server may be at work on it
    /// still. 30 seconds unless it is said.
    ///
    /// The driver finds out by itself when nothing is heard of a server any more, but not when nothing is heard on one of
    /// its connections. A call that deletes or changes millions of jobs needs more time.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Stops at this place as if the process had died there; for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn stop_after(mut self, place: StopAfter) -> Self {
        self.stop_after = Some(place);
        self
    }

    /// Opens the store, creating collections and indexes when they are missing. The connections
    /// belong to the runtime on which this is called.
    ///
    /// # Errors
    /// `Config`: a malformed URL, a refused login, a schema newer than this code. `Unavailable`: no server answers.
    pub async fn open(self) -> Result<MongoStore> {
        MongoStore::start(self).await
    }

    /// What the driver makes of the URL.
    pub(crate) async fn parse(&self) -> Result<ClientOptions> {
        ClientOptions::parse(&self.url).await.map_err(|error| {
            // The driver's words may repeat a part of the URL, and with it the password.
            let kind = match error.kind.as_ref() {
                mongodb::error::ErrorKind::DnsResolve { .. } => ErrorKind::Unavailable,
                _ => ErrorKind::Config,
            };
            let words = error.to_string();
            let words = match self.url.split_once('@') {
                Some(_) => "the URL is not a MongoDB connection string",
                None => words.as_str(),
            };
            Error::new(kind, words.to_owned()).with_operation("open").with_store(STORE)
        })
    }
}

pub(crate) fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, message).with_operation("open").with_store(STORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_parameters_are_taken_out_of_the_url() {
        let url = "mongodb://h/db?wakeups=poll&replicaSet=rs0&call_timeout_ms=750";
        let options = MongoOptions::from_url(url).unwrap();
        assert_eq!(options.call_timeout, Duration::from_millis(750));
        assert_eq!(options.url, "mongodb://h/db?replicaSet=rs0");
        assert_eq!(options.wake, Wake::Poll);
        let options = MongoOptions::from_url("mongodb://h/db?wakeups=change-stream").unwrap();
        assert_eq!((options.url.as_str(), options.wake), ("mongodb://h/db", Wake::ChangeStream));
    }

    #[test]
    fn a_url_that_means_nothing_is_refused_with_what_would_work() {
        for (url, hint) in [
            ("postgres://x", "begins with mongodb://"),
            ("mongodb://h/db?wakeups=maybe", "`change-stream` or `poll`"),
            ("mongodb://h/db?call_timeout_ms=1s", "a whole number of milliseconds"),
        ] {
            let error = MongoOptions::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(hint), "{url}: {error}");
        }
    }
}
