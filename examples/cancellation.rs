//! Cancelling: a waiting job ends at once, a running one is told by its token, and a job can cancel itself.
//!
//! `cargo run --example cancellation`

#![allow(clippy::print_stdout)] // that is what it is for

use std::{sync::Arc, time::Duration};

use queue::{
    JobCtx, JobFilter, JobState, OutputError, Queue, State, Task, TaskError, TaskResult, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "watch", output = ())]
struct Watch;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "doubt", output = ())]
struct Doubt;

async fn watch(_: Watch, ctx: JobCtx, State(begun): State<Arc<Notify>>) -> TaskResult<()> {
    begun.notify_one();
    // A handler that does not heed the token is not killed; what it returns is logged.
    ctx.cancelled().cancelled().await;
    Err(TaskError::cancel("stopped watching"))
}

async fn doubt(_: Doubt) -> TaskResult<()> {
    Err(TaskError::cancel("better not"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::connect("memory:").await?;
    let begun = Arc::new(Notify::new());
    let worker = Worker::new(queue.clone())
        .state(begun.clone())
        .task(watch)
        .task(doubt)
        // A running job hears of it with the next renewal of its lease, at the latest.
        .lease(Duration::from_secs(3))
        .build()?;

    let later = queue.enqueue(Watch).delay(Duration::from_secs(3600)).label("tenant", "a").await?;
    let outcome = queue.cancel_where(JobFilter::all().with_label("tenant", "a"), "moved").await?;
    println!("waiting jobs: {outcome:?}");
    let stored = later.job().await?.ok_or("the job is kept")?;
    assert_eq!(stored.state, JobState::Cancelled);

    let running = queue.enqueue(Watch).await?;
    let itself = queue.enqueue(Doubt).await?;
    let done = async {
        begun.notified().await;
        let outcome = running.cancel("enough").await?;
        println!("signalled: {outcome:?}");
        println!("cancelled while it ran: {:?}", running.output().await);
        println!("cancelled itself: {:?}", itself.output().await);
        Ok::<_, queue::Error>(())
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = worker.run_until(async { stopped.await.unwrap_or(()) });
    let (served, done) = tokio::join!(serve, async {
        let done = done.await;
        let _ = stop.send(());
        done
    });
    served?;
    done?;
    assert!(matches!(running.output().await, Err(OutputError::Cancelled(why)) if why == "enough"));
    Ok(())
}
