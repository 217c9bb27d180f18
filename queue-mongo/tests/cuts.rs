//! Answers that are lost, commands that are lost, operations that are killed: the effect is told, and repeating does what
//! the first call was to do, once.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use queue_core::{
    BulkChange, ClaimRequest, Clock, Effect, EntryKind, Error, ErrorKind, Fire, Held, Job,
    JobFilter, JobId, JobPatch, JobStore, JobStoreExt, JobUpdate, NewEntry, NewJob, Outcome,
    Payload, Queues, State, Transition, async_trait,
};
use queue_mongo::{MongoOptions, MongoStore, Wake, mongodb};
use server::{Scratch, Server};
use test_servers::Private;
use wire::{OnItsWay, Relay, Way};

mod server;
mod wire;

const LEASE: Duration = Duration::from_secs(3_600);

/// Cuts the connection at the n-th command from now, before it or instead of its answer.
#[derive(Debug, Default)]
struct Scissors {
    /// Commands that still pass, plus one; none is cut at zero.
    left: AtomicUsize,
    after: AtomicBool,
    /// Whether the server was given something to write since.
    wrote: AtomicBool,
}

impl Scissors {
    fn cut(&self, nth: usize, way: Way) {
        self.after.store(way == Way::CutAfter, Ordering::SeqCst);
        self.wrote.store(false, Ordering::SeqCst);
        self.left.store(nth + 1, Ordering::SeqCst);
    }

    /// Whether there was nothing to cut any more; cuts nothing from now on.
    fn put_away(&self) -> bool {
        self.left.swap(0, Ordering::SeqCst) > 0
    }
}

#[async_trait]
impl OnItsWay for Scissors {
    async fn pass(&self, command: &mut Document) -> Way {
        let name = command.keys().next().map_or("", String::as_str);
        let is_write = ["insert", "update", "findAndModify", "delete"].contains(&name);
        if !is_write && !["find", "aggregate", "getMore"].contains(&name) {
            return Way::On;
        }
        let less = |left: usize| left.checked_sub(1);
        let way = match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(1) if self.after.load(Ordering::SeqCst) => Way::CutAfter,
            Ok(1) => Way::CutBefore,
            _ => Way::On,
        };
        self.wrote.fetch_or(is_write && way != Way::CutBefore, Ordering::SeqCst);
        way
    }
}

struct World {
    store: MongoStore,
    scissors: Arc<Scissors>,
    _relay: Relay,
    _scratch: Scratch,
}

impl World {
    async fn open() -> World {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let scissors: Arc<Scissors> = Arc::default();
        let relay = Relay::before(&scratch.url, scissors.clone()).await.unwrap();
        // The driver would make some calls again by itself; the callers of this store can.
        let url = format!("{}&retryWrites=false&retryReads=false", relay.url);
        let options = MongoOptions::from_url(&url).unwrap().database(&scratch.name);
        let store = options.wake(Wake::Poll).open().await.unwrap();
        World { store, scissors, _relay: relay, _scratch: scratch }
    }

    async fn held(&self, n: u32) -> Vec<Job> {
        let jobs: Vec<NewJob> = (0..n).map(|_| plain()).collect();
        self.store.insert(&jobs).await.unwrap();
        let jobs = self.store.claim(&request(n)).await.unwrap().jobs;
        assert_eq!(jobs.len(), n as usize);
        jobs
    }

    /// Makes the call with the connection cut at each of its commands in turn, and then again uncut. `check` is told
    /// what became of it.
    async fn each_cut<S, T, F, G, H>(
        &self,
        prepare: impl Fn() -> F,
        call: impl Fn(S) -> G,
        check: impl Fn(S, T) -> H,
    ) where
        S: Clone,
        F: Future<Output = S>,
        G: Future<Output = Result<T, Error>>,
        H: Future<Output = ()>,
    {
        for way in [Way::CutBefore, Way::CutAfter] {
            let (mut cuts, mut unknown) = (0, 0);
            for nth in 0.. {
                let subject = prepare().await;
                self.scissors.cut(nth, way);
                let cut = call(subject.clone()).await;
                if self.scissors.put_away() {
                    // It has no further command.
                    assert!(cut.is_ok());
                    break;
                }
                cuts += 1;
                let error = cut.map(drop).expect_err("the answer was lost");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                if self.scissors.wrote.load(Ordering::SeqCst) {
                    assert_eq!(error.effect(), Effect::Unknown, "{way:?} {nth}: {error}");
                    unknown += 1;
                }
                let answer = call(subject.clone()).await.unwrap();
                check(subject, answer).await;
            }
            wire::assert_sound();
            assert!(cuts > 0, "nothing was cut");
            assert!(way == Way::CutBefore || unknown > 0, "no write was cut");
        }
    }
}

