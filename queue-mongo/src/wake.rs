//! Wake-ups from a change stream.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mongodb::{
    bson::{Document, doc},
    change_stream::ChangeStream,
};
use queue_core::{QueueName, Wakeup};

use crate::{
    codec::Read as _,
    connect::{Db, JOBS, RECORDS},
};

/// How long the stream waits before it asks again after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// What may make a job claimable: a new job, one that waits again or earlier, a lane that is freed, a record.
fn events() -> [Document; 2] {
    [
        doc! { "$match": {
            "ns.coll": { "$in": [JOBS, RECORDS] },
            "$or": [
                { "operationType": { "$in": ["insert", "delete"] } },
                { "ns.coll": RECORDS },
                { "updateDescription.updatedFields.state": 0 },
                { "updateDescription.updatedFields.run_at": { "$exists": true } },
                { "updateDescription.updatedFields.queue": { "$exists": true } },
                { "updateDescription.removedFields": "slot_lane" },
                { "updateDescription.updatedFields.freed": { "$exists": true } },
            ],
        } },
        doc! { "$project": { "_id": 1, "fullDocument.queue": 1 } },
    ]
}

/// Hints, as long as they are listened to. A new connection begins with "anywhere": what happened before it is unknown.
pub(crate) fn wakeups(db: Arc<Db>) -> BoxStream<'static, Wakeup> {
    let state: Option<ChangeStream<Document>> = None;
    stream::unfold((db, state), |(db, mut open)| async move {
        loop {
            if let Some(events) = &mut open {
                match events.try_next().await {
                    Ok(Some(event)) => return Some((read(&event), (db, open))),
                    Ok(None) => open = None,
                    Err(error) => {
                        tracing::debug!(%error, "the change stream broke off");
                        open = None;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
            match db.database.watch().pipeline(events()).await {
                Ok(stream) => {
                    return Some((Wakeup::anywhere(), (db, Some(stream.with_type()))));
                }
                Err(error) => tracing::debug!(%error, "no change stream to be had"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .boxed()
}

fn read(event: &Document) -> Wakeup {
    let queue = event.get_document("fullDocument").ok();
    let queue = queue.and_then(|job| job.text("queue").ok());
    match queue.map(QueueName::new) {
        Some(Ok(queue)) => Wakeup::queue(queue),
        _ => Wakeup::anywhere(),
    }
}
