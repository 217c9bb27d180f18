//! The measurements behind the decisions; see docs/decisions/0004-mongodb.md. They assert nothing about time.
#![allow(clippy::print_stdout)] // the figures are what they are for

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
    options::{CollectionOptions, ReturnDocument},
};
use queue_core::{Clock, NewJob, Payload, Row, Timestamp, Uuid};

use crate::{MongoOptions, MongoStore, codec, connect::durable};

const ROUNDS: usize = 7;
const APPENDERS: usize = 20;
/// What each appender appends in a round.
const ENTRIES: usize = 40;
const LENGTH: usize = 200;

async fn open() -> MongoStore {
    let url = std::env::var("QUEUE_MONGO_URL").expect("QUEUE_MONGO_URL names a replica set");
    let name = format!("queue_measure_{}", Uuid::now_v7().simple());
    let options = MongoOptions::from_url(&url).unwrap().database(name);
    options.clock(Clock::system()).open().await.unwrap()
}

fn collection(store: &MongoStore, name: &str) -> Collection<Document> {
    let durable = CollectionOptions::builder().write_concern(durable()).build();
    store.database().collection_with_options(name, durable)
}

fn entry(body: &str) -> Bson {
    doc! { "id": codec::uuid(&Uuid::now_v7()), "kind": 0, "at": 1_i64, "body": body }.into()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Append {
    /// Guarded by the ids of the entries.
    Push,
    /// Concatenates what is missing.
    Pipeline,
    /// Positions from the job, then documents of their own: two writes, which a crash may part.
    Documents,
}

impl Append {
    async fn run(self, jobs: &Collection<Document>, log: &Collection<Document>, new: Vec<Bson>) {
        let held = doc! { "_id": 1, "state": 1, "fence": 1_i64, "nonce": 7, "cancel": Bson::Null };
        let count = i64::try_from(new.len()).unwrap();
        match self {
            Append::Push => {
                let ids: Vec<Bson> = new
                    .iter()
                    .map(|e| e.as_document().unwrap().get("id").unwrap().clone())
                    .collect();
                let mut filter = held;
                filter.insert("log.id", doc! { "$nin": ids });
                let update = doc! {
                    "$inc": { "rev": 1_i64, "log_len": count }, "$push": { "log": { "$each": new } },
                };
                assert_eq!(jobs.update_one(filter, update).await.unwrap().matched_count, 1);
            }
            Append::Pipeline => {
                let missing = doc! { "$filter": {
                    "input": { "$literal": new },
                    "cond": { "$not": { "$in": ["$$this.id", "$log.id"] } },
                } };
                let steps = vec![
                    doc! { "$set": { "log": { "$concatArrays": ["$log", missing] } } },
                    doc! { "$set": {
                        "rev": { "$add": ["$rev", 1] }, "log_len": { "$size": "$log" },
                    } },
                ];
                assert_eq!(jobs.update_one(held, steps).await.unwrap().matched_count, 1);
            }
            Append::Documents => {
                let update = doc! { "$inc": { "rev": 1_i64, "log_len": count } };
                let job = jobs.find_one_and_update(held, update).projection(doc! { "log_len": 1 });
                let job = job.return_document(ReturnDocument::Before).await.unwrap().unwrap();
                let first = job.get_i64("log_len").unwrap();
                let documents = new.into_iter().zip(first..).map(|(entry, seq)| {
                    let mut entry = entry.as_document().unwrap().clone();
                    let id = entry.remove("id");
                    entry.insert("_id", doc! { "job": 1, "id": id });
                    entry.insert("seq", seq);
                    entry
                });
                log.insert_many(documents).ordered(false).await.unwrap();
            }
        }
    }
}

/// Appends a second, by 20 appenders to one job of 200 entries.
async fn appended(store: &MongoStore, append: Append, each: usize) -> f64 {
    let (jobs, log) = (collection(store, "appended"), collection(store, "entries"));
    jobs.drop().await.unwrap();
    log.drop().await.unwrap();
    let body = "x".repeat(100);
    let entries = (0..LENGTH).map(|_| entry(&body)).collect::<Vec<_>>();
    let mut job = doc! {
        "_id": 1, "state": 1, "fence": 1_i64, "nonce": 7, "rev": 0_i64, "log_len": LENGTH as i64,
    };
    if append != Append::Documents {
        job.insert("log", entries);
    }
    jobs.insert_one(job).await.unwrap();
    let barrier = Arc::new(tokio::sync::Barrier::new(APPENDERS + 1));
    let appenders: Vec<_> = (0..APPENDERS)
        .map(|_| {
            let (jobs, log, barrier) = (jobs.clone(), log.clone(), barrier.clone());
            let body = body.clone();
            tokio::spawn(async move {
                barrier.wait().await;
                for _ in 0..ENTRIES / each {
                    let new = (0..each).map(|_| entry(&body)).collect();
                    append.run(&jobs, &log, new).await;
                }
            })
        })
        .collect();
    barrier.wait().await;
    let started = Instant::now();
    for appender in appenders {
        appender.await.unwrap();
    }
    (APPENDERS * ENTRIES) as f64 / started.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn appends() {
    let store = open().await;
    for each in [1, 20] {
        let mut figures = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (append, figures) in
                [Append::Push, Append::Pipeline, Append::Documents].into_iter().zip(&mut figures)
            {
                figures.push(appended(&store, append, each).await);
            }
        }
        let [push, pipeline, documents] = figures.map(median);
        println!(
            "{each} at a time, entries a second: push {push:.0}, pipeline {pipeline:.0}, documents {documents:.0}"
        );
    }
    store.database().drop().await.unwrap();
}

#[tokio::test]
#[ignore = "a measurement"]
async fn stamps() {
    let store = open().await;
    let jobs = || -> Vec<Document> {
        let row = || Row::new(&NewJob::new("task", Payload::null()), Timestamp::EPOCH);
        (0..1_000).map(|_| codec::new_document(&row())).collect()
    };
    let run = async |command: Document| {
        let mut command = command;
        command.insert("ordered", false);
        command.insert("writeConcern", doc! { "w": "majority", "j": true });
        let started = Instant::now();
        store.database().run_command(command).await.unwrap();
        started.elapsed()
    };
    for size in [1, 1_000] {
        let (mut plain, mut stamped) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS * if size == 1 { 20 } else { 1 } {
            let documents = jobs()[..size].to_vec();
            plain.push(run(doc! { "insert": "jobs", "documents": documents }).await);
            let updates = jobs().into_iter().take(size).map(|mut rest| {
                let id = rest.remove("_id");
                let now = doc! { "$multiply": [{ "$toLong": "$$NOW" }, 1_000_i64] };
                let stamps = doc! { "created_at": now.clone(), "run_at": now };
                let new = doc! { "$mergeObjects": [{ "$literal": rest }, "$$ROOT", stamps] };
                doc! { "q": { "_id": id }, "u": [{ "$replaceWith": new }], "upsert": true }
            });
            let updates: Vec<Document> = updates.collect();
            stamped.push(run(doc! { "update": "jobs", "updates": updates }).await);
        }
        let rate = |times: Vec<Duration>| {
            size as f64 / median(times.iter().map(Duration::as_secs_f64).collect())
        };
        println!(
            "{size} at a time, inserts a second: measured clock {:.0}, $$NOW in an upsert {:.0}",
            rate(plain),
            rate(stamped)
        );
    }
    store.database().drop().await.unwrap();
}
