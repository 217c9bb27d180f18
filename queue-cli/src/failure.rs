//! How a command ends.

use std::{error::Error, fmt, process::ExitCode};

/// How a command that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was asked for is done.
    Done,
    /// Jobs failed or were cancelled.
    JobsFailed,
    /// It was told to stop.
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => ExitCode::SUCCESS,
            Ending::JobsFailed => ExitCode::FAILURE,
            // 128 and the number of SIGINT, as shells have it.
            Ending::Interrupted => ExitCode::from(130),
        }
    }
}

/// Why a command could not be carried out: a message for people, and its causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    causes: Vec<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { message: message.into(), causes: Vec::new() }
    }

    /// A failure because of an error and its causes.
    pub(crate) fn caused(message: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Failure::new(message);
        let mut cause = Some(error);
        while let Some(error) = cause {
            failure.push(error.to_string());
            cause = error.source();
        }
        failure
    }

    /// Adds a cause, unless something said before says it.
    fn push(&mut self, cause: String) {
        let said = |text: &String| text.contains(&cause);
        if !said(&self.message) && !self.causes.iter().any(said) {
            self.causes.push(cause);
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn causes(&self) -> &[String] {
        &self.causes
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, "\n  because: {cause}"))
    }
}

impl From<queue::Error> for Failure {
    fn from(error: queue::Error) -> Self {
        let mut failure = Failure::caused(error.to_string(), &error);
        failure.causes.retain(|cause| !failure.message.contains(cause.as_str()));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_listed_once() {
        let io = std::io::Error::other("disk on fire");
        let error = queue::Error::new(queue::ErrorKind::Backend, "cannot write")
            .with_store("sqlite")
            .with_source(io);
        let failure = Failure::from(error);
        assert_eq!(
            failure.to_string(),
            "error: sqlite: backend: cannot write\n  because: disk on fire"
        );
        let said = queue::Error::new(queue::ErrorKind::Backend, "cannot write: disk on fire")
            .with_source(std::io::Error::other("disk on fire"));
        assert!(Failure::from(said).causes().is_empty());
    }
}
