use std::{fmt, str::FromStr};

use serde_json::Value;

use super::{Path, TemplateError};

/// When a step runs: `PATH == JSON`, `PATH != JSON`, `exists PATH` or `not exists PATH`.
///
/// In a comparison a place that leads nowhere is `null`; numbers are equal by value (`1 == 1.0`).
/// A place exists when something stands there that is not `null`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    path: Path,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Equals(Value),
    Differs(Value),
    Exists,
    Missing,
}

impl Condition {
    /// The place that is tested.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds for this data.
    pub fn holds(&self, data: &Value) -> bool {
        let value = self.path.find(data).unwrap_or(&Value::Null);
        match &self.test {
            Test::Equals(expected) => equal(value, expected),
            Test::Differs(expected) => !equal(value, expected),
            Test::Exists => !value.is_null(),
            Test::Missing => value.is_null(),
        }
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // Integers are compared exactly by `==`; only mixed kinds fall back to floating point.
        (Value::Number(x), Value::Number(y)) => {
            x == y || ((x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64())
        }
        _ => a == b,
    }
}

impl FromStr for Condition {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let malformed = || TemplateError::NotACondition { text: text.to_owned() };
        let mut words = text.split_whitespace();
        let test = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("exists"), Some(path), None, _) => Some((path, Test::Exists)),
            (Some("not"), Some("exists"), Some(path), None) => Some((path, Test::Missing)),
            _ => None,
        };
        if let Some((path, test)) = test {
            return Ok(Condition { path: path.parse()?, test });
        }
        // A path holds neither sign, so the first one is the operator, whatever the JSON after it
        // holds.
        let at = text.find(['=', '!']).ok_or_else(malformed)?;
        let (path, rest) = text.split_at(at);
        let json = |rest: &str| serde_json::from_str(rest.trim()).map_err(|_| malformed());
        let test = match (rest.strip_prefix("=="), rest.strip_prefix("!=")) {
            (Some(rest), _) => Test::Equals(json(rest)?),
            (_, Some(rest)) => Test::Differs(json(rest)?),
            (None, None) => return Err(malformed()),
        };
        Ok(Condition { path: path.trim().parse()?, test })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.test {
            Test::Equals(value) => write!(f, "{path} == {value}"),
            Test::Differs(value) => write!(f, "{path} != {value}"),
            Test::Exists => write!(f, "exists {path}"),
            Test::Missing => write!(f, "not exists {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(condition: &str) -> bool {
        let data = json!({
            "input": {"n": 1, "text": "a != b", "none": null},
            "steps": {"a": {"output": {"ok": true}}, "skipped": {"output": null}},
        });
        condition.parse::<Condition>().unwrap().holds(&data)
    }

    #[test]
    fn comparisons_are_by_value() {
        assert!(holds("steps.a.output.ok == true") && !holds("steps.a.output.ok == false"));
        assert!(holds("steps.a.output.ok!=false") && !holds("steps.a.output.ok!=true"));
        assert!(holds("input.n == 1") && holds("input.n == 1.0") && !holds("input.n == 2"));
        assert!(holds("input.text == \"a != b\"") && !holds("input.text != \"a != b\""));
        assert!(holds("steps.a.output == {\"ok\": true}"));
    }

    #[test]
    fn what_leads_nowhere_is_null_and_does_not_exist() {
        assert!(holds("input.nowhere == null") && holds("input.nowhere != 1"));
        assert!(holds("exists input.n") && !holds("not exists input.n"));
        assert!(!holds("exists input.none") && holds("not exists input.nowhere"));
        assert!(holds("steps.skipped.output.ok != true"));
    }

    #[test]
    fn large_integers_are_not_rounded() {
        let data = json!({"n": 9_007_199_254_740_993_u64});
        assert!(!"n == 9007199254740992".parse::<Condition>().unwrap().holds(&data));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms_that_work() {
        for text in
            ["", "input.n", "input.n = 1", "input.n == ", "input.n == yes", "exists", "== 1"]
        {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains("PATH == JSON") || error.contains("path"), "{text:?}: {error}");
        }
    }
}
