//! What becomes of jobs behind a full lane, where processes die or race.

use std::{num::NonZeroU32, time::Duration};

use mongodb::bson::{Document, doc};
use queue_core::{
    ClaimRequest, Clock, Job, JobFilter, JobPatch, JobStore, JobUpdate, Keep, Lane, NewJob,
    Payload, Queues, State, States, Transition,
};

use super::{Behind, Lanes, marks};
use crate::{
    MongoOptions, MongoStore,
    codec::{PARKED, READY},
    connect::JOBS,
};

struct Scratch(MongoStore);

impl Scratch {
    async fn open() -> Scratch {
        let name = format!("queue_marks_{}", queue_core::Uuid::now_v7().simple());
        Scratch(Scratch::handle(&name).await)
    }

    async fn handle(name: &str) -> MongoStore {
        let url = std::env::var("QUEUE_MONGO_URL").expect(
            "QUEUE_MONGO_URL is not set: run ./scripts/test, which starts the servers, or name a MongoDB there",
        );
        let options = MongoOptions::from_url(&url).unwrap().database(name);
        options.clock(Clock::system()).open().await.unwrap()
    }

    async fn insert(&self, limit: u32, keep: Keep) -> NewJob {
        let mut job = NewJob::new("task", Payload::null());
        job.lane = Some(Lane::with_limit("lane", NonZeroU32::new(limit).unwrap()));
        job.keep = keep;
        self.0.insert(std::slice::from_ref(&job)).await.unwrap();
        job
    }

    async fn claim(&self, limit: u32) -> Vec<Job> {
        let limit = NonZeroU32::new(limit).unwrap();
        let lease = Duration::from_secs(60);
        let request = ClaimRequest::new(Queues::default(), "tester", limit, lease);
        self.0.claim(&request).await.unwrap().jobs
    }

    async fn complete(&self, job: &Job) {
        let patch = JobPatch::transition(Transition::Complete { output: None });
        let update = JobUpdate::held(job.id, job.fence, patch);
        assert!(self.0.update_jobs(&[update]).await.unwrap()[0].is_saved());
    }

    async fn stored(&self, state: i32) -> u64 {
        let jobs = self.0.database().collection::<Document>(JOBS);
        jobs.count_documents(doc! { "state": state }).await.unwrap()
    }

    /// One job that holds the lane, and others behind it that a claim has met.
    async fn with_parked(keep: Keep, parked: u64) -> (Scratch, Job) {
        let scratch = Scratch::open().await;
        scratch.insert(1, keep).await;
        let holder = scratch.claim(1).await.remove(0);
        for _ in 0..parked {
            scratch.insert(1, Keep::Always).await;
        }
        assert!(scratch.claim(5).await.is_empty());
        assert_eq!(scratch.stored(PARKED).await, parked);
        (scratch, holder)
    }

    async fn drop(self) {
        self.0.database().drop().await.unwrap();
    }
}

#[tokio::test]
async fn a_settle_brings_one_job_back_and_leaves_the_others_aside() {
    let (scratch, holder) = Scratch::with_parked(Keep::Always, 5).await;
    scratch.complete(&holder).await;
    assert_eq!(scratch.claim(5).await.len(), 1);
    assert_eq!(scratch.stored(PARKED).await, 4);
    assert!(scratch.claim(5).await.is_empty());
    let mut waiting = JobFilter::default();
    waiting.states = States::of(&[State::Waiting]);
    let tally = scratch.0.tally(&waiting).await.unwrap();
    assert_eq!(tally.iter().map(|tally| tally.count).collect::<Vec<_>>(), [4]);
    scratch.drop().await;
}

#[tokio::test]
async fn a_reap_finds_a_lane_whose_mark_was_lost() {
    let (scratch, holder) = Scratch::with_parked(Keep::Always, 2).await;
    scratch.complete(&holder).await;
    let jobs = scratch.0.database().collection::<Document>(JOBS);
    jobs.update_many(doc! {}, doc! { "$unset": { "freed": "" } }).await.unwrap();
    assert!(scratch.claim(1).await.is_empty(), "without a mark a claim does not look");
    scratch.0.reap(NonZeroU32::MIN).await.unwrap();
    assert_eq!(scratch.claim(1).await.len(), 1);
    scratch.drop().await;
}

