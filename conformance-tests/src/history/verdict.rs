use std::fmt;

use super::{
    History,
    show::{Subject, show},
};

/// What a checker found to be in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary(Vec<(u64, &'static str)>);

impl Summary {
    pub(super) fn new(counts: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        Summary(counts.into_iter().collect())
    }

    /// How many of these there were; 0 when the checker does not count them.
    pub fn count(&self, of: &str) -> u64 {
        self.0.iter().find(|(_, name)| *name == of).map_or(0, |(count, _)| *count)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (count, name)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {name}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// A breach of the contract, with the calls that show it and no others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// The calls that show it: their places in the history.
    pub calls: Vec<usize>,
    lines: Vec<String>,
}

impl Violation {
    pub(super) fn new(
        history: &History,
        subject: &Subject,
        what: impl Into<String>,
        calls: impl IntoIterator<Item = usize>,
    ) -> Self {
        let mut calls: Vec<usize> = calls.into_iter().collect();
        calls.sort_unstable();
        calls.dedup();
        let known = calls.iter().filter_map(|at| history.calls.get(*at).map(|call| (*at, call)));
        let lines = known.map(|(at, call)| show(at, call, subject)).collect();
        Violation { what: what.into(), calls, lines }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Violation {}
