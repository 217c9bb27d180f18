//! Enqueuing in the transaction of one's own writes, on SQLite: both are there, or neither.
//!
//! `cargo run --example transaction_sqlite`

#![allow(clippy::print_stdout)] // that is what it is for

use std::sync::Arc;

use queue::{
    Pass, Queue, Task, TaskResult, Worker,
    sqlite::{SqliteStore, rusqlite},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "welcome", output = String)]
struct Welcome {
    user: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("app.db");
    let store = Arc::new(SqliteStore::open(&file).await?);
    let queue = Queue::new(store.clone() as Arc<dyn queue::JobStore>)?;
    // The application's own connection to the same file.
    let mut connection = rusqlite::Connection::open(&file)?;
    connection.execute_batch("CREATE TABLE user (name TEXT PRIMARY KEY)")?;

    for (user, commits) in [("ada", true), ("mallory", false)] {
        let job = queue.enqueue(Welcome { user: user.into() }).into_new_job()?;
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO user VALUES (?1)", [user])?;
        store.insert_in(&transaction, std::slice::from_ref(&job))?;
        match commits {
            true => transaction.commit()?,
            false => transaction.rollback()?,
        }
        store.announce(&[job]);
    }

    let worker = Worker::new(queue)
        .task(|job: Welcome| async move { TaskResult::Ok(format!("welcome, {}", job.user)) })
        .build()?;
    let summary = worker.drain(Pass::new()).await?;
    for job in &summary.jobs {
        println!("{}: {:?}", job.kind, job.result);
    }
    assert_eq!(summary.succeeded(), 1, "only the job whose transaction was committed is there");
    Ok(())
}