fn plain() -> NewJob {
    NewJob::new("task", Payload::null())
}

fn request(limit: u32) -> ClaimRequest {
    ClaimRequest::new(Queues::All, "tester", NonZeroU32::new(limit).unwrap(), LEASE)
}

fn entry() -> NewEntry {
    NewEntry::new(EntryKind::Step, Payload::from_value("x").unwrap())
}

#[tokio::test]
async fn an_insert_whose_answer_was_lost_is_repeated_and_inserts_once() {
    let world = World::open().await;
    let store = &world.store;
    let new = || async { vec![plain(), plain()] };
    let insert = |jobs: Vec<NewJob>| async move { store.insert(&jobs).await };
    let check = |jobs: Vec<NewJob>, _| async move {
        for job in &jobs {
            assert_eq!(store.state(job.id).await.unwrap(), Some(State::Waiting));
        }
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        assert_eq!(store.count(&JobFilter::ids(ids)).await.unwrap(), 2);
    };
    world.each_cut(new, insert, check).await;
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_repeated_with_its_token_and_takes_once() {
    let world = World::open().await;
    let store = &world.store;
    for limit in [1, 3] {
        let prepare = || async {
            let jobs: Vec<NewJob> = (0..limit).map(|_| plain()).collect();
            store.insert(&jobs).await.unwrap();
            let mut request = request(limit);
            request.filter = Some(JobFilter::ids(jobs.iter().map(|job| job.id)));
            request
        };
        let claim = |request: ClaimRequest| async move { store.claim(&request).await };
        let check = |request: ClaimRequest, mut claimed: queue_core::Claimed| async move {
            // A claim that came half way holds a part of its jobs; the next one brings the rest.
            if claimed.jobs.len() < limit as usize {
                assert!(claimed.next_due.is_some());
                let mut rest = request.clone();
                rest.token = queue_core::Uuid::now_v7();
                claimed.jobs.extend(store.claim(&rest).await.unwrap().jobs);
            }
            assert_eq!(claimed.jobs.len(), limit as usize);
            for job in claimed.jobs {
                assert_eq!((job.fence.count, job.attempt), (1, 1), "{job:?}");
            }
        };
        world.each_cut(prepare, claim, check).await;
    }
}

#[tokio::test]
async fn a_settle_with_its_log_whose_answer_was_lost_is_repeated_and_made_once() {
    let world = World::open().await;
    let (world, store) = (&world, &world.store);
    let prepare = || async {
        let settle = |job: Job| {
            let patch = JobPatch::transition(Transition::Complete { output: None });
            JobUpdate::held(job.id, job.fence, patch.with_log([entry()]))
        };
        world.held(2).await.into_iter().map(settle).collect::<Vec<_>>()
    };
    let update = |updates: Vec<JobUpdate>| async move { store.update_jobs(&updates).await };
    let check = |updates: Vec<JobUpdate>, outcomes: Vec<Outcome>| async move {
        assert!(outcomes.iter().all(Outcome::is_saved), "{outcomes:?}");
        for update in updates {
            let job = store.get_one(update.id).await.unwrap().unwrap();
            assert_eq!((job.state, job.log.len(), job.log_len), (State::Completed, 1, 1));
        }
    };
    world.each_cut(prepare, update, check).await;
}

#[tokio::test]
async fn an_append_and_a_heartbeat_whose_answers_were_lost_are_repeated_and_made_once() {
    let world = World::open().await;
    let (world, store) = (&world, &world.store);
    let prepare = || async { (world.held(1).await.remove(0), entry()) };
    let append = |(job, entry): (Job, NewEntry)| async move {
        let update = JobUpdate::held(job.id, job.fence, JobPatch::append([entry]));
        store.heartbeat(&[Held::new(job.id, job.fence)], LEASE).await?;
        store.update_jobs(&[update]).await
    };
    let check = |(job, entry): (Job, NewEntry), outcomes: Vec<Outcome>| async move {
        assert!(matches!(outcomes[..], [Outcome::Applied(_)]), "{outcomes:?}");
        let job = store.get_one(job.id).await.unwrap().unwrap();
        assert_eq!((job.log.len(), job.log[0].id, job.log_len), (1, entry.id, 1));
    };
    world.each_cut(prepare, append, check).await;
}

#[tokio::test]
async fn a_cancel_and_a_slot_whose_answers_were_lost_are_repeated_and_made_once() {
    let world = World::open().await;
    let (world, store) = (&world, &world.store);
    let prepare = || async { world.held(1).await.remove(0).id };
    let cancel = |id: JobId| async move {
        let reason = BulkChange::Cancel { reason: "stop".to_owned() };
        store.update_where(&JobFilter::id(id), &reason).await
    };
    let check = |id: JobId, _| async move {
        let job = store.get_one(id).await.unwrap().unwrap();
        assert_eq!(job.cancel.unwrap().reason, "stop");
    };
    world.each_cut(prepare, cancel, check).await;

    let slots = AtomicUsize::new(0);
    let prepare = || async {
        let number = slots.fetch_add(1, Ordering::SeqCst);
        let now = store.ping().await.unwrap();
        Fire::new(format!("nightly-{number}"), now, plain())
    };
    let fire = |fire: Fire| async move { store.fire(&fire).await };
    let check = |fire: Fire, _| async move {
        let id = JobId::for_slot(&fire.schedule, fire.slot);
        assert_eq!(store.state(id).await.unwrap(), Some(State::Waiting));
        let stats = store.schedules().await.unwrap();
        let stat = stats.iter().find(|stat| stat.schedule == fire.schedule).unwrap();
        assert_eq!((stat.fired, stat.skipped), (1, 0), "{stat:?}");
    };
    world.each_cut(prepare, fire, check).await;
}

/// Has the server say of writes of several jobs that they were not acknowledged in time, and lets a rival go first.
struct Late {
    rival: Option<MongoStore>,
    reaped_by_rival: AtomicUsize,
}

#[async_trait]
impl OnItsWay for Late {
    async fn pass(&self, command: &mut Document) -> Way {
        if command.get_array("updates").is_ok_and(|updates| updates.len() > 1) {
            if let Some(rival) = &self.rival {
                let reaped = rival.reap(NonZeroU32::new(100).unwrap()).await.unwrap();
                self.reaped_by_rival.fetch_add(reaped.len(), Ordering::SeqCst);
            }
            // There is one member: the write is made, and two never have it.
            command.insert("writeConcern", doc! { "w": 2, "j": true, "wtimeout": 1 });
        }
        Way::On
    }
}

#[tokio::test]
async fn a_reap_that_is_acknowledged_too_late_reports_what_it_took_and_nothing_else() {
    for has_rival in [false, true] {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let clock = Clock::manual(Clock::system().now());
        let direct = scratch.options(&clock).unwrap().open().await.unwrap();
        let rival = has_rival.then(|| direct.clone());
        let late = Arc::new(Late { rival, reaped_by_rival: AtomicUsize::new(0) });
        let relay = Relay::before(&scratch.url, late.clone()).await.unwrap();
        let options = MongoOptions::from_url(&relay.url).unwrap().database(&scratch.name);
        let store = options.wake(Wake::Poll).clock(clock.clone()).open().await.unwrap();

        direct.insert(&(0..10).map(|_| plain()).collect::<Vec<_>>()).await.unwrap();
        let held = direct.claim(&request(10)).await.unwrap().jobs;
        clock.advance(LEASE * 2);
        let reaped = store.reap(NonZeroU32::new(100).unwrap()).await.unwrap();
        wire::assert_sound();

        let by_rival = late.reaped_by_rival.load(Ordering::SeqCst);
        assert_eq!((reaped.len(), by_rival), if has_rival { (0, 10) } else { (10, 0) });
        for job in held {
            let job = direct.get_one(job.id).await.unwrap().unwrap();
            assert_eq!((job.state, job.crashes), (State::Waiting, 1));
        }
    }
}

/// Has writes answered before a majority has them, and moves a job while a cursor is read on.
#[derive(Default)]
struct Hasty {
    is_hasty: AtomicBool,
    /// What changes a job at the next `getMore`, until it has.
    change: std::sync::Mutex<Option<(MongoStore, JobUpdate)>>,
    /// How often a search began that sees all of it at one moment.
    snapshots: AtomicUsize,
}

#[async_trait]
impl OnItsWay for Hasty {
    async fn pass(&self, command: &mut Document) -> Way {
        if self.is_hasty.load(Ordering::SeqCst) && command.contains_key("writeConcern") {
            command.insert("writeConcern", doc! { "w": 1 });
        }
        let level =
            command.get_document("readConcern").and_then(|concern| concern.get_str("level"));
        if command.contains_key("find") && level.is_ok_and(|level| level == "snapshot") {
            self.snapshots.fetch_add(1, Ordering::SeqCst);
        }
        if command.contains_key("getMore") {
            let change = self.change.lock().unwrap().take();
            if let Some((store, update)) = change {
                assert!(store.update_jobs(&[update]).await.unwrap()[0].is_saved());
            }
        }
        Way::On
    }
}

/// A store behind such a relay, and one that sees the same database directly.
async fn hasty() -> (MongoStore, MongoStore, Arc<Hasty>, Relay, Scratch) {
    hasty_on(Server::ReplicaSet.scratch().unwrap()).await
}

async fn hasty_on(scratch: Scratch) -> (MongoStore, MongoStore, Arc<Hasty>, Relay, Scratch) {
    let direct = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    let hasty = Arc::<Hasty>::default();
    let relay = Relay::before(&scratch.url, hasty.clone()).await.unwrap();
    let options = MongoOptions::from_url(&relay.url).unwrap().database(&scratch.name);
    let store = options.wake(Wake::Poll).open().await.unwrap();
    (store, direct, hasty, relay, scratch)
}

#[tokio::test]
async fn a_repeated_claim_answers_what_a_majority_has() {
    let (store, direct, hasty, _relay, _scratch) = hasty().await;
    hasty.is_hasty.store(true, Ordering::SeqCst);
    for limit in [1, 3].into_iter().cycle().take(20) {
        let jobs: Vec<NewJob> = (0..limit).map(|_| plain()).collect();
        direct.insert(&jobs).await.unwrap();
        let mut request = request(limit);
        request.filter = Some(JobFilter::ids(jobs.iter().map(|job| job.id)));
        // What this one answers is not known to a majority either.
        let _ = store.claim(&request).await.unwrap();
        let repeated = direct.claim(&request).await.unwrap().jobs;
        assert_eq!(repeated.len(), limit as usize);
        for job in repeated {
            let seen = direct.get_one(job.id).await.unwrap().unwrap();
            assert_eq!((seen.state, seen.fence), (State::Running, job.fence));
        }
    }
    wire::assert_sound();
}

#[tokio::test]
async fn a_bulk_change_meets_a_job_that_is_released_while_it_reads() {
    let (store, direct, hasty, _relay, _scratch) = hasty().await;
    // More than the first part of a cursor's answer.
    let jobs: Vec<NewJob> = (0..300).map(|_| plain()).collect();
    direct.insert(&jobs).await.unwrap();
    let held = direct.claim(&request(1)).await.unwrap().jobs.remove(0);
    let release = Transition::Release { when: queue_core::When::Now };
    let release = JobUpdate::held(held.id, held.fence, JobPatch::transition(release));
    *hasty.change.lock().unwrap() = Some((direct.clone(), release));
    let live = JobFilter::all().with_states(queue_core::States::LIVE);
    let cancel = BulkChange::Cancel { reason: "stop".to_owned() };
    let counts = store.update_where(&live, &cancel).await.unwrap();
    wire::assert_sound();
    assert!(hasty.change.lock().unwrap().is_none(), "the cursor was read on");
    assert_eq!(counts.changed + counts.signalled, 300, "{counts:?}");
    assert_eq!(direct.count(&live).await.unwrap(), 0);
}

#[tokio::test]
async fn a_bulk_change_goes_on_when_the_server_has_forgotten_how_its_jobs_were() {
    let servers = Private::start(&["mongo"]);
    let (store, direct, hasty, _relay, scratch) =
        hasty_on(Scratch::at(servers.get("QUEUE_MONGO_URL").to_owned())).await;
    // It forgets after five minutes, and now with the next write.
    let admin = Client::with_uri_str(&scratch.url).await.unwrap().database("admin");
    let forget = doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0 };
    admin.run_command(forget).await.unwrap();
    let jobs: Vec<NewJob> = (0..300).map(|_| plain()).collect();
    direct.insert(&jobs).await.unwrap();
    let held = direct.claim(&request(1)).await.unwrap().jobs.remove(0);
    let append = JobUpdate::held(held.id, held.fence, JobPatch::append([entry()]));
    *hasty.change.lock().unwrap() = Some((direct.clone(), append));
    let change = BulkChange::Priority(7);
    let counts = store.update_where(&JobFilter::all(), &change).await.unwrap();
    wire::assert_sound();
    assert_eq!(hasty.snapshots.load(Ordering::SeqCst), 2, "the first was forgotten");
    assert_eq!((counts.changed, counts.signalled), (300, 0), "each once");
    for job in jobs {
        let job = direct.get_one(job.id).await.unwrap().unwrap();
        assert_eq!((job.priority, job.version.0), (7, if job.id == held.id { 3 } else { 2 }));
    }
}

