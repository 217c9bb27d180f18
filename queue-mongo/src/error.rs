//! What MongoDB's errors mean to a caller.

use mongodb::error::{Error as Driver, ErrorKind as DriverKind, WriteFailure};
use queue_core::{Effect, Error, ErrorKind};

/// The name of the store, in errors and in its description.
pub(crate) const STORE: &str = "mongo";

/// A document would be larger than the server takes: as an insert, and as an update.
pub(crate) const TOO_LARGE: [i32; 3] = [10334, 17419, 17420];
/// The user has no right to do this.
const UNAUTHORIZED: i32 = 13;
/// A unique index already has the key.
pub(crate) const DUPLICATE: i32 = 11000;
/// Two writers met in one document; the server gave one of them up.
const WRITE_CONFLICT: i32 = 112;
/// The moment as of which a cursor reads is further back than the server can go.
pub(crate) const SNAPSHOT_TOO_OLD: i32 = 239;
/// The primary steps down, starts or stops: this call was refused before it did anything.
const NOT_PRIMARY: [i32; 4] = [10107, 13435, 10058, 13436];
/// A node went away while the call ran, or an operator ended the call.
const INTERRUPTED: [i32; 11] = [11600, 11601, 11602, 91, 134, 189, 237, 6, 7, 89, 9001];
/// The server did not understand or does not have what was asked for, and did nothing.
const REFUSED: [i32; 8] = [2, 9, 14, 20, 40, 59, 72, 73];
/// The transaction that the call is a part of is over.
const TRANSACTION_GONE: [i32; 3] = [225, 246, 251];
/// What begins the message when the server does not know the user, or does not let it do this.
const NOT_LET_IN: &str = "not let in";
const NOT_PERMITTED: &str = "not permitted";

/// The stored data does not have the shape in which this crate writes it.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a stored value cannot be read: {what}"))
        .with_store(STORE)
}

/// Whether a call changes something, so that a lost answer leaves its effect open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Write,
}

/// The code with which the server refused, if it did.
pub(crate) fn code_of(error: &Driver) -> Option<i32> {
    match error.kind.as_ref() {
        DriverKind::Command(command) => Some(command.code),
        DriverKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        DriverKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        DriverKind::InsertMany(many) => many
            .write_errors
            .as_ref()
            .and_then(|errors| errors.first())
            .map(|error| error.code)
            .or_else(|| many.write_concern_error.as_ref().map(|concern| concern.code)),
        // A reply that the driver could not read.
        _ => error.server_response().and_then(|reply| reply.get_i32("code").ok()),
    }
}

/// Whether the same call, made again at once, is expected to get through.
pub(crate) fn is_write_conflict(error: &Driver) -> bool {
    code_of(error) == Some(WRITE_CONFLICT)
}

/// The driver's error as the contract's.
pub(crate) fn from_driver(call: Call, error: Driver) -> Error {
    let (kind, refused) = kind_of(&error);
    let effect = match call {
        Call::Write if !refused => Effect::Unknown,
        _ => Effect::None,
    };
    let message = match error.kind.as_ref() {
        // What the server answers to a wrong password names the user, not the password.
        DriverKind::Authentication { message, .. } => format!("{NOT_LET_IN}: {message}"),
        DriverKind::Command(command) if command.code == UNAUTHORIZED => {
            format!("{NOT_PERMITTED}: {}", command.message)
        }
        // A server whose certificate is refused counts as one that does not answer.
        DriverKind::ServerSelection { message, .. } if is_untrusted(message) => {
            format!("the server's certificate is not trusted; see tlsCAFile: {message}")
        }
        kind => kind.to_string(),
    };
    Error::new(kind, message).with_effect(effect).with_store(STORE)
}

/// Says who was refused.
pub(crate) fn naming(user: Option<&str>, error: Error) -> Error {
    let is_refusal = [NOT_LET_IN, NOT_PERMITTED].iter().any(|w| error.message().starts_with(w));
    match user {
        Some(user) if error.kind() == ErrorKind::Config && is_refusal => {
            let message = format!("the user {user:?} is {}", error.message());
            Error::new(ErrorKind::Config, message).with_store(STORE)
        }
        _ => error,
    }
}

/// The driver has no kind of its own for a refused certificate: it repeats what the TLS library said of each server.
fn is_untrusted(message: &str) -> bool {
    message.contains("invalid peer certificate")
}