#[tokio::test]
async fn a_job_that_is_deleted_when_it_completes_frees_its_lane() {
    let (scratch, holder) = Scratch::with_parked(Keep::UnlessCompleted, 2).await;
    scratch.complete(&holder).await;
    assert_eq!(scratch.claim(5).await.len(), 1);
    scratch.drop().await;
}

#[tokio::test]
async fn deleting_the_job_that_freed_a_slot_does_not_lose_the_mark() {
    let (scratch, holder) = Scratch::with_parked(Keep::Always, 2).await;
    scratch.complete(&holder).await;
    let mut filter = JobFilter::default();
    filter.ids = Some(vec![holder.id]);
    assert_eq!(scratch.0.delete(&filter, NonZeroU32::MIN).await.unwrap(), 1);
    assert_eq!(scratch.claim(5).await.len(), 1);
    scratch.drop().await;
}

#[tokio::test]
async fn a_job_is_not_parked_behind_a_lane_that_has_room_by_then() {
    let scratch = Scratch::open().await;
    let job = scratch.insert(1, Keep::Always).await;
    let behind = [Behind { id: job.id, lane: "lane".to_owned(), limit: 1 }];
    let db = &scratch.0.0;
    let now = db.now().await.unwrap();
    let came_back = marks::park(db, &mut Lanes::default(), &behind, now).await.unwrap();
    assert!(came_back);
    assert_eq!((scratch.stored(READY).await, scratch.stored(PARKED).await), (1, 0));
    scratch.drop().await;
}

#[tokio::test]
async fn jobs_of_a_narrow_limit_are_not_in_the_way_of_those_of_a_wide_one() {
    let scratch = Scratch::open().await;
    for _ in 0..2 {
        scratch.insert(2, Keep::Always).await;
    }
    let holders = scratch.claim(2).await;
    for limit in [1, 1, 1, 2] {
        scratch.insert(limit, Keep::Always).await;
    }
    assert!(scratch.claim(5).await.is_empty());
    assert_eq!(scratch.stored(PARKED).await, 4);
    for holder in &holders {
        scratch.complete(holder).await;
    }
    let claimed = scratch.claim(5).await;
    let limits = claimed.iter().map(|job| job.lane.as_ref().unwrap().limit.get());
    assert_eq!(limits.collect::<Vec<_>>(), [1, 2]);
    scratch.drop().await;
}

#[tokio::test]
async fn a_claim_that_comes_back_empty_finds_a_lane_whose_mark_was_lost() {
    let (scratch, holder) = Scratch::with_parked(Keep::Always, 2).await;
    scratch.complete(&holder).await;
    let jobs = scratch.0.database().collection::<Document>(JOBS);
    jobs.update_many(doc! {}, doc! { "$unset": { "freed": "" } }).await.unwrap();
    scratch.0.0.repaired.set_old();
    let lease = Duration::from_secs(60);
    let request = ClaimRequest::new(Queues::default(), "tester", NonZeroU32::MIN, lease);
    let claimed = scratch.0.claim(&request).await.unwrap();
    let now = scratch.0.ping().await.unwrap();
    assert!(claimed.jobs.is_empty());
    assert!(claimed.next_due.is_some_and(|at| at <= now), "{:?}", claimed.next_due);
    assert_eq!(scratch.claim(1).await.len(), 1);
    scratch.drop().await;
}

#[tokio::test]
async fn a_lane_that_has_its_mark_does_not_call_the_workers_of_other_queues() {
    let (scratch, holder) = Scratch::with_parked(Keep::Always, 2).await;
    scratch.complete(&holder).await;
    scratch.0.0.repaired.set_old();
    let other = Queues::Only(vec![queue_core::QueueName::new("other").unwrap()]);
    let lease = Duration::from_secs(60);
    let request = ClaimRequest::new(other, "tester", NonZeroU32::MIN, lease);
    assert_eq!(scratch.0.claim(&request).await.unwrap().next_due, None);
    assert_eq!(scratch.claim(1).await.len(), 1);
    scratch.drop().await;
}
