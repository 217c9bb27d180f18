use std::{fmt, str::FromStr};

use serde_json::Value;

use super::TemplateError;

/// A place in JSON data: names and array positions joined by dots, such as `steps.a.output.0.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    segments: Vec<String>,
}

static NULL: Value = Value::Null;

impl Path {
    /// The first name.
    pub fn root(&self) -> &str {
        &self.segments[0]
    }

    /// The names and positions, the root first. Never empty.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// What stands there, if anything does. Below `null` everything is `null`, so that the output
    /// of a skipped step can be asked for its parts.
    pub fn find<'a>(&self, data: &'a Value) -> Option<&'a Value> {
        self.segments.iter().try_fold(data, |value, segment| step_into(value, segment))
    }

    /// What stands there.
    ///
    /// # Errors
    /// `Missing`, saying how far the path leads and what is there instead.
    pub fn get<'a>(&self, data: &'a Value) -> Result<&'a Value, TemplateError> {
        let mut value = data;
        for (depth, segment) in self.segments.iter().enumerate() {
            value = step_into(value, segment).ok_or_else(|| TemplateError::Missing {
                path: self.to_string(),
                reached: self.segments[..depth].join("."),
                found: describe(value),
            })?;
        }
        Ok(value)
    }
}

fn step_into<'a>(value: &'a Value, segment: &str) -> Option<&'a Value> {
    match value {
        Value::Null => Some(&NULL),
        Value::Object(map) => map.get(segment),
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// What a value offers to a path, for an error message.
fn describe(value: &Value) -> String {
    const SHOWN: usize = 12;
    match value {
        Value::Object(map) if map.is_empty() => "an empty object".to_owned(),
        Value::Object(map) => {
            let names: Vec<&str> = map.keys().take(SHOWN).map(String::as_str).collect();
            let more = if map.len() > SHOWN { ", ..." } else { "" };
            format!("an object with {}{more}", names.join(", "))
        }
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::String(_) => "a string".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

impl FromStr for Path {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let segments: Vec<String> = text.split('.').map(str::to_owned).collect();
        let odd = |c: char| c.is_whitespace() || "{}\"'=!&|()[]".contains(c);
        match segments.iter().any(|segment| segment.is_empty() || segment.contains(odd)) {
            true => Err(TemplateError::NotAPath { text: text.to_owned() }),
            false => Ok(Path { segments }),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_arrays() {
        let data = json!({"a": [{"b": 7}], "none": null});
        let get = |path: &str| path.parse::<Path>().unwrap().get(&data).cloned();
        assert_eq!(get("a.0.b").unwrap(), json!(7));
        assert_eq!(get("a").unwrap(), json!([{"b": 7}]));
        assert_eq!(get("none.of.these").unwrap(), Value::Null);
    }

    #[test]
    fn a_missing_place_says_how_far_the_path_leads() {
        let data = json!({"input": {"name": "x", "size": 1}});
        let message =
            |path: &str| path.parse::<Path>().unwrap().get(&data).unwrap_err().to_string();
        assert_eq!(
            message("input.path"),
            "`input.path` leads nowhere: `input` is an object with name, size"
        );
        assert_eq!(
            message("input.name.0"),
            "`input.name.0` leads nowhere: `input.name` is a string"
        );
    }

    #[test]
    fn text_that_is_no_path_is_refused() {
        for text in ["", ".", "a.", ".a", "a b", "a..b", "a[0]", "a == b"] {
            assert!(text.parse::<Path>().is_err(), "{text:?}");
        }
    }
}
