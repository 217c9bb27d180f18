//! What the shape of the documents and commands must give: few trips, whole logs, room for the last error.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc, time::Duration};

use futures::StreamExt;
use queue_core::{
    ClaimRequest, Clock, EntryKind, Held, Inserted, Job, JobFilter, JobId, JobPatch, JobStore,
    JobStoreExt, JobUpdate, LogRead, NewEntry, NewJob, Outcome, Payload, QueueName, Queues, State,
    Transition, Unique,
};
use queue_mongo::MongoStore;
use server::{Scratch, Server};

mod server;

async fn open() -> (MongoStore, Scratch) {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    (store, scratch)
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::All, "tester", limit, Duration::from_secs(60))
}

async fn claimed(store: &MongoStore, job: NewJob) -> Job {
    store.insert(&[job]).await.unwrap();
    let mut jobs = store.claim(&request(1)).await.unwrap().jobs;
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

fn entry(body: &str) -> NewEntry {
    NewEntry::new(EntryKind::Step, Payload::from_value(body).unwrap())
}

fn complete() -> JobPatch {
    JobPatch::transition(Transition::Complete { output: Some(Payload::null()) })
}

#[tokio::test]
async fn a_job_with_one_task_takes_at_most_four_commands() {
    let (store, _scratch) = open().await;
    store.ping().await.unwrap();
    let before = store.commands();
    let job = claimed(&store, NewJob::new("task", Payload::null())).await;
    let patch = complete().with_log([entry("done")]);
    let outcomes = store.update_jobs(&[JobUpdate::held(job.id, job.fence, patch)]).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Applied(_)]));
    let sent = store.commands() - before;
    assert!(sent <= 4, "{sent} commands");
}

