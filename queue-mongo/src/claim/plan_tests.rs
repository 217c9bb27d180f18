//! How many keys and documents the server reads for a claim, whatever else is in the collection.

use std::{num::NonZeroU32, time::Duration};

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use queue_core::{
    ClaimRequest, Clock, Held, Job, JobPatch, JobStore, JobUpdate, Kinds, Lane, NewJob, Order,
    Outcome, Payload, QueueName, Queues, Row, Timestamp, Transition, When,
};

use super::{Seen, Wanted};
use crate::{MongoOptions, MongoStore, codec, codec::Read as _, connect::JOBS};

const LIMIT: u32 = 10;

/// How many jobs of each sort there are.
struct Sizes {
    /// In ten queues, due and not.
    ready: usize,
    future: usize,
    finished: usize,
    /// Queues with one job each.
    queues: usize,
    /// At the head of the queue `head`, of a kind that no request names.
    unknown: usize,
    /// Lanes that are full, each with `behind` jobs at the head of the queue `lanes`.
    lanes: usize,
    behind: usize,
}

const SMALL: Sizes = Sizes {
    ready: 6_000,
    future: 3_000,
    finished: 3_000,
    queues: 1_000,
    unknown: 3_000,
    lanes: 100,
    behind: 20,
};

const LARGE: Sizes = Sizes {
    ready: 1_000_000,
    future: 1_000_000,
    finished: 1_000_000,
    queues: 10_000,
    unknown: 100_000,
    lanes: 1_000,
    behind: 10,
};

struct Filled {
    store: MongoStore,
    now: Timestamp,
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn job(name: &str, kind: &'static str) -> NewJob {
    let mut job = NewJob::new(kind, Payload::null());
    job.queue = queue(name);
    job
}

impl Filled {
    async fn empty() -> Filled {
        let url = std::env::var("QUEUE_MONGO_URL").expect(
            "QUEUE_MONGO_URL is not set: run ./scripts/test, which starts the servers, or name a MongoDB there",
        );
        let name = format!("queue_plan_{}", queue_core::Uuid::now_v7().simple());
        let now = Timestamp::from_micros(1_800_000_000_000_000).unwrap();
        let options = MongoOptions::from_url(&url).unwrap().database(name);
        Filled { store: options.clock(Clock::manual(now)).open().await.unwrap(), now }
    }

    async fn with(sizes: &Sizes) -> Filled {
        let filled = Filled::empty().await;
        let ready = |n: usize| {
            let mut job =
                job(&format!("q{}", n % 10), if n.is_multiple_of(3) { "mail" } else { "resize" });
            job.priority = (n % 7 % 3) as i16;
            job.when = When::At(filled.now.minus(Duration::from_millis(1 + n as u64)));
            job
        };
        filled.put(sizes.ready, ready, |_| {}).await;
        let future = |n: usize| {
            let mut job = ready(n);
            // All of the highest priority, where FIFO begins.
            job.priority = 2;
            job.when = When::At(filled.now.plus(Duration::from_secs(3_600 + n as u64)));
            job
        };
        filled.put(sizes.future, future, |_| {}).await;
        let finished = |document: &mut Document| {
            document.insert("state", 2);
            document.insert("finished_at", filled.now.as_micros());
        };
        filled.put(sizes.finished, ready, finished).await;
        filled.put(sizes.queues, |n| job(&format!("one-{n}"), "mail"), |_| {}).await;
        let unknown = |n: usize| {
            let mut job = job("head", "unknown");
            job.priority = 5;
            job.when = When::At(filled.now.minus(Duration::from_secs(1 + n as u64)));
            job
        };
        filled.put(sizes.unknown, unknown, |_| {}).await;
        filled.put(50, |_| job("head", "mail"), |_| {}).await;
        filled.lanes(sizes).await;
        filled
    }

    /// Fills lanes by a claim, and puts jobs behind them, before those that are in no lane.
    async fn lanes(&self, sizes: &Sizes) {
        let laned = |n: usize| {
            let mut job = job("lanes", "mail");
            job.priority = 1;
            job.lane = Some(Lane::new(format!("lane-{}", n % sizes.lanes)));
            job
        };
        self.put(sizes.lanes, laned, |_| {}).await;
        let lanes = u32::try_from(sizes.lanes).unwrap();
        let mut all = request(Queues::from(queue("lanes")), Order::Fifo);
        all.limit = NonZeroU32::new(lanes).unwrap();
        assert_eq!(self.store.claim(&all).await.unwrap().jobs.len(), sizes.lanes);
        self.put(sizes.lanes * sizes.behind, laned, |_| {}).await;
        self.put(50, |_| job("lanes", "mail"), |_| {}).await;
    }

    /// Inserts documents as the store does, without waiting for each of them.
    async fn put(
        &self,
        count: usize,
        make: impl Fn(usize) -> NewJob,
        change: impl Fn(&mut Document),
    ) {
        let jobs = self.store.database().collection::<Document>(JOBS);
        for from in (0..count).step_by(5_000) {
            let documents = (from..count.min(from + 5_000)).map(|n| {
                let mut document = codec::new_document(&Row::new(&make(n), self.now));
                change(&mut document);
                document
            });
            jobs.insert_many(documents).ordered(false).await.unwrap();
        }
    }

