use queue::{JobState, OutputError, Pass, Task, TaskError, Worker};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(e7_only_a_completed_job_is_deleted_on_completion);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "ends", output = u32, retries = 1)]
enum Ends {
    Well,
    Badly,
    Cancelled,
    Retrying,
}

async fn ends(how: Ends) -> queue::TaskResult<u32> {
    match how {
        Ends::Well => Ok(1),
        Ends::Badly => Err(TaskError::fatal(TaskError::new("no"))),
        Ends::Cancelled => Err(TaskError::cancel("not wanted")),
        Ends::Retrying => Err(TaskError::new("later")),
    }
}

async fn e7_only_a_completed_job_is_deleted_on_completion(scene: Scene) {
    let worker = Worker::new(scene.queue.clone()).task(ends).build().unwrap();
    let jobs = [Ends::Well, Ends::Badly, Ends::Cancelled, Ends::Retrying];
    let handles = scene.queue.enqueue_many(jobs).delete_on_complete().await.unwrap();
    let summary = worker.run(Pass::new()).await.unwrap();
    assert_eq!(summary.jobs.len(), 4);
    let mut states = Vec::new();
    for handle in &handles {
        states.push(handle.job().await.unwrap().map(|job| job.state));
    }
    let expected =
        [None, Some(JobState::Failed), Some(JobState::Cancelled), Some(JobState::Waiting)];
    assert_eq!(states, expected);
    assert!(matches!(handles[0].output().await, Err(OutputError::NotKept)));
    assert!(
        matches!(handles[2].output().await, Err(OutputError::Cancelled(why)) if why == "not wanted")
    );
}
