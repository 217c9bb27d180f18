use queue::Task;

#[derive(serde::Serialize, serde::Deserialize, Task)]
#[task(name = "count", retrys = 3)]
struct Count;

fn main() {}
