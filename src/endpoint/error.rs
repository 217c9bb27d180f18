use std::time::Duration;

use thiserror::Error;

/// Why an endpoint could not do its work. `endpoint` is its scheme, host and port; the rest of its URL is not shown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The URL cannot be used. It is not shown: it may hold a password.
    #[error("the URL of the endpoint cannot be used: {0}")]
    Url(&'static str),
    /// A header cannot be sent. Its value is not shown.
    #[error("the header {name:?} cannot be sent: HTTP does not allow its name or its value")]
    Header {
        /// Its name.
        name: String,
    },
    /// The system has no certificates by which to trust a server.
    #[error("no certificates were found by which to trust a server: {0}")]
    Certificates(String),
    /// It cannot be reached, or the connection broke off.
    #[error("{endpoint} cannot be called: {fault}")]
    Transport {
        /// The endpoint.
        endpoint: String,
        /// What went wrong.
        fault: String,
    },
    /// It did not answer in time.
    #[error("{endpoint} did not answer within {after:?}")]
    TimedOut {
        /// The endpoint.
        endpoint: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It answered with another status than success.
    #[error("{endpoint} answered with status {status}{}", said(*status, body))]
    Status {
        /// The endpoint.
        endpoint: String,
        /// The status code.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// Its answer is too long.
    #[error("{endpoint} answered with more than {limit} bytes")]
    TooLong {
        /// The endpoint.
        endpoint: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// Its answer is something else than one JSON document.
    #[error("{endpoint} must answer with one JSON document, but: {fault}")]
    NotJson {
        /// The endpoint.
        endpoint: String,
        /// What is wrong, where, and how the answer begins.
        fault: String,
    },
    /// The job was cancelled, or is no longer this worker's, before the answer came.
    #[error("the call was broken off before {endpoint} answered")]
    BrokenOff {
        /// The endpoint.
        endpoint: String,
    },
}

impl EndpointError {
    /// Whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::TimedOut { .. } | Self::NotJson { .. } => true,
            // Timeout, too early, too many requests; and whatever is wrong with the server itself.
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::BrokenOff { .. } => true,
            Self::Url(_) | Self::Header { .. } | Self::Certificates(_) | Self::TooLong { .. } => {
                false
            }
        }
    }

    /// A name for programs to recognise the error by.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Header { .. } | Self::Certificates(_) => "endpoint-settings",
            Self::Transport { .. } => "endpoint-transport",
            Self::TimedOut { .. } => "endpoint-timeout",
            Self::Status { .. } => "endpoint-status",
            Self::TooLong { .. } | Self::NotJson { .. } => "endpoint-output",
            Self::BrokenOff { .. } => "endpoint-broken-off",
        }
    }
}

fn said(status: u16, body: &str) -> String {
    let hint = if matches!(status, 300..=399) { ", and redirects are not followed" } else { "" };
    if body.is_empty() { hint.to_owned() } else { format!("{hint}; it said: {body}") }
}
