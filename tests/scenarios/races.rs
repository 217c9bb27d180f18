use std::{num::NonZeroU32, time::Duration};

use futures::future::join_all;

use queue::{
    JobCtx, JobState, Outcome, Pass, Payload, Queue, Task, Worker,
    core::{
        ClaimRequest, Guard, JobPatch, JobStoreExt, JobUpdate, Progress, Queues, Transition,
        Version,
    },
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    e25_fifty_racing_editors_lose_no_update,
    e26_the_fenced_holder_cannot_complete_a_job_that_failed_elsewhere,
    a_job_that_its_handler_completes_by_its_fence_is_completed_once,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "edited", output = u32)]
struct Edited;

async fn e25_fifty_racing_editors_lose_no_update(scene: Scene) {
    const RACERS: usize = 50;
    let handle = scene.queue.enqueue(Edited).label("edits", "0").await.unwrap();
    let siblings: Vec<Queue> = join_all((0..4).map(|_| scene.sibling())).await;
    let edits = (0..RACERS).map(|racer| {
        let (queue, id) = (siblings[racer % siblings.len()].clone(), handle.id());
        tokio::spawn(async move {
            let one_more = |job: &queue::Job| {
                let edits: u32 = job.labels["edits"].parse().unwrap();
                JobPatch::default()
                    .with_label("edits", (edits + 1).to_string())
                    .with_progress(Progress::new(u8::try_from(edits + 1).unwrap()))
            };
            // The helper gives up after four tries, and fifty racers may need more.
            match queue.edit(id, one_more).await.unwrap() {
                Outcome::Applied(_) => true,
                Outcome::Conflict { .. } => false,
                other => panic!("{other:?}"),
            }
        })
    });
    let applied = join_all(edits).await.into_iter().filter(|edit| *edit.as_ref().unwrap()).count();
    let job = handle.job().await.unwrap().unwrap();
    assert!(applied >= 4, "in each round of tries somebody gets through");
    assert_eq!(job.version, Version(1 + applied as u64));
    assert_eq!(job.labels["edits"], applied.to_string());
    assert_eq!(usize::from(job.progress.unwrap().percent), applied);
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

async fn a_job_that_its_handler_completes_by_its_fence_is_completed_once(scene: Scene) {
    let complete = |ctx: &JobCtx, output: &str| {
        let output = Some(Payload::from_value(output).unwrap());
        JobUpdate::held(
            ctx.id(),
            ctx.fence(),
            JobPatch::transition(Transition::Complete { output }),
        )
    };
    let worker = Worker::new(scene.queue.clone())
        .task(move |_: Edited, ctx: JobCtx| async move {
            let store = ctx.queue().store().clone();
            let done = store.update_jobs(&[complete(&ctx, "by the handler")]).await?;
            assert!(matches!(done[..], [Outcome::Applied(_)]), "{done:?}");
            // A worker that loses the answer may say so again.
            let again = store.update_jobs(&[complete(&ctx, "by the handler")]).await?;
            assert!(matches!(again[..], [Outcome::Repeated(_)]), "{again:?}");
            Ok(7)
        })
        .build()
        .unwrap();
    let handle = scene.queue.enqueue(Edited).await.unwrap();
    let summary = worker.run(Pass::new()).await.unwrap();
    assert_eq!(summary.succeeded(), 1, "{summary:?}");
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
    assert_eq!(job.output.unwrap().to::<String>().unwrap(), "by the handler");
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty());
}
