//! What goes on meanwhile does not stop the rest: long lanes, open transactions, slow clocks, lost answers, full documents.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use mongodb::bson::{Document, doc};
use queue_core::{
    BulkChange, ClaimRequest, Clock, Effect, ErrorKind, Held, Job, JobFilter, JobPatch, JobStore,
    JobStoreExt, JobUpdate, Keep, Lane, LogRead, NewJob, Order, Outcome, Payload, Progress,
    QueueName, Queues, State, Timestamp, Transition, When, async_trait,
};
use queue_mongo::{MongoStore, Wake, mongodb};
use server::{Scratch, Server};
use tokio::sync::Notify;
use wire::{OnItsWay, Relay, Way};

mod server;
mod wire;

const LEASE: Duration = Duration::from_secs(600);
const PARKED: i32 = 5;

struct World {
    store: MongoStore,
    clock: Clock,
    scratch: Scratch,
}

impl World {
    async fn open(clock: Clock) -> World {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let options = scratch.options(&clock).unwrap().wake(Wake::Poll);
        World { store: options.open().await.unwrap(), clock, scratch }
    }

    async fn at_rest() -> World {
        World::open(Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap())).await
    }

    /// Another handle, whose commands something happens to.
    async fn behind(&self, what: Arc<dyn OnItsWay>) -> (MongoStore, Relay) {
        let relay = Relay::before(&self.scratch.url, what).await.unwrap();
        let options = queue_mongo::MongoOptions::from_url(&relay.url).unwrap();
        let options = options.database(&self.scratch.name).clock(self.clock.clone());
        (options.wake(Wake::Poll).open().await.unwrap(), relay)
    }

    async fn insert(&self, jobs: &[NewJob]) {
        self.store.insert(jobs).await.unwrap();
    }

    async fn claim(&self, limit: u32) -> Vec<Job> {
        self.store.claim(&request(limit)).await.unwrap().jobs
    }

    async fn one(&self) -> Job {
        self.claim(1).await.remove(0)
    }

    async fn complete(&self, job: &Job) {
        assert!(self.store.update_jobs(&[done(job)]).await.unwrap()[0].is_saved());
    }

    fn jobs(&self) -> mongodb::Collection<Document> {
        self.store.database().collection("jobs")
    }

    async fn parked(&self) -> u64 {
        self.jobs().count_documents(doc! { "state": PARKED }).await.unwrap()
    }

    /// Fills the job's document until so many bytes are left of what the server takes.
    async fn fill(&self, job: &NewJob, left: usize) {
        let this = doc! { "kind": job.kind.as_ref() };
        let document = self.jobs().find_one(this.clone()).await.unwrap().unwrap();
        let field = "pad".len() + 7;
        let size = document.to_vec().unwrap().len() + field + left;
        let pad = "x".repeat(16 * 1024 * 1024 - size);
        self.jobs().update_one(this, doc! { "$set": { "pad": pad } }).await.unwrap();
    }
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    let mut request = ClaimRequest::new(Queues::All, "tester", limit, LEASE);
    request.log = LogRead::None;
    request
}

fn from_queue(name: &str, limit: u32) -> ClaimRequest {
    let mut request = request(limit);
    request.queues = Queues::Only(vec![QueueName::new(name).unwrap()]);
    request
}

fn plain() -> NewJob {
    NewJob::new("task", Payload::null())
}

fn in_lane(lane: &str, priority: i16) -> NewJob {
    let mut job = plain();
    job.lane = Some(Lane::with_limit(lane, NonZeroU32::MIN));
    job.priority = priority;
    job
}

fn dropped(mut job: NewJob) -> NewJob {
    job.keep = Keep::UnlessCompleted;
    job
}

fn done(job: &Job) -> JobUpdate {
    let patch = JobPatch::transition(Transition::Complete { output: None });
    JobUpdate::held(job.id, job.fence, patch)
}

