//! Running statements.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use queue_core::{Clock, Effect, Error, ErrorKind, Result};
use sqlx::{
    AssertSqlSafe, Connection as _, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnection, PgRow},
};

use crate::{
    args::Args,
    connect::Pools,
    error::{self, STORE},
    options::Pooler,
    sql::Sql,
    wake::Hints,
};

/// How often a statement is tried that the server chose to give way.
const TRIES: u32 = 8;

/// What every operation needs.
pub(crate) struct Db {
    pub(crate) pools: Pools,
    pub(crate) clock: Clock,
    pub(crate) pooler: Pooler,
    pub(crate) call_timeout: Duration,
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
        self.attempt(&self.pools.calls, text, args).await
    }

    /// As [`Db::rows`], for what may read much of the table. The settings of the other connections make that look so dear that the
    /// planner cannot tell a hash from a sort of all rows (6 s against 1.4 s at three million), and their plans are for
    /// all values, so that a label which few jobs have is not looked up in its index.
    pub(crate) async fn listing(
        &self,
        operation: &'static str,
        text: &Arc<str>,
        args: impl Fn() -> Args,
    ) -> Result<Vec<PgRow>> {
        let rows = self.attempt(&self.pools.listings, text, args).await;
        rows.map_err(|error| error::from_sqlx(error, operation))
    }

    async fn attempt(
        &self,
        pool: &PgPool,
        text: &Arc<str>,
        args: impl Fn() -> Args,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let (mut tried, begun) = (0, Instant::now());
        loop {
            #[cfg(test)]
            let text = &crate::mutant_tests::mutated(self.mutation.as_deref(), text);
            match once(pool, self.pooler, self.call_timeout, text, args()).await {
                // Somebody has a row for longer: the connection was given back, and others had their turn.
                Err(error)
                    if error::is_lock_timeout(&error) && begun.elapsed() < self.call_timeout => {}
                Err(error) if tried < TRIES && error::is_retriable(&error) => {
                    tried += 1;
                    pause(tried).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Runs a statement once, on a connection of this pool, for at most so long.
pub(crate) async fn once(
    pool: &PgPool,
    pooler: Pooler,
    limit: Duration,
    text: &Arc<str>,
    args: Args,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut held = Held { connection: Some(pool.acquire().await?), pooler, limit };
    let Some(connection) = &mut held.connection else { return Err(sqlx::Error::PoolClosed) };
    // The server gives up first, if it can, and says so: then nothing was changed.
    let done = tokio::time::timeout(limit.saturating_mul(5) / 4, async {
        match pooler {
            Pooler::None => {
                let query = sqlx::query_with(AssertSqlSafe(text.clone()), args.finish()?);
                query.fetch_all(&mut **connection).await
            }
            Pooler::Transaction => within_transaction(connection, limit, text, args).await,
        }
    });
    match done.await {
        Ok(done) => {
            if done.is_ok() {
                held.give_back(limit);
            }
            done
        }
        Err(_) => {
            held.end();
            Err(error::no_answer(limit))
        }
    }
}

/// How long a statement waits for a row that somebody else has locked, before it gives its connection back and queues for it
/// anew. A call that nobody waits for any more keeps its connection for no longer: a few jobs in long transactions would take
/// all of them otherwise, and the leases of all the others would run out.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The server's own limits for statements, in milliseconds. One that nobody waits for any more must not be made later, beside
/// its repeat, nor a transaction whose client has gone silent keep what it has locked.
pub(crate) fn limits(call_timeout: Duration) -> [(&'static str, String); 3] {
    let millis = |limit: Duration| limit.as_millis().clamp(1, i32::MAX as u128).to_string();
    [
        ("statement_timeout", millis(call_timeout)),
        ("lock_timeout", millis(LOCK_WAIT.min(call_timeout))),
        ("idle_in_transaction_session_timeout", millis(call_timeout)),
    ]
}

/// The driver parses and executes in two steps; only within a transaction do both reach the same server connection.
async fn within_transaction(
    connection: &mut PgConnection,
    limit: Duration,
    text: &Arc<str>,
    args: Args,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let limits = limits(limit).map(|(name, value)| format!("SET LOCAL {name} = {value}"));
    let begin = format!("BEGIN; {}", limits.join("; "));
    let mut tx = connection.begin_with(AssertSqlSafe(begin)).await?;
    let rows = on(&mut tx, text, args).await?;
    tx.commit().await?;
    Ok(rows)
}

/// A connection of the pool during a call.
struct Held {
    connection: Option<PoolConnection<Postgres>>,
    pooler: Pooler,
    limit: Duration,
}

impl Held {
    /// The driver asks whatever is given back for a sign of life, and waits for it for ever: a connection on which nothing is
    /// heard any more would be missing from the pool for as long.
    fn give_back(&mut self, limit: Duration) {
        let Some(mut connection) = self.connection.take() else { return };
        // Without a runtime it is closed.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return drop(connection.detach());
        };
        // Given up, it is closed, and another may be opened in its place.
        let back = tokio::time::timeout(limit, connection.return_to_pool());
        drop(runtime.spawn(async { drop(back.await) }));
    }

    /// Closes it at once, without a good-bye that nobody may hear.
    fn end(&mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

impl Drop for Held {
    /// After a call that failed, or was dropped half-way.
    fn drop(&mut self) {
        match self.pooler {
            // What is on its way yet is read before the next call has it. It comes when the server stops waiting for a lock, or
            // not at all: over TLS, a read that was dropped half-way may leave the driver waiting for what it has already.
            Pooler::None => self.give_back(self.limit.min(LOCK_WAIT + LOCK_WAIT / 2)),
            // The driver takes no notice of a transaction whose beginning was dropped, and gives the connection back
            // with it open: what is written there next is acknowledged and never committed.
            Pooler::Transaction => self.end(),
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

/// The most payload of one statement in bytes. The server ends a connection that sends a message of a gibibyte, and a call that
/// were repeated then would be for ever.
const STATEMENT_BYTES: usize = 64 * 1024 * 1024;

/// The items in parts that fit into a statement each.
pub(crate) fn parts<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut parts, mut from, mut size) = (Vec::new(), 0, 0);
    for (index, item) in items.iter().enumerate() {
        let more = bytes(item);
        if index > from && size + more > STATEMENT_BYTES {
            parts.push(&items[from..index]);
            (from, size) = (index, 0);
        }
        size += more;
    }
    parts.push(&items[from..]);
    parts
}

/// An error of a part that came after others: those are written.
pub(crate) fn after<T>(done: &[T], error: Error) -> Error {
    match done.is_empty() {
        true => error,
        false => error.with_effect(Effect::Unknown),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_what_fits_and_one_item_at_least() {
        let sizes = [STATEMENT_BYTES, 1, STATEMENT_BYTES - 1, 1, 2 * STATEMENT_BYTES, 3];
        let lengths: Vec<usize> =
            parts(&sizes, |size| *size).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [1, 2, 1, 1, 1]);
        assert_eq!(parts(&[1, 2], |size| *size), [&[1, 2]]);
    }
}
