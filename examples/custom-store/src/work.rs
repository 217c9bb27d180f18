//! A write transaction at work: the one place where rows and indexes change, and change together.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{LogEntry, NewEntry, QueueName, Row, Seq, State, Timestamp};
use redb::{Error, Key, Table, Value, WriteTransaction};
use uuid::Uuid;

use crate::{
    document::{encode, encode_row},
    tables::{Tables, rank},
};

/// Where jobs may have become due; `None`: anywhere.
pub(crate) type Hints = BTreeSet<Option<QueueName>>;

pub(crate) struct Work<'t> {
    pub(crate) tables: Tables<'t>,
    /// The store's clock, read when the call's turn had come.
    pub(crate) now: Timestamp,
    hints: Hints,
    changed: bool,
}

impl<'t> Work<'t> {
    pub(crate) fn new(transaction: &'t WriteTransaction, now: Timestamp) -> Result<Self, Error> {
        let tables = Tables::open(transaction)?;
        Ok(Work { tables, now, hints: Hints::new(), changed: false })
    }

    /// Ends the work. `None`: nothing was changed, and nothing is to be committed.
    pub(crate) fn finish(self) -> Option<Hints> {
        self.changed.then_some(self.hints)
    }

    /// Tells workers, once the transaction is committed.
    pub(crate) fn hint(&mut self, queue: Option<QueueName>) {
        self.hints.insert(queue);
    }

    /// Changes a job, its indexes with it.
    pub(crate) fn save(&mut self, old: &Row, new: &Row) -> Result<(), Error> {
        self.index(Some(old), Some(new))?;
        self.tables.jobs.insert(*new.id.as_uuid(), encode_row(new)?.as_slice())?;
        Ok(())
    }

    /// Stores a job that was not there.
    pub(crate) fn create(&mut self, row: &Row) -> Result<(), Error> {
        let id = *row.id.as_uuid();
        self.index(None, Some(row))?;
        self.tables.jobs.insert(id, encode_row(row)?.as_slice())?;
        self.tables.inputs.insert(id, row.input.as_str())?;
        Ok(())
    }

    /// Removes a job with its log. `row` is the row as it is stored.
    pub(crate) fn remove(&mut self, row: &Row) -> Result<(), Error> {
        let id = *row.id.as_uuid();
        self.index(Some(row), None)?;
        self.tables.jobs.remove(id)?;
        self.tables.inputs.remove(id)?;
        self.tables.log.retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
        self.tables.entries.retain_in((id, Uuid::nil())..=(id, Uuid::max()), |_, _| false)?;
        Ok(())
    }

    /// Appends the entries that the log does not have. The caller saves the row, which counts them.
    pub(crate) fn append(&mut self, row: &mut Row, entries: &[NewEntry]) -> Result<(), Error> {
        let id = *row.id.as_uuid();
        for entry in entries {
            let known = self.tables.entries.insert((id, *entry.id.as_uuid()), ())?.is_some();
            if known {
                continue;
            }
            row.control.log_len += 1;
            let seq = row.control.log_len;
            let stored = LogEntry::stored(entry.clone(), Seq(seq), self.now);
            self.tables.log.insert((id, seq), encode(&stored)?.as_slice())?;
            self.changed = true;
        }
        Ok(())
    }

    pub(crate) fn put_schedule(
        &mut self,
        name: &str,
        stat: &impl serde::Serialize,
    ) -> Result<(), Error> {
        self.changed = true;
        self.tables.schedules.insert(name, encode(stat)?.as_slice())?;
        Ok(())
    }

    pub(crate) fn put_record(
        &mut self,
        key: &str,
        record: &impl serde::Serialize,
    ) -> Result<(), Error> {
        self.changed = true;
        self.tables.records.insert(key, encode(record)?.as_slice())?;
        Ok(())
    }

