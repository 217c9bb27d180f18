use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, queue::Task)]
#[task(name = "count", retries = 3, backoff(fixed = "30"))]
struct Count;

fn main() {}