fn name(command: &Document) -> &str {
    command.keys().next().map_or("", String::as_str)
}

fn parks(command: &Document) -> bool {
    name(command) == "update" && command.to_string().contains("\"$set\": { \"state\": 5")
}

/// Holds one command until it is let go.
struct Gate {
    like: fn(&Document) -> bool,
    is_shut: AtomicBool,
    held: Notify,
    go: Notify,
}

impl Gate {
    fn new(like: fn(&Document) -> bool) -> Arc<Gate> {
        let (held, go) = (Notify::new(), Notify::new());
        Arc::new(Gate { like, is_shut: AtomicBool::new(false), held, go })
    }

    fn shut(&self) {
        self.is_shut.store(true, SeqCst);
    }

    async fn has_one(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.held.notified()).await.unwrap();
    }
}

#[async_trait]
impl OnItsWay for Gate {
    async fn pass(&self, command: &mut Document) -> Way {
        if (self.like)(command) && self.is_shut.swap(false, SeqCst) {
            self.held.notify_one();
            self.go.notified().await;
        }
        Way::On
    }
}

/// A server that takes a minute to park jobs, and counts how often it does so after a taking.
struct SlowParking {
    clock: Clock,
    took: AtomicBool,
    afterwards: AtomicUsize,
}

#[async_trait]
impl OnItsWay for SlowParking {
    async fn pass(&self, command: &mut Document) -> Way {
        if parks(command) {
            self.clock.advance(Duration::from_secs(60));
            self.afterwards.fetch_add(usize::from(self.took.load(SeqCst)), SeqCst);
        } else if name(command) == "findAndModify" {
            self.took.store(true, SeqCst);
        }
        Way::On
    }
}

