//! A process whose clock is an hour off, or jumps: delays, leases and due times follow the server's clock.
//!
//! The process is this test binary, run again under a library that gives it another clock.

use std::{
    env, fs,
    num::NonZeroU32,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use queue_core::{
    ClaimRequest, Clock, Job, JobFilter, JobId, JobStore, JobStoreExt, NewJob, Payload, Queues,
    State, Timestamp, When,
};
use queue_mongo::{MongoOptions, MongoStore, Wake};
use server::{Scratch, Server};

mod server;

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();
const HOUR: Duration = Duration::from_secs(3_600);
/// More than a machine is ever busy, and much less than an hour.
const MARGIN: Duration = Duration::from_secs(600);
/// Where the child learns what to do.
const DATABASE: &str = "QUEUE_TEST_CHILD_DATABASE";
const OFFSET: &str = "QUEUE_TEST_CHILD_OFFSET";

async fn open(scratch: &Scratch) -> MongoStore {
    let options = scratch.options(&Clock::system()).unwrap();
    options.wake(Wake::Poll).open().await.unwrap()
}

/// Runs the test with this name in a process whose clock the file says.
async fn run_elsewhere(name: &str, scratch: &Scratch, offset: &Path) {
    let library = env::var("QUEUE_FAKETIME")
        .expect("QUEUE_FAKETIME is not set: run ./scripts/test, or name libfaketime there");
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env(DATABASE, &scratch.name)
        .env(OFFSET, offset)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// The store that a child is to use; `None` in a process that is no child.
async fn as_child() -> Option<MongoStore> {
    let name = env::var(DATABASE).ok()?;
    let options = MongoOptions::from_url(&Server::ReplicaSet.url().unwrap()).unwrap();
    Some(options.database(name).wake(Wake::Poll).open().await.unwrap())
}

/// By how much this process's clock is ahead of the server's, in microseconds.
async fn ahead(store: &MongoStore) -> i64 {
    let server = store.ping().await.unwrap().as_micros();
    let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(own.as_micros()).unwrap() - server
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap()
}

async fn insert(store: &MongoStore, kind: &'static str, when: When) -> JobId {
    let mut job = NewJob::new(kind, Payload::null());
    job.when = when;
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    job.id
}

async fn claim(store: &MongoStore, ids: &[JobId], lease: Duration) -> Vec<Job> {
    let mut request = ClaimRequest::new(Queues::All, "tester", MANY, lease);
    request.filter = Some(JobFilter::ids(ids.iter().copied()));
    store.claim(&request).await.unwrap().jobs
}

/// Polls until the job can be claimed, and says when that was by the server's clock.
async fn due_at(store: &MongoStore, id: JobId) -> Timestamp {
    loop {
        if !claim(store, &[id], HOUR).await.is_empty() {
            return store.ping().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn close(a: Timestamp, b: Timestamp) -> bool {
    a.as_micros().abs_diff(b.as_micros()) < micros(MARGIN) as u64
}

/// All that this process sees and writes is by the server's clock.
async fn follows_the_server(store: &MongoStore) {
    let now = store.ping().await.unwrap();
    let at = When::At(now.plus(Duration::from_millis(300)));
    let after = When::After(Duration::from_millis(300));
    for when in [When::Now, at, after] {
        let id = insert(store, "timed", when).await;
        let job = store.get_one(id).await.unwrap().unwrap();
        assert!(close(job.created_at, now) && close(job.run_at, now), "{now}: {job:?}");
        assert!(due_at(store, id).await >= job.run_at);
        let job = store.get_one(id).await.unwrap().unwrap();
        assert!(close(job.lease_until.unwrap(), now.plus(HOUR)), "{now}: {job:?}");
    }
    let later = insert(store, "later", When::After(MARGIN * 2)).await;
    assert!(claim(store, &[later], HOUR).await.is_empty(), "it is not due");
}

#[tokio::test]
async fn as_a_child_with_a_clock_that_is_off() {
    let Some(store) = as_child().await else { return };
    let off = ahead(&store).await;
    assert!(off.unsigned_abs() > micros(HOUR - MARGIN) as u64, "only {off} microseconds");
    follows_the_server(&store).await;
    // What the parent left: a lease that is over and one that is not.
    let reaped = store.reap(MANY).await.unwrap();
    let reaped: Vec<_> = reaped.iter().map(|reaped| reaped.id).collect();
    let over = store.find(&queue_core::JobQuery::new(JobFilter::kind("over"))).await.unwrap();
    assert_eq!(reaped, over.items.iter().map(|job| job.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn as_a_child_whose_clock_jumps() {
    let Some(store) = as_child().await else { return };
    let offset = env::var(OFFSET).unwrap();
    for (jump, seconds) in [("+0", 0), ("+1h", 3_600), ("-1h", -3_600), ("+0", 0)] {
        fs::write(&offset, jump).unwrap();
        // Not through `ping`, which asks the server anew.
        follows_the_server_unasked(&store).await;
        let off = ahead(&store).await - seconds * 1_000_000;
        assert!(off.abs() < micros(MARGIN), "{jump}: the clock is {off} microseconds elsewhere");
    }
}

/// The first thing after a jump is stamped right too.
async fn follows_the_server_unasked(store: &MongoStore) {
    let id = insert(store, "first", When::Now).await;
    let now = store.ping().await.unwrap();
    let job = store.get_one(id).await.unwrap().unwrap();
    assert!(close(job.created_at, now), "{now}: {job:?}");
    follows_the_server(store).await;
}

async fn with_a_clock_off_by(offset: &str) {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let store = open(&scratch).await;
    let over = insert(&store, "over", When::Now).await;
    let held = insert(&store, "held", When::Now).await;
    assert_eq!(claim(&store, &[over], Duration::from_millis(1)).await.len(), 1);
    assert_eq!(claim(&store, &[held], MARGIN).await.len(), 1);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("offset");
    fs::write(&file, offset).unwrap();
    run_elsewhere("as_a_child_with_a_clock_that_is_off", &scratch, &file).await;
    assert_eq!(store.state(held).await.unwrap(), Some(State::Running));
    assert_eq!(store.state(over).await.unwrap(), Some(State::Waiting));
    // What the child held and put off is so for its neighbours as well.
    assert!(store.reap(MANY).await.unwrap().is_empty());
    let later = store.find(&queue_core::JobQuery::new(JobFilter::kind("later"))).await.unwrap();
    let later: Vec<JobId> = later.items.iter().map(|job| job.id).collect();
    assert_eq!(later.len(), 1);
    assert!(claim(&store, &later, HOUR).await.is_empty());
}

#[tokio::test]
async fn a_process_whose_clock_is_an_hour_ahead_follows_the_server_s() {
    with_a_clock_off_by("+1h").await;
}

#[tokio::test]
async fn a_process_whose_clock_is_an_hour_behind_follows_the_server_s() {
    with_a_clock_off_by("-1h").await;
}

#[tokio::test]
async fn a_process_whose_clock_jumps_follows_the_server_s() {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("offset");
    fs::write(&file, "+0").unwrap();
    run_elsewhere("as_a_child_whose_clock_jumps", &scratch, &file).await;
}
