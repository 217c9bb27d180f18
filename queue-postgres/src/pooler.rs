//! A pooler that stands before the server.

use std::{collections::BTreeSet, time::Duration};

use queue_core::Result;
use sqlx::{
    Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection},
};

use crate::{
    connect::one,
    error::{POOLER_HINT, from_sqlx},
    options::config,
};

/// Refuses a pooler in transaction mode that nobody has told us of. Prepared statements belong to a server
/// connection, their names to a client: through such a pooler a name may stand for the statement of another client, which would
/// be executed with our values.
///
/// Two clients that are connected at the same time and have the same server process, or one client whose process changes,
/// give it away. Of the connections of a pooler some are used again first and some in turn: asked in this order, both show.
/// A busy pooler of two connections passes for none about once in 32 times, a larger one less often; then the error of a
/// statement tells, sooner or later.
pub(crate) async fn refuse(
    first: &mut PgConnection,
    server: &PgConnectOptions,
    patience: Duration,
) -> Result<()> {
    // One connection may be all that this role is allowed, or that a pooler gives at a time to a whole session.
    let Ok(mut second) = one(server, patience.min(PROBE)).await else { return Ok(()) };
    let probe = async {
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        for second_is_next in [false, true, true, false, false, true] {
            match second_is_next {
                false => ours.insert(process(first).await?),
                true => theirs.insert(process(&mut second).await?),
            };
        }
        Ok(ours.len() > 1 || ours == theirs || theirs.len() > 1)
    };
    let Ok(probed) = tokio::time::timeout(PROBE, probe).await else { return Ok(()) };
    let is_shared = probed.map_err(|error| from_sqlx(error, "open"))?;
    let _ = second.close().await;
    match is_shared {
        true => Err(config(format!(
            "a pooler in transaction mode stands before the server; {POOLER_HINT}"
        ))),
        false => Ok(()),
    }
}

/// How long the second connection may take, and the questions.
const PROBE: Duration = Duration::from_secs(1);

/// The server process that this connection has at the moment. By the simple protocol, in which nothing is prepared.
async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use queue_core::{Effect, ErrorKind, JobStore, NewJob, Payload};

    use crate::database::Schema;

    #[tokio::test]
    async fn a_prepared_statement_that_has_gone_says_that_a_pooler_may_be_the_reason() {
        let schema = Schema::new().unwrap();
        let options = schema.options().unwrap().max_connections(NonZeroU32::MIN);
        let store = options.open().await.unwrap();
        let job = || NewJob::new("x", Payload::null());
        store.insert(&[job()]).await.unwrap();
        let gone = sqlx::query("DEALLOCATE ALL").persistent(false);
        gone.execute(store.calls()).await.unwrap();
        let error = store.insert(&[job()]).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None), "{error}");
        assert!(error.to_string().contains("?pooler=transaction"), "{error}");
    }
}
