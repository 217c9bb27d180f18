//! Reading run files, with the place of a mistake.

use std::{fmt, fs, path::Path};

use serde_json::Value;

use super::RunFile;
use crate::failure::Failure;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    line: usize,
    column: usize,
}

impl Location {
    /// Where this byte stands; columns count characters.
    fn of(text: &str, byte: usize) -> Self {
        let mut end = byte.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Location {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    Toml,
    Json,
}

/// Reads a run file: JSON if its name ends in `.json` or, where the name ends in neither `.json`
/// nor `.toml`, if it begins with a brace; else TOML.
pub(crate) fn read(path: &Path) -> Result<RunFile, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::caused(format!("cannot read {}", path.display()), &error))?;
    let syntax = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Syntax::Json,
        Some("toml") => Syntax::Toml,
        _ if text.trim_start().starts_with('{') => Syntax::Json,
        _ => Syntax::Toml,
    };
    parse(&text, syntax).map_err(|(place, message)| {
        let place = place.map_or_else(String::new, |place| format!(", {place}"));
        Failure::new(format!("{}{place}: {message}", path.display()))
    })
}

type Fault = (Option<Location>, String);

fn parse(text: &str, syntax: Syntax) -> Result<RunFile, Fault> {
    let mut file: RunFile = match syntax {
        Syntax::Toml => toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| Location::of(text, span.start));
            (place, error.message().trim().to_owned())
        })?,
        Syntax::Json => serde_json::from_str(text).map_err(|error| {
            let place = Location { line: error.line(), column: error.column() };
            let message = error.to_string();
            // The error's text ends with the place.
            let end = message.rfind(" at line ").unwrap_or(message.len());
            (Some(place), message[..end].to_owned())
        })?,
    };
    let steps = file.workflows.values_mut().flat_map(|flow| &mut flow.steps);
    steps.filter_map(|step| step.input.as_mut()).for_each(dates_to_text);
    file.workflows.values_mut().filter_map(|flow| flow.output.as_mut()).for_each(dates_to_text);
    for jobs in &mut file.jobs {
        jobs.input.iter_mut().for_each(dates_to_text);
        jobs.for_each
            .iter_mut()
            .flat_map(|each| &mut each.values)
            .flatten()
            .for_each(dates_to_text);
    }
    Ok(file)
}

/// TOML has dates, JSON has none: they become their text.
fn dates_to_text(value: &mut Value) {
    /// How the `toml` crate hands a date to a type that does not know dates.
    const DATE: &str = "$__toml_private_datetime";
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key(DATE) => {
            *value = map.remove(DATE).unwrap_or_default();
        }
        Value::Object(map) => map.values_mut().for_each(dates_to_text),
        Value::Array(items) => items.iter_mut().for_each(dates_to_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(text: &str, syntax: Syntax) -> String {
        let (place, message) = parse(text, syntax).unwrap_err();
        format!("{}: {message}", place.expect("the place is known"))
    }

    #[test]
    fn mistakes_in_toml_are_reported_with_line_and_column() {
        let fault = |text| fault(text, Syntax::Toml);
        assert!(fault("[run]\nlease = ").starts_with("line 2, column 9: "));
        let unknown = fault("[run]\nconcurrency = 2\nspeed = 3\n");
        assert!(unknown.starts_with("line 3, column 1: unknown field `speed`"), "{unknown}");
        let nested = fault("[workflows.w]\nsteps = [\n  { id = 'a', task = 't', nees = [] },\n]\n");
        assert!(nested.starts_with("line 3, column 27: unknown field `nees`"), "{nested}");
        let duration = fault("tasks.t = { argv = ['\u{e4}'], timeout = \"soon\" }\n");
        assert!(
            duration.starts_with("line 1, column 37: \"soon\" is not a duration"),
            "{duration}"
        );
    }

    #[test]
    fn mistakes_in_json_are_reported_with_line_and_column() {
        let fault = |text| fault(text, Syntax::Json);
        assert!(
            fault("{\n  \"run\": {,\n}").starts_with("line 2, column 11: key must be a string")
        );
        let unknown = fault("{\"tasks\": {\"t\":\n {\"argw\": []}}}");
        assert!(unknown.starts_with("line 2, column 8: unknown field `argw`"), "{unknown}");
    }

    #[test]
    fn both_syntaxes_say_the_same_and_dates_are_text() {
        let toml = parse(
            "[run]\nlease = '2s'\n[tasks.t]\nargv = ['x']\n\
             [[jobs]]\ntask = 't'\ninput = { at = 2026-01-02, n = [1] }\n",
            Syntax::Toml,
        )
        .unwrap();
        let json = parse(
            r#"{"run": {"lease": "2s"}, "tasks": {"t": {"argv": ["x"]}},
                "jobs": [{"task": "t", "input": {"at": "2026-01-02", "n": [1]}}]}"#,
            Syntax::Json,
        )
        .unwrap();
        assert_eq!(format!("{toml:?}"), format!("{json:?}"));
        assert_eq!(toml.jobs[0].input, Some(json!({"at": "2026-01-02", "n": [1]})));
    }
}
