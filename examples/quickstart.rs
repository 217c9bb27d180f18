//! A typed task with a state, retries and an output.
//!
//! `cargo run --example quickstart`

#![allow(clippy::print_stdout)] // that is what it is for

use queue::{Pass, Queue, State, Task, TaskResult, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "send-email", output = Receipt, retries = 3)]
struct SendEmail {
    to: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    message_id: String,
}

#[derive(Clone)]
struct Mailer {
    from: &'static str,
}

async fn send_email(job: SendEmail, State(mailer): State<Mailer>) -> TaskResult<Receipt> {
    println!("{} writes to {}", mailer.from, job.to);
    Ok(Receipt { message_id: format!("1@{}", job.to) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A file makes the jobs durable: "sqlite:jobs.db".
    let queue = Queue::connect("memory:").await?;
    let worker = Worker::new(queue.clone())
        .state(Mailer { from: "office@example.com" })
        .task(send_email)
        .build()?;

    // Enqueuing needs the type, not its handler: another program may do it.
    let job = queue.enqueue(SendEmail { to: "ada@example.com".into() }).priority(3).await?;

    // One pass; `worker.run_until(shutdown)` works for ever.
    let summary = worker.run(Pass::new()).await?;
    assert_eq!(summary.succeeded(), 1);

    let receipt = job.output().await?;
    println!("sent as {}", receipt.message_id);
    Ok(())
}
