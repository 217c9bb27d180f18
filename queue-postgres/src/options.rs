use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use queue_core::{Clock, Error, ErrorKind, Result, percent_decode};
use sqlx::postgres::PgConnectOptions;

use crate::{PostgresStore, error::STORE};

/// Whether a connection pooler stands between the store and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooler {
    /// None, or one that keeps a server connection for a whole session and takes the settings that are sent with its first
    /// message.
    #[default]
    None,
    /// One that may change the server connection after each transaction or takes no settings, such as PgBouncer in any mode:
    /// nothing is prepared beyond a transaction, and there are no wake-ups unless
    /// [`PostgresOptions::listen_on`] names a server to hear them from.
    Transaction,
}

/// The longest time that the server takes for a limit.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// How to open a [`PostgresStore`].
///
/// ```
/// use queue_postgres::PostgresOptions;
///
/// let options = PostgresOptions::from_url("postgres://app@db.example/app?max_connections=20")?.schema("jobs");
/// # queue_postgres::Result::<()>::Ok(())
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    pub(crate) server: PgConnectOptions,
    pub(crate) schema: String,
    pub(crate) max_connections: NonZeroU32,
    pub(crate) acquire_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) pooler: Pooler,
    pub(crate) listen: Option<PgConnectOptions>,
    pub(crate) clock: Clock,
    /// Flaws, for tests that want to be sure that the suite finds them.
    #[cfg(test)]
    pub(crate) mutation: Option<std::sync::Arc<crate::mutant_tests::Mutation>>,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the driver's options: they hold the password.
        f.debug_struct("PostgresOptions")
            .field("host", &self.server.get_host())
            .field("database", &self.server.get_database())
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .field("pooler", &self.pooler)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// The server that the driver's options name: schema `queue`, up to 10 connections, for one of which a call
    /// waits up to 10 seconds, up to 30 seconds for the answer to a statement, the server's clock.
    pub fn new(server: PgConnectOptions) -> Self {
        PostgresOptions {
            server,
            schema: "queue".to_owned(),
            max_connections: const { NonZeroU32::new(10).unwrap() },
            acquire_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            pooler: Pooler::None,
            listen: None,
            clock: Clock::system(),
            #[cfg(test)]
            mutation: None,
        }
    }

    /// What a URL says: `postgres://user:password@host:port/database`, with the parameters `schema`, `max_connections`,
    /// `acquire_timeout_ms`, `call_timeout_ms`, `pooler` (`none` or `transaction`), `listen_url` (percent-encoded; see
    /// [`PostgresOptions::listen_on`]), and those of libpq that the driver knows, such as `sslmode`.
    ///
    /// # Errors
    /// `Config`: another scheme, a malformed URL, an unknown parameter or value. The message never holds the URL,
    /// which may hold a password.
    pub fn from_url(url: &str) -> Result<Self> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(config("a PostgreSQL URL begins with \"postgres://\""));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut own = Vec::new();
        let mut driver = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "schema" | "max_connections" | "acquire_timeout_ms" | "call_timeout_ms"
                | "pooler" | "listen_url" => own.push((name, value)),
                "sslrootcert" | "sslcert" | "sslkey" => {
                    let file = decoded(value)?;
                    // The driver would report this as a server that cannot be reached.
                    if let Err(error) = std::fs::File::open(&file) {
                        return Err(config(format!("{name}: {file:?} cannot be read: {error}")));
                    }
                    driver.push(parameter);
                }
                _ if DRIVER.contains(&name) => driver.push(parameter),
                _ => {
                    return Err(config(format!(
                        "unknown URL parameter {name:?}; known are schema, max_connections, \
                         acquire_timeout_ms, call_timeout_ms, pooler, listen_url, {}",
                        DRIVER.join(", ")
                    )));
                }
            }
        }
        let server = format!("{base}?{}", driver.join("&"));
        let server = PgConnectOptions::from_str(server.trim_end_matches('?')).map_err(|_| {
            config("malformed URL; write for example postgres://user:password@host:5432/database")
        })?;
        own.into_iter().try_fold(PostgresOptions::new(server), |options, (name, value)| {
            options.parameter(name, value)
        })
    }

    fn parameter(self, name: &str, value: &str) -> Result<Self> {
        match (name, value) {
            ("schema", _) => Ok(self.schema(decoded(value)?)),
            ("pooler", "none") => Ok(self.pooler(Pooler::None)),
            ("pooler", "transaction") => Ok(self.pooler(Pooler::Transaction)),
            ("pooler", _) => {
                Err(config(format!("pooler is `none` or `transaction`, not {value:?}")))
            }
            // Of the other URL only the server counts; whatever is wrong with it, its password is not shown.
            ("listen_url", _) => {
                Ok(self.listen_on(PostgresOptions::from_url(&decoded(value)?)?.server))
            }
            ("max_connections", _) => match value.parse() {
                Ok(count) => Ok(self.max_connections(count)),
                Err(_) => {
                    Err(config(format!("max_connections is a number from 1 on, not {value:?}")))
                }
            },
            _ => match (name, value.parse().map(Duration::from_millis)) {
                ("call_timeout_ms", Ok(time)) => Ok(self.call_timeout(time)),
                (_, Ok(time)) => Ok(self.acquire_timeout(time)),
                (_, Err(_)) => {
                    Err(config(format!("{name} is a whole number of milliseconds, not {value:?}")))
                }
            },
        }
    }

    /// Keeps the tables in this schema, which is created when it is missing. One schema is one store.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Opens at most so many connections, one more for wake-ups aside.
    #[must_use]
    pub fn max_connections(mut self, count: NonZeroU32) -> Self {
        self.max_connections = count;
        self
    }

    /// Waits so long for a connection, at most 24 days; then the call fails with `Unavailable` and has changed nothing.
    #[must_use]
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout.min(LONGEST);
        self
    }

    /// Waits so long for the answer to a statement once there is a connection. Then the server ends it, and the call fails with
    /// `Timeout` and has changed nothing; if not even that is heard, for a quarter of the time more, the connection is closed
    /// and its effect is `Effect::Unknown`. 30 seconds unless it is said, at most 24 days.
    ///
    /// A statement that waits for a row which somebody else has locked gives its connection back every two seconds and
    /// queues for the row anew, for about so long in all; then the call fails with `Contention` or `Timeout` and has changed nothing.
    ///
    /// It is what ends a call when the network swallows everything and tells nobody. A call is one statement, rarely a
    /// few; one that deletes or changes millions of jobs needs more time than that.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout.min(LONGEST);
        self
    }

    /// Says whether a connection pooler stands in between.
    #[must_use]
    pub fn pooler(mut self, pooler: Pooler) -> Self {
        self.pooler = pooler;
        self
    }

    /// Hears wake-ups by a connection of its own to this server, past the pooler: the same database as the pooler's.
    /// Without a pooler, wake-ups are heard anyway.
    #[must_use]
    pub fn listen_on(mut self, server: PgConnectOptions) -> Self {
        self.listen = Some(server);
        self
    }

    /// Takes "now" from this clock if it is a manual one; otherwise the server's clock decides.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store, creating schema and tables when they are missing and migrating older ones.
    ///
    /// # Errors
    /// `Unavailable`: the server cannot be reached. `Config`: wrong user, password or database, no right to create the
    /// schema, a schema newer than this code. Nothing was changed then.
    pub async fn open(self) -> Result<PostgresStore> {
        let schema = &self.schema;
        if schema.is_empty() || schema.len() > 63 || schema.contains('\0') {
            return Err(config("the name of a schema has 1 to 63 bytes, without NUL"));
        }
        PostgresStore::start(self).await
    }
}

