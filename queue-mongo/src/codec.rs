//! Jobs as documents and back.

use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32, sync::LazyLock};

use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use queue_core::{
    CancelRequest, EntryId, EntryKind, Error, Fence, Job, JobId, Keep, Lane, LogEntry, LogRead,
    NewEntry, NewJob, OnConflict, Payload, Progress, QueueName, Result, Row, Seq, Settled, State,
    States, Timestamp, TransitionKind, Unique, Uuid, Version,
};

use crate::error::corrupt;

/// A job as it is stored. Without payloads when it was read narrowly.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) row: Row,
    /// Added to by every write.
    pub(crate) rev: i64,
    /// How much of the document's room input and log take.
    pub(crate) bytes: u64,
    /// The part of the log that was read; bodies are `null` when it was read narrowly.
    pub(crate) log: Vec<LogEntry>,
    /// The document whose intent this job was, as long as that may not have been cleared.
    pub(crate) source: Option<Document>,
}

/// What every document is read into: the constructors of core mint ids.
static BLANK: LazyLock<Row> =
    LazyLock::new(|| Row::new(&NewJob::new("", Payload::null()), Timestamp::EPOCH));

/// A row to be filled.
pub(crate) fn blank() -> Row {
    BLANK.clone()
}

/// The stored state of waiting jobs that a claim looks at.
pub(crate) const READY: i32 = 0;
/// The stored state of waiting jobs behind a full lane. Claims do not read past them: they are in another index.
pub(crate) const PARKED: i32 = 5;

/// The states that are stored for a state of the contract.
pub(crate) fn stored_states(state: State) -> impl Iterator<Item = Bson> {
    let parked = (state == State::Waiting).then_some(PARKED);
    [i32::from(state.code())].into_iter().chain(parked).map(Bson::from)
}

/// The state of the contract that a stored state stands for.
pub(crate) fn state(document: &Document) -> Result<State> {
    match document.int("state")? {
        stored if stored == i64::from(PARKED) => Ok(State::Waiting),
        stored => {
            let code = u8::try_from(stored).ok();
            known(code.and_then(State::from_code), "a state")
        }
    }
}

/// A UUID as BSON's binary UUID, which sorts as the UUID does.
pub(crate) fn uuid(id: &Uuid) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: id.as_bytes().to_vec() })
}

pub(crate) fn job_id(id: &JobId) -> Bson {
    uuid(id.as_uuid())
}

/// Counters are u64 in the contract and i64 here; none of them gets there by adding one.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Typed access to documents that this crate wrote.
pub(crate) trait Read {
    fn int(&self, key: &str) -> Result<i64>;
    fn text(&self, key: &str) -> Result<&str>;
    fn id(&self, key: &str) -> Result<Uuid>;
    fn has(&self, key: &str) -> bool;

    fn time(&self, key: &str) -> Result<Timestamp> {
        Timestamp::from_micros(self.int(key)?).map_err(corrupt)
    }

    fn count<T: TryFrom<i64>>(&self, key: &str) -> Result<T> {
        T::try_from(self.int(key)?).map_err(|_| corrupt(format!("{key} is out of range")))
    }

    fn payload(&self, key: &str) -> Result<Payload> {
        Payload::from_text(self.text(key)?).map_err(corrupt)
    }

    fn maybe<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Self, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        self.has(key).then(|| read(self, key)).transpose()
    }
}

impl Read for Document {
    fn int(&self, key: &str) -> Result<i64> {
        match self.get(key) {
            Some(Bson::Int64(value)) => Ok(*value),
            Some(Bson::Int32(value)) => Ok((*value).into()),
            other => Err(corrupt(format!("{key} should be a number, but is {other:?}"))),
        }
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.get_str(key).map_err(corrupt)
    }

    fn id(&self, key: &str) -> Result<Uuid> {
        match self.get(key) {
            Some(Bson::Binary(binary)) => Uuid::from_slice(&binary.bytes).map_err(corrupt),
            other => Err(corrupt(format!("{key} should be a UUID, but is {other:?}"))),
        }
    }

    fn has(&self, key: &str) -> bool {
        !matches!(self.get(key), None | Some(Bson::Null))
    }
}

/// What a document takes beside its input and its log: more than names, keys and messages of the longest kind.
const ROOM: usize = 32 * 1024;
/// What a log entry takes beside its body, with a place of up to six digits.
pub(crate) const ENTRY_BYTES: usize = 72;

/// The document of a job that is inserted.
pub(crate) fn new_document(row: &Row) -> Document {
    let control = &row.control;
    let mut document = doc! {
        "_id": job_id(&row.id),
        "kind": row.kind.as_ref(),
        "created_at": row.created_at.as_micros(),
        "max_crashes": i64::from(control.max_crashes),
        "rev": 0_i64,
    };
    if control.keep == Keep::UnlessCompleted {
        document.insert("keep", 1);
    }
    if let Some(lane) = &control.lane {
        document.insert("lane", doc! { "key": &lane.key, "limit": i64::from(lane.limit.get()) });
    }
    if let Some(unique) = &control.unique {
        document.insert(
            "unique",
            doc! { "key": &unique.key, "within": i32::from(unique.within.bits()), "mode": mode(unique) },
        );
    }
    document.extend(counters(row));
    document.extend(fields(row));
    document.insert("log_len", int(control.log_len));
    document.insert("bytes", int((row.input.len() + ROOM) as u64));
    document.insert("input", row.input.as_str());
    document.insert("log", Vec::<Bson>::new());
    document
}

