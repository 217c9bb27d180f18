//! A task that the calendar enqueues. Ends by itself after three reports:
//!
//! ```text
//! cargo run --example schedule
//! ```
#![allow(clippy::print_stdout)] // it shows what happens

use std::sync::Arc;

use queue::{Missed, Overlap, Queue, Schedule, SlotFate, Task, TaskResult, Timestamp, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "report")]
struct Report {
    slot: Timestamp,
}

#[derive(Serialize, Deserialize, Task)]
#[task(name = "clean-up", queue = "maintenance")]
struct CleanUp;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::connect("memory:").await?;
    let done = Arc::new(Semaphore::new(0));
    let count = done.clone();
    let each_second = Schedule::cron_with("* * * * * *", |slot| Report { slot })
        .named("reports")
        .overlap(Overlap::Allow)
        .missed(Missed::up_to(10))
        .before(|slot| async move {
            // As on a day on which nobody works.
            let number = slot.statistics().map_or(0, |stat| stat.fired + stat.skipped);
            Ok(if number == 1 { slot.skip("a holiday") } else { slot.enqueue() })
        })
        .after(|report| async move {
            if let (SlotFate::Skipped(why), Some(slot)) = (report.fate, report.slot) {
                println!("{slot}: skipped, it is {why}");
            }
            Ok(())
        });
    let worker = Worker::new(queue.clone())
        .all_queues()
        .task(move |Report { slot }: Report| {
            let count = count.clone();
            async move {
                println!("{slot}: a report");
                count.add_permits(1);
                TaskResult::Ok(())
            }
        })
        .task(|_: CleanUp| async { Ok(()) })
        .scheduled(each_second)
        // Each night at three, in UTC, unless the last one is still at it.
        .schedule("0 3 * * *", CleanUp)
        .build()?;
    worker.run_until(async { drop(done.acquire_many(3).await) }).await?;
    for schedule in queue.schedules().await? {
        let next = schedule.next.map_or_else(String::new, |next| next.to_string());
        println!(
            "{}: fired {}, skipped {}, next {next}",
            schedule.name, schedule.fired, schedule.skipped
        );
    }
    Ok(())
}
