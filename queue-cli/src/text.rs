//! Text for people and programs.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use serde::Serialize;

use crate::failure::Failure;

/// Writes a document to standard output. Payloads are copied as text: read as a `serde_json::Value`, some would be altered, and
/// others, like a lone surrogate, refused.
pub(crate) fn json_to_stdout(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(document)
        .map_err(|error| Failure::caused("cannot write this as JSON", &error))?;
    to_stdout(&text);
    Ok(())
}

/// Writes a line to standard output. A reader that has gone away is no failure.
pub(crate) fn to_stdout(line: &impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a message to standard error, for people: without characters that command a terminal.
pub(crate) fn to_stderr(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", Shown(message));
}

/// Text with control characters made visible; line breaks stay.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' => f.write_str("\n"),
            c if c.is_control() => write!(f, "{}", c.escape_unicode()),
            c => write!(f, "{c}"),
        })
    }
}

/// The beginning of a text, in at most so many characters, on one line.
pub(crate) fn brief(text: &str, longest: usize) -> String {
    let line = Shown(text).to_string().replace('\n', " ");
    match line.char_indices().nth(longest) {
        None => line,
        Some(_) => line.chars().take(longest.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

/// Lines up columns; the last one is as wide as it is.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(|row| row.get::<usize>(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(Shown("a\u{1b}[31m\nb\r").to_string(), "a\\u{1b}[31m\nb\\u{d}");
        assert_eq!(brief("a\nb", 10), "a b");
        assert_eq!(brief("abcdefgh", 6), "abc...");
        assert_eq!(brief("abcdef", 6), "abcdef");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ID", "STATE"], ["1234", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "ID    STATE\n1234  x");
    }
}
