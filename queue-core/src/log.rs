use serde::{Deserialize, Serialize};

use crate::{EntryId, Payload, Seq, Timestamp};

/// What a log entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntryKind {
    /// A finished attempt of a step.
    Step,
    /// A line that a handler or an operator wrote.
    Line,
    /// The end of an attempt of the whole job.
    Attempt,
}

impl EntryKind {
    /// All kinds, in the order of their codes.
    pub const ALL: [EntryKind; 3] = [Self::Step, Self::Line, Self::Attempt];

    /// A small number for storage; it stays so.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// An entry to be appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewEntry {
    /// Minted by the caller. An id that the job's log already has is passed over: the first body stays.
    pub id: EntryId,
    /// What the entry records.
    pub kind: EntryKind,
    /// The record itself.
    pub body: Payload,
}

impl NewEntry {
    /// An entry with a fresh id.
    pub fn new(kind: EntryKind, body: Payload) -> Self {
        NewEntry { id: EntryId::new(), kind, body }
    }

    /// An entry with this id.
    pub const fn with_id(id: EntryId, kind: EntryKind, body: Payload) -> Self {
        NewEntry { id, kind, body }
    }
}

/// An entry of a job's log. The log is a grow-only set keyed by the entry's id; nothing removes or
/// changes an entry but the deletion of its job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogEntry {
    /// The id its writer minted.
    pub id: EntryId,
    /// Its position: 1, 2, 3 and so on in each job, given by the store.
    pub seq: Seq,
    /// What it records.
    pub kind: EntryKind,
    /// The record itself.
    pub body: Payload,
    /// When the store appended it.
    pub at: Timestamp,
}

impl LogEntry {
    /// The entry that appending `new` at this position and time makes.
    pub fn stored(new: NewEntry, seq: Seq, at: Timestamp) -> Self {
        LogEntry { id: new.id, seq, kind: new.kind, body: new.body, at }
    }
}

/// Which part of the log a read returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogRead {
    /// Nothing.
    #[default]
    None,
    /// Every entry.
    All,
    /// The entries after this position.
    After(Seq),
}

impl LogRead {
    /// The position after which entries are wanted; `None` when no entry is.
    pub const fn after(self) -> Option<Seq> {
        match self {
            LogRead::None => None,
            LogRead::All => Some(Seq(0)),
            LogRead::After(seq) => Some(seq),
        }
    }
}
