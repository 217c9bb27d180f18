//! What remains when a process dies between two writes: it is carried out once, by whoever comes next.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    ClaimRequest, Clock, Effect, Fire, Fired, Inserted, JobId, JobPatch, JobStore, JobStoreExt,
    JobUpdate, Keep, NewJob, Outcome, Payload, Queues, State, Timestamp, Transition, Unique,
};
use queue_mongo::{MongoStore, StopAfter};
use server::{Scratch, Server};

mod server;

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn start() -> Clock {
    Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap())
}

async fn open(scratch: &Scratch, clock: &Clock) -> MongoStore {
    scratch.options(clock).unwrap().open().await.unwrap()
}

/// A store that dies at this place.
async fn dying(scratch: &Scratch, clock: &Clock, place: StopAfter) -> MongoStore {
    scratch.options(clock).unwrap().stop_after(place).open().await.unwrap()
}

fn superseding() -> NewJob {
    let mut job = NewJob::new("task", Payload::null());
    job.unique = Some(Unique::supersede("k"));
    job.keep = Keep::UnlessCompleted;
    job
}

async fn run_to_the_end(store: &MongoStore) -> Vec<JobId> {
    let request = ClaimRequest::new(Queues::All, "tester", MANY, Duration::from_secs(60));
    let jobs = store.claim(&request).await.unwrap().jobs;
    let complete = JobPatch::transition(Transition::Complete { output: None });
    let updates: Vec<_> =
        jobs.iter().map(|job| JobUpdate::held(job.id, job.fence, complete.clone())).collect();
    let outcomes = store.update_jobs(&updates).await.unwrap();
    assert!(outcomes.iter().all(Outcome::is_saved));
    jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn a_job_that_was_to_take_another_s_place_is_inserted_by_the_next_reap() {
    let (scratch, clock) = (Server::ReplicaSet.scratch().unwrap(), start());
    let store = open(&scratch, &clock).await;
    let (old, new) = (superseding(), superseding());
    store.insert(std::slice::from_ref(&old)).await.unwrap();
    let died = dying(&scratch, &clock, StopAfter::Supersede).await;
    let error = died.insert(std::slice::from_ref(&new)).await.unwrap_err();
    assert_eq!((error.effect(), error.is_transient()), (Effect::Unknown, true));
    assert_eq!(store.state(old.id).await.unwrap(), Some(State::Cancelled));
    assert_eq!(store.state(new.id).await.unwrap(), None);
    clock.advance(Duration::from_secs(5));
    store.reap(MANY).await.unwrap();
    assert_eq!(store.state(new.id).await.unwrap(), Some(State::Waiting));
    assert_eq!(run_to_the_end(&store).await, [new.id]);
    clock.advance(Duration::from_secs(5));
    store.reap(MANY).await.unwrap();
    assert_eq!(store.state(new.id).await.unwrap(), None, "it is not made again");
}

#[tokio::test]
async fn a_repeated_insert_carries_out_the_first_and_the_job_runs_once() {
    let (scratch, clock) = (Server::ReplicaSet.scratch().unwrap(), start());
    let store = open(&scratch, &clock).await;
    let (old, new) = (superseding(), superseding());
    store.insert(std::slice::from_ref(&old)).await.unwrap();
    let died = dying(&scratch, &clock, StopAfter::Supersede).await;
    died.insert(std::slice::from_ref(&new)).await.unwrap_err();
    let again = store.insert(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(again, [Inserted::Existing(new.id)]);
    assert_eq!(run_to_the_end(&store).await, [new.id]);
    clock.advance(Duration::from_secs(5));
    store.reap(MANY).await.unwrap();
    assert_eq!(store.state(new.id).await.unwrap(), None, "it is not made again");
}

#[tokio::test]
async fn a_superseded_job_is_not_deleted_before_its_successor_is_there() {
    let (scratch, clock) = (Server::ReplicaSet.scratch().unwrap(), start());
    let store = open(&scratch, &clock).await;
    let (old, new) = (superseding(), superseding());
    store.insert(std::slice::from_ref(&old)).await.unwrap();
    let died = dying(&scratch, &clock, StopAfter::Supersede).await;
    died.insert(std::slice::from_ref(&new)).await.unwrap_err();
    let filter = queue_core::JobFilter::id(old.id);
    assert_eq!(store.delete(&filter, MANY).await.unwrap(), 1);
    assert_eq!(store.state(new.id).await.unwrap(), Some(State::Waiting));
}

#[tokio::test]
async fn a_slot_that_was_taken_and_left_is_finished_once() {
    for place in [StopAfter::Slot, StopAfter::SlotJob] {
        let (scratch, clock) = (Server::ReplicaSet.scratch().unwrap(), start());
        let store = open(&scratch, &clock).await;
        let mut job = NewJob::new("nightly", Payload::null());
        job.keep = Keep::UnlessCompleted;
        let slot = clock.now();
        let fire = Fire::new("nightly", slot, job);
        let id = JobId::for_slot("nightly", slot);
        let died = dying(&scratch, &clock, place).await;
        assert_eq!(died.fire(&fire).await.unwrap_err().effect(), Effect::Unknown);
        if place == StopAfter::Slot {
            clock.advance(Duration::from_secs(5));
            store.reap(MANY).await.unwrap();
        }
        // Where only the count was missing, the job may run and be deleted before anybody counts.
        assert_eq!(run_to_the_end(&store).await, [id], "{place:?}");
        assert_eq!(store.fire(&fire).await.unwrap(), Fired::Already { last_slot: slot });
        clock.advance(Duration::from_secs(5));
        store.reap(MANY).await.unwrap();
        assert_eq!(store.state(id).await.unwrap(), None, "{place:?}: it is not made again");
        let stats = store.schedules().await.unwrap();
        assert_eq!(stats.len(), 1);
        assert_eq!((stats[0].fired, stats[0].skipped, stats[0].last_job), (1, 0, Some(id)));
    }
}
