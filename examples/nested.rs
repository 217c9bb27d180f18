//! Steps within steps: a child is logged before its parent and names it; after a failure of the parent its finished children
//! are restored.
//!
//! `cargo run --example nested`

#![allow(clippy::print_stdout)] // that is what it is for

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use queue::{Pass, Queue, State, StepEntry, Task, TaskError, TaskResult, Wf, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "checkout", output = String)]
struct Checkout {
    order: u32,
}

#[derive(Clone, Default)]
struct Shop {
    reservations: Arc<AtomicU32>,
    charges: Arc<AtomicU32>,
}

async fn checkout(input: Checkout, wf: Wf, State(shop): State<Shop>) -> TaskResult<String> {
    let payment = wf.run("payment", || async {
        let reserved: u32 = wf
            .run("reserve", || async {
                shop.reservations.fetch_add(1, Ordering::SeqCst);
                Ok::<_, TaskError>(100)
            })
            .await?;
        wf.run("charge", || async {
            match shop.charges.fetch_add(1, Ordering::SeqCst) {
                0 => Err(TaskError::new("the bank does not answer")),
                _ => Ok(reserved),
            }
        })
        .attempts(3)
        .await
    });
    let paid: u32 = payment.attempts(3).await?;
    wf.run("receipt", || async { Ok::<_, TaskError>(format!("order {}: {paid}", input.order)) })
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::connect("memory:").await?;
    let shop = Shop::default();
    let worker = Worker::new(queue.clone()).state(shop.clone()).workflow(checkout).build()?;

    let job = queue.enqueue(Checkout { order: 7 }).await?;
    worker.drain(Pass::new()).await?;

    println!("{}", job.output().await?);
    let stored = job.job().await?.ok_or("the job is kept")?;
    for entry in stored.log.iter().filter_map(StepEntry::from_entry) {
        let parent = entry.parent.map(|parent| format!(" in {parent}")).unwrap_or_default();
        println!("{}{parent}: {:?}, attempt {}", entry.step, entry.state, entry.attempt);
    }
    assert_eq!(shop.reservations.load(Ordering::SeqCst), 1, "a finished child is not run again");
    Ok(())
}
