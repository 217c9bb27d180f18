use queue::{Queue, Task, TaskResult, Worker};

#[derive(serde::Serialize, serde::Deserialize, Task)]
#[task(name = "count", output = u32)]
struct Count;

async fn count(_: Count) -> TaskResult<String> {
    Ok("three".into())
}

fn build(queue: Queue) {
    let _ = Worker::new(queue).task(count);
}

fn main() {}