    /// Moves a job in every index from where it was to where it is.
    fn index(&mut self, old: Option<&Row>, new: Option<&Row>) -> Result<(), Error> {
        self.changed = true;
        let tables = &mut self.tables;
        shift(&mut tables.waiting, old.and_then(place), new.and_then(place))?;
        shift(&mut tables.leases, old.and_then(lease), new.and_then(lease))?;
        shift(&mut tables.held, old.and_then(token), new.and_then(token))?;
        shift(&mut tables.slots, old.and_then(slot), new.and_then(slot))?;
        shift(&mut tables.keys, old.and_then(key), new.and_then(key))?;
        shift(&mut tables.states, old.map(state), new.map(state))?;
        self.index_labels(old, new)?;
        if let Some(new) = new.filter(|new| old.and_then(place) != place(new)) {
            self.hint(Some(new.queue.clone()));
        }
        if old.and_then(slot).is_some() && new.and_then(slot).is_none() {
            // The job that waits for the slot may be in any queue.
            self.hint(None);
        }
        Ok(())
    }

    fn index_labels(&mut self, old: Option<&Row>, new: Option<&Row>) -> Result<(), Error> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        let (before, after) =
            (old.map_or(NONE, |row| &row.labels), new.map_or(NONE, |row| &row.labels));
        let Some(row) = old.or(new).filter(|_| before != after) else { return Ok(()) };
        let (created, id) = (row.created_at.as_micros(), *row.id.as_uuid());
        for (label, value) in before {
            self.tables.labels.remove((label.as_str(), value.as_str(), created, id))?;
        }
        for (label, value) in after {
            self.tables.labels.insert((label.as_str(), value.as_str(), created, id), ())?;
        }
        Ok(())
    }
}

/// Moves an entry of an index.
fn shift<'a, K, V>(
    table: &mut Table<'_, K, V>,
    old: Option<(K::SelfType<'a>, V::SelfType<'a>)>,
    new: Option<(K::SelfType<'a>, V::SelfType<'a>)>,
) -> Result<(), Error>
where
    K: Key + 'static,
    V: Value + 'static,
    K::SelfType<'a>: PartialEq,
    V::SelfType<'a>: PartialEq,
{
    if old == new {
        return Ok(());
    }
    if let Some((key, _)) = old {
        table.remove(key)?;
    }
    if let Some((key, value)) = new {
        table.insert(key, value)?;
    }
    Ok(())
}

type Place<'a> = ((&'a str, &'a str, i16, i64, Uuid), Option<(&'a str, u32)>);

fn place(row: &Row) -> Option<Place<'_>> {
    let lane = row.control.lane.as_ref().map(|lane| (lane.key.as_str(), lane.limit.get()));
    let due = row.control.run_at.as_micros();
    let key = (row.queue.as_str(), &*row.kind, rank(row.priority), due, *row.id.as_uuid());
    (row.control.state == State::Waiting).then_some((key, lane))
}

fn lease(row: &Row) -> Option<((i64, Uuid), ())> {
    row.control.lease_until.map(|end| ((end.as_micros(), *row.id.as_uuid()), ()))
}

fn token(row: &Row) -> Option<((Uuid, Uuid), ())> {
    let held = row.control.state == State::Running;
    held.then(|| ((row.control.fence.nonce, *row.id.as_uuid()), ()))
}

fn slot(row: &Row) -> Option<((&str, u32), Uuid)> {
    let (lane, slot) = row.control.lane.as_ref().zip(row.control.slot)?;
    Some(((lane.key.as_str(), slot), *row.id.as_uuid()))
}

fn key(row: &Row) -> Option<(&str, Uuid)> {
    let unique = row.control.unique.as_ref().filter(|_| row.control.holds_key())?;
    Some((unique.key.as_str(), *row.id.as_uuid()))
}

fn state(row: &Row) -> ((u8, i64, Uuid), ()) {
    ((row.control.state.code(), row.created_at.as_micros(), *row.id.as_uuid()), ())
}
