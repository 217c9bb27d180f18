use queue::{JobHandle, Task};

#[derive(serde::Serialize, serde::Deserialize, Task)]
#[task(name = "count", output = u32)]
struct Count;

async fn output(handle: JobHandle<Count>) {
    let _: String = handle.output().await.unwrap();
}

fn main() {}