/// The fields that operations change by adding.
pub(crate) fn counters(row: &Row) -> Document {
    let control = &row.control;
    doc! {
        "attempt": i64::from(control.attempt),
        "crashes": i64::from(control.crashes),
        "fence": int(control.fence.count),
        "version": int(control.version.0),
    }
}

/// The fields that operations change by setting; payloads and log aside. A field without a value is not there.
pub(crate) fn fields(row: &Row) -> Document {
    let control = &row.control;
    let mut document = doc! {
        "queue": row.queue.as_str(),
        "priority": i32::from(row.priority),
        "state": i32::from(control.state.code()),
        "run_at": control.run_at.as_micros(),
    };
    let mut put = |key: &str, value: Option<Bson>| {
        if let Some(value) = value {
            document.insert(key, value);
        }
    };
    let time = |at: Option<Timestamp>| at.map(|at| Bson::Int64(at.as_micros()));
    let nonce = control.fence.nonce;
    put("nonce", (!nonce.is_nil()).then(|| uuid(&nonce)));
    put("started_at", time(control.started_at));
    put("finished_at", time(control.finished_at));
    put("holder", control.holder.as_deref().map(Bson::from));
    put("lease_until", time(control.lease_until));
    put("wake", control.wake.then_some(Bson::Boolean(true)));
    let cancel = control.cancel.as_ref();
    put("cancel", cancel.map(|c| doc! { "reason": &c.reason, "at": c.at.as_micros() }.into()));
    put(
        "settled",
        control.settled.as_ref().map(|settled| {
            let kind = i32::from(settled.kind.code());
            let (count, nonce) = (int(settled.fence.count), uuid(&settled.fence.nonce));
            doc! { "fence": count, "nonce": nonce, "kind": kind }.into()
        }),
    );
    if let (Some(lane), Some(slot)) = (&control.lane, control.slot) {
        put("slot_lane", Some(lane.key.as_str().into()));
        put("slot", Some(i64::from(slot).into()));
    }
    let unique = control.unique.as_ref().filter(|_| control.holds_key());
    put("held_key", unique.map(|unique| unique.key.as_str().into()));
    put(
        "progress",
        row.progress.as_ref().map(|progress| {
            let mut document = doc! { "percent": i32::from(progress.percent) };
            if let Some(message) = &progress.message {
                document.insert("message", message.as_str());
            }
            document.into()
        }),
    );
    let labels = || row.labels.iter().map(label).collect::<Vec<Bson>>();
    put("labels", (!row.labels.is_empty()).then(|| labels().into()));
    document
}

/// A label as an element of the array that is indexed.
pub(crate) fn label((key, value): (&String, &String)) -> Bson {
    doc! { "k": key, "v": value }.into()
}

/// A log entry. Its position is its place in the array, which only grows.
pub(crate) fn entry(entry: &NewEntry, now: Timestamp) -> Bson {
    doc! {
        "id": uuid(entry.id.as_uuid()),
        "kind": i32::from(entry.kind.code()),
        "at": now.as_micros(),
        "body": entry.body.as_str(),
    }
    .into()
}

fn mode(unique: &Unique) -> i32 {
    match unique.on_conflict {
        OnConflict::Return => 0,
        OnConflict::Supersede => 1,
    }
}

/// Whether a stored job may take the place of another.
pub(crate) fn supersedes(document: &Document) -> bool {
    let unique = document.get_document("unique");
    unique.is_ok_and(|unique| unique.get_i32("mode").is_ok_and(|mode| mode != 0))
}

/// What of a stored job tells which intents may have been to insert it.
pub(crate) fn origin(stored: &Stored) -> Document {
    let mut origin = doc! { "_id": job_id(&stored.row.id) };
    if let Some(source) = &stored.source {
        origin.insert("source", source);
    }
    if let Some(unique) = &stored.row.control.unique {
        origin.insert("unique", doc! { "mode": mode(unique) });
    }
    origin
}

/// The projection that leaves out what the rules do not look at; the ids of the log stay.
pub(crate) fn narrow() -> Document {
    doc! { "input": 0, "output": 0, "error": 0, "log.body": 0, "successor": 0 }
}

/// The projection that leaves the wanted part of the log.
pub(crate) fn with_log(log: LogRead) -> Document {
    match log.after() {
        None => doc! { "log": 0 },
        Some(Seq(0)) => Document::new(),
        Some(Seq(after)) => {
            let from = i32::try_from(after).unwrap_or(i32::MAX);
            doc! { "log": { "$slice": [from, i32::MAX] } }
        }
    }
}

/// The position of the first entry that [`with_log`] leaves, less one.
pub(crate) fn skipped(log: LogRead) -> u64 {
    log.after().map_or(0, |after| after.0)
}

