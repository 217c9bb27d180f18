//! Opening.

use queue_core::{Error, ErrorKind, Result};
use sqlx::{
    Connection, PgPool,
    postgres::{PgConnection, PgPoolOptions},
};
use std::time::Duration;

use crate::{
    PostgresOptions,
    error::{STORE, from_sqlx},
    options::Pooler,
    schema,
    sql::Sql,
};

/// Connects, brings the tables up to date and makes the pool.
pub(crate) async fn open(options: &PostgresOptions, sql: &Sql) -> Result<PgPool> {
    let mut server = options.server.clone();
    if options.pooler == Pooler::Transaction {
        server = server.statement_cache_capacity(0);
    }
    // By a connection of its own: the pool would go on trying a server that refuses, and say no more than that
    // the time is over.
    let connecting = PgConnection::connect_with(&server);
    let mut first = match tokio::time::timeout(options.acquire_timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| from_sqlx(error, "open"))?,
        Err(_) => {
            let (host, millis) = (server.get_host(), options.acquire_timeout.as_millis());
            let message = format!("{host} did not answer within {millis} ms");
            return Err(Error::new(ErrorKind::Unavailable, message)
                .with_operation("open")
                .with_store(STORE));
        }
    };
    schema::migrate(&mut first, sql, &options.schema).await?;
    // The tables are there; whether the server heard the good-bye does not matter.
    let _ = first.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(options.max_connections.get())
        .acquire_timeout(options.acquire_timeout)
        .idle_timeout(Duration::from_secs(300))
        // Asking whether a connection lives would cost a trip per call.
        .test_before_acquire(false)
        .connect_lazy_with(server))
}
