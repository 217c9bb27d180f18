use std::{borrow::Cow, error::Error as StdError, fmt};

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of trouble a store has.
///
/// A lost race is not an error: it is an [`Outcome`](crate::Outcome).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store cannot be opened as configured: unknown URL scheme, a feature that is off, a schema newer than the code.
    Config,
    /// The call itself is malformed; it will never succeed.
    Invalid,
    /// A payload or a job is larger than the store takes; it will never succeed.
    TooLarge,
    /// The store cannot do this; it says so instead of ignoring the request.
    Unsupported,
    /// The store cannot be reached, or takes nothing: a full disk.
    Unavailable,
    /// The store did not answer in time.
    Timeout,
    /// Too many writers at once, longer than the store was willing to wait.
    Contention,
    /// The stored data cannot be read.
    Corrupt,
    /// Anything else that the database reported.
    Backend,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [ErrorKind; 9] = [
        Self::Config,
        Self::Invalid,
        Self::TooLarge,
        Self::Unsupported,
        Self::Unavailable,
        Self::Timeout,
        Self::Contention,
        Self::Corrupt,
        Self::Backend,
    ];

    /// Whether the same call may succeed later: `Unavailable`, `Timeout`, `Contention`.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Contention)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "configuration",
            Self::Invalid => "invalid",
            Self::TooLarge => "too large",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timed out",
            Self::Contention => "contention",
            Self::Corrupt => "corrupt",
            Self::Backend => "backend",
        })
    }
}

/// What a failed call may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing was changed.
    None,
    /// The call may have taken effect, now or later. Every write of the contract is safe to repeat.
    Unknown,
}

/// Trouble with a store.
///
/// Displayed as `store: operation: kind: message`, with the parts that are known. Passwords never
/// appear in a message.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    effect: Effect,
    operation: Option<&'static str>,
    store: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that changed nothing.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error {
            kind,
            effect: Effect::None,
            operation: None,
            store: None,
            message: message.into(),
            source: None,
        }
    }

    /// A malformed call.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Says what the failed call may have done.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Names the operation, for example `claim`. A name given earlier stays.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.operation.get_or_insert(operation);
        self
    }

    /// Names the store, for example `memory`. A name given earlier stays.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<Cow<'static, str>>) -> Self {
        self.store.get_or_insert(store.into());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of trouble it is.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the failed call may have done.
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// What went wrong, without the store, operation and kind.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(store) = &self.store {
            write!(f, "{store}: ")?;
        }
        if let Some(operation) = self.operation {
            write!(f, "{operation}: ")?;
        }
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_from_the_store_to_the_message() {
        let error = Error::new(ErrorKind::Timeout, "no answer within 5 s");
        assert_eq!(error.to_string(), "timed out: no answer within 5 s");
        let error = error.with_operation("claim").with_store("memory").with_operation("other");
        assert_eq!(error.to_string(), "memory: claim: timed out: no answer within 5 s");
    }

    #[test]
    fn only_trouble_that_passes_is_transient() {
        assert!(Error::new(ErrorKind::Contention, "").is_transient());
        assert!(!Error::new(ErrorKind::Backend, "").is_transient());
        assert_eq!(Error::invalid("x").effect(), Effect::None);
    }
}
