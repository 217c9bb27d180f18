//! How many keys and documents the server reads for a claim.

use std::{num::NonZeroU32, time::Duration};

use mongodb::bson::{Document, doc};
use queue_core::{
    ClaimRequest, Clock, JobStore, NewJob, Order, Payload, QueueName, Queues, Timestamp, When,
};

use super::look::Wanted;
use crate::{MongoOptions, MongoStore, codec::Read as _, connect::JOBS};

const JOBS_OF_A_QUEUE: usize = 400;

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

async fn filled(now: Timestamp) -> MongoStore {
    let url = std::env::var("QUEUE_MONGO_URL").expect(
        "QUEUE_MONGO_URL is not set: run ./scripts/test, which starts the servers, or name a MongoDB there",
    );
    let name = format!("queue_plan_{}", queue_core::Uuid::now_v7().simple());
    let options = MongoOptions::from_url(&url).unwrap().database(name).clock(Clock::manual(now));
    let store = options.open().await.unwrap();
    for name in ["a", "b", "c", "d"] {
        let jobs: Vec<NewJob> = (0..JOBS_OF_A_QUEUE)
            .map(|n| {
                let mut job = NewJob::new("task", Payload::null());
                job.queue = queue(name);
                job.priority = (n % 3) as i16;
                // More than half, and all of the highest priority.
                if n % 2 == 0 || n % 3 == 2 {
                    job.when = When::After(Duration::from_secs(3_600));
                }
                job
            })
            .collect();
        store.insert(&jobs).await.unwrap();
    }
    store
}

/// The sum of what every stage that knows has examined.
fn examined(explained: &Document, key: &str) -> i64 {
    let here = explained.get_document("executionStats").ok();
    let nested = explained.get_array("stages").ok().and_then(|stages| {
        let cursor = stages.first()?.as_document()?.get_document("$cursor").ok()?;
        cursor.get_document("executionStats").ok()
    });
    here.or(nested).expect("an explanation has statistics").int(key).unwrap()
}

#[tokio::test]
async fn a_claim_reads_little_more_than_it_takes_whatever_waits_besides() {
    let now = Timestamp::from_micros(1_800_000_000_000_000).unwrap();
    let store = filled(now).await;
    let few = Queues::Only(vec![queue("a"), queue("b"), queue("c")]);
    let mut misses = Vec::new();
    for (queues, order, ranges) in [
        (Queues::from(queue("b")), Order::Fifo, 3),
        (few, Order::Fifo, 9),
        (Queues::All, Order::Fifo, 3),
        (Queues::All, Order::Lifo, 3),
    ] {
        let limit = NonZeroU32::new(10).unwrap();
        let mut request = ClaimRequest::new(queues, "tester", limit, Duration::from_secs(60));
        request.order = order;
        let pipeline = Wanted::new(&request, now).candidates(10);
        let explain = doc! {
            "explain": { "aggregate": JOBS, "pipeline": pipeline, "cursor": {} },
            "verbosity": "executionStats",
        };
        let explained = store.database().run_command(explain).await.unwrap();
        let most = 10 * (10 + ranges);
        for key in ["totalKeysExamined", "totalDocsExamined"] {
            let read = examined(&explained, key);
            if read > most {
                misses.push(format!("{:?} {order:?}: {key} is {read}", request.queues));
            }
        }
    }
    store.database().drop().await.unwrap();
    assert!(misses.is_empty(), "{misses:#?}");
}
