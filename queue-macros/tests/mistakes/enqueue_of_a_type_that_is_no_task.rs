use queue::Queue;

#[derive(serde::Serialize, serde::Deserialize)]
struct Count;

async fn enqueue(queue: Queue) {
    let _ = queue.enqueue(Count).await;
}

fn main() {}
