//! Read, judge by the rules of core, write back unless the document has moved on.

use std::collections::HashMap;

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use queue_core::{JobId, Result};

use crate::{
    batch::Statement,
    change::Change,
    codec::{self, Stored},
    connect::Db,
    error::{Call, from_driver},
};

/// How often a change is tried again because others were faster, before it is given up.
pub(crate) const ROUNDS: usize = 200;

/// Reads jobs narrowly, with the ids of their log.
///
/// As a majority has them: what is answered on that ground is not taken back. A refused write of this crate has waited
/// until everything before it was acknowledged, so that its reason is seen here.
pub(crate) async fn load(db: &Db, ids: &[JobId]) -> Result<HashMap<JobId, Stored>> {
    let ids: Vec<_> = ids.iter().map(codec::job_id).collect();
    let failed = |error| from_driver(Call::Read, error);
    let wanted = db.settled_jobs.find(doc! { "_id": { "$in": ids } });
    let mut found = wanted.projection(codec::narrow()).await.map_err(failed)?;
    let mut loaded = HashMap::new();
    while let Some(document) = found.try_next().await.map_err(failed)? {
        let stored = codec::read(&document, 0)?;
        loaded.insert(stored.row.id, stored);
    }
    Ok(loaded)
}

/// Matches the document as it was read, and no later state of it.
pub(crate) fn unmoved(stored: &Stored) -> Document {
    doc! { "_id": codec::job_id(&stored.row.id), "rev": stored.rev }
}

/// The change as a statement that is made only if the document has not moved on.
pub(crate) fn guarded(stored: &Stored, change: Change, bytes: usize) -> Statement {
    Statement { filter: unmoved(stored), update: change.into_update(), bytes }
}
