//! Opening.

use queue_core::{Error, ErrorKind, Result};
use sqlx::{
    Connection, PgPool,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions},
};
use std::time::Duration;

use crate::{
    PostgresOptions,
    error::{STORE, from_sqlx},
    options::Pooler,
    pooler, schema,
    sql::Sql,
};

/// A connection beside the pool, which would go on trying a server that refuses, and say no more than that the
/// time is over.
pub(crate) async fn one(server: &PgConnectOptions, patience: Duration) -> Result<PgConnection> {
    match tokio::time::timeout(patience, PgConnection::connect_with(server)).await {
        Ok(connected) => connected.map_err(|error| refused(error, server)),
        Err(_) => {
            let (host, port, millis) = (server.get_host(), server.get_port(), patience.as_millis());
            let message = format!("{host}:{port} did not answer within {millis} ms");
            Err(Error::new(ErrorKind::Unavailable, message)
                .with_operation("open")
                .with_store(STORE))
        }
    }
}

/// Why there is no connection, and what would help.
fn refused(error: sqlx::Error, server: &PgConnectOptions) -> Error {
    let state = error.as_database_error().and_then(|reported| reported.code());
    let hint = match (&error, state.as_deref()) {
        (sqlx::Error::Tls(_), _) if !cfg!(feature = "tls") => Some(
            "; this build is without TLS: switch on the feature `tls` of queue-postgres, or `postgres-tls` of queue"
                .to_owned(),
        ),
        (_, Some("3D000")) => {
            let name = server.get_database().unwrap_or(server.get_username());
            Some(format!("; create it (CREATE DATABASE \"{name}\"), or name another one in the URL"))
        }
        _ => None,
    };
    // So the driver reports a handshake that failed: the certificate is not to be trusted.
    let distrusted =
        matches!(&error, sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData);
    let reached = from_sqlx(error, "open");
    let kind = if distrusted { ErrorKind::Config } else { reached.kind() };
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
    // A statement that nobody waits for any more must not be made later, beside its repeat: two claims with one token,
    // both waiting for a lock, took twice the limit when it was released.
    let limit = [("statement_timeout", options.call_timeout.as_millis().max(1).to_string())];
    let (planned, listing) = match options.pooler {
        Pooler::None => {
            (server.clone().options(PLANS).options(limit.clone()), server.clone().options(limit))
        }
        // The settings of a session are for the one client that it belongs to.
        Pooler::Transaction => (server.clone(), server.clone()),
    };
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