/// Parameters that are passed on to the driver.
const DRIVER: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "user",
    "application_name",
    "options",
];

pub(crate) fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, message).with_operation("open").with_store(STORE)
}

fn decoded(text: &str) -> Result<String> {
    // Not the text: it may be a URL with a password.
    percent_decode(text)
        .ok_or_else(|| config("a value in the URL is not well percent-encoded UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_schema_and_pool() {
        let url = "postgres://ada:s3cret@db.example:6543/app?schema=a%20b&sslmode=disable&max_connections=7\
                   &pooler=transaction&acquire_timeout_ms=250&call_timeout_ms=750&listen_url=postgres%3A%2F%2Fbob%3Asesame%40direct.example%2Fapp";
        let options = PostgresOptions::from_url(url).unwrap();
        assert_eq!((options.server.get_host(), options.server.get_port()), ("db.example", 6543));
        assert_eq!(options.server.get_database(), Some("app"));
        assert_eq!((options.schema.as_str(), options.max_connections.get()), ("a b", 7));
        assert_eq!(options.pooler, Pooler::Transaction);
        assert_eq!(options.acquire_timeout, Duration::from_millis(250));
        assert_eq!(options.call_timeout, Duration::from_millis(750));
        let listen = options.listen.as_ref().unwrap();
        assert_eq!((listen.get_host(), listen.get_username()), ("direct.example", "bob"));
        let shown = format!("{options:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn a_url_that_means_nothing_is_refused_with_what_would_work_and_without_its_password() {
        for (url, hint) in [
            ("mysql://x:s3cret@y/z", "begins with \"postgres://\""),
            ("postgres://x:s3cret@y:port/z", "malformed URL"),
            ("postgres://x:s3cret@y/z?skema=a", "known are schema, max_connections"),
            ("postgres://x:s3cret@y/z?pooler=session", "`none` or `transaction`"),
            ("postgres://x:s3cret@y/z?max_connections=0", "from 1 on"),
            ("postgres://x:s3cret@y/z?acquire_timeout_ms=soon", "milliseconds"),
            ("postgres://x:s3cret@y/z?call_timeout_ms=1s", "call_timeout_ms is a whole number"),
            ("postgres://x:s3cret@y/z?schema=%f", "percent-encoded"),
            ("postgres://x@y/z?listen_url=http%3A%2F%2Fs3cret", "begins with \"postgres://\""),
            ("postgres://x@y/z?listen_url=postgres%3A%2F%2Fx%3As3cret%40y%f", "percent-encoded"),
            ("postgres://x:s3cret@y/z?sslrootcert=/no/such/file", "cannot be read"),
        ] {
            let error = PostgresOptions::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(hint), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{url}: {error:?}");
        }
    }
}
