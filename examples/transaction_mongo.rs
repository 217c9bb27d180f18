//! Enqueuing in the transaction of one's own writes, on MongoDB: both are there, or neither. Transactions need a replica set.
//!
//! `QUEUE_MONGO_URL='mongodb://host/?replicaSet=rs0' cargo run --example transaction_mongo --features mongo`

#![allow(clippy::print_stdout)] // that is what it is for

use std::sync::Arc;

use queue::{
    Pass, Queue, Task, TaskResult, Worker,
    mongo::{MongoOptions, mongodb::bson::doc},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "welcome", output = String)]
struct Welcome {
    user: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("QUEUE_MONGO_URL").map_err(
        |_| "set QUEUE_MONGO_URL, for example to mongodb://localhost/app?replicaSet=rs0",
    )?;
    // A database of its own, so that the example finds only its own jobs.
    let name = format!("queue_example_{}", std::process::id());
    let store = Arc::new(MongoOptions::from_url(&url)?.database(&name).open().await?);
    let queue = Queue::new(store.clone() as Arc<dyn queue::JobStore>)?;
    let users = store.database().collection("user");
    store.database().create_collection("user").await?;

    for (user, commits) in [("ada", true), ("mallory", false)] {
        let job = queue.enqueue(Welcome { user: user.into() }).into_new_job()?;
        let mut session = store.client().start_session().await?;
        session.start_transaction().await?;
        users.insert_one(doc! { "name": user }).session(&mut session).await?;
        store.insert_in(&mut session, &[job]).await?;
        match commits {
            true => session.commit_transaction().await?,
            false => session.abort_transaction().await?,
        }
    }

    let worker = Worker::new(queue)
        .task(|job: Welcome| async move { TaskResult::Ok(format!("welcome, {}", job.user)) })
        .build()?;
    let summary = worker.drain(Pass::new()).await?;
    for job in &summary.jobs {
        println!("{}: {:?}", job.kind, job.result);
    }
    assert_eq!(summary.succeeded(), 1, "only the job whose transaction was committed is there");
    store.database().drop().await?;
    Ok(())
}