fn known<T>(value: Option<T>, what: &'static str) -> Result<T> {
    value.ok_or_else(|| corrupt(what))
}

fn fence(document: &Document) -> Result<Fence> {
    let nonce = document.maybe("nonce", Document::id)?;
    Ok(Fence::new(document.count("fence")?, nonce.unwrap_or(Uuid::nil())))
}

fn code(document: &Document, key: &str) -> Result<u8> {
    document.count(key)
}

/// Reads a document whose log begins after position `skipped`.
pub(crate) fn read(document: &Document, skipped: u64) -> Result<Stored> {
    let mut row = blank();
    row.id = JobId::from_uuid(document.id("_id")?);
    row.queue = QueueName::new(document.text("queue")?).map_err(corrupt)?;
    row.kind = Cow::Owned(document.text("kind")?.to_owned());
    row.priority = document.count("priority")?;
    row.created_at = document.time("created_at")?;
    if document.has("input") {
        row.input = document.payload("input")?;
    }
    row.output = document.maybe("output", Document::payload)?;
    row.error = document.maybe("error", Document::payload)?;
    row.progress = document.maybe("progress", |document, key| {
        let from = document.get_document(key).map_err(corrupt)?;
        let mut progress = Progress::new(code(from, "percent")?);
        progress.message = from.maybe("message", |from, key| from.text(key).map(str::to_owned))?;
        Ok(progress)
    })?;
    row.labels = read_labels(document)?;
    read_control(document, &mut row.control)?;
    let mut log = Vec::new();
    if document.has("log") {
        let entries = document.get_array("log").map_err(corrupt)?;
        for (entry, seq) in entries.iter().zip(skipped.saturating_add(1)..) {
            log.push(read_entry(entry, seq)?);
        }
    }
    let source = document.get_document("source").ok().cloned();
    Ok(Stored { row, rev: document.int("rev")?, bytes: document.count("bytes")?, log, source })
}

fn read_control(document: &Document, control: &mut queue_core::Control) -> Result<()> {
    control.state = state(document)?;
    control.run_at = document.time("run_at")?;
    control.attempt = document.count("attempt")?;
    control.crashes = document.count("crashes")?;
    control.max_crashes = document.count("max_crashes")?;
    control.keep = match document.has("keep") {
        false => Keep::Always,
        true => Keep::UnlessCompleted,
    };
    control.fence = fence(document)?;
    control.version = Version(document.count("version")?);
    control.started_at = document.maybe("started_at", Document::time)?;
    control.finished_at = document.maybe("finished_at", Document::time)?;
    control.holder = document.maybe("holder", |document, key| Ok(document.text(key)?.into()))?;
    control.lease_until = document.maybe("lease_until", Document::time)?;
    control.wake = document.has("wake");
    control.slot = document.maybe("slot", |document, key| document.count(key))?;
    control.log_len = document.count("log_len")?;
    let inner = |key: &str| document.get_document(key).ok();
    control.cancel = match inner("cancel") {
        None => None,
        Some(cancel) => Some(CancelRequest::new(cancel.text("reason")?, cancel.time("at")?)),
    };
    control.settled = match inner("settled") {
        None => None,
        Some(settled) => {
            let kind = TransitionKind::from_code(code(settled, "kind")?);
            Some(Settled::new(fence(settled)?, known(kind, "a kind of settle")?))
        }
    };
    control.lane = match inner("lane") {
        None => None,
        Some(lane) => {
            let limit = known(NonZeroU32::new(lane.count("limit")?), "a lane's limit")?;
            Some(Lane::with_limit(lane.text("key")?, limit))
        }
    };
    control.unique = match inner("unique") {
        None => None,
        Some(from) => {
            let mut unique = Unique::new(from.text("key")?);
            unique.within = States::from_bits(code(from, "within")?);
            if code(from, "mode")? != 0 {
                unique.on_conflict = OnConflict::Supersede;
            }
            Some(unique)
        }
    };
    Ok(())
}

fn read_labels(document: &Document) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    if document.has("labels") {
        for label in document.get_array("labels").map_err(corrupt)? {
            let label = label.as_document().ok_or_else(|| corrupt("a label"))?;
            labels.insert(label.text("k")?.to_owned(), label.text("v")?.to_owned());
        }
    }
    Ok(labels)
}

fn read_entry(entry: &Bson, seq: u64) -> Result<LogEntry> {
    let entry = entry.as_document().ok_or_else(|| corrupt("a log entry"))?;
    let kind = known(EntryKind::from_code(code(entry, "kind")?), "a kind of log entry")?;
    let body = match entry.has("body") {
        true => entry.payload("body")?,
        false => Payload::null(),
    };
    let new = NewEntry::with_id(EntryId::from_uuid(entry.id("id")?), kind, body);
    Ok(LogEntry::stored(new, Seq(seq), entry.time("at")?))
}

/// Reads a document into a job as users see it.
pub(crate) fn read_job(document: &Document, log: LogRead) -> Result<Job, Error> {
    let stored = read(document, skipped(log))?;
    Ok(stored.row.into_job(stored.log))
}
