use std::{fmt, fs, io, path::Path};

use queue_core::{
    Capabilities, Effect, Error, ErrorKind, Result as StoreResult, StoreInfo, Timestamp,
    spec::{Answer, Op},
};
use serde::{Deserialize, Serialize};

/// The calls that a store was given, in the order in which they began.
///
/// Saved, the first line says which store it was, and every further line is a call.
#[derive(Clone, Debug)]
pub struct History {
    /// The store, with what it promises.
    pub store: StoreInfo,
    /// The calls.
    pub calls: Vec<Call>,
}

/// One call: which handle made it, when, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The number of the handle. Handles may be clones, connections or processes.
    pub handle: usize,
    /// When it was about to be made, in nanoseconds since some moment before the history began.
    pub begin: u64,
    /// When the answer was there; `None` when it never came.
    pub end: Option<u64>,
    /// A time that the store's clock had reached when the call began, if any is known.
    pub since: Option<Timestamp>,
    /// A time that the store's clock had not passed when the call ended, if any is known.
    pub now: Option<Timestamp>,
    /// What was asked.
    pub op: Op,
    /// What was answered; `None` when nothing was.
    pub answer: Option<Answered>,
}

/// What a store answered, as it is saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// An answer.
    Ok(Answer),
    /// An error.
    Error {
        /// Its kind, by its name.
        kind: String,
        /// Whether the call may have taken effect all the same.
        effect_unknown: bool,
        /// The message.
        message: String,
    },
}

impl Answered {
    /// The answer as it is saved.
    pub fn of(answer: &StoreResult<Answer>) -> Self {
        match answer {
            Ok(answer) => Answered::Ok(answer.clone()),
            Err(error) => Answered::Error {
                kind: error.kind().to_string(),
                effect_unknown: error.effect() == Effect::Unknown,
                message: error.message().to_owned(),
            },
        }
    }

    /// The answer as the store gave it. A kind of error that is not known is `Backend`.
    pub fn to_result(&self) -> StoreResult<Answer> {
        match self {
            Answered::Ok(answer) => Ok(answer.clone()),
            Answered::Error { kind, effect_unknown, message } => {
                let known = ErrorKind::ALL.into_iter().find(|known| known.to_string() == *kind);
                let effect = if *effect_unknown { Effect::Unknown } else { Effect::None };
                let kind = known.unwrap_or(ErrorKind::Backend);
                Err(Error::new(kind, message.clone()).with_effect(effect))
            }
        }
    }
}

/// What a call did, as far as it is known.
pub(super) enum Fate<'a> {
    /// It happened between its begin and its end, and this came of it.
    Done(&'a Answer),
    /// It changed nothing.
    Nothing,
    /// It may have happened at any time since its begin, or never.
    Maybe,
}

impl Call {
    /// A call that was answered, of a history in which nothing happens at the same time: the `place`-th one.
    pub fn alone(place: usize, now: Timestamp, op: &Op, answer: &StoreResult<Answer>) -> Self {
        let begin = 2 * place as u64;
        Call {
            handle: 0,
            begin,
            end: Some(begin + 1),
            since: Some(now),
            now: Some(now),
            op: op.clone(),
            answer: Some(Answered::of(answer)),
        }
    }

    pub(super) const fn fate(&self) -> Fate<'_> {
        match (&self.end, &self.answer) {
            (Some(_), Some(Answered::Ok(answer))) => Fate::Done(answer),
            (Some(_), Some(Answered::Error { effect_unknown: false, .. })) => Fate::Nothing,
            _ => Fate::Maybe,
        }
    }

    /// When its effect, if it has one, was certainly there: its end, or never.
    pub(super) const fn settled(&self) -> u64 {
        match (self.fate(), self.end) {
            (Fate::Done(_), Some(end)) => end,
            _ => u64::MAX,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    store: StoreInfo,
}

/// Why a text is not a history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed {
    /// The line, from 1; 0 when the file could not be read at all.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.why),
            line => write!(f, "line {line}: {}", self.why),
        }
    }
}

impl std::error::Error for Malformed {}

impl History {
    /// A history of a store.
    pub const fn new(store: StoreInfo, calls: Vec<Call>) -> Self {
        History { store, calls }
    }

    /// What the store promises.
    pub const fn limits(&self) -> Capabilities {
        self.store.capabilities
    }

    /// The calls with their places.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Call)> {
        self.calls.iter().enumerate()
    }

    /// The text that is saved: a line on the store, then a line for each call.
    pub fn to_text(&self) -> String {
        let header = Header { store: self.store.clone() };
        let lines = std::iter::once(json(&header)).chain(self.calls.iter().map(json));
        lines.map(|line| line + "\n").collect()
    }

    /// Reads what [`History::to_text`] wrote.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let Some((line, first)) = lines.next() else {
            return Err(Malformed { line: 1, why: "there is nothing".to_owned() });
        };
        let header: Header = parse(line, first)?;
        let mut calls = Vec::new();
        for (line, text) in lines {
            let call: Call = parse(line, text)?;
            if call.end.is_some_and(|end| end < call.begin) {
                return Err(Malformed { line, why: "the call ends before it begins".to_owned() });
            }
            calls.push(call);
        }
        Ok(History { store: header.store, calls })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or the first line that is none.
    pub fn read(file: &Path) -> Result<Self, Malformed> {
        let text = fs::read_to_string(file)
            .map_err(|error| Malformed { line: 0, why: format!("{}: {error}", file.display()) })?;
        History::from_text(&text)
    }

    /// Writes a file, and the directory that it is in if that is not there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(file, self.to_text())
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // Operations and answers are structs, enums, strings and numbers, which can be written as JSON.
    serde_json::to_string(value).unwrap_or_else(|error| format!("cannot be written: {error}"))
}

fn parse<'a, T: Deserialize<'a>>(line: usize, text: &'a str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|error| Malformed { line, why: error.to_string() })
}
