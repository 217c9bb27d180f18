//! A workflow whose steps run in parallel, by plain futures. One of them fails at first: only that one is run again.
//!
//! `cargo run --example parallel`

#![allow(clippy::print_stdout)] // that is what it is for

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures::{
    StreamExt,
    future::{join, try_join_all},
    stream::FuturesUnordered,
};
use queue::{Pass, Queue, State, Task, TaskError, TaskResult, Wf, Worker, step_statuses};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Task)]
#[task(name = "measure", output = u64, retries = 2)]
struct Measure {
    page: String,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "survey", output = u64)]
struct Survey {
    pages: Vec<String>,
}

/// How often a page was measured in all.
#[derive(Clone, Default)]
struct Measured(Arc<AtomicU32>);

async fn measure(job: Measure, State(measured): State<Measured>) -> TaskResult<u64> {
    let before = measured.0.fetch_add(1, Ordering::SeqCst);
    if job.page == "news" && before < 3 {
        return Err(TaskError::new("the server is busy"));
    }
    Ok(job.page.len() as u64)
}

async fn survey(input: Survey, wf: Wf) -> TaskResult<u64> {
    // All at once, results in order. The id of a step must be the same each time the workflow runs.
    let steps = input.pages.iter().map(|page| {
        wf.task(format!("measure-{page}"), Measure { page: page.clone() }).into_future()
    });
    let sizes: Vec<u64> = try_join_all(steps).await?;

    // Two closures side by side.
    let (largest, total) = join(
        wf.run("largest", || async { Ok::<_, TaskError>(sizes.iter().max().copied()) })
            .into_future(),
        wf.run("total", || async { Ok::<u64, TaskError>(sizes.iter().sum()) }).into_future(),
    )
    .await;
    let (largest, total) = (largest?, total?);
    println!("the largest has {largest:?}, all have {total}");

    // As they finish.
    let mut checks: FuturesUnordered<_> = (0..3_u64)
        .map(|n| wf.run(format!("check-{n}"), move || async move { Ok::<_, TaskError>(n) }))
        .map(IntoFuture::into_future)
        .collect();
    let mut passed = 0;
    while let Some(check) = checks.next().await {
        check?;
        passed += 1;
    }
    Ok(total + passed)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::connect("memory:").await?;
    let measured = Measured::default();
    let worker = Worker::new(queue.clone())
        .state(measured.clone())
        .task(measure)
        .workflow(survey)
        .build()?;

    let pages = ["home", "news", "about"].map(String::from).to_vec();
    let job = queue.enqueue(Survey { pages }).await?;
    // Passes until nothing is due: the failed step is tried again, the others are restored.
    worker.drain(Pass::new()).await?;

    assert_eq!(job.output().await?, 13 + 3);
    let stored = job.job().await?.ok_or("the job is kept")?;
    for step in step_statuses(&stored.log) {
        println!("{:<14} tried {} times, failed {}", step.step, step.attempts, step.failures);
    }
    assert!(measured.0.load(Ordering::SeqCst) > 3, "one page was measured again");
    Ok(())
}
