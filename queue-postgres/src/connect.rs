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
    let pooler = options.pooler;
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
        .after_connect(move |connection, _| Box::pin(set_plans(connection, pooler)))
        .connect_lazy_with(server))
}

/// Plans are made once for a connection and kept until the table is analyzed anew. Made for each call's values, they cost
/// more than most of these statements; but one that was made while the table was nearly empty would read all of it at
/// every claim after the first large insert, for as long as a minute: no scans of whole tables where there is another way.
/// Compiling takes longer than any of these statements should.
const PLANS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off";

/// Settings of a session are for the one client that it belongs to.
async fn set_plans(connection: &mut PgConnection, pooler: Pooler) -> sqlx::Result<()> {
    match pooler {
        Pooler::None => sqlx::raw_sql(PLANS).execute(connection).await.map(drop),
        Pooler::Transaction => Ok(()),
    }
}
