use queue::{Queue, Task, TaskResult, Worker};

#[derive(serde::Serialize, serde::Deserialize, Task)]
#[task(name = "count", output = u32)]
struct Count;

fn count(_: Count) -> TaskResult<u32> {
    Ok(3)
}

fn build(queue: Queue) {
    let _ = Worker::new(queue).task(count);
}

fn main() {}
