use serde::{Deserialize, Serialize};

use crate::{Payload, QueueName, Result, Timestamp, Version, name::check_name, payload::present};

/// The prefix of the records that pause a queue.
pub const PAUSED_QUEUE: &str = "paused-queue/";

/// A small fact that all processes share: a paused queue, the presence of a worker.
///
/// A claim skips a queue within a second of the moment at which a record with the key
/// [`Record::pause_key`] and a body exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Its name: 1 to 256 bytes without control characters (a prefix and a queue's name fit).
    pub key: String,
    /// The fact; `None` removes it. A removed record is not listed, but its version goes on.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub body: Option<Payload>,
    /// How often it was put; given by the store.
    pub version: Version,
    /// When it was put; given by the store.
    pub updated_at: Timestamp,
}

impl Record {
    /// A fact to put.
    pub fn new(key: impl Into<String>, body: Payload) -> Self {
        Record {
            key: key.into(),
            body: Some(body),
            version: Version(0),
            updated_at: Timestamp::EPOCH,
        }
    }

    /// The removal of a fact.
    pub fn removal(key: impl Into<String>) -> Self {
        Record { body: None, ..Record::new(key, Payload::null()) }
    }

    /// The key of the record that pauses this queue.
    pub fn pause_key(queue: &QueueName) -> String {
        format!("{PAUSED_QUEUE}{queue}")
    }

    /// Checks the record's key.
    ///
    /// # Errors
    /// `Invalid` for a malformed key.
    pub fn check(&self) -> Result<()> {
        // The prefix of a pause must not shorten the queue names that can be paused.
        check_name("record key", self.key.strip_prefix(PAUSED_QUEUE).unwrap_or(&self.key))
    }
}

/// Checks the prefix of a listing of records. Stores call it first. The empty one names all.
///
/// # Errors
/// `Invalid` for a prefix that no key can have.
pub fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Ok(());
    }
    check_name(
        "record prefix",
        prefix.strip_prefix(PAUSED_QUEUE).filter(|rest| !rest.is_empty()).unwrap_or(prefix),
    )
}
