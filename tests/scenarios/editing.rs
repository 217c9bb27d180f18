//! Changes by others than the holder: optimistic edits, and changes of many jobs.

use std::{num::NonZeroU32, time::Duration};

use queue::{
    Job, JobFilter, JobId, JobState, Outcome, Pass, Queue, QueueName, State, Task, TaskResult,
    Worker,
    core::{
        ClaimRequest, EntryKind, Guard, JobPatch, JobStoreExt, NewEntry, Payload, Progress, Queues,
        Transition, Version,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, task::block_in_place};

use crate::scene::{Docs, Scene};

crate::on_every_store!(
    an_edit_that_meets_another_one_is_made_on_top_of_it,
    an_edit_that_is_always_stale_ends_after_four_tries_with_the_current_version,
    a_stale_update_is_answered_with_the_current_version_and_changes_nothing,
    what_a_holder_reports_does_not_make_an_edit_stale,
    an_edit_of_an_unknown_job_says_so,
    an_edit_cannot_end_a_job,
    priorities_and_queues_are_set_for_all_jobs_that_match_and_have_not_ended,
    a_woken_job_is_due_at_once,
    paused_queues_are_listed_until_they_are_resumed,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "note")]
struct Note(String);

async fn note(Note(text): Note, State(docs): State<Docs>) -> TaskResult<()> {
    docs.write(text);
    Ok(())
}

fn worker(scene: &Scene, docs: &Docs) -> Worker {
    Worker::new(scene.queue.clone()).state(docs.clone()).task(note).all_queues().build().unwrap()
}

async fn noted(scene: &Scene, text: &str) -> JobId {
    scene.queue.enqueue(Note(text.to_owned())).label("edits", "0").await.unwrap().id()
}

async fn read(scene: &Scene, id: JobId) -> Job {
    scene.queue.job(id).await.unwrap().unwrap()
}

fn one_more(job: &Job) -> JobPatch {
    let edits: u32 = job.labels["edits"].parse().unwrap();
    JobPatch::default().with_label("edits", (edits + 1).to_string())
}

/// Somebody else's edit, made while an edit is between its read and its write.
fn meanwhile(other: &Queue, id: JobId) {
    let edit = async {
        let job = other.job(id).await.unwrap().unwrap();
        let outcome = other.update(id, job.version, one_more(&job)).await.unwrap();
        assert!(outcome.is_saved(), "{outcome:?}");
    };
    block_in_place(|| Handle::current().block_on(edit));
}

async fn an_edit_that_meets_another_one_is_made_on_top_of_it(scene: Scene) {
    let id = noted(&scene, "x").await;
    let other = scene.sibling().await;
    let mut tries = 0;
    let outcome = scene.queue.edit(id, |job| {
        tries += 1;
        if tries == 1 {
            meanwhile(&other, id);
        }
        one_more(job).with_progress(Progress::new(50))
    });
    let outcome = outcome.await.unwrap();
    assert_eq!(outcome.applied().and_then(|ack| ack.version), Some(Version(3)), "{outcome:?}");
    let job = read(&scene, id).await;
    assert_eq!((tries, job.labels["edits"].as_str(), job.version), (2, "2", Version(3)));
    assert_eq!(job.progress.unwrap().percent, 50);
}

async fn an_edit_that_is_always_stale_ends_after_four_tries_with_the_current_version(scene: Scene) {
    let id = noted(&scene, "x").await;
    let other = scene.sibling().await;
    let mut tries = 0;
    let outcome = scene.queue.edit(id, |job| {
        tries += 1;
        meanwhile(&other, id);
        one_more(job).with_label("mine", "yes")
    });
    assert_eq!(outcome.await.unwrap(), Outcome::Conflict { actual: Version(5) });
    let job = read(&scene, id).await;
    assert_eq!((tries, job.version, job.labels.contains_key("mine")), (4, Version(5), false));
    assert_eq!(job.labels["edits"], "4");
}

async fn a_stale_update_is_answered_with_the_current_version_and_changes_nothing(scene: Scene) {
    let id = noted(&scene, "x").await;
    let patch = JobPatch::default().with_label("edits", "1");
    let outcome = scene.queue.update(id, Version(1), patch.clone()).await.unwrap();
    assert_eq!(outcome.applied().and_then(|ack| ack.version), Some(Version(2)), "{outcome:?}");
    let before = read(&scene, id).await;
    let stale = JobPatch::default().with_label("edits", "9").with_log([line("never")]);
    let outcome = scene.queue.update(id, Version(1), stale).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict { actual: Version(2) });
    assert_eq!(read(&scene, id).await, before);
    let outcome = scene.queue.update(JobId::new(), Version(1), patch).await.unwrap();
    assert_eq!(outcome, Outcome::Missing);
}

