use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, queue::Task)]
#[task(name = "count", retries = 3, backoff(cap = "1h"))]
struct Count;

fn main() {}
