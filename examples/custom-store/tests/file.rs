//! What is the store's own: its file, its failures, its wake-ups.

#[path = "conformance/medium.rs"]
mod medium;

use std::{
    path::Path,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use conformance_tests::{Fault, Switch};
use custom_store::{RedbStore, register};
use futures::{StreamExt, future::join_all};
use queue_core::{
    Clock, Effect, ErrorKind, JobId, JobStore, LogRead, NewJob, Payload, QueueName, Result,
    StoreRegistry, Wakeup,
};

use crate::medium::Switchable;

fn open(path: &Path) -> Result<RedbStore> {
    RedbStore::open(path, Clock::system())
}

fn job() -> NewJob {
    NewJob::new("test", Payload::null())
}

async fn is_there(store: &RedbStore, id: JobId) -> bool {
    store.get(&[id], LogRead::None).await.unwrap()[0].is_some()
}

#[tokio::test]
async fn a_file_that_is_open_is_refused_and_can_be_opened_once_the_last_handle_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.redb");
    let store = open(&path).unwrap();
    let job = job();
    store.insert(std::slice::from_ref(&job)).await.unwrap();

    let mut registry = StoreRegistry::new();
    register(&mut registry);
    let url = format!("redb:{}", path.display());
    let refused = registry.connect(&url).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.to_string().contains("open already"), "{refused}");

    drop(store);
    let store = registry.connect(&url).await.unwrap();
    assert!(store.get(&[job.id], LogRead::None).await.unwrap()[0].is_some());
}

#[tokio::test]
async fn another_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letter.txt");
    std::fs::write(&path, "Dear Ada").unwrap();
    assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "Dear Ada");
}

#[tokio::test]
async fn what_was_acknowledged_before_the_medium_failed_is_there_and_work_goes_on() {
    for fault in [Fault::Full, Fault::AnswerLost, Fault::Unreachable] {
        let dir = tempfile::tempdir().unwrap();
        let medium = Switchable::new(dir.path().join("jobs.redb"), fault);
        let opened = medium.clone();
        let store = RedbStore::on(move || opened.open(), Clock::system()).unwrap();
        let (before, during, after) = (job(), job(), job());
        store.insert(std::slice::from_ref(&before)).await.unwrap();

        medium.on().await.unwrap();
        for _ in 0..3 {
            let error = store.insert(std::slice::from_ref(&during)).await.unwrap_err();
            assert!(error.is_transient(), "{fault}: {error}");
            if fault == Fault::AnswerLost {
                assert_eq!(error.effect(), Effect::Unknown, "{error}");
                break;
            }
        }
        medium.off().await.unwrap();

        store.insert(std::slice::from_ref(&during)).await.unwrap();
        store.insert(std::slice::from_ref(&after)).await.unwrap();
        for job in [&before, &during, &after] {
            assert!(is_there(&store, job.id).await, "{fault}");
        }
        drop(store);
        let store = open(&dir.path().join("jobs.redb")).unwrap();
        assert!(is_there(&store, before.id).await && is_there(&store, after.id).await, "{fault}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_a_commit_share_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Switchable::new(dir.path().join("jobs.redb"), Fault::Full);
    let opened = medium.clone();
    let store = RedbStore::on(move || opened.open(), Clock::system()).unwrap();
    let before = store.transactions();

    let jobs: Vec<[NewJob; 1]> = (0..50).map(|_| [job()]).collect();
    let mut inserts = join_all(jobs.iter().map(|job| store.insert(job)));
    {
        // While no sync gets through, at most the first call has been taken up.
        let _held = medium.gate.lock().unwrap();
        let polled = pin!(&mut inserts).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "acknowledged before it was synced");
    }
    let inserted = inserts.await;
    assert!(inserted.iter().all(|answer| answer.as_ref().unwrap()[0].is_new()));
    assert!(store.transactions() - before <= 2, "{} transactions", store.transactions() - before);
}

#[tokio::test]
async fn an_insert_wakes_the_listeners_of_every_clone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("jobs.redb")).unwrap();
    let mut wakeups = store.clone().wakeups();
    store.insert(&[job()]).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), wakeups.next()).await.unwrap();
    assert_eq!(heard, Some(Wakeup::queue(QueueName::default())));
}
