//! The tables, and how they came to be what they are.

use std::sync::Arc;

use queue_core::{Error, Result};
use sqlx::{AssertSqlSafe, Connection, Row as _, postgres::PgConnection};

use crate::{
    args::Args,
    db,
    error::{from_sqlx, is_retriable},
    options::config,
    sql::Sql,
};

/// One batch of statements per version: the first makes version 1.
const MIGRATIONS: [&str; 1] = [include_str!("sql/schema_1.sql")];

/// The version that this code works with.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// How often a migration is tried that could not get its locks.
const TRIES: u32 = 20;

/// Brings the tables up to date: each missing version in order, all in one transaction.
///
/// Of several processes that migrate at once, one does and the others, having waited for its advisory lock, find it done.
/// A schema of the current version is only read.
pub(crate) async fn migrate(connection: &mut PgConnection, sql: &Sql, schema: &str) -> Result<()> {
    let mut tried = 0;
    loop {
        tried += 1;
        match try_migrate(connection, sql).await {
            Ok(version) => return check_version(version, schema),
            Err(error) if tried < TRIES && is_retriable(&error) => db::pause(tried).await,
            Err(error) => return Err(from_sqlx(error, "open")),
        }
    }
}

/// Answers the version that the schema has now.
async fn try_migrate(connection: &mut PgConnection, sql: &Sql) -> Result<i64, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let found = version(&mut tx, sql).await?;
    if found >= VERSION {
        tx.rollback().await?;
        return Ok(found);
    }
    // Against a table that a long transaction uses: better to fail and to try again than to queue all others behind it.
    let lock = sql.expand(
        "SET LOCAL lock_timeout = '5s'; SET LOCAL client_min_messages = 'warning'; \
         SELECT pg_advisory_xact_lock({seed})",
    );
    run(&mut tx, lock).await?;
    let found = version(&mut tx, sql).await?;
    if found < VERSION {
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{s_text}') AS known";
        if !is_known(&mut tx, sql.expand(there)).await? {
            run(&mut tx, sql.expand("CREATE SCHEMA IF NOT EXISTS {s}")).await?;
        }
        let versions =
            "CREATE TABLE IF NOT EXISTS {s}.schema_version (version bigint NOT NULL PRIMARY KEY)";
        run(&mut tx, sql.expand(versions)).await?;
        for (number, migration) in (1_i64..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
            run(&mut tx, sql.expand(migration)).await?;
            let note = format!("INSERT INTO {{s}}.schema_version VALUES ({number})");
            run(&mut tx, sql.expand(&note)).await?;
        }
    }
    tx.commit().await?;
    Ok(found.max(VERSION))
}

async fn run(connection: &mut PgConnection, text: Arc<str>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await.map(drop)
}

async fn is_known(connection: &mut PgConnection, text: Arc<str>) -> Result<bool, sqlx::Error> {
    let known = db::on(connection, &text, Args::new()).await?;
    known.first().map_or(Ok(false), |row| row.try_get("known"))
}

/// The version of the tables; 0 when there are none.
async fn version(connection: &mut PgConnection, sql: &Sql) -> Result<i64, sqlx::Error> {
    // Not `to_regclass`: that asks a cache, in which a rival's commit may not have arrived yet.
    let known = sql.expand(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables \
         WHERE schemaname = '{s_text}' AND tablename = 'schema_version') AS known",
    );
    if !is_known(connection, known).await? {
        return Ok(0);
    }
    let version = sql.expand("SELECT coalesce(max(version), 0) AS version FROM {s}.schema_version");
    let rows = db::on(connection, &version, Args::new()).await?;
    rows.first().map_or(Ok(0), |row| row.try_get("version"))
}

/// Refuses a schema that a newer version of this crate has migrated.
fn check_version(found: i64, schema: &str) -> Result<(), Error> {
    match found > VERSION {
        true => Err(config(format!(
            "the tables in the schema {schema:?} have schema version {found}, and this build knows versions up to \
             {VERSION}; use a newer build"
        ))),
        false => Ok(()),
    }
}
