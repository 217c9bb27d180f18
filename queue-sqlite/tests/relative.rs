//! A relative path means the directory in which the store was opened. In a binary of its own, because
//! a process has one directory.

use queue_core::{JobStore, LogRead, NewJob, Payload};
use queue_sqlite::SqliteStore;

#[tokio::test]
async fn a_change_of_directory_does_not_change_the_file() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::env::set_current_dir(there.path()).unwrap();
    let other = SqliteStore::open("jobs.db").await.unwrap();
    std::env::set_current_dir(here.path()).unwrap();
    let store = SqliteStore::open("jobs.db").await.unwrap();
    let job = NewJob::new("kind", Payload::null());
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    std::env::set_current_dir(there.path()).unwrap();
    assert!(store.get(&[job.id], LogRead::None).await.unwrap()[0].is_some());
    assert!(other.get(&[job.id], LogRead::None).await.unwrap()[0].is_none());
    std::env::set_current_dir("/").unwrap();
}
