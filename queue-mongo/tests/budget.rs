//! How many commands a job costs, by the driver's own log of commands.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    ClaimRequest, Clock, EntryKind, Held, Job, JobPatch, JobStore, JobUpdate, Keep, Kinds, Lane,
    NewEntry, NewJob, Order, Payload, Queues, Transition, Unique,
};
use queue_mongo::{
    MongoStore,
    mongodb::bson::{Document, doc},
};
use server::{Scratch, Server};

mod server;

const BATCH: u32 = 100;

async fn open() -> (MongoStore, Scratch) {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    // The first call measures the server's clock; the next does so half a minute later.
    store.ping().await.unwrap();
    (store, scratch)
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    let mut request =
        ClaimRequest::new(Queues::default(), "tester", limit, Duration::from_secs(60));
    request.kinds = Kinds::Only(vec!["task".into(), "other".into()]);
    request
}

fn plain() -> NewJob {
    NewJob::new("task", Payload::null())
}

fn settle(job: &Job) -> JobUpdate {
    let entry = NewEntry::new(EntryKind::Step, Payload::null());
    let complete = Transition::Complete { output: Some(Payload::null()) };
    JobUpdate::held(job.id, job.fence, JobPatch::transition(complete).with_log([entry]))
}

/// Inserts, claims and settles one job, and counts the commands.
async fn alone(store: &MongoStore, job: NewJob, request: ClaimRequest) -> u64 {
    let before = store.commands();
    store.insert(&[job]).await.unwrap();
    let held = store.claim(&request).await.unwrap().jobs;
    assert_eq!(held.len(), 1);
    let outcomes = store.update_jobs(&[settle(&held[0])]).await.unwrap();
    assert!(outcomes[0].is_saved(), "{:?}", outcomes[0]);
    store.commands() - before
}

/// Inserts, claims and settles batches of jobs, each settle together with the next claim; the commands of a job.
async fn batched(store: &MongoStore, make: impl Fn(u32) -> NewJob) -> f64 {
    const ROUNDS: u32 = 3;
    let before = store.commands();
    let mut held = Vec::new();
    for round in 0..ROUNDS {
        let jobs: Vec<NewJob> = (0..BATCH).map(|n| make(round * BATCH + n)).collect();
        store.insert(&jobs).await.unwrap();
        let updates: Vec<JobUpdate> = held.iter().map(settle).collect();
        let (outcomes, claimed) = store.update_and_claim(&updates, &request(BATCH)).await.unwrap();
        assert!(outcomes.iter().all(queue_core::Outcome::is_saved));
        assert_eq!(claimed.jobs.len(), BATCH as usize);
        held = claimed.jobs;
    }
    let updates: Vec<JobUpdate> = held.iter().map(settle).collect();
    let outcomes = store.update_jobs(&updates).await.unwrap();
    assert!(outcomes.iter().all(queue_core::Outcome::is_saved));
    (store.commands() - before) as f64 / f64::from(ROUNDS * BATCH)
}

#[tokio::test]
async fn a_job_alone_takes_four_commands() {
    let (store, _scratch) = open().await;
    assert_eq!(alone(&store, plain(), request(1)).await, 4);
    let mut all = request(1);
    (all.queues, all.kinds) = (Queues::All, Kinds::All);
    assert_eq!(alone(&store, plain(), all).await, 4);
    let mut keyed = plain();
    keyed.unique = Some(Unique::new("key"));
    assert_eq!(alone(&store, keyed, request(1)).await, 4);
}

#[tokio::test]
async fn a_job_alone_takes_few_commands_more_where_it_asks_for_more() {
    let (store, _scratch) = open().await;
    let mut lifo = request(1);
    lifo.order = Order::Lifo;
    // Which priorities there are, and the look by priority.
    assert_eq!(alone(&store, plain(), lifo).await, 6);
    let mut deleted = plain();
    deleted.keep = Keep::UnlessCompleted;
    // It is read before it is deleted.
    assert_eq!(alone(&store, deleted, request(1)).await, 6);
    let mut laned = plain();
    laned.lane = Some(Lane::new("lane"));
    // The slots that are held.
    assert_eq!(alone(&store, laned.clone(), request(1)).await, 5);
    laned.id = queue_core::JobId::new();
    // The slot that was freed is noted.
    assert_eq!(alone(&store, laned, request(1)).await, 6);
}

#[tokio::test]
async fn a_batch_of_a_hundred_takes_a_seventh_of_a_command_a_job_at_most() {
    let (store, _scratch) = open().await;
    let each = batched(&store, |_| plain()).await;
    assert!(each <= 0.06, "{each} commands a job");
    let keyed = batched(&store, |n| {
        let mut job = plain();
        job.unique = Some(Unique::new(n.to_string()));
        job
    });
    let keyed = keyed.await;
    assert!(keyed <= 0.06, "{keyed} commands a job with a unique key");
    let deleted = batched(&store, |_| {
        let mut job = plain();
        job.keep = Keep::UnlessCompleted;
        job
    });
    let deleted = deleted.await;
    assert!(deleted <= 0.15, "{deleted} commands a job that is deleted when it completed");
    let laned = batched(&store, |n| {
        let mut job = plain();
        job.lane = Some(Lane::new(n.to_string()));
        job
    });
    let laned = laned.await;
    assert!(laned <= 0.15, "{laned} commands a job with a lane");
}

#[tokio::test]
async fn a_worker_that_finds_nothing_sends_two_commands_and_a_heartbeat_is_one() {
    let (store, _scratch) = open().await;
    let before = store.commands();
    assert!(store.claim(&request(10)).await.unwrap().jobs.is_empty());
    assert_eq!(store.commands() - before, 2);
    let jobs: Vec<NewJob> = (0..BATCH).map(|_| plain()).collect();
    store.insert(&jobs).await.unwrap();
    let held = store.claim(&request(BATCH)).await.unwrap().jobs;
    let beats: Vec<Held> = held.iter().map(|job| Held::new(job.id, job.fence)).collect();
    let before = store.commands();
    store.heartbeat(&beats, Duration::from_secs(60)).await.unwrap();
    assert_eq!(store.commands() - before, 1);
}

#[tokio::test]
async fn the_server_has_seen_as_many_commands_as_were_counted() {
    let (store, _scratch) = open().await;
    let database = store.database();
    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let counted = alone(&store, plain(), request(1)).await;
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = database.collection::<Document>("system.profile");
    let seen = profile.count_documents(doc! { "command.profile": { "$exists": false } }).await;
    assert_eq!(seen.unwrap(), counted);
}