/// The ids of the writes that are under way in this collection.
async fn writes(admin: &mongodb::Database, collection: &str) -> Vec<Bson> {
    let running = doc! { "currentOp": 1, "active": true, "ns": collection, "op": "update" };
    let reply = admin.run_command(running).await.unwrap();
    let found = reply.get_array("inprog").unwrap().iter().filter_map(Bson::as_document);
    found.map(|operation| operation.get("opid").unwrap().clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_is_killed_half_way_may_have_an_effect_and_is_repeated() {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    let jobs = [plain(), plain()];
    store.insert(&jobs).await.unwrap();
    let held = store.claim(&request(2)).await.unwrap().jobs;
    let updates: Vec<JobUpdate> = held
        .iter()
        .map(|job| JobUpdate::held(job.id, job.fence, JobPatch::append([entry()])))
        .collect();
    // The second statement of the command waits for this transaction, after the first was made.
    let mut session = store.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let documents = store.database().collection::<Document>("jobs");
    let bytes = held[1].id.as_uuid().as_bytes().to_vec();
    let id = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Uuid, bytes };
    let touch = doc! { "$set": { "touched": 1 } };
    documents.update_one(doc! { "_id": id }, touch).session(&mut session).await.unwrap();
    let (other, sent) = (store.clone(), updates.clone());
    let writing = tokio::spawn(async move { other.update_jobs(&sent).await });
    let admin = Client::with_uri_str(&scratch.url).await.unwrap().database("admin");
    let collection = format!("{}.jobs", scratch.name);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.get_one(held[0].id).await.unwrap().unwrap().log.is_empty() {
        assert!(Instant::now() < deadline, "the first statement is not made");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while !writing.is_finished() {
        assert!(Instant::now() < deadline, "the command does not end");
        for operation in writes(&admin, &collection).await {
            admin.run_command(doc! { "killOp": 1, "op": operation }).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    session.abort_transaction().await.unwrap();
    let outcomes = store.update_jobs(&updates).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.applied().is_some()), "{outcomes:?}");
    for job in held {
        assert_eq!(store.get_one(job.id).await.unwrap().unwrap().log.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_get_through_one_connection() {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let options = scratch.options_with("maxPoolSize=1", &Clock::system()).unwrap();
    let store = options.wake(Wake::Poll).open().await.unwrap();
    let callers = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let job = plain();
            store.insert_one(&job).await?;
            let mut request = request(1);
            request.filter = Some(JobFilter::id(job.id));
            let held = store.claim(&request).await?.jobs.remove(0);
            let patch = JobPatch::append([entry()]);
            store.update_jobs(&[JobUpdate::held(held.id, held.fence, patch)]).await?;
            let patch = JobPatch::transition(Transition::Complete { output: None });
            store.update_jobs(&[JobUpdate::held(held.id, held.fence, patch)]).await
        })
    });
    for caller in futures::future::join_all(callers).await {
        assert!(matches!(caller.unwrap().unwrap()[..], [Outcome::Applied(_)]));
    }
    assert_eq!(store.count(&JobFilter::all().with_states(State::Completed)).await.unwrap(), 50);
}
