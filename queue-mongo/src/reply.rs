//! What the server answers to a command with many statements.

use std::sync::atomic::Ordering;

use mongodb::bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use queue_core::Result;

use crate::{
    codec::Read as _,
    connect::{Db, JOBS},
    error::{
        Call, DUPLICATE, corrupt, from_concern, from_driver, from_statement, is_write_conflict,
    },
};

/// How often a command is sent that the server gives up because of another writer.
const ATTEMPTS: usize = 20;

/// One statement that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) index: usize,
    pub(crate) code: i32,
    pub(crate) message: String,
    /// For a duplicate: the field of the index.
    pub(crate) key: Option<String>,
}

/// Ends the command after so long, so that a document which another transaction has written does not hold up the rest.
pub(crate) fn bound(command: &mut Document, limit: std::time::Duration) {
    let millis = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1);
    command.insert("maxTimeMS", millis);
}

/// Runs a writing command and gives the statements that failed.
pub(crate) async fn run(db: &Db, mut command: Document) -> Result<Vec<Failed>> {
    command.insert("ordered", false);
    match send(db, command).await {
        Ok(reply) => read(&RawDocumentBuf::try_from(&reply).map_err(corrupt)?),
        // The server cuts long keys in its messages between two bytes of a character; the driver refuses the whole reply
        // then, and hands it over.
        Err(error) => match error.server_response().map(|reply| reply.as_ref()) {
            Some(reply) if is_done(reply) => read(reply),
            _ => Err(from_driver(Call::Write, error)),
        },
    }
}

/// Runs a pipeline that ends by inserting one document. What it met there, if that was taken.
pub(crate) async fn merge(db: &Db, pipeline: Document) -> Result<Option<Failed>> {
    let error = match send(db, pipeline).await {
        Ok(reply) => {
            db.writes.fetch_add(1, Ordering::Relaxed);
            let failed = read(&RawDocumentBuf::try_from(&reply).map_err(corrupt)?)?;
            return Ok(failed.into_iter().next());
        }
        Err(error) => error,
    };
    match error.server_response().map(|reply| reply.as_ref()) {
        Some(reply) if reply.get_i32("code").is_ok_and(|code| code == DUPLICATE) => {
            read_failed(reply).map(Some)
        }
        _ => Err(from_driver(Call::Write, error)),
    }
}

/// Sends a writing command until it is not given up because of another writer.
async fn send(db: &Db, mut command: Document) -> Result<Document, mongodb::error::Error> {
    command.insert("writeConcern", doc! { "w": "majority", "j": true });
    let mut attempt = 0;
    loop {
        attempt += 1;
        match db.database.run_command(command.clone()).await {
            Err(error) if is_write_conflict(&error) && attempt < ATTEMPTS => pause(attempt).await,
            sent => return sent,
        }
    }
}

/// Deletes by guarded statements, at most as many as there are in one committer's batch. How many were deleted.
pub(crate) async fn delete(db: &Db, deletes: Vec<Document>) -> Result<u64> {
    let mut deleted = 0;
    for deletes in deletes.chunks(1_000) {
        let mut attempt = 0;
        deleted += loop {
            attempt += 1;
            let command = doc! {
                "delete": JOBS, "deletes": deletes.to_vec(), "ordered": false,
                "writeConcern": { "w": "majority", "j": true },
            };
            match db.database.run_command(command).await {
                Ok(reply) => {
                    let raw = RawDocumentBuf::try_from(&reply).map_err(corrupt)?;
                    if let Some(error) = read(&raw)?.first() {
                        return Err(from_statement(error.code, &error.message));
                    }
                    break reply.count::<u64>("n")?;
                }
                Err(error) if is_write_conflict(&error) && attempt < ATTEMPTS => {
                    pause(attempt).await;
                }
                Err(error) => return Err(from_driver(Call::Write, error)),
            }
        };
    }
    Ok(deleted)
}

fn is_done(reply: &RawDocument) -> bool {
    matches!(reply.get("ok"), Ok(Some(RawBsonRef::Double(1.0))))
}

fn read(reply: &RawDocument) -> Result<Vec<Failed>> {
    if let Ok(concern) = reply.get_document("writeConcernError") {
        return Err(from_concern(concern.get_i32("code").unwrap_or(0), &message(concern)));
    }
    let mut failed = Vec::new();
    let Ok(errors) = reply.get_array("writeErrors") else { return Ok(failed) };
    for error in errors {
        let error = error.map_err(corrupt)?;
        let error = error.as_document().ok_or_else(|| corrupt("a write error"))?;
        failed.push(read_failed(error)?);
    }
    Ok(failed)
}

/// One statement of many, or a command that is one.
fn read_failed(error: &RawDocument) -> Result<Failed> {
    let index = error.get_i32("index").unwrap_or(0);
    let pattern = error.get_document("keyPattern").ok();
    let key = pattern.and_then(|pattern| pattern.iter().next()?.ok());
    Ok(Failed {
        index: usize::try_from(index).map_err(corrupt)?,
        code: error.get_i32("code").map_err(corrupt)?,
        message: message(error),
        key: key.map(|(name, _)| name.to_string()),
    })
}

fn message(of: &RawDocument) -> String {
    of.get_str("errmsg").unwrap_or_default().to_owned()
}

/// Lets other writers go first, longer each time.
pub(crate) async fn pause(attempt: usize) {
    let most = 200_u64 << attempt.min(7);
    // The random bits of a fresh UUID are jitter enough.
    let jitter = u64::from(queue_core::Uuid::now_v7().as_bytes()[15]);
    let wait = most * (128 + jitter / 2) / 256;
    tokio::time::sleep(std::time::Duration::from_micros(wait)).await;
}
