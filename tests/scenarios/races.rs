use std::{num::NonZeroU32, time::Duration};

use futures::future::join_all;

use queue::{
    JobState, Outcome, Payload, Queue, Task,
    core::{ClaimRequest, Guard, JobPatch, JobStoreExt, Progress, Queues, Transition, Version},
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    e25_fifty_racing_editors_lose_no_update,
    e26_the_fenced_holder_cannot_complete_a_job_that_failed_elsewhere,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "edited", output = u32)]
struct Edited;

async fn e25_fifty_racing_editors_lose_no_update(scene: Scene) {
    const RACERS: usize = 50;
    let handle = scene.queue.enqueue(Edited).label("edits", "0").await.unwrap();
    let siblings: Vec<Queue> = join_all((0..4).map(|_| scene.sibling())).await;
    let edits = (0..RACERS).map(|racer| {
        let store = siblings[racer % siblings.len()].store().clone();
        let id = handle.id();
        tokio::spawn(async move {
            loop {
                let job = store.get_one(id).await.unwrap().unwrap();
                let edits: u32 = job.labels["edits"].parse().unwrap();
                let patch = JobPatch::default()
                    .with_label("edits", (edits + 1).to_string())
                    .with_progress(Progress::new(u8::try_from(edits + 1).unwrap()));
                match store.update_one(id, Guard::Version(job.version), patch).await.unwrap() {
                    Outcome::Applied(_) => return,
                    Outcome::Conflict { actual } => assert!(actual > job.version),
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    for edit in join_all(edits).await {
        edit.unwrap();
    }
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!(job.version, Version(1 + RACERS as u64));
    assert_eq!(job.labels["edits"], RACERS.to_string());
    assert_eq!(job.progress.unwrap().percent, RACERS as u8);
}

async fn e26_the_fenced_holder_cannot_complete_a_job_that_failed_elsewhere(scene: Scene) {
    let handle = scene.queue.enqueue(Edited).await.unwrap();
    let sibling = scene.sibling().await;
    let (first, second) = (scene.queue.store(), sibling.store());
    let claim =
        |name| ClaimRequest::new(Queues::All, name, NonZeroU32::MIN, Duration::from_micros(1));
    let old = first.claim(&claim("first")).await.unwrap().jobs.remove(0);
    assert_eq!(second.reap(NonZeroU32::MIN).await.unwrap().len(), 1);
    let new = second.claim(&claim("second")).await.unwrap().jobs.remove(0);
    assert!(new.fence > old.fence);
    let fail = Transition::Fail { error: Payload::from_text("\"broken\"").unwrap() };
    let outcome =
        second.update_one(new.id, Guard::Fence(new.fence), JobPatch::transition(fail)).await;
    assert!(outcome.unwrap().is_saved());
    let before = handle.job().await.unwrap();
    let complete = Transition::Complete { output: Some(Payload::from_text("1").unwrap()) };
    let outcome =
        first.update_one(old.id, Guard::Fence(old.fence), JobPatch::transition(complete)).await;
    assert_eq!(outcome.unwrap(), Outcome::Fenced);
    assert_eq!(handle.job().await.unwrap(), before);
    assert_eq!(before.unwrap().state, JobState::Failed);
}