#[tokio::test]
async fn a_batch_takes_one_command_per_step_and_three_per_claim() {
    let (store, _scratch) = open().await;
    store.ping().await.unwrap();
    let jobs: Vec<NewJob> = (0..50).map(|_| NewJob::new("task", Payload::null())).collect();
    let mut sent = vec![store.commands()];
    store.insert(&jobs).await.unwrap();
    sent.push(store.commands());
    let held = store.claim(&request(50)).await.unwrap().jobs;
    assert_eq!(held.len(), 50);
    sent.push(store.commands());
    let beats: Vec<Held> = held.iter().map(|job| Held::new(job.id, job.fence)).collect();
    store.heartbeat(&beats, Duration::from_secs(60)).await.unwrap();
    sent.push(store.commands());
    let settles: Vec<_> =
        held.iter().map(|job| JobUpdate::held(job.id, job.fence, complete())).collect();
    let outcomes = store.update_jobs(&settles).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.applied().is_some()));
    sent.push(store.commands());
    let each: Vec<u64> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(each, [1, 3, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_appends_through_several_handles_lose_and_double_nothing() {
    let (store, scratch) = open().await;
    let job = claimed(&store, NewJob::new("task", Payload::null())).await;
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let mut appenders = Vec::new();
    for n in 0..8 {
        let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
        let (barrier, id, fence) = (barrier.clone(), job.id, job.fence);
        appenders.push(tokio::spawn(async move {
            barrier.wait().await;
            let mut sent = Vec::new();
            let mut last: Vec<NewEntry> = Vec::new();
            for m in 0..15 {
                // Each batch repeats the one before in part, as after a lost answer.
                let new = entry(&format!("{n}/{m}"));
                sent.push(new.id);
                last.push(new);
                let patch = JobPatch::append(last.clone());
                let outcomes = store.update_jobs(&[JobUpdate::held(id, fence, patch)]).await;
                assert!(matches!(outcomes.unwrap()[..], [Outcome::Applied(_)]));
                last = last.split_off(last.len() - 1);
            }
            sent
        }));
    }
    let mut expected = BTreeSet::new();
    for appender in appenders {
        expected.extend(appender.await.unwrap());
    }
    let stored = store.get_one(job.id).await.unwrap().unwrap();
    assert_eq!(stored.log.len(), 120);
    assert_eq!(stored.log_len, 120);
    assert_eq!(stored.log.iter().map(|entry| entry.id).collect::<BTreeSet<_>>(), expected);
    assert!(stored.log.iter().zip(1..).all(|(entry, seq)| entry.seq.0 == seq));
}

#[tokio::test]
async fn a_full_log_refuses_more_lets_others_pass_and_the_job_can_still_fail() {
    let (store, _scratch) = open().await;
    let full = claimed(&store, NewJob::new("full", Payload::null())).await;
    let other = claimed(&store, NewJob::new("other", Payload::null())).await;
    let limit = store.info().capabilities.max_job_bytes.unwrap();
    let large = "x".repeat(3 * 1024 * 1024);
    let mut kept = 0;
    let refused = loop {
        let outcomes = store
            .update_jobs(&[
                JobUpdate::held(full.id, full.fence, JobPatch::append([entry(&large)])),
                JobUpdate::held(other.id, other.fence, JobPatch::append([entry("small")])),
            ])
            .await
            .unwrap();
        assert!(outcomes[1].applied().is_some(), "{:?}", outcomes[1]);
        match &outcomes[0] {
            Outcome::Applied(_) => kept += 1,
            outcome => break outcome.clone(),
        }
        assert!(kept < 4, "11.75 MiB hold three of them");
    };
    assert_eq!((kept, refused), (3, Outcome::TooLarge { limit }));
    let error = Payload::from_value(&"e".repeat(4 * 1024 * 1024 - 2)).unwrap();
    let fail = JobPatch::transition(Transition::Fail { error }).with_log([entry("the end")]);
    let outcomes = store.update_jobs(&[JobUpdate::held(full.id, full.fence, fail)]).await.unwrap();
    assert!(outcomes[0].applied().is_some(), "{:?}", outcomes[0]);
    let job = store.get_one(full.id).await.unwrap().unwrap();
    assert_eq!((job.state, job.log.len()), (State::Failed, 4));
    assert_eq!(store.get_one(other.id).await.unwrap().unwrap().log.len(), 4);
}

#[tokio::test]
async fn a_caller_s_transaction_decides_about_its_jobs() {
    let (store, _scratch) = open().await;
    let held = keyed("k");
    store.insert(std::slice::from_ref(&held)).await.unwrap();
    for commits in [false, true] {
        let jobs = [plain(), keyed("k")];
        let mut session = store.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let inserted = store.insert_in(&mut session, &jobs).await.unwrap();
        assert_eq!(inserted, [Inserted::New(jobs[0].id), Inserted::Existing(held.id)]);
        assert!(store.get_one(jobs[0].id).await.unwrap().is_none(), "not before the commit");
        match commits {
            true => session.commit_transaction().await.unwrap(),
            false => session.abort_transaction().await.unwrap(),
        }
        assert_eq!(store.get_one(jobs[0].id).await.unwrap().is_some(), commits);
    }
}

fn plain() -> NewJob {
    NewJob::new("task", Payload::null())
}

fn keyed(key: &str) -> NewJob {
    let mut job = plain();
    job.unique = Some(Unique::new(key));
    job
}

#[tokio::test]
async fn a_new_job_wakes_a_listener_of_another_handle() {
    let (store, scratch) = open().await;
    let listener = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    let mut wakeups = listener.wakeups();
    let wait = Duration::from_secs(20);
    // The first one says that the stream is open.
    assert_eq!(tokio::time::timeout(wait, wakeups.next()).await.unwrap().unwrap().queue, None);
    let mut job = plain();
    job.queue = QueueName::new("mail").unwrap();
    store.insert(&[job]).await.unwrap();
    let wakeup = tokio::time::timeout(wait, wakeups.next()).await.unwrap().unwrap();
    assert_eq!(wakeup.queue, Some(QueueName::new("mail").unwrap()));
}

#[tokio::test]
async fn the_log_after_a_position_comes_with_the_whole_job() {
    let (store, _scratch) = open().await;
    let job = claimed(&store, plain()).await;
    let patch = JobPatch::append((0..5).map(|n| entry(&n.to_string())));
    let outcome = store.update_jobs(&[JobUpdate::held(job.id, job.fence, patch)]).await.unwrap();
    assert!(outcome[0].is_saved());
    for (after, left) in [(0, 5), (3, 2), (5, 0), (9, 0)] {
        let read = LogRead::After(queue_core::Seq(after));
        let found = store.get(&[job.id], read).await.unwrap().remove(0).unwrap();
        assert_eq!(found.log.len(), left, "after {after}");
        assert!(found.log.iter().zip(after + 1..).all(|(entry, seq)| entry.seq.0 == seq));
        assert_eq!(found.log_len, 5);
    }
}

/// What others have written and no majority has acknowledged is not passed over in silence: readers do not see it yet.
#[tokio::test]
async fn a_delete_and_a_reap_that_find_nothing_leave_nothing_to_be_seen() {
    use mongodb::{
        bson::{Document, doc},
        options::WriteConcern,
    };
    use queue_mongo::mongodb;
    const ROUNDS: u32 = 30;

    let scratch = Server::ReplicaSet.scratch().unwrap();
    let clock = Clock::manual(Clock::system().now());
    let store = scratch.options(&clock).unwrap().open().await.unwrap();
    let documents = store.database().collection::<Document>("jobs");
    let many = NonZeroU32::new(10).unwrap();
    // Applied, and not waited for.
    let at_once = || WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).build();
    let by_id = |id: JobId| {
        let bytes = id.as_uuid().as_bytes().to_vec();
        let subtype = mongodb::bson::spec::BinarySubtype::Uuid;
        doc! { "_id": mongodb::bson::Binary { subtype, bytes } }
    };
    for round in 0..ROUNDS {
        let job = NewJob::new("task", Payload::null());
        store.insert(std::slice::from_ref(&job)).await.unwrap();
        documents.delete_one(by_id(job.id)).write_concern(at_once()).await.unwrap();
        assert_eq!(store.delete(&JobFilter::id(job.id), many).await.unwrap(), 0);
        assert_eq!(store.get_one(job.id).await.unwrap(), None, "round {round}");
    }
    for round in 0..ROUNDS {
        let job = claimed(&store, NewJob::new("task", Payload::null())).await;
        clock.advance(Duration::from_secs(61));
        let renewed = clock.now().plus(Duration::from_secs(60));
        let renewal = doc! { "$set": { "lease_until": renewed.as_micros() }, "$inc": { "rev": 1 } };
        documents.update_one(by_id(job.id), renewal).write_concern(at_once()).await.unwrap();
        assert!(store.reap(many).await.unwrap().is_empty(), "round {round}");
        let lease = store.get_one(job.id).await.unwrap().unwrap().lease_until;
        assert_eq!(lease, Some(renewed), "round {round}");
        let settle = JobUpdate::held(job.id, job.fence, complete());
        assert!(store.update_jobs(&[settle]).await.unwrap()[0].is_saved());
    }
}
