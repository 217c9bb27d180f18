//! Opening.

use queue_core::{Error, ErrorKind, Result};
use sqlx::{
    Connection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
};
use std::time::Duration;

use crate::{
    PostgresOptions,
    db::limits,
    error::{STORE, from_sqlx},
    options::{Pooler, config},
    pooler, schema,
    sql::Sql,
};

/// A connection beside the pool, which would go on trying a server that refuses, and say no more than that the
/// time is over.
pub(crate) async fn one(server: &PgConnectOptions, patience: Duration) -> Result<PgConnection> {
    match tokio::time::timeout(patience, PgConnection::connect_with(server)).await {
        Ok(connected) => connected.map_err(|error| refused(error, server)),
        Err(_) => Err(unheard(server, patience)),
    }
}

fn unheard(server: &PgConnectOptions, patience: Duration) -> Error {
    let (host, port, millis) = (server.get_host(), server.get_port(), patience.as_millis());
    let message = format!("{host}:{port} did not answer within {millis} ms");
    Error::new(ErrorKind::Unavailable, message).with_operation("open").with_store(STORE)
}

/// With which a pooler refuses what a client says of itself.
const PROTOCOL_VIOLATION: &str = "08P01";

/// Why there is no connection, and what would help.
fn refused(error: sqlx::Error, server: &PgConnectOptions) -> Error {
    let state = error.as_database_error().and_then(|reported| reported.code());
    let refuses_settings = error
        .as_database_error()
        .is_some_and(|reported| reported.message().contains("startup parameter"));
    let hint = match (&error, state.as_deref()) {
        (sqlx::Error::Tls(_), _) if !cfg!(feature = "tls") => Some(
            "; this build is without TLS: switch on the feature `tls` of queue-postgres, or `postgres-tls` of queue"
                .to_owned(),
        ),
        (_, Some("3D000")) => {
            let name = server.get_database().unwrap_or(server.get_username());
            Some(format!("; create it (CREATE DATABASE \"{name}\"), or name another one in the URL"))
        }
        (_, Some(PROTOCOL_VIOLATION)) if refuses_settings => {
            let hint = "; a pooler that takes no settings of connections stands before the server: open the store with \
                        `?pooler=transaction`, which sends none";
            Some(hint.to_owned())
        }
        _ => None,
    };
    // So the driver reports a handshake that failed: the certificate is not to be trusted.
    let distrusted =
        matches!(&error, sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData);
    let reached = from_sqlx(error, "open");
    let kind = match distrusted || refuses_settings {
        true => ErrorKind::Config,
        false => reached.kind(),
    };
    let place = match reached.kind() {
        ErrorKind::Unavailable => format!("{}:{}: ", server.get_host(), server.get_port()),
        _ => String::new(),
    };
    let message = format!("{place}{}{}", reached.message(), hint.unwrap_or_default());
    // The attempt to connect changed nothing.
    Error::new(kind, message).with_operation("open").with_store(STORE)
}

/// The connections of a store.
pub(crate) struct Pools {
    /// For the calls whose plans are made once.
    pub(crate) calls: PgPool,
    /// For what may read much of the table, by plans for its values.
    pub(crate) listings: PgPool,
    /// For the application. A transaction of its own that it abandons on a connection must not swallow what the
    /// store acknowledges on the same.
    pub(crate) callers: PgPool,
}

/// Any other encoding has characters that jobs may contain and that it has not.
async fn require_utf8(connection: &mut PgConnection) -> Result<()> {
    let row = sqlx::raw_sql("SHOW server_encoding").fetch_one(connection).await;
    let row = row.map_err(|error| from_sqlx(error, "open"))?;
    let encoding: String = row.try_get(0).map_err(|error| from_sqlx(error, "open"))?;
    match encoding.as_str() {
        "UTF8" => Ok(()),
        _ => Err(config(format!(
            "the database has the encoding {encoding}, and jobs need UTF8; create one with \
             CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        ))),
    }
}

/// Listings at a time, each on its connection.
const LISTINGS: u32 = 4;

/// Connects, brings the tables up to date and makes the pools.
pub(crate) async fn open(options: &PostgresOptions, sql: &Sql) -> Result<Pools> {
    let mut server = options.server.clone();
    if options.pooler == Pooler::Transaction {
        server = server.statement_cache_capacity(0);
    }
    let mut first = one(&server, options.acquire_timeout).await?;
    if options.pooler == Pooler::None {
        pooler::refuse(&mut first, &server, options.acquire_timeout).await?;
    }
    // Whoever is heard once is waited for after that: a migration takes its time.
    match tokio::time::timeout(options.acquire_timeout, require_utf8(&mut first)).await {
        Ok(checked) => checked?,
        Err(_) => return Err(unheard(&server, options.acquire_timeout)),
    }
    schema::migrate(&mut first, sql, &options.schema).await?;
    // The tables are there; whether the server heard the good-bye does not matter.
    let _ = first.close().await;
    let pool = |connections: u32, server: PgConnectOptions| {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(Duration::from_secs(300))
            // Asking whether a connection lives would cost a trip per call.
            .test_before_acquire(false)
            .connect_lazy_with(server)
    };
    let most = options.max_connections.get();
    let limits = limits(options.call_timeout);
    let (planned, listing) = match options.pooler {
        Pooler::None => {
            (server.clone().options(PLANS).options(limits.clone()), server.clone().options(limits))
        }
        // The settings of a session are for the one client that it belongs to.
        Pooler::Transaction => (server.clone(), server.clone()),
    };
    if options.pooler == Pooler::None {
        // The connections of the pool say more of themselves than the first one did.
        let tried = one(&planned, options.acquire_timeout).await?;
        let _ = tried.close().await;
    }
    Ok(Pools {
        calls: pool(most, planned),
        listings: pool(most.min(LISTINGS), listing),
        callers: pool(most, server),
    })
}

/// Plans are made once for a connection and kept until the table is analyzed anew. Made for each call's values, they cost
/// more than most of these statements; but one that was made while the table was nearly empty would read all of it at
/// every claim after the first large insert, for as long as a minute: no scans of whole tables where there is another way.
/// Compiling takes longer than any of these statements should.
///
/// They are sent with the first message of a connection, and cost no trip.
const PLANS: [(&str, &str); 3] =
    [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("jit", "off")];