    /// Everything that the server reads for a pipeline on the jobs, by its own account.
    async fn explained(&self, pipeline: Vec<Document>) -> (i64, i64) {
        let explain = doc! {
            "explain": { "aggregate": JOBS, "pipeline": pipeline, "cursor": {} },
            "verbosity": "executionStats",
        };
        let explained = self.store.database().run_command(explain).await.unwrap();
        (sum(&explained, "totalKeysExamined"), sum(&explained, "totalDocsExamined"))
    }

    /// What a whole claim reads, by the server's profiler.
    async fn profiled(&self, request: &ClaimRequest) -> (usize, i64, i64) {
        let (claimed, keys, documents) = self.read_by(self.store.claim(request)).await;
        (claimed.jobs.len(), keys, documents)
    }

    /// How many keys and documents a call of the store reads, by the server's profiler.
    async fn read_by<T>(&self, call: impl Future<Output = queue_core::Result<T>>) -> (T, i64, i64) {
        let database = self.store.database();
        let profile = |level: i32| database.run_command(doc! { "profile": level });
        let profiled = database.collection::<Document>("system.profile");
        profile(0).await.unwrap();
        profiled.drop().await.unwrap();
        profile(2).await.unwrap();
        let answer = call.await.unwrap();
        profile(0).await.unwrap();
        let entries = profiled.find(doc! { "keysExamined": { "$exists": true } }).await.unwrap();
        let entries: Vec<Document> = entries.try_collect().await.unwrap();
        assert!(!entries.is_empty(), "the profiler saw nothing");
        let total = |key: &str| entries.iter().map(|entry| entry.int(key).unwrap_or(0)).sum();
        (answer, total("keysExamined"), total("docsExamined"))
    }

