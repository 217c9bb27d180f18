//! A task whose handler is an external program: JSON on its standard input, JSON on its standard output.
//!
//! `cargo run --example program --features program`

#![allow(clippy::print_stdout)] // that is what it is for

use std::time::Duration;

use queue::{
    JobState, Pass, Payload, Queue, Worker,
    core::NewJob,
    program::{Program, ProgramTask},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::connect("memory:").await?;
    // The arguments are handed over as they are, never through a shell. `wc` prints a number, which is JSON.
    let count = Program::new(["wc", "-c"])?.timeout(Duration::from_secs(5)).max_output(1024);
    let missing = Program::new(["no-such-program"])?;
    let worker = Worker::new(queue.clone())
        .dyn_task(ProgramTask::new("count-bytes", count))
        .dyn_task(ProgramTask::new("missing", missing))
        .build()?;

    let job = NewJob::new("count-bytes", Payload::from_value("12345678")?);
    let broken = NewJob::new("missing", Payload::from_value(&())?);
    queue.insert(vec![job.clone(), broken.clone()]).await?;
    worker.drain(Pass::new()).await?;

    let counted = queue.job(job.id).await?.ok_or("the job is kept")?;
    println!("{}", counted.output.as_ref().map_or("", |output| output.as_str()));
    assert_eq!(counted.state, JobState::Completed);
    let failed = queue.job(broken.id).await?.ok_or("the job is kept")?;
    println!("{}", failed.error.as_ref().map_or("", |error| error.as_str()));
    assert_eq!(failed.state, JobState::Failed);
    Ok(())
}
