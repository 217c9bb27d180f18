//! What happens to the file underneath, and to transactions that SQLite gives up.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use queue_core::{ErrorKind, JobId, JobStore, LogRead, NewJob, Payload};
use queue_sqlite::{SqliteOptions, SqliteStore, rusqlite::Connection};

fn job(bytes: usize) -> NewJob {
    NewJob::new("kind", Payload::from_value(&"x".repeat(bytes)).unwrap())
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).await.unwrap()
}

async fn is_there(store: &SqliteStore, id: JobId) -> bool {
    store.get(&[id], LogRead::None).await.unwrap()[0].is_some()
}

#[tokio::test]
async fn a_transaction_that_sqlite_rolled_back_takes_no_more_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await;
    let mut db = Connection::open(&path).unwrap();
    let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    // A full disk, as this connection sees it.
    db.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(())).unwrap();
    let tx = db.transaction().unwrap();
    let jobs: Vec<NewJob> = (0..50).map(|_| job(900)).collect();
    let error = store.insert_in(&tx, &jobs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let small = job(1);
    if tx.is_autocommit() {
        // Whatever ran now would commit by itself.
        let error = store.insert_in(&tx, std::slice::from_ref(&small)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    } else {
        store.insert_in(&tx, std::slice::from_ref(&small)).unwrap();
        tx.rollback().unwrap();
    }
    assert!(!is_there(&store, small.id).await);
    assert!(!is_there(&store, jobs[0].id).await);
}

#[tokio::test]
async fn the_log_starts_anew_once_a_long_read_is_over() {
    const LIMIT: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let wal = folder.path().join("jobs.db-wal");
    let length = || std::fs::metadata(&wal).map_or(0, |file| file.len());
    let store = open(&path).await;
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM queue_job").unwrap();
    for _ in 0..20 {
        store.insert(&[job(1 << 20)]).await.unwrap();
    }
    assert!(length() > LIMIT, "the read pins the log: {} bytes", length());
    reader.execute_batch("COMMIT").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while length() > LIMIT {
        assert!(Instant::now() < deadline, "the log still has {} bytes", length());
        store.insert(&[job(1)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_was_deleted_or_replaced_takes_no_more_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await;
    store.insert(&[job(1)]).await.unwrap();
    std::fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
    let error = store.insert(&[job(1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("deleted or replaced"), "{error}");
    std::fs::rename(folder.path().join("elsewhere.db"), &path).unwrap();
    store.insert(&[job(1)]).await.unwrap();
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA encoding = 'UTF-16le'; CREATE TABLE own (x)").unwrap();
    drop(db);
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("UTF-16le, not UTF-8"), "{error}");
}

#[tokio::test]
async fn the_longest_busy_timeout_is_fine() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("jobs.db")).busy_timeout(Duration::MAX);
    options.open().await.unwrap().insert(&[job(1)]).await.unwrap();
}

#[tokio::test]
async fn a_path_with_a_nul_is_refused() {
    let error = SqliteStore::connect("sqlite:a%00b.db").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
