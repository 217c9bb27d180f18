use queue::Task;

#[derive(serde::Serialize, serde::Deserialize, Task)]
struct Count;

fn main() {}
