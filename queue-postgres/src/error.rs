//! What PostgreSQL's SQLSTATEs and the driver's errors mean to a caller.

use std::{io, time::Duration};

use queue_core::{Effect, Error, ErrorKind};

/// The name of the store, in errors and in its description.
pub(crate) const STORE: &str = "postgres";

/// The stored data does not have the shape in which this crate writes it.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a stored value cannot be read: {what}"))
        .with_store(STORE)
}

/// What to do about a pooler that the options do not mention.
pub(crate) const POOLER_HINT: &str =
    "with a pooler in transaction mode, open the store with `?pooler=transaction`";

/// A prepared statement is missing, or there already: the server connection is not the one that it was.
fn is_another_clients_statement(state: &str) -> bool {
    matches!(state, "26000" | "42P05")
}

/// Trouble with a statement of this operation.
pub(crate) fn from_sqlx(error: sqlx::Error, operation: &'static str) -> Error {
    let (kind, effect) = (kind_of(&error), effect_of(&error));
    let message = match (&error, kind) {
        (sqlx::Error::Database(reported), _) => match reported.code() {
            Some(code) if is_another_clients_statement(&code) => {
                format!("{} (SQLSTATE {code}); {POOLER_HINT}", reported.message())
            }
            // Only the message: the details of an error quote stored values.
            Some(code) => format!("{} (SQLSTATE {code})", reported.message()),
            None => reported.message().to_owned(),
        },
        (sqlx::Error::PoolTimedOut, _) => {
            "no connection became free in time; the server may be down, or max_connections too low"
                .to_owned()
        }
        (_, ErrorKind::Unavailable) => format!("the connection failed: {error}"),
        (sqlx::Error::Io(silent), ErrorKind::Timeout) => silent.to_string(),
        _ => error.to_string(),
    };
    Error::new(kind, message)
        .with_effect(effect)
        .with_source(error)
        .with_operation(operation)
        .with_store(STORE)
}

/// The server took a statement and is not heard.
pub(crate) fn no_answer(limit: Duration) -> sqlx::Error {
    let message = format!("no answer within {} ms (call_timeout_ms)", limit.as_millis());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// The kind of trouble (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(crate) fn kind_of(error: &sqlx::Error) -> ErrorKind {
    use sqlx::Error as E;
    match error {
        E::Database(reported) => {
            reported.code().map_or(ErrorKind::Backend, |code| kind_of_state(&code))
        }
        E::Io(error) if error.kind() == io::ErrorKind::TimedOut => ErrorKind::Timeout,
        E::Io(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Protocol(_) => {
            ErrorKind::Unavailable
        }
        E::Tls(_) | E::Configuration(_) => ErrorKind::Config,
        E::Decode(_) | E::ColumnDecode { .. } | E::ColumnNotFound(_) | E::TypeNotFound { .. } => {
            ErrorKind::Corrupt
        }
        _ => ErrorKind::Backend,
    }
}

fn kind_of_state(state: &str) -> ErrorKind {
    match state {
        // Serialization failure, deadlock, lock timeout.
        "40001" | "40P01" | "55P03" => ErrorKind::Contention,
        // Statement timeout, or cancelled by an operator.
        "57014" => ErrorKind::Timeout,
        // A standby, during a failover.
        "25006" => ErrorKind::Unavailable,
        // No such database, schema, table or function; no permission.
        "3D000" | "3F000" | "42P01" | "42883" | "42501" => ErrorKind::Config,
        _ if is_another_clients_statement(state) => ErrorKind::Config,
        _ => match state.get(..2) {
            Some("08" | "53" | "57" | "58") => ErrorKind::Unavailable,
            Some("28") => ErrorKind::Config,
            Some("54") => ErrorKind::TooLarge,
            Some("XX") if state != "XX000" => ErrorKind::Corrupt,
            _ => ErrorKind::Backend,
        },
    }
}

/// What the failed statement may have done. A statement that the server reported as failed was rolled
/// back, unless the server was going away; one whose connection broke may have been committed.
pub(crate) fn effect_of(error: &sqlx::Error) -> Effect {
    match error {
        sqlx::Error::Database(reported) => {
            match reported
                .code()
                .is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
            {
                true => Effect::Unknown,
                false => Effect::None,
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Effect::Unknown
        }
        _ => Effect::None,
    }
}

/// Whether another try at once may succeed: the server chose this statement as the one to give way.
pub(crate) fn is_retriable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(reported) => {
            kind_of(error) == ErrorKind::Contention
                // The cached plan of a statement whose tables were migrated meanwhile.
                || reported.code().as_deref() == Some("0A000")
        }
        _ => false,
    }
}

/// Whether the statement waited too long for a lock. It has changed nothing.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(reported) if reported.code().as_deref() == Some("55P03"))
}

/// Whether a unique index refused the statement.
pub(crate) fn is_unique_violation(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(reported) if reported.code().as_deref() == Some("23505"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_kinds() {
        for (state, kind) in [
            ("40001", ErrorKind::Contention),
            ("40P01", ErrorKind::Contention),
            ("55P03", ErrorKind::Contention),
            ("57014", ErrorKind::Timeout),
            ("57P01", ErrorKind::Unavailable),
            ("53300", ErrorKind::Unavailable),
            ("08006", ErrorKind::Unavailable),
            ("28P01", ErrorKind::Config),
            ("3D000", ErrorKind::Config),
            ("42P01", ErrorKind::Config),
            ("26000", ErrorKind::Config),
            ("42P05", ErrorKind::Config),
            ("54000", ErrorKind::TooLarge),
            ("XX001", ErrorKind::Corrupt),
            ("XX000", ErrorKind::Backend),
            ("23505", ErrorKind::Backend),
        ] {
            assert_eq!(kind_of_state(state), kind, "{state}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_effect_unknown_and_a_full_pool_does_not() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(
            (kind_of(&broken), effect_of(&broken)),
            (ErrorKind::Unavailable, Effect::Unknown)
        );
        let full = from_sqlx(sqlx::Error::PoolTimedOut, "claim");
        assert_eq!((full.kind(), full.effect()), (ErrorKind::Unavailable, Effect::None));
        assert!(
            full.to_string().starts_with("postgres: claim: unavailable: no connection"),
            "{full}"
        );
        let silent = from_sqlx(no_answer(Duration::from_secs(2)), "claim");
        assert_eq!((silent.kind(), silent.effect()), (ErrorKind::Timeout, Effect::Unknown));
        assert!(silent.to_string().contains("within 2000 ms (call_timeout_ms)"), "{silent}");
    }
}
