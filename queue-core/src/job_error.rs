use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Payload, name::clean_message};

/// Why a job, or an attempt, failed: the value behind [`Job::error`](crate::Job::error).
///
/// Stores keep it as opaque JSON; the engine writes this shape, and so does a store that fails a
/// job which crashed too often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobError {
    /// What kind of error it is, for programs: `task-failed`, `panic`, `crashed`, ...
    pub name: String,
    /// What went wrong, for people.
    pub message: String,
    /// The causes, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// The step that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The attempt of the job in which it happened.
    pub attempt: u32,
    /// Whether no further attempt follows.
    pub is_final: bool,
    /// Whether it is a cancellation.
    #[serde(default)]
    pub cancelled: bool,
}

/// The most causes that are stored.
const MAX_CAUSES: usize = 16;

impl JobError {
    /// An error with a name and a message, not final.
    pub fn new(name: impl Into<String>, message: impl Into<String>) -> Self {
        JobError {
            name: name.into(),
            message: message.into(),
            chain: Vec::new(),
            step: None,
            attempt: 0,
            is_final: false,
            cancelled: false,
        }
    }

    /// The error of a job whose lease was lost once too often.
    pub fn crashed(crashes: u32, attempt: u32) -> Self {
        JobError {
            attempt,
            is_final: true,
            ..JobError::new(
                "crashed",
                format!(
                    "its worker vanished {crashes} times (its lease ran out without a result), \
                     more often than the job allows"
                ),
            )
        }
    }

    /// The error with its texts made storable: each at most 8 KiB, and at most 16 causes. An error
    /// must never be the reason why the end of a job cannot be stored.
    #[must_use]
    pub fn cleaned(&self) -> Self {
        JobError {
            name: clean_message(&self.name),
            message: clean_message(&self.message),
            chain: self.chain.iter().take(MAX_CAUSES).map(|cause| clean_message(cause)).collect(),
            step: self.step.clone(),
            ..*self
        }
    }

    /// The error as a payload, [`cleaned`](Self::cleaned).
    pub fn to_payload(&self) -> Payload {
        // A struct of strings and numbers always serialises.
        Payload::from_value(&self.cleaned()).unwrap_or_default()
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = &self.step {
            write!(f, "step {step:?}: ")?;
        }
        f.write_str(&self.message)?;
        self.chain.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}
