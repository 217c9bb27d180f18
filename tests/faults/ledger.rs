//! What handlers did, as they wrote it down themselves: a file to which processes append lines, and which a kill does not shorten.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use queue::JobId;
use serde::{Deserialize, Serialize};

/// The machine's clock, in microseconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_micros()).expect("a clock before the year 500,000")
}

/// A file of lines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger(PathBuf);

/// What happened to a job in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at: u64,
    pub pid: u32,
    pub what: String,
    pub job: JobId,
}

impl Ledger {
    pub fn in_folder(folder: &Path) -> Self {
        Ledger(folder.join("ledger"))
    }

    /// Writes a line, by one call of the system, so that lines of several processes do not mix.
    pub fn write(&self, what: &str, job: JobId) -> io::Result<()> {
        let line = format!("{} {} {what} {job}\n", now(), std::process::id());
        let mut file = OpenOptions::new().append(true).create(true).open(&self.0)?;
        file.write_all(line.as_bytes())
    }

    pub fn read(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.0).unwrap();
        text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut parts = line.split(' ');
    Some(Line {
        at: parts.next()?.parse().ok()?,
        pid: parts.next()?.parse().ok()?,
        what: parts.next()?.to_owned(),
        job: parts.next()?.parse().ok()?,
    })
}
