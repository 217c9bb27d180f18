#![deny(unused_must_use)]

use queue::{Task, TaskResult, Wf};

#[derive(serde::Serialize, serde::Deserialize, Task)]
#[task(name = "count", output = u32)]
struct Count;

async fn count(_: Count, wf: Wf) -> TaskResult<u32> {
    wf.run("one", || async { TaskResult::Ok(1) });
    Ok(3)
}

fn main() {}