fn line(text: &str) -> NewEntry {
    NewEntry::new(EntryKind::Line, Payload::from_value(&text).unwrap())
}

async fn what_a_holder_reports_does_not_make_an_edit_stale(scene: Scene) {
    let id = noted(&scene, "x").await;
    let claim = ClaimRequest::new(Queues::All, "holder", NonZeroU32::MIN, Duration::from_secs(60));
    let held = scene.queue.store().claim(&claim).await.unwrap().jobs.remove(0);
    let other = scene.sibling().await;
    let mut tries = 0;
    let outcome = scene.queue.edit(id, |job| {
        tries += 1;
        let report = JobPatch::progress(Progress::new(30)).with_log([line("at work")]);
        let report = other.store().update_one(id, Guard::Fence(held.fence), report);
        let reported = block_in_place(|| Handle::current().block_on(report));
        assert!(reported.unwrap().is_saved());
        one_more(job)
    });
    assert!(outcome.await.unwrap().is_saved());
    let job = read(&scene, id).await;
    assert_eq!((tries, job.labels["edits"].as_str(), job.log.len()), (1, "1", 1));
    assert_eq!(job.progress.unwrap().percent, 30);
}

async fn an_edit_of_an_unknown_job_says_so(scene: Scene) {
    let outcome = scene.queue.edit(JobId::new(), |_| unreachable!("there is nothing to edit"));
    assert_eq!(outcome.await.unwrap(), Outcome::Missing);
}

async fn an_edit_cannot_end_a_job(scene: Scene) {
    let id = noted(&scene, "x").await;
    let before = read(&scene, id).await;
    let end = |_: &Job| JobPatch::transition(Transition::Complete { output: None });
    let error = scene.queue.edit(id, end).await.unwrap_err();
    assert_eq!(error.kind(), queue::ErrorKind::Invalid);
    assert_eq!(read(&scene, id).await, before);
}

async fn priorities_and_queues_are_set_for_all_jobs_that_match_and_have_not_ended(scene: Scene) {
    let docs = Docs::default();
    let ended = noted(&scene, "ended").await;
    worker(&scene, &docs).run(Pass::new()).await.unwrap();
    let (first, second) = (noted(&scene, "first").await, noted(&scene, "second").await);
    let counts = scene.queue.set_priority(JobFilter::ids([second, ended]), 9).await.unwrap();
    assert_eq!((counts.changed, counts.finished), (1, 1));
    worker(&scene, &docs).run(Pass::new().limit(1)).await.unwrap();
    assert_eq!(docs.all(), ["ended", "second"]);

    let other = QueueName::new("other").unwrap();
    let all = JobFilter::kind("note");
    let counts = scene.queue.move_to(all, other.clone()).await.unwrap();
    assert_eq!((counts.changed, counts.finished), (1, 2));
    assert_eq!(read(&scene, first).await.queue, other);
    assert_eq!(read(&scene, ended).await.queue, QueueName::default());
    worker(&scene, &docs).run(Pass::new().queues([other])).await.unwrap();
    assert_eq!(docs.len(), 3);
}

async fn a_woken_job_is_due_at_once(scene: Scene) {
    let docs = Docs::default();
    let later = Duration::from_secs(3_600);
    let handle = scene.queue.enqueue(Note("late".into())).delay(later).await.unwrap();
    let others = [Note("later".into()), Note("later still".into())];
    scene.queue.enqueue_many(others).label("tenant", "a").delay(later).await.unwrap();
    let worker = worker(&scene, &docs);
    assert!(worker.run(Pass::new()).await.unwrap().jobs.is_empty());
    assert!(scene.queue.wake(handle.id()).await.unwrap().is_saved());
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(docs.all(), ["late"]);
    let counts = scene.queue.wake_where(JobFilter::label("tenant", "a")).await.unwrap();
    assert_eq!(counts.changed, 2);
    worker.drain(Pass::new()).await.unwrap();
    assert_eq!(docs.len(), 3);
    let ended = scene.queue.wake(handle.id()).await.unwrap();
    assert_eq!(ended, Outcome::Illegal { from: JobState::Completed });
    assert_eq!(scene.queue.wake(JobId::new()).await.unwrap(), Outcome::Missing);
}

async fn paused_queues_are_listed_until_they_are_resumed(scene: Scene) {
    let (a, b) = (QueueName::new("a").unwrap(), QueueName::new("b/\"'").unwrap());
    assert!(scene.queue.paused().await.unwrap().is_empty());
    scene.queue.pause(b.clone()).await.unwrap();
    scene.queue.pause(a.clone()).await.unwrap();
    assert_eq!(scene.queue.paused().await.unwrap(), [a.clone(), b.clone()]);
    scene.queue.resume(a).await.unwrap();
    assert_eq!(scene.queue.paused().await.unwrap(), [b]);
}
