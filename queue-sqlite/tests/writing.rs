//! The writing thread: shared transactions, other processes, callers that go away.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use queue_core::{
    ClaimRequest, Effect, ErrorKind, Inserted, JobFilter, JobPatch, JobStore, JobUpdate, LogRead,
    NewEntry, NewJob, Payload, Queues, Transition, When,
};
use queue_sqlite::{
    SqliteOptions, SqliteStore,
    rusqlite::{Connection, TransactionBehavior},
};

fn job() -> NewJob {
    NewJob::new("x", Payload::from_text("{\"n\":1}").unwrap())
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::All, "worker", limit, Duration::from_secs(60))
}

async fn count(store: &SqliteStore) -> u64 {
    store.tally(&JobFilter::all()).await.unwrap().iter().map(|tally| tally.count).sum()
}

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A lock that keeps every writer waiting, until it is dropped.
fn hold_write_lock(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(20)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    db
}

#[tokio::test]
async fn calls_made_at_once_share_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let before = store.transactions();
    let jobs: Vec<NewJob> = (0..256).map(|_| job()).collect();
    let inserts = jobs.iter().map(|job| store.insert(std::slice::from_ref(job)));
    let inserted = join_all(inserts).await;
    for (job, inserted) in jobs.iter().zip(inserted) {
        assert_eq!(inserted.unwrap(), [Inserted::New(job.id)]);
    }
    let spent = store.transactions() - before;
    assert!(spent <= 32, "256 inserts at once cost {spent} transactions");
    assert_eq!(count(&store).await, 256);
}

#[tokio::test]
async fn a_job_with_one_task_costs_at_most_three_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("jobs.db")).await.unwrap();
    let before = store.transactions();
    store.insert(&[job()]).await.unwrap();
    let claimed = store.claim(&request(1)).await.unwrap();
    let patch = JobPatch::transition(Transition::Complete { output: None })
        .with_log([NewEntry::new(queue_core::EntryKind::Step, Payload::null())]);
    let update = JobUpdate::held(claimed.jobs[0].id, claimed.jobs[0].fence, patch);
    assert!(store.update_jobs(&[update]).await.unwrap()[0].is_saved());
    assert_eq!(store.transactions() - before, 3);
    store.update_and_claim(&[], &request(1)).await.unwrap();
    assert_eq!(store.transactions() - before, 4, "finish and claim share one");
}

#[tokio::test]
async fn a_call_that_fails_leaves_the_others_of_its_transaction_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER refuse AFTER INSERT ON queue_job WHEN new.kind = 'bad'
             BEGIN SELECT raise(ABORT, 'refused'); END",
        )
        .unwrap();
    // Both calls wait for this lock, and so share the transaction after it.
    let lock = hold_write_lock(&path);
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.insert(&[job()]).await }
    });
    tokio::task::yield_now().await;
    let (good, late, bad) = ([job()], job(), NewJob::new("bad", Payload::null()));
    let undone = late.id;
    let bad_batch = [late, bad];
    let both = async { futures::join!(store.insert(&good), store.insert(&bad_batch)) };
    let ((good, bad), ()) = futures::join!(both, async { drop(lock) });
    assert!(first.await.unwrap().unwrap()[0].is_new());
    assert!(good.unwrap()[0].is_new());
    let error = bad.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Backend, Effect::None), "{error}");
    assert_eq!(store.get(&[undone], LogRead::None).await.unwrap(), [None]);
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_lock_that_is_held_for_too_long_is_contention_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let options = SqliteOptions::new(&path).busy_timeout(Duration::from_millis(50));
    let store = options.open().await.unwrap();
    let lock = hold_write_lock(&path);
    let job = job();
    let error = store.insert(std::slice::from_ref(&job)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Contention, Effect::None), "{error}");
    assert_eq!(store.get(&[job.id], LogRead::None).await.unwrap(), [None], "readers do not wait");
    drop(lock);
    assert!(store.insert(&[job]).await.unwrap()[0].is_new());
}

