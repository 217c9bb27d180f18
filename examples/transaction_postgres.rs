//! Enqueuing in the transaction of one's own writes, on PostgreSQL: both are there, or neither. And the other way round: a
//! handler's own writes in the transaction that completes its job, made exactly once.
//!
//! `QUEUE_POSTGRES_URL=postgres://user@host/database cargo run --example transaction_postgres --features postgres`

#![allow(clippy::print_stdout)] // that is what it is for

use std::sync::Arc;

use queue::{
    JobCtx, Pass, Payload, Queue, State, Task, TaskResult, Worker,
    core::{JobPatch, JobUpdate, Transition},
    postgres::{PostgresStore, sqlx},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "welcome", output = String)]
struct Welcome {
    user: String,
}

#[derive(Clone)]
struct Application {
    store: Arc<PostgresStore>,
    table: String,
}

/// Counts the greeting in the transaction that completes the job: once, however often it runs.
async fn welcome(
    job: Welcome,
    ctx: JobCtx,
    State(Application { store, table }): State<Application>,
) -> TaskResult<String> {
    let greeting = format!("welcome, {}", job.user);
    let mut transaction = store.pool().begin().await?;
    let count = format!("UPDATE {table} SET greetings = greetings + 1 WHERE name = $1");
    sqlx::query(sqlx::AssertSqlSafe(count)).bind(&job.user).execute(&mut *transaction).await?;
    let output = Some(Payload::from_value(&greeting)?);
    let done = JobPatch::transition(Transition::Complete { output });
    let done = JobUpdate::held(ctx.id(), ctx.fence(), done);
    match store.update_in(&mut transaction, &[done]).await?[0].is_saved() {
        true => transaction.commit().await?,
        // Another worker has the job: the count is its affair.
        false => transaction.rollback().await?,
    }
    Ok(greeting)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("QUEUE_POSTGRES_URL")
        .map_err(|_| "set QUEUE_POSTGRES_URL, for example to postgres://user@localhost/app")?;
    // A schema of its own, so that the example finds only its own jobs.
    let schema = format!("queue_example_{}", std::process::id());
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}schema={schema}");
    let store = Arc::new(PostgresStore::connect(&url).await?);
    let queue = Queue::new(store.clone() as Arc<dyn queue::JobStore>)?;
    // The application's own table; any connection to the same database will do.
    let table = format!("{schema}.app_user");
    let create =
        format!("CREATE TABLE {table} (name text PRIMARY KEY, greetings int NOT NULL DEFAULT 0)");
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(store.pool()).await?;

    for (user, commits) in [("ada", true), ("mallory", false)] {
        let job = queue.enqueue(Welcome { user: user.into() }).into_new_job()?;
        let mut transaction = store.pool().begin().await?;
        let insert = format!("INSERT INTO {table} VALUES ($1)");
        sqlx::query(sqlx::AssertSqlSafe(insert)).bind(user).execute(&mut *transaction).await?;
        store.insert_in(&mut transaction, std::slice::from_ref(&job)).await?;
        match commits {
            true => transaction.commit().await?,
            false => transaction.rollback().await?,
        }
        store.announce(&[job]);
    }

    let application = Application { store: store.clone(), table: table.clone() };
    let worker = Worker::new(queue).state(application).task(welcome).build()?;
    let summary = worker.drain(Pass::new()).await?;
    for job in &summary.jobs {
        println!("{}: {:?}", job.kind, job.result);
    }
    assert_eq!(summary.succeeded(), 1, "only the job whose transaction was committed is there");
    let greeted = format!("SELECT name, greetings FROM {table}");
    let greeted: Vec<(String, i32)> =
        sqlx::query_as(sqlx::AssertSqlSafe(greeted)).fetch_all(store.pool()).await?;
    assert_eq!(greeted, [("ada".to_owned(), 1)]);
    let drop = format!("DROP SCHEMA {schema} CASCADE");
    sqlx::query(sqlx::AssertSqlSafe(drop)).execute(store.pool()).await?;
    Ok(())
}
