//! Running statements.

use std::{sync::Arc, time::Duration};

use queue_core::{Clock, Effect, Error, ErrorKind, Result};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnection, PgRow},
};

use crate::{
    args::Args,
    error::{self, STORE},
    options::Pooler,
    sql::Sql,
    wake::Hints,
};

/// How often a statement is tried that the server chose to give way.
const TRIES: u32 = 8;

/// What every operation needs.
pub(crate) struct Db {
    pub(crate) pool: PgPool,
    pub(crate) clock: Clock,
    pub(crate) pooler: Pooler,
    pub(crate) sql: Sql,
    pub(crate) hints: Hints,
    #[cfg(test)]
    pub(crate) mutation: Option<Arc<crate::mutant_tests::Mutation>>,
}

impl Db {
    /// "Now" for a statement: of a manual clock; otherwise the server takes its own.
    pub(crate) fn now(&self) -> Option<i64> {
        self.clock.is_manual().then(|| self.clock.now().as_micros())
    }

    /// Runs a statement, which is a transaction of its own, and reads its rows. Tries again where the
    /// server made it give way to a rival.
    pub(crate) async fn rows(
        &self,
        operation: &'static str,
        text: &Arc<str>,
        args: impl Fn() -> Args,
    ) -> Result<Vec<PgRow>> {
        self.try_rows(text, args).await.map_err(|error| error::from_sqlx(error, operation))
    }

    /// As [`Db::rows`], with the driver's own error.
    pub(crate) async fn try_rows(
        &self,
        text: &Arc<str>,
        args: impl Fn() -> Args,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.once(text, args()).await {
                Err(error) if tried < TRIES && error::is_retriable(&error) => pause(tried).await,
                answer => return answer,
            }
        }
    }

    /// As [`Db::rows`], for what reads the table from one end to the other. The connections' settings make that look
    /// so dear that the planner cannot tell a hash from a sort of all rows (6 s against 1.4 s at three million), so they are
    /// lifted, which takes a transaction.
    pub(crate) async fn scan(
        &self,
        operation: &'static str,
        text: &Arc<str>,
        args: impl Fn() -> Args,
    ) -> Result<Vec<PgRow>> {
        let rows = async {
            let begin = "BEGIN READ ONLY; SET LOCAL enable_seqscan = on";
            let mut tx = self.pool.begin_with(begin).await?;
            let rows = on(&mut tx, text, args()).await?;
            tx.commit().await?;
            Ok(rows)
        };
        rows.await.map_err(|error| error::from_sqlx(error, operation))
    }

    async fn once(&self, text: &Arc<str>, args: Args) -> Result<Vec<PgRow>, sqlx::Error> {
        #[cfg(test)]
        let text = &crate::mutant_tests::mutated(self.mutation.as_deref(), text);
        match self.pooler {
            Pooler::None => {
                let args = args.finish()?;
                sqlx::query_with(AssertSqlSafe(text.clone()), args).fetch_all(&self.pool).await
            }
            // The driver parses and executes in two steps; only within a transaction do both
            // reach the same server connection.
            Pooler::Transaction => {
                let mut tx = self.pool.begin().await?;
                let rows = on(&mut tx, text, args).await?;
                tx.commit().await?;
                Ok(rows)
            }
        }
    }
}

/// Runs a statement on this connection, unprepared: it may belong to the caller.
pub(crate) async fn on(
    connection: &mut PgConnection,
    text: &Arc<str>,
    args: Args,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query_with(AssertSqlSafe(text.clone()), args.finish()?)
        .persistent(false)
        .fetch_all(connection)
        .await
}

/// Waits a moment, longer each time, with jitter: rivals that collided must not do so again.
pub(crate) async fn pause(tried: u32) {
    // The last bytes of a version 7 UUID are random.
    let dice = uuid::Uuid::now_v7().as_u64_pair().1 % 1_000;
    let micros = (500_u64 << tried.min(7)) * (500 + dice) / 1_000;
    tokio::time::sleep(Duration::from_micros(micros)).await;
}

/// Rivals were first, again and again.
pub(crate) fn contention(operation: &'static str) -> Error {
    Error::new(ErrorKind::Contention, "other writers were first, each time it was tried")
        .with_effect(Effect::None)
        .with_operation(operation)
        .with_store(STORE)
}