    async fn drop(self) {
        self.store.database().drop().await.unwrap();
    }
}

/// The sum over the pipeline and those within it. An explanation tells of a cursor in up to two ways: the totals count
/// once a cursor.
fn sum(explained: &Document, key: &str) -> i64 {
    let in_value = |value: &Bson| match value {
        Bson::Document(inner) => sum(inner, key),
        Bson::Array(list) => list.iter().filter_map(Bson::as_document).map(|d| sum(d, key)).sum(),
        _ => 0,
    };
    let here = explained.int(key).unwrap_or(0);
    let within = explained.iter().filter(|(name, _)| {
        // The stages below a total are in it.
        !explained.contains_key(key) || name.as_str() != "executionStages"
    });
    here + within.map(|(_, value)| in_value(value)).sum::<i64>()
}

fn request(queues: Queues, order: Order) -> ClaimRequest {
    let limit = NonZeroU32::new(LIMIT).unwrap();
    let mut request = ClaimRequest::new(queues, "tester", limit, Duration::from_secs(60));
    request.kinds = Kinds::Only(vec!["mail".into(), "resize".into()]);
    request.order = order;
    request
}

/// Each shape of claim, with the number of its ranges: one per queue and kind that it names and per priority.
fn shapes() -> Vec<(&'static str, ClaimRequest, i64)> {
    let one = || Queues::from(queue("q1"));
    let three = || Queues::Only(vec![queue("q1"), queue("q2"), queue("q3")]);
    let mut every_kind = request(one(), Order::Fifo);
    every_kind.kinds = Kinds::All;
    let mut shapes = vec![("one queue, every kind", every_kind, 6)];
    for order in [Order::Fifo, Order::Lifo] {
        shapes.push(("one queue", request(one(), order), 6));
        shapes.push(("three queues", request(three(), order), 18));
        shapes.push(("all queues", request(Queues::All, order), 6));
        shapes.push(("unknown head", request(Queues::from(queue("head")), order), 4));
    }
    shapes
}

fn most(ranges: i64) -> i64 {
    10 * (i64::from(LIMIT) + ranges)
}

#[tokio::test]
async fn a_look_reads_little_more_than_it_finds_whatever_waits_besides() {
    let filled = Filled::with(&SMALL).await;
    let mut misses = Vec::new();
    for (name, request, ranges) in shapes() {
        let seen = Seen::default();
        seen.add(["mail", "resize"]);
        let wanted = Wanted::new(&request, &seen, filled.now);
        let pipeline = match request.order {
            Order::Fifo => wanted.fifo(LIMIT as usize),
            Order::Lifo => wanted.lifo(&[5, 2, 1, 0], LIMIT as usize),
        };
        let next_due = wanted.ranges.singles().into_iter().map(|range| wanted.earliest(range));
        for (look, pipeline) in [("look", pipeline), ("next due", super::wanted::union(next_due))] {
            let (keys, documents) = filled.explained(pipeline).await;
            if keys > most(ranges) || documents > most(ranges) {
                misses.push(format!(
                    "{name}, {:?}, {look}: {keys} keys, {documents} documents",
                    request.order
                ));
            }
        }
    }
    filled.drop().await;
    assert!(misses.is_empty(), "{misses:#?}");
}

#[tokio::test]
async fn a_claim_reads_little_more_than_it_takes_whatever_waits_besides() {
    let filled = Filled::with(&SMALL).await;
    let mut misses = Vec::new();
    for (name, request, ranges) in shapes() {
        let (taken, keys, documents) = filled.profiled(&request).await;
        assert_eq!(taken, LIMIT as usize, "{name}");
        // Beside the look there are the writes and the final reading, of one key and document each.
        if keys > most(ranges) || documents > most(ranges) {
            misses.push(format!("{name}, {:?}: {keys} keys, {documents} documents", request.order));
        }
    }
    filled.drop().await;
    assert!(misses.is_empty(), "{misses:#?}");
}

#[tokio::test]
async fn a_heartbeat_and_a_settle_read_what_they_write_and_no_more() {
    let filled = Filled::with(&SMALL).await;
    let request = request(Queues::from(queue("q1")), Order::Fifo);
    let jobs = filled.store.claim(&request).await.unwrap().jobs;
    let held: Vec<Held> = jobs.iter().map(|job| Held::new(job.id, job.fence)).collect();
    let beat = filled.store.heartbeat(&held, Duration::from_secs(60));
    let (renewed, keys, documents) = filled.read_by(beat).await;
    let complete = |job: &Job| {
        let complete = Transition::Complete { output: None };
        JobUpdate::held(job.id, job.fence, JobPatch::transition(complete))
    };
    let updates: Vec<JobUpdate> = jobs.iter().map(complete).collect();
    let settle = filled.store.update_jobs(&updates);
    let (settled, settle_keys, settle_documents) = filled.read_by(settle).await;
    filled.drop().await;
    assert_eq!(renewed.len(), LIMIT as usize);
    assert!(renewed.iter().chain(&settled).all(Outcome::is_saved));
    let limit = i64::from(LIMIT);
    assert_eq!((keys, documents, settle_keys, settle_documents), (limit, limit, limit, limit));
}

#[tokio::test]
async fn jobs_behind_full_lanes_are_read_past_once_and_then_no_more() {
    let filled = Filled::with(&SMALL).await;
    let lanes = request(Queues::from(queue("lanes")), Order::Fifo);
    let first = filled.profiled(&lanes).await;
    let second = filled.profiled(&request(Queues::from(queue("lanes")), Order::Fifo)).await;
    filled.drop().await;
    assert_eq!(first.0, LIMIT as usize);
    assert!(first.1 > most(2), "the head was there: {first:?}");
    assert_eq!(second.0, LIMIT as usize);
    assert!(second.1 <= most(2) && second.2 <= most(2), "{second:?}");
}

/// Takes minutes: run it by name, with `--ignored --nocapture`, when a plan may have changed.
#[tokio::test]
#[allow(clippy::print_stdout)] // the figures are what it is for
#[ignore = "fills a collection with 3.1 million jobs"]
async fn the_same_holds_for_millions_of_jobs() {
    let few =
        Sizes { ready: 3_000, future: 0, finished: 0, queues: 10, unknown: 0, lanes: 1, behind: 0 };
    let (empty, full) = (Filled::with(&few).await, Filled::with(&LARGE).await);
    let mut shapes = shapes();
    for order in [Order::Fifo, Order::Lifo] {
        shapes.push(("full lanes", request(Queues::from(queue("lanes")), order), 2));
    }
    let started = std::time::Instant::now();
    let first = full.store.claim(&request(Queues::from(queue("lanes")), Order::Fifo)).await;
    println!("the claim that parks {} jobs: {:?}", first.unwrap().jobs.len(), started.elapsed());
    let mut misses = Vec::new();
    for (name, request, ranges) in shapes {
        let (taken, keys, documents) = full.profiled(&request).await;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..31 {
            for (filled, times) in [&empty, &full].into_iter().zip(&mut times) {
                let mut request = request.clone();
                request.token = queue_core::Uuid::now_v7();
                let started = std::time::Instant::now();
                let claimed = filled.store.claim(&request).await.unwrap();
                times.push(started.elapsed().as_secs_f64() * 1_000.0);
                // Back to where they were, so that every claim finds the same.
                let ids: Vec<Bson> =
                    claimed.jobs.iter().map(|job| codec::job_id(&job.id)).collect();
                let back = doc! {
                    "$set": { "state": 0 }, "$unset": { "nonce": "", "slot_lane": "", "slot": "" },
                };
                let jobs = filled.store.database().collection::<Document>(JOBS);
                jobs.update_many(doc! { "_id": { "$in": ids } }, back).await.unwrap();
            }
        }
        let median = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{name}, {:?}: took {taken}, {keys} keys, {documents} documents, {:.2} ms (empty {:.2} ms)",
            request.order, median[1], median[0],
        );
        if keys > most(ranges) || documents > most(ranges) {
            misses.push(format!("{name}, {:?}", request.order));
        }
    }
    empty.drop().await;
    full.drop().await;
    assert!(misses.is_empty(), "{misses:#?}");
}
