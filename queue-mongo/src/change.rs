//! The difference between two rows, as an update of the document.

use mongodb::bson::{Bson, Document, doc};
use queue_core::{NewEntry, Row, Timestamp};

use crate::codec::{self, counters, fields};

/// How much of a document's room these entries take.
pub(crate) fn log_bytes(entries: &[&NewEntry]) -> usize {
    entries.iter().map(|entry| entry.body.len() + codec::ENTRY_BYTES).sum()
}

/// A plain update of one document, in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) set: Document,
    pub(crate) unset: Document,
    inc: Document,
    push: Vec<Bson>,
}

impl Change {
    /// What leads from one row to the other; payloads and log aside. Counters are changed by their difference, so
    /// that the rows need not be those in the store.
    pub(crate) fn between(before: &Row, after: &Row) -> Change {
        let mut change = Change::default();
        change.inc.insert("rev", 1_i64);
        let (old, new) = (counters(before), counters(after));
        for (key, value) in &new {
            let (Some(was), Some(is)) = (old.get(key).and_then(Bson::as_i64), value.as_i64())
            else {
                continue;
            };
            if is != was {
                change.inc.insert(key, is - was);
            }
        }
        let (old, new) = (fields(before), fields(after));
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            change.unset.insert(key, "");
        }
        for (key, value) in new {
            if old.get(&key) != Some(&value) {
                change.set.insert(key, value);
            }
        }
        change
    }

    /// Moves the revision by so much, instead of by one.
    pub(crate) fn move_revision_by(&mut self, step: i64) {
        self.inc.insert("rev", step);
    }

    /// Sets a payload, or takes it away.
    pub(crate) fn payload(&mut self, key: &str, payload: Option<&queue_core::Payload>) {
        match payload {
            Some(payload) => self.set.insert(key, payload.as_str()),
            None => self.unset.insert(key, ""),
        };
    }

    /// Appends entries that the log does not have.
    pub(crate) fn append(&mut self, entries: &[&NewEntry], now: Timestamp) {
        if !entries.is_empty() {
            self.inc.insert("log_len", codec::int(entries.len() as u64));
            self.inc.insert("bytes", codec::int(log_bytes(entries) as u64));
            self.push = entries.iter().map(|entry| codec::entry(entry, now)).collect();
        }
    }

    /// The update.
    pub(crate) fn into_update(mut self) -> Document {
        let mut update = doc! { "$inc": self.inc };
        // Whoever frees a slot says so in the same write: the next claim looks who waits for it. Of a job
        // without a lane the server changes nothing here.
        if self.unset.remove("slot_lane").is_some() {
            update.insert("$rename", doc! { "slot_lane": "freed" });
        }
        if !self.set.is_empty() {
            update.insert("$set", self.set);
        }
        if !self.unset.is_empty() {
            update.insert("$unset", self.unset);
        }
        if !self.push.is_empty() {
            update.insert("$push", doc! { "log": { "$each": self.push } });
        }
        update
    }
}
