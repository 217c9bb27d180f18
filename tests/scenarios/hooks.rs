//! A store that tells somebody of every change.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use queue::{
    Change, Changed, Error, Hooked, Hooks, JobFilter, JobState, JobStore, Pass, Queue, Task,
    Worker,
    core::{
        BulkChange, ClaimRequest, Inserted, JobPatch, JobUpdate, Queues, Transition, async_trait,
    },
};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

crate::on_every_store!(
    every_change_of_a_job_is_announced_and_reported,
    a_write_that_shares_its_trip_with_a_claim_is_announced_and_reported,
    a_refused_change_is_not_made,
    a_hook_that_fails_afterwards_changes_nothing,
    a_hook_that_panics_beforehand_refuses_the_change,
);

#[derive(Serialize, Deserialize, Task)]
#[task(name = "greet", output = u32)]
struct Greet;

const LEASE: Duration = Duration::from_secs(60);

/// Writes down what it hears, and does what the test tells it to.
#[derive(Debug, Default)]
struct Ear {
    heard: Arc<Mutex<Vec<String>>>,
    refuse: Option<&'static str>,
    panic_at: Option<&'static str>,
    fails_afterwards: bool,
}

fn named(change: &Change<'_>) -> &'static str {
    match change {
        Change::Insert(_) => "insert",
        Change::Claim(_) => "claim",
        Change::Update(_) => "update",
        Change::Heartbeat(..) => "heartbeat",
        Change::Reap(_) => "reap",
        Change::UpdateWhere(_, BulkChange::Cancel { .. }) => "cancel",
        Change::UpdateWhere(..) => "bulk",
        Change::Delete(..) => "delete",
        Change::Fire(_) => "fire",
        other => panic!("{other:?}"),
    }
}

#[async_trait]
impl Hooks for Ear {
    async fn before(&self, change: Change<'_>) -> queue::Result<()> {
        let name = named(&change);
        self.heard.lock().unwrap().push(format!("before {name}"));
        assert!(self.panic_at != Some(name), "as the test told it to");
        match self.refuse == Some(name) {
            true => Err(Error::invalid("the hook says no")),
            false => Ok(()),
        }
    }

    async fn after(
        &self,
        change: Change<'_>,
        changed: queue::Result<Changed<'_>, &Error>,
    ) -> queue::Result<()> {
        let what = match changed {
            Ok(Changed::Insert([Inserted::New(_)])) => "one new".to_owned(),
            Ok(Changed::Insert([Inserted::Existing(_)])) => "one existing".to_owned(),
            Ok(Changed::Claim(claimed)) => format!("{} taken", claimed.jobs.len()),
            Ok(Changed::Update([outcome])) => format!("saved: {}", outcome.is_saved()),
            Ok(Changed::UpdateWhere(counts)) => format!("{} changed", counts.changed),
            Ok(Changed::Delete(count)) => format!("{count} deleted"),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{}", error.kind()),
        };
        self.heard.lock().unwrap().push(format!("after {}: {what}", named(&change)));
        assert!(!self.fails_afterwards || named(&change) != "insert", "as the test told it to");
        match self.fails_afterwards {
            true => Err(Error::invalid("too late to say no")),
            false => Ok(()),
        }
    }
}

fn hooked(scene: &Scene, ear: Ear) -> Queue {
    let store: Arc<dyn JobStore> = Arc::new(Hooked::new(scene.queue.store().clone(), ear));
    Queue::new(store).unwrap()
}

fn worker(queue: &Queue) -> Worker {
    Worker::new(queue.clone()).task(|_: Greet| async { Ok(1) }).build().unwrap()
}

async fn every_change_of_a_job_is_announced_and_reported(scene: Scene) {
    let ear = Ear::default();
    let heard = ear.heard.clone();
    let queue = hooked(&scene, ear);
    let handle = queue.enqueue(Greet).await.unwrap();
    queue.enqueue(Greet).id(handle.id()).await.unwrap();
    worker(&queue).run(Pass::new().limit(1)).await.unwrap();
    queue.cancel_where(JobFilter::all(), "too late").await.unwrap();
    let one = std::num::NonZeroU32::MIN;
    assert_eq!(queue.store().delete(&JobFilter::all(), one).await.unwrap(), 1);
    let too_large = usize::try_from(queue.store().info().capabilities.max_payload_bytes).unwrap();
    let input = queue::Payload::from_value(&"x".repeat(too_large)).unwrap();
    let large = queue::core::NewJob::new("large", input);
    assert!(queue.insert(vec![large]).await.is_err());
    let expected = [
        "before insert",
        "after insert: one new",
        "before insert",
        "after insert: one existing",
        "before claim",
        "after claim: 1 taken",
        "before update",
        "after update: saved: true",
        "before cancel",
        "after cancel: 0 changed",
        "before delete",
        "after delete: 1 deleted",
        "before insert",
        "after insert: too large",
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

async fn a_write_that_shares_its_trip_with_a_claim_is_announced_and_reported(scene: Scene) {
    let ear = Ear::default();
    let heard = ear.heard.clone();
    let queue = hooked(&scene, ear);
    scene.queue.enqueue_many([Greet, Greet]).await.unwrap();
    let claim = || ClaimRequest::new(Queues::default(), "test", NonZeroU32::MIN, LEASE);
    let job = queue.store().claim(&claim()).await.unwrap().jobs.remove(0);
    heard.lock().unwrap().clear();
    let settle = JobPatch::transition(Transition::Complete { output: None });
    let settle = JobUpdate::held(job.id, job.fence, settle);
    queue.store().update_and_claim(&[settle], &claim()).await.unwrap();
    // Both are announced before either is made.
    let expected =
        ["before update", "before claim", "after update: saved: true", "after claim: 1 taken"];
    assert_eq!(*heard.lock().unwrap(), expected);
}

async fn a_refused_change_is_not_made(scene: Scene) {
    let handle = scene.queue.enqueue(Greet).await.unwrap();
    let before = handle.job().await.unwrap();
    let no_inserts = hooked(&scene, Ear { refuse: Some("insert"), ..Ear::default() });
    let error = no_inserts.enqueue(Greet).await.unwrap_err();
    assert!(error.to_string().contains("the hook says no"), "{error}");
    assert_eq!(error.effect(), queue::core::Effect::None);
    let ear = Ear { refuse: Some("cancel"), ..Ear::default() };
    let heard = ear.heard.clone();
    let no_cancels = hooked(&scene, ear);
    assert!(no_cancels.cancel(handle.id(), "never mind").await.is_err());
    assert_eq!(*heard.lock().unwrap(), ["before cancel"], "there is nothing to report");
    let tally = scene.queue.tally(JobFilter::all()).await.unwrap();
    assert_eq!((tally.len(), tally[0].count), (1, 1));
    assert_eq!(handle.job().await.unwrap(), before);
}

async fn a_hook_that_fails_afterwards_changes_nothing(scene: Scene) {
    let ear = Ear { fails_afterwards: true, ..Ear::default() };
    let heard = ear.heard.clone();
    let queue = hooked(&scene, ear);
    let handle = queue.enqueue(Greet).await.unwrap();
    let summary = worker(&queue).run(Pass::new()).await.unwrap();
    assert_eq!(summary.succeeded(), 1);
    let job = handle.job().await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Completed, 1, 0));
    assert_eq!(heard.lock().unwrap().iter().filter(|line| line.contains("update")).count(), 2);
}

async fn a_hook_that_panics_beforehand_refuses_the_change(scene: Scene) {
    let queue = hooked(&scene, Ear { panic_at: Some("insert"), ..Ear::default() });
    let error = queue.enqueue(Greet).await.unwrap_err();
    assert!(error.to_string().contains("a hook panicked"), "{error}");
    assert!(scene.queue.tally(JobFilter::all()).await.unwrap().is_empty());
}
