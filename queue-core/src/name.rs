//! Rules for names, keys, labels and messages.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Error, Result};

/// The longest name, key or label, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// The longest message or reason, in bytes; what is longer is cut.
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// Checks a name, key or label: 1 to 256 bytes, no control characters.
///
/// # Errors
/// `Invalid`; the message says what the name was for and what is wrong with it.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("has {} bytes", name.len())
    } else if let Some(c) = name.chars().find(|c| c.is_control()) {
        format!("contains the control character U+{:04X}", u32::from(c))
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the {what} {fault}; it needs 1 to {MAX_NAME_BYTES} bytes without control characters"
    )))
}

/// Makes a message storable everywhere: NUL becomes U+FFFD, and what exceeds 8 KiB is cut at a
/// character boundary. A message must never be the reason why a settle fails.
pub fn clean_message(message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut clean = message[..end].replace('\0', "\u{fffd}");
    while clean.len() > MAX_MESSAGE_BYTES {
        clean.pop();
    }
    clean
}

/// The name of a queue: 1 to 256 bytes without control characters. `default` when none is said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// `Invalid` when the name is empty, longer than 256 bytes or contains control characters.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        check_name("queue name", name.as_ref())?;
        Ok(QueueName(name.as_ref().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for QueueName {
    fn default() -> Self {
        QueueName("default".into())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for QueueName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&str> for QueueName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl Borrow<str> for QueueName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for QueueName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_256_bytes_and_no_control_characters() {
        assert!(QueueName::new("a'b;\"c\" \u{1f600}").is_ok());
        assert!(QueueName::new("x".repeat(256)).is_ok());
        for bad in [String::new(), "x".repeat(257), "a\nb".into(), "a\0".into()] {
            assert!(QueueName::new(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn messages_are_made_storable_not_refused() {
        assert_eq!(clean_message("a\0b"), "a\u{fffd}b");
        let long = clean_message(&"\u{1f600}".repeat(5_000));
        assert!(long.len() <= MAX_MESSAGE_BYTES && long.len() > MAX_MESSAGE_BYTES - 4);
        assert!(clean_message(&"\0".repeat(MAX_MESSAGE_BYTES)).len() <= MAX_MESSAGE_BYTES);
    }
}