impl SlowParking {
    fn new(clock: &Clock) -> Arc<SlowParking> {
        let (took, afterwards) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(SlowParking { clock: clock.clone(), took, afterwards })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_begins_when_jobs_are_taken_and_not_when_others_are_parked_before() {
    let world = World::at_rest().await;
    world.insert(&[in_lane("lane", 9)]).await;
    world.one().await;
    let behind: Vec<NewJob> = (0..50).map(|_| in_lane("lane", 5)).collect();
    world.insert(&behind).await;
    world.insert(&[plain(), plain()]).await;
    let slow = SlowParking::new(&world.clock);
    let (store, _relay) = world.behind(slow).await;
    let before = world.clock.now();
    let jobs = store.claim(&request(2)).await.unwrap().jobs;
    assert_eq!((jobs.len(), world.parked().await), (2, 50));
    let now = world.clock.now();
    assert!(now > before, "parking took no time");
    assert!(jobs.iter().all(|job| job.lease_until == Some(now.plus(LEASE))), "{now}: {jobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_took_the_head_of_a_long_lane_leaves_most_of_the_parking_to_the_next() {
    let world = World::at_rest().await;
    let long: Vec<NewJob> = (0..1_500).map(|_| in_lane("lane", 5)).collect();
    world.insert(&long).await;
    world.insert(&[plain()]).await;
    let slow = SlowParking::new(&world.clock);
    let (store, _relay) = world.behind(slow.clone()).await;
    let mut first = request(1);
    first.lease = Duration::from_secs(300);
    let head = store.claim(&first).await.unwrap().jobs;
    assert_eq!(head[0].id, long[0].id);
    let claimed = store.claim(&request(10)).await.unwrap();
    assert_eq!(claimed.jobs.len(), 1, "the plain job is found behind all of them");
    assert_eq!(world.parked().await, 1_499);
    world.complete(&head[0]).await;
    // The lane is free, and none of its jobs is parked.
    world
        .jobs()
        .update_many(doc! { "state": PARKED }, doc! { "$set": { "state": 0 } })
        .await
        .unwrap();
    world.insert(&[plain()]).await;
    slow.afterwards.store(0, SeqCst);
    let before = world.clock.now();
    let claimed = store.claim(&request(10)).await.unwrap();
    assert_eq!(claimed.jobs.len(), 2);
    assert!(claimed.next_due.is_some_and(|at| at <= world.clock.now()), "there is more to park");
    let taken_at = claimed.jobs[0].started_at.unwrap();
    let parking = world.clock.now().as_micros() - taken_at.as_micros();
    assert!(parking <= 120_000_000, "{parking} microseconds of parking after the taking");
    assert!(taken_at >= before);
    assert!(store.claim(&request(10)).await.unwrap().jobs.is_empty());
    assert_eq!(world.parked().await, 1_498);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_completes_and_drops_the_holder_of_a_lane_opens_it_if_it_commits() {
    let world = World::at_rest().await;
    world.insert(&[dropped(in_lane("lane", 9))]).await;
    let holder = world.one().await;
    world.insert(&[in_lane("lane", 0), in_lane("lane", 0)]).await;
    assert!(world.claim(5).await.is_empty());
    assert_eq!(world.parked().await, 2);
    let marks = world.store.database().collection::<Document>("freed_lanes");
    for commits in [false, true] {
        let mut session = world.store.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let outcomes = world.store.update_in(&mut session, &[done(&holder)]).await.unwrap();
        assert!(outcomes[0].is_saved());
        match commits {
            true => session.commit_transaction().await.unwrap(),
            false => session.abort_transaction().await.unwrap(),
        }
        assert_eq!(world.claim(5).await.len(), usize::from(commits));
    }
    assert_eq!(marks.count_documents(doc! {}).await.unwrap(), 1);
    assert!(world.claim(5).await.is_empty());
    assert_eq!(marks.count_documents(doc! {}).await.unwrap(), 0, "a full lane keeps no mark");
}

/// Three jobs of a worker, the first of them completed by a transaction that is still open.
async fn with_one_in_a_transaction(world: &World) -> (Vec<Job>, mongodb::ClientSession) {
    world.insert(&[plain(), plain(), plain()]).await;
    let held = world.claim(3).await;
    let mut session = world.store.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let outcomes = world.store.update_in(&mut session, &[done(&held[0])]).await.unwrap();
    assert!(outcomes[0].is_saved());
    (held, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_does_not_stop_the_heartbeats_of_other_jobs() {
    let world = World::at_rest().await;
    let (held, mut session) = with_one_in_a_transaction(&world).await;
    let beats: Vec<Held> = held.iter().map(|job| Held::new(job.id, job.fence)).collect();
    world.clock.advance(LEASE / 2);
    let lease = Duration::from_secs(3);
    let beat = world.store.heartbeat(&beats, lease);
    let error = tokio::time::timeout(Duration::from_secs(20), beat).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
    let renewed = Some(world.clock.now().plus(lease));
    for job in &held[1..] {
        assert_eq!(world.store.get_one(job.id).await.unwrap().unwrap().lease_until, renewed);
    }
    session.commit_transaction().await.unwrap();
    assert_eq!(world.store.state(held[0].id).await.unwrap(), Some(State::Completed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_does_not_stop_the_reaping_of_other_jobs() {
    let world = World::at_rest().await;
    let (held, mut session) = with_one_in_a_transaction(&world).await;
    world.clock.advance(LEASE * 2);
    let reap = world.store.reap(NonZeroU32::new(10).unwrap());
    tokio::time::timeout(Duration::from_secs(20), reap).await.unwrap().unwrap();
    for job in &held[1..] {
        assert_eq!(world.store.state(job.id).await.unwrap(), Some(State::Waiting));
    }
    session.commit_transaction().await.unwrap();
    assert_eq!(world.store.state(held[0].id).await.unwrap(), Some(State::Completed));
}

/// Loses the answers to claims of one job.
struct LosesAnswers(AtomicUsize);

#[async_trait]
impl OnItsWay for LosesAnswers {
    async fn pass(&self, command: &mut Document) -> Way {
        match name(command) {
            "findAndModify" if self.0.fetch_add(1, SeqCst) == 0 => Way::CutAfter,
            _ => Way::On,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_left_to_the_caller_to_repeat() {
    let world = World::at_rest().await;
    world.insert(&[plain()]).await;
    let loses = Arc::new(LosesAnswers(AtomicUsize::new(0)));
    let (store, _relay) = world.behind(loses.clone()).await;
    let request = request(1);
    let error = store.claim(&request).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    assert_eq!(loses.0.load(SeqCst), 1, "the driver repeated it by itself");
    assert_eq!(store.claim(&request).await.unwrap().jobs.len(), 1, "the token finds its job");
}

/// Delays what a store measures the server's clock with.
struct SlowHello {
    database: String,
    is_slow: AtomicBool,
}

#[async_trait]
impl OnItsWay for SlowHello {
    async fn pass(&self, command: &mut Document) -> Way {
        let is_own = command.get_str("$db").ok() == Some(&self.database);
        if is_own && name(command) == "hello" && self.is_slow.load(SeqCst) {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Way::On
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_measurement_does_not_make_a_clock_run_ahead() {
    let world = World::open(Clock::system()).await;
    let database = world.scratch.name.clone();
    let slow = Arc::new(SlowHello { database, is_slow: AtomicBool::new(false) });
    let (store, _relay) = world.behind(slow.clone()).await;
    slow.is_slow.store(true, SeqCst);
    let measured = store.ping().await.unwrap();
    let after = world.store.ping().await.unwrap();
    let ahead = measured.as_micros() - after.as_micros();
    assert!(ahead < 200_000, "{ahead} microseconds ahead, and half of the trip was a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_job_is_renewed_without_the_progress_for_which_it_has_no_room() {
    let world = World::at_rest().await;
    let full = NewJob::new("full", Payload::null());
    world.insert(std::slice::from_ref(&full)).await;
    let job = world.one().await;
    world.insert(&[plain()]).await;
    let other = world.one().await;
    world.fill(&full, 100).await;
    let mut beat = Held::new(job.id, job.fence);
    let mut progress = Progress::new(50);
    progress.message = Some("x".repeat(800));
    beat.progress = Some(progress);
    world.clock.advance(LEASE / 2);
    let beats = [beat, Held::new(other.id, other.fence)];
    let outcomes = world.store.heartbeat(&beats, LEASE).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.applied().is_some()), "{outcomes:?}");
    let found = world.store.get(&[job.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!(found.lease_until, Some(world.clock.now().plus(LEASE)));
    assert_eq!(found.progress, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_room_for_a_holder_is_passed_over() {
    let world = World::at_rest().await;
    let mut full = NewJob::new("full", Payload::null());
    full.priority = 9;
    let jobs = [full.clone(), plain()];
    world.insert(&jobs).await;
    world.fill(&full, 5).await;
    for limit in [1, 2] {
        let claimed = world.claim(limit).await;
        assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [jobs[1].id], "{limit}");
        let release = JobPatch::transition(Transition::Release { when: When::Now });
        let update = JobUpdate::held(claimed[0].id, claimed[0].fence, release);
        assert!(world.store.update_jobs(&[update]).await.unwrap()[0].is_saved());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_job_whose_holder_died_is_reaped_without_an_error_text() {
    let world = World::at_rest().await;
    let mut full = NewJob::new("full", Payload::null());
    full.max_crashes = 0;
    world.insert(std::slice::from_ref(&full)).await;
    let job = world.one().await;
    world.fill(&full, 0).await;
    world.clock.advance(LEASE * 2);
    let reaped = world.store.reap(NonZeroU32::MIN).await.unwrap();
    assert_eq!(reaped.iter().map(|reaped| reaped.id).collect::<Vec<_>>(), [job.id]);
    let found = world.store.get(&[job.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!((found.state, found.error), (State::Failed, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_not_told_that_it_completed_a_job_that_somebody_else_deleted() {
    let world = World::at_rest().await;
    world.insert(&[dropped(plain())]).await;
    let zombie = world.one().await;
    let gate = Gate::new(|command| name(command) == "delete");
    let (slow, _relay) = world.behind(gate.clone()).await;
    gate.shut();
    let (id, update) = (zombie.id, done(&zombie));
    let late = tokio::spawn(async move { slow.update_jobs(&[update]).await.unwrap() });
    gate.has_one().await;
    world.clock.advance(LEASE * 2);
    world.store.reap(NonZeroU32::MIN).await.unwrap();
    let cancel = BulkChange::Cancel { reason: "by hand".into() };
    world.store.update_where(&JobFilter::id(id), &cancel).await.unwrap();
    assert_eq!(world.store.delete(&JobFilter::id(id), NonZeroU32::MIN).await.unwrap(), 1);
    gate.go.notify_one();
    assert_eq!(late.await.unwrap(), [Outcome::Missing]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_to_be_tried_again_later_is_not_parked_before_it_is_due() {
    let world = World::at_rest().await;
    world.insert(&[in_lane("lane", 9)]).await;
    let holder = world.one().await;
    let job = in_lane("lane", 5);
    world.insert(std::slice::from_ref(&job)).await;
    let gate = Gate::new(parks);
    let (slow, _relay) = world.behind(gate.clone()).await;
    gate.shut();
    let late = tokio::spawn(async move { slow.claim(&request(1)).await.unwrap() });
    gate.has_one().await;
    world.complete(&holder).await;
    let held = world.one().await;
    assert_eq!(held.id, job.id);
    let when = When::After(Duration::from_secs(3_600));
    let retry = JobPatch::transition(Transition::Retry { when, error: Payload::null() });
    let update = JobUpdate::held(held.id, held.fence, retry);
    assert!(world.store.update_jobs(&[update]).await.unwrap()[0].is_saved());
    world.insert(&[in_lane("lane", 9)]).await;
    let holder = world.one().await;
    gate.go.notify_one();
    late.await.unwrap();
    assert_eq!(world.parked().await, 0);
    let due = in_lane("lane", 0);
    world.insert(std::slice::from_ref(&due)).await;
    assert!(world.claim(5).await.is_empty());
    world.complete(&holder).await;
    assert_eq!(world.one().await.id, due.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_leaves_the_lanes_of_other_queues_to_their_own_workers() {
    let world = World::at_rest().await;
    let other = || {
        let mut job = in_lane("lane", 0);
        job.queue = QueueName::new("other").unwrap();
        job
    };
    world.insert(&[other(), other(), other()]).await;
    let holder = world.store.claim(&from_queue("other", 5)).await.unwrap().jobs.remove(0);
    assert_eq!(world.parked().await, 2);
    world.complete(&holder).await;
    for _ in 0..2 {
        assert!(world.store.claim(&from_queue("mine", 5)).await.unwrap().jobs.is_empty());
        assert_eq!(world.parked().await, 2);
    }
    assert_eq!(world.store.claim(&from_queue("other", 5)).await.unwrap().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifo_claim_may_name_thousands_of_queues_with_many_priorities() {
    let world = World::at_rest().await;
    let jobs = (0..60).map(|priority| {
        let mut job = plain();
        job.priority = priority;
        job
    });
    world.insert(&jobs.collect::<Vec<_>>()).await;
    let names = (0..10_000).map(|n| format!("a-tenant-with-a-name-of-some-length-{n:05}"));
    let queues = names.map(|name| QueueName::new(name).unwrap());
    let mut request = request(5);
    request.order = Order::Lifo;
    request.queues = Queues::Only(queues.chain([QueueName::default()]).collect());
    let claimed = world.store.claim(&request).await.unwrap().jobs;
    assert_eq!(claimed.iter().map(|job| job.priority).collect::<Vec<_>>(), [59, 58, 57, 56, 55]);
}