/// The kind of trouble, and whether it is certain that nothing was changed.
fn kind_of(error: &Driver) -> (ErrorKind, bool) {
    match error.kind.as_ref() {
        DriverKind::InvalidArgument { .. } | DriverKind::InvalidTlsConfig { .. } => {
            (ErrorKind::Config, true)
        }
        DriverKind::Authentication { .. } => (ErrorKind::Config, true),
        DriverKind::ServerSelection { message, .. } if is_untrusted(message) => {
            (ErrorKind::Config, true)
        }
        DriverKind::DnsResolve { .. } | DriverKind::ServerSelection { .. } => {
            (ErrorKind::Unavailable, true)
        }
        DriverKind::Io(_) | DriverKind::ConnectionPoolCleared { .. } | DriverKind::Shutdown => {
            (ErrorKind::Unavailable, false)
        }
        DriverKind::Write(WriteFailure::WriteConcernError(_)) => (ErrorKind::Timeout, false),
        DriverKind::Command(_) | DriverKind::Write(_) | DriverKind::InsertMany(_) => {
            of_code(code_of(error).unwrap_or(0))
        }
        DriverKind::IncompatibleServer { .. } | DriverKind::SessionsNotSupported => {
            (ErrorKind::Unsupported, true)
        }
        DriverKind::Bson(_) => (ErrorKind::Corrupt, true),
        _ => (ErrorKind::Backend, false),
    }
}

/// The same for a code of the server.
pub(crate) fn of_code(code: i32) -> (ErrorKind, bool) {
    match code {
        code if NOT_PRIMARY.contains(&code) => (ErrorKind::Unavailable, true),
        code if INTERRUPTED.contains(&code) => (ErrorKind::Unavailable, false),
        WRITE_CONFLICT => (ErrorKind::Contention, true),
        code if TRANSACTION_GONE.contains(&code) => (ErrorKind::Contention, true),
        DUPLICATE => (ErrorKind::Contention, true),
        code if TOO_LARGE.contains(&code) => (ErrorKind::TooLarge, true),
        // MaxTimeMSExpired, LockTimeout, ExceededTimeLimit
        50 | 24 | 262 => (ErrorKind::Timeout, false),
        // AuthenticationFailed
        UNAUTHORIZED | 18 => (ErrorKind::Config, true),
        code if REFUSED.contains(&code) => (ErrorKind::Backend, true),
        // A command of many statements may have come half way.
        _ => (ErrorKind::Backend, false),
    }
}

/// What a reply says about the write concern, as an error: the write is there, but may be rolled back.
pub(crate) fn from_concern(code: i32, message: &str) -> Error {
    let kind = match of_code(code) {
        (ErrorKind::Unavailable, _) => ErrorKind::Unavailable,
        _ => ErrorKind::Timeout,
    };
    Error::new(kind, format!("not acknowledged by a majority: {message}"))
        .with_effect(Effect::Unknown)
        .with_store(STORE)
}

/// What the server says about one statement of a command, as an error.
pub(crate) fn from_statement(code: i32, message: &str) -> Error {
    Error::new(of_code(code).0, format!("error {code}: {message}"))
        .with_effect(Effect::Unknown)
        .with_store(STORE)
}

/// Other writers were faster, again and again.
pub(crate) fn contention() -> Error {
    Error::new(ErrorKind::Contention, "other writers were faster each time").with_store(STORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_server_are_sorted_by_what_helps() {
        assert_eq!(of_code(10107), (ErrorKind::Unavailable, true));
        assert_eq!(of_code(91), (ErrorKind::Unavailable, false));
        assert_eq!(of_code(112), (ErrorKind::Contention, true));
        assert_eq!(of_code(10334).0, ErrorKind::TooLarge);
        assert_eq!(of_code(50).0, ErrorKind::Timeout);
        assert_eq!(of_code(2), (ErrorKind::Backend, true));
        assert_eq!(of_code(11601), (ErrorKind::Unavailable, false));
        assert_eq!(of_code(14031), (ErrorKind::Backend, false), "no room on the disk, half way");
        assert_eq!(of_code(251), (ErrorKind::Contention, true));
    }

    #[test]
    fn only_a_refusal_names_the_user() {
        let refused = Error::new(ErrorKind::Config, "not permitted: to write");
        let named = naming(Some("ada"), refused);
        assert_eq!(named.message(), "the user \"ada\" is not permitted: to write");
        let other = naming(Some("ada"), Error::new(ErrorKind::Config, "a newer schema"));
        assert_eq!(other.message(), "a newer schema");
    }

    #[test]
    fn a_lost_connection_leaves_a_write_open_and_a_read_not() {
        let lost = || Driver::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        let write = from_driver(Call::Write, lost());
        assert_eq!((write.kind(), write.effect()), (ErrorKind::Unavailable, Effect::Unknown));
        assert_eq!(from_driver(Call::Read, lost()).effect(), Effect::None);
        assert_eq!(from_concern(64, "waiting timed out").effect(), Effect::Unknown);
    }
}