#[tokio::test]
async fn a_file_that_may_not_grow_refuses_what_does_not_fit_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteOptions::new(&path).max_bytes(1 << 20).open().await.unwrap();
    let large = || {
        let text = "x".repeat(30_000);
        [NewJob::new("x", Payload::from_value(&text).unwrap()), job()]
    };
    let (mut stored, mut refused) = (0, None);
    for _ in 0..100 {
        let jobs = large();
        match store.insert(&jobs).await {
            Ok(_) => stored += 2,
            Err(error) => {
                refused = Some((jobs, error));
                break;
            }
        }
    }
    let (jobs, error) = refused.expect("3 MB do not fit into 1 MiB");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    assert!(stored > 20, "{stored} jobs fit");
    assert_eq!(store.get(&[jobs[0].id, jobs[1].id], LogRead::None).await.unwrap(), [None, None]);
    assert_eq!(count(&store).await, stored, "what was there can be read");
    store.delete(&JobFilter::all(), NonZeroU32::new(20).unwrap()).await.unwrap();
    assert!(store.insert(&jobs).await.unwrap()[0].is_new());
    // Opened again it is no smaller, and no larger.
    store.close().await;
    let store = SqliteOptions::new(&path).max_bytes(1 << 10).open().await.unwrap();
    assert_eq!(count(&store).await, stored - 20 + 2);
    assert!(std::fs::metadata(&path).unwrap().len() <= 1 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_stores_on_one_file_never_see_a_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let work = |_| {
        let path = path.clone();
        tokio::spawn(async move {
            let store = SqliteStore::open(&path).await?;
            for _ in 0..50 {
                store.insert(&[job()]).await?;
                store.get(&[job().id], LogRead::All).await?;
            }
            queue_core::Result::<_>::Ok(store)
        })
    };
    let stores: Vec<_> = (0..4).map(work).collect();
    let stores = join_all(stores).await;
    for store in stores {
        assert_eq!(count(&store.unwrap().unwrap()).await, 200);
    }
}

#[tokio::test]
async fn a_sibling_reads_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let (one, two) =
        (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
    for _ in 0..50 {
        let job = job();
        one.insert(std::slice::from_ref(&job)).await.unwrap();
        assert!(two.get(&[job.id], LogRead::None).await.unwrap()[0].is_some());
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_store_usable_and_its_call_happens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let lock = hold_write_lock(&path);
    let jobs = [job()];
    let mut insert = store.insert(&jobs);
    assert!(futures::poll!(&mut insert).is_pending());
    drop(insert);
    drop(lock);
    store.insert(&[job()]).await.unwrap();
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn dropping_the_last_handle_finishes_the_work_and_moves_the_log_into_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.tally(&JobFilter::all()).await.unwrap();
    let clone = store.clone();
    let lock = hold_write_lock(&path);
    let jobs = [job()];
    let mut insert = store.insert(&jobs);
    assert!(futures::poll!(&mut insert).is_pending());
    drop(insert);
    drop(store);
    drop(clone);
    drop(lock);
    let wal = directory.path().join("jobs.db-wal");
    eventually("the log is gone", || !wal.exists()).await;
    assert_eq!(count(&SqliteStore::open(&path).await.unwrap()).await, 1);
}

#[tokio::test]
async fn jobs_inserted_in_a_transaction_of_the_caller_share_its_fate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE orders (name TEXT)").unwrap();
    let (kept, lost) = (job(), job());

    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    tx.execute("INSERT INTO orders VALUES ('lost')", []).unwrap();
    assert!(store.insert_in(&tx, std::slice::from_ref(&lost)).unwrap()[0].is_new());
    tx.rollback().unwrap();

    let tx = db.transaction().unwrap();
    tx.execute("INSERT INTO orders VALUES ('kept')", []).unwrap();
    let mut refused = job();
    refused.kind = "".into();
    assert_eq!(store.insert_in(&tx, &[refused]).unwrap_err().kind(), ErrorKind::Invalid);
    let inserted = store.insert_in(&tx, &[kept.clone(), kept.clone()]).unwrap();
    assert_eq!(inserted, [Inserted::New(kept.id), Inserted::Existing(kept.id)]);
    assert_eq!(store.get(&[kept.id], LogRead::None).await.unwrap(), [None], "not yet");
    tx.commit().unwrap();

    let mut wakeups = store.wakeups();
    store.announce(std::slice::from_ref(&kept));
    assert_eq!(wakeups.next().await.unwrap().queue.as_ref(), Some(&kept.queue));
    let claimed = store.claim(&request(10)).await.unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [kept.id]);
    assert_eq!(store.get(&[lost.id], LogRead::None).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_wake_up_follows_the_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("jobs.db")).await.unwrap();
    let mut wakeups = store.wakeups();
    store.insert(&[job()]).await.unwrap();
    assert_eq!(wakeups.next().await.unwrap().queue.unwrap().as_str(), "default");
    let claimed = store.claim(&request(1)).await.unwrap();
    let release = JobPatch::transition(Transition::Release { when: When::Now });
    let update = JobUpdate::held(claimed.jobs[0].id, claimed.jobs[0].fence, release);
    store.update_jobs(&[update]).await.unwrap();
    assert_eq!(wakeups.next().await.unwrap().queue.unwrap().as_str(), "default");
}

#[tokio::test]
async fn many_claimers_never_take_one_job_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let stores = [SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap()];
    let jobs: Vec<NewJob> = (0..300).map(|_| job()).collect();
    stores[0].insert(&jobs).await.unwrap();
    let stores = Arc::new(stores);
    let claim = |n: usize| {
        let stores = stores.clone();
        async move { stores[n % 2].claim(&request(7)).await.unwrap().jobs }
    };
    let taken = join_all((0..60).map(claim)).await;
    let mut ids: Vec<_> = taken.iter().flatten().map(|job| job.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), taken.iter().flatten().count()), (300, 300));
}
