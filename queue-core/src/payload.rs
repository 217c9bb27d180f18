use std::{fmt, hash, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{Error, Result};

/// A JSON document as text: an input, an output, an error, the body of a log entry.
///
/// Stores return it byte for byte, white space around the document aside: key order, duplicate
/// keys, the spelling of numbers and escapes are kept. Equality is equality of the text. Cloning
/// shares the text.
///
/// A document has at most [`MAX_DEPTH`](Self::MAX_DEPTH) levels of arrays and objects within each other: databases parse
/// JSON on a stack.
///
/// For `serde` it is a raw value of `serde_json`: other formats cannot keep it, and neither can `#[serde(flatten)]`. An
/// `Option<Payload>` reads JSON `null` as `None`, so a store that keeps one as JSON leaves the field out for
/// `None` and reads one that is there as `Some`, whatever it holds.
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// How many levels of arrays and objects a document may have. What reads it into types takes fewer: `serde_json` 128.
    pub const MAX_DEPTH: usize = 1_000;

    /// The document `null`.
    pub fn null() -> Self {
        Payload(RawValue::NULL.to_owned().into())
    }

    /// Takes JSON text as it is.
    ///
    /// # Errors
    /// `Invalid` when the text is not one JSON document; the message has line and column. `Invalid` for more than
    /// [`MAX_DEPTH`](Self::MAX_DEPTH) levels.
    pub fn from_text(text: impl Into<String>) -> Result<Self> {
        let raw: Box<RawValue> = {
            let text = text.into();
            match text.trim_matches([' ', '\t', '\n', '\r']).len() == text.len() {
                true => RawValue::from_string(text),
                false => serde_json::from_str(&text),
            }
        }
        .map_err(|error| Error::invalid(format!("not JSON: {error}")))?;
        Self::flat_enough(raw)
    }

    /// Serialises a value.
    ///
    /// # Errors
    /// `Invalid` when the value cannot be written as JSON (a map with keys that are no strings), or has more than
    /// [`MAX_DEPTH`](Self::MAX_DEPTH) levels.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let raw = serde_json::value::to_raw_value(value)
            .map_err(|error| Error::invalid(format!("cannot be written as JSON: {error}")))?;
        Self::flat_enough(raw)
    }

    fn flat_enough(raw: Box<RawValue>) -> Result<Self> {
        match depth(raw.get()) > Self::MAX_DEPTH {
            true => Err(Error::invalid(format!(
                "arrays and objects within each other, more than {} levels deep",
                Self::MAX_DEPTH
            ))),
            false => Ok(Payload(raw.into())),
        }
    }

    /// Reads the document as a value of type `T`.
    ///
    /// # Errors
    /// `Invalid` when the document has another shape.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.as_str()).map_err(|error| Error::invalid(error.to_string()))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The length of the text in bytes.
    pub fn len(&self) -> usize {
        self.as_str().len()
    }

    /// Never: the shortest document has one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::null()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl hash::Hash for Payload {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 200;
        match self.as_str().char_indices().nth(SHOWN) {
            None => f.write_str(self.as_str()),
            Some((end, _)) => write!(f, "{}... ({} bytes)", &self.as_str()[..end], self.len()),
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::flat_enough(raw).map_err(serde::de::Error::custom)
    }
}

/// The most levels of arrays and objects within each other, of a text that is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads an optional document that is there: `null` is a document, not none. For
/// `#[serde(default, deserialize_with = "present")]`.
pub(crate) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_that_are_nested_too_deeply_are_refused() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let beside = format!(r#"[{{"[[\\\"[": {}}}, [[]]]"#, nested(Payload::MAX_DEPTH - 2));
        for good in [nested(Payload::MAX_DEPTH), beside.clone()] {
            assert_eq!(Payload::from_text(good.as_str()).unwrap().as_str(), good);
            assert!(serde_json::from_str::<Payload>(&good).is_ok());
        }
        assert_eq!(depth(&beside), Payload::MAX_DEPTH);
        let bad = nested(Payload::MAX_DEPTH + 1);
        let error = Payload::from_text(bad.as_str()).unwrap_err();
        assert!(error.message().contains("1000 levels"), "{error}");
        assert!(serde_json::from_str::<Payload>(&bad).is_err());
    }

    #[test]
    fn text_is_kept_byte_for_byte_but_for_outer_white_space() {
        for text in [
            r#"{"b":1,"a":2,"a":3}"#,
            "9007199254740993",
            "-0.0",
            "1e308",
            r#""\u0000 \ud800 $a.b""#,
            "{ \"spaced\" :\n1 }",
        ] {
            assert_eq!(Payload::from_text(text).unwrap().as_str(), text);
            assert_eq!(Payload::from_text(format!(" \n{text}\t")).unwrap().as_str(), text);
        }
    }

    #[test]
    fn null_is_a_document_in_records_and_outputs() {
        for record in [crate::Record::new("a", Payload::null()), crate::Record::removal("a")] {
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<crate::Record>(&text).unwrap(), record, "{text}");
        }
        for output in [Some(Payload::null()), None] {
            let end = crate::Transition::Complete { output };
            let text = serde_json::to_string(&end).unwrap();
            assert_eq!(serde_json::from_str::<crate::Transition>(&text).unwrap(), end, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_one_document_is_refused_with_its_place() {
        for text in ["", "{", "1 2", "nul", "{\"a\":}"] {
            let error = Payload::from_text(text).unwrap_err().to_string();
            assert!(error.contains("line 1 column"), "{error}");
        }
    }
}
