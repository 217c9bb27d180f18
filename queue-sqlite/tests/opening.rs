//! Opening files: what is refused, with which words, and that nothing is changed by a refusal.

use std::{fs, path::Path};

use queue_core::{ErrorKind, JobFilter, JobStore, NewJob, Payload, StoreRegistry};
use queue_sqlite::{SqliteOptions, SqliteStore, Synchronous, rusqlite::Connection};

async fn refused(path: &Path, kind: ErrorKind, hints: &[&str]) {
    let error = SqliteStore::open(path).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("sqlite: open: "), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    for hint in hints {
        assert!(text.contains(hint), "{text}");
    }
}

fn version(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row("SELECT max(version) FROM queue_schema", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_missing_file_is_created_and_its_jobs_are_there_at_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let job = NewJob::new("greet", Payload::null());
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    store.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    let jobs = store.get(&[job.id], queue_core::LogRead::None).await.unwrap();
    assert_eq!(jobs[0].as_ref().unwrap().kind, "greet");
}

#[tokio::test]
async fn a_directory_that_does_not_exist_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no/such");
    let hints = ["the directory", "no/such does not exist"];
    refused(&missing.join("jobs.db"), ErrorKind::Config, &hints).await;
    assert!(!missing.exists());
    refused(directory.path(), ErrorKind::Config, &["it is a directory"]).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_corrupt_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("letter.txt");
    let text = "Dear Ada, ".repeat(1_000);
    fs::write(&path, &text).unwrap();
    refused(&path, ErrorKind::Corrupt, &["is not a usable SQLite database"]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_database_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let mut bytes = fs::read(&path).unwrap();
    // The header stays; the list of the tables behind it is overwritten.
    bytes[100..4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    refused(&path, ErrorKind::Corrupt, &["is not a usable SQLite database"]).await;
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE queue_schema (version INTEGER); INSERT INTO queue_schema VALUES (7)",
    )
    .unwrap();
    drop(db);
    let before = fs::read(&path).unwrap();
    refused(&path, ErrorKind::Config, &["schema version 7", "up to 1"]).await;
    assert_eq!(fs::read(&path).unwrap(), before, "not even the journal mode was changed");
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jobs.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let schema = |path: &Path| -> Vec<String> {
        let db = Connection::open(path).unwrap();
        let mut tables = db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        let all = tables.query_map([], |row| row.get(0)).unwrap();
        all.map(|sql| sql.unwrap()).collect()
    };
    let before = schema(&path);
    SqliteStore::open(&path).await.unwrap().close().await;
    assert_eq!(schema(&path), before);
    assert_eq!(version(&path), 1);
}

#[tokio::test]
async fn an_application_s_own_tables_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE job (name TEXT); INSERT INTO job VALUES ('mine')").unwrap();
    drop(db);
    SqliteStore::open(&path).await.unwrap().close().await;
    let db = Connection::open(&path).unwrap();
    let name: String = db.query_row("SELECT name FROM job", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_openings_at_once_of_a_new_file_all_succeed() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jobs.db");
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(8));
        let open = |_| {
            let (path, barrier) = (path.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                let store = SqliteStore::open(&path).await?;
                store.insert(&[NewJob::new("x", Payload::null())]).await?;
                store.tally(&JobFilter::all()).await
            })
        };
        let openings: Vec<_> = (0..8).map(open).collect();
        for opening in openings {
            assert_eq!(opening.await.unwrap().unwrap().len(), 1);
        }
        assert_eq!(version(&path), 1);
        let db = Connection::open(&path).unwrap();
        let jobs: i64 =
            db.query_row("SELECT count(*) FROM queue_job", [], |row| row.get(0)).unwrap();
        assert_eq!(jobs, 8);
    }
}

#[tokio::test]
async fn the_registry_opens_urls_and_says_what_is_wrong_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = StoreRegistry::new();
    queue_sqlite::register(&mut registry);
    let url = format!("sqlite:{}/a.db?synchronous=normal", directory.path().display());
    let store = registry.connect(&url).await.unwrap();
    assert_eq!(store.info().name, "sqlite");
    assert!(!store.info().capabilities.durable);
    store.ping().await.unwrap();
    let error = registry.connect("sqlite:a.db?sync=full").await.unwrap_err();
    assert!(error.to_string().contains("known are synchronous, busy_timeout_ms"), "{error}");
}

#[tokio::test]
async fn durable_is_what_synchronous_says() {
    let directory = tempfile::tempdir().unwrap();
    for (synchronous, durable, code) in
        [(Synchronous::Full, true, "full.db"), (Synchronous::Normal, false, "normal.db")]
    {
        let options = SqliteOptions::new(directory.path().join(code)).synchronous(synchronous);
        let store = options.open().await.unwrap();
        assert_eq!(store.info().capabilities.durable, durable);
    }
}
