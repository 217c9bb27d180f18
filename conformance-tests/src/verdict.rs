use std::fmt;

use tokio::task::JoinError;

/// What a property found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The store did what the contract says.
    Pass,
    /// It did not; the message says what was expected and what came.
    Fail(String),
    /// The property needs a hook that the harness does not have.
    Skip(String),
    /// The property could not be decided. Fails the run.
    Inconclusive(String),
}

impl Verdict {
    /// Whether the property passed. Nothing else counts as passed.
    pub const fn is_pass(&self) -> bool {
        matches!(self, Verdict::Pass)
    }

    /// Whether the property failed.
    pub const fn is_fail(&self) -> bool {
        matches!(self, Verdict::Fail(_))
    }

    /// Whether a run with this verdict fails: `Fail` and `Inconclusive`.
    pub const fn fails_the_run(&self) -> bool {
        matches!(self, Verdict::Fail(_) | Verdict::Inconclusive(_))
    }

    /// The verdict in one word, as it stands in reports.
    pub const fn word(&self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
            Verdict::Skip(_) => "skip",
            Verdict::Inconclusive(_) => "inconclusive",
        }
    }

    /// Why, unless it passed.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Verdict::Pass => None,
            Verdict::Fail(why) | Verdict::Skip(why) | Verdict::Inconclusive(why) => Some(why),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass => f.write_str("PASS"),
            Verdict::Fail(why) => write!(f, "FAIL({why})"),
            Verdict::Skip(why) => write!(f, "SKIP({why})"),
            Verdict::Inconclusive(why) => write!(f, "INCONCLUSIVE({why})"),
        }
    }
}

impl From<Checked> for Verdict {
    fn from(checked: Checked) -> Self {
        match checked {
            Ok(()) => Verdict::Pass,
            Err(Stop::Fail(why)) => Verdict::Fail(why),
            Err(Stop::Skip(why)) => Verdict::Skip(why),
            Err(Stop::Inconclusive(why)) => Verdict::Inconclusive(why),
        }
    }
}

/// Why a property ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The store broke the contract.
    Fail(String),
    /// A hook is missing.
    Skip(String),
    /// It could not be decided.
    Inconclusive(String),
}

/// What the body of a property, or a step of it, returns.
pub type Checked<T = ()> = Result<T, Stop>;

impl Stop {
    /// The store broke the contract.
    pub fn fail(why: impl Into<String>) -> Self {
        Stop::Fail(why.into())
    }

    /// A hook is missing.
    pub fn skip(reason: impl Into<String>) -> Self {
        Stop::Skip(reason.into())
    }

    /// It could not be decided.
    pub fn inconclusive(why: impl Into<String>) -> Self {
        Stop::Inconclusive(why.into())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Verdict::from(Err(self.clone())).fmt(f)
    }
}

/// An error where an answer was due breaks the contract, trouble with the machine included: a
/// suite that forgives it would pass a store that is never there.
impl From<queue_core::Error> for Stop {
    fn from(error: queue_core::Error) -> Self {
        Stop::Fail(format!(
            "the store answered the error `{error}` (effect: {:?}) where an answer was due",
            error.effect()
        ))
    }
}

impl From<JoinError> for Stop {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Stop::Fail(format!("panicked: {}", panic_message(&*panic))),
            Err(error) => Stop::Inconclusive(format!("a task of the suite was stopped: {error}")),
        }
    }
}

/// The text of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (None, Some(text)) => (*text).to_owned(),
        (None, None) => "without a message".to_owned(),
    }
}

/// Ends the property with a failure unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return ::core::result::Result::Err($crate::Stop::fail(::std::format!($($message)+)));
        }
    };
}

/// Ends the property with a failure that shows both values unless they are equal. First what the store
/// answered, then what the contract says.
#[macro_export]
macro_rules! check_eq {
    ($actual:expr, $expected:expr, $($message:tt)+) => {
        match (&$actual, &$expected) {
            (actual, expected) => {
                if !(*actual == *expected) {
                    return ::core::result::Result::Err($crate::Stop::fail(::std::format!(
                        "{}\n  expected: {:?}\n       got: {:?}",
                        ::std::format!($($message)+),
                        expected,
                        actual,
                    )));
                }
            }
        }
    };
}
