//! Rows as they are stored, and the values that are stored as JSON as they are.

use std::{borrow::Cow, collections::BTreeMap};

use queue_core::{
    Control, Job, JobId, LogEntry, LogRead, NewJob, Payload, Progress, QueueName, Row, Timestamp,
};
use redb::{Error, ReadableTable};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::tables::View;

/// A row without its id, which is the key, and its input, which has a table of its own.
#[derive(Serialize, Deserialize)]
struct Document {
    queue: QueueName,
    kind: Cow<'static, str>,
    priority: i16,
    labels: BTreeMap<String, String>,
    created_at: Timestamp,
    progress: Option<Progress>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    output: Option<Payload>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    error: Option<Payload>,
    control: Control,
}

/// Tells an output of JSON `null` from none: what is there is `Some`, whatever it is.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(from).map(Some)
}

impl Document {
    fn of(row: &Row) -> Self {
        Document {
            queue: row.queue.clone(),
            kind: row.kind.clone(),
            priority: row.priority,
            labels: row.labels.clone(),
            created_at: row.created_at,
            progress: row.progress.clone(),
            output: row.output.clone(),
            error: row.error.clone(),
            control: row.control.clone(),
        }
    }

    /// The row, with `null` for its input.
    fn into_row(self, id: JobId) -> Row {
        // A row can only be made from a job that is inserted; all of it is then said anew.
        let mut row = Row::new(&NewJob::new(self.kind, Payload::null()), self.created_at);
        row.id = id;
        row.queue = self.queue;
        row.priority = self.priority;
        row.labels = self.labels;
        row.progress = self.progress;
        row.output = self.output;
        row.error = self.error;
        row.control = self.control;
        row
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Corrupted(error.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Corrupted(error.to_string()))
}

pub(crate) fn encode_row(row: &Row) -> Result<Vec<u8>, Error> {
    encode(&Document::of(row))
}

/// Reads the row of a job, with `null` for its input.
pub(crate) fn row(view: &impl View, id: Uuid) -> Result<Option<Row>, Error> {
    let Some(bytes) = view.jobs().get(id)? else { return Ok(None) };
    let document: Document = decode(bytes.value())?;
    Ok(Some(document.into_row(JobId::from_uuid(id))))
}

/// Reads the row of a job that an index names.
pub(crate) fn indexed_row(view: &impl View, id: Uuid) -> Result<Row, Error> {
    row(view, id)?
        .ok_or_else(|| Error::Corrupted(format!("an index names {id}, which is not there")))
}

/// The job as users read it: the row with its input, and what they want of its log.
pub(crate) fn job(view: &impl View, mut row: Row, log: LogRead) -> Result<Job, Error> {
    let id = *row.id.as_uuid();
    let input = view.inputs().get(id)?;
    let input = input.ok_or_else(|| Error::Corrupted(format!("job {id} has no input")))?;
    row.input =
        Payload::from_text(input.value()).map_err(|error| Error::Corrupted(error.to_string()))?;
    let entries = entries(view, id, log)?;
    Ok(row.into_job(entries))
}

fn entries(view: &impl View, id: Uuid, log: LogRead) -> Result<Vec<LogEntry>, Error> {
    let Some(after) = log.after() else { return Ok(Vec::new()) };
    let Some(first) = after.0.checked_add(1) else { return Ok(Vec::new()) };
    let range = view.log().range((id, first)..=(id, u64::MAX))?;
    range.map(|entry| decode(entry?.1.value())).collect()
}
