//! The clock of a process may be wrong by an hour. The server's decides.
//!
//! Each test runs itself again in a process whose clock is faked (`libfaketime`, preloaded).

mod database;

use std::{
    num::NonZeroU32,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use database::Schema;
use queue_core::{
    ClaimRequest, Held, Job, JobStore, LogRead, NewJob, Outcome, Payload, Queues, State, Timestamp,
    When,
};
use queue_postgres::{PostgresOptions, PostgresStore, sqlx::query_scalar};

const SCHEMA: &str = "QUEUE_CLOCK_SCHEMA";
const LIBRARY: &str = "QUEUE_FAKETIME";
const DEADLINE: Duration = Duration::from_secs(30);

fn request(lease: Duration) -> ClaimRequest {
    ClaimRequest::new(Queues::default(), "worker", NonZeroU32::MIN, lease)
}

/// Claims until there is a job.
async fn claim(store: &PostgresStore, lease: Duration) -> Job {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(job) = store.claim(&request(lease)).await.unwrap().jobs.pop() {
            return job;
        }
        assert!(Instant::now() < deadline, "the job does not fall due");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the server's clock shows, past the store.
async fn server_now(store: &PostgresStore) -> Timestamp {
    let text = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = query_scalar(text).fetch_one(store.pool()).await.unwrap();
    Timestamp::from_micros(micros).unwrap()
}

/// What a process with another clock does, and sees.
async fn in_another_time(schema: &str) {
    let options = PostgresOptions::from_url(&database::url().unwrap()).unwrap();
    let store = options.schema(schema).open().await.unwrap();
    let server = server_now(&store).await;
    let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let own = Timestamp::from_micros(own.as_micros().try_into().unwrap()).unwrap();
    let skew = server.until(own).max(own.until(server));
    assert!(skew > Duration::from_secs(3500), "the clock is not faked: {own} for {server}");

    let second = Duration::from_secs(1);
    let mut job = NewJob::new("x", Payload::null());
    job.when = When::After(second);
    let before = server_now(&store).await;
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    let told = store.ping().await.unwrap();
    let after = server_now(&store).await;
    assert!(before <= told && told <= after, "{before} <= {told} <= {after}");
    let stored = store.get(&[job.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert!(before <= stored.created_at && stored.created_at <= after, "{stored:?}");
    assert_eq!(stored.run_at, stored.created_at.plus(second));

    // Not before it is due.
    let hour = Duration::from_secs(3600);
    let early = store.claim(&request(hour)).await.unwrap();
    let asked = server_now(&store).await;
    assert!(early.jobs.is_empty() || asked >= stored.run_at, "claimed before it was due");
    if early.jobs.is_empty() {
        assert_eq!(early.next_due, Some(stored.run_at));
    }
    let held = match early.jobs.into_iter().next() {
        Some(held) => held,
        None => claim(&store, hour).await,
    };
    assert!(held.started_at.unwrap() >= stored.run_at);
    // It begins when the row is locked, a moment after the call's own "now".
    let end = held.started_at.unwrap().plus(hour);
    let lease = held.lease_until.unwrap();
    assert!(lease >= end && lease < end.plus(DEADLINE), "{lease}, not {end}");

    // A lease that lives is left alone, and one that is over is not. Half an hour lies within the skew.
    let half = Duration::from_secs(1800);
    let beat = store.heartbeat(&[Held::new(held.id, held.fence)], half).await.unwrap();
    assert!(matches!(beat[0], Outcome::Applied(_)), "{beat:?}");
    assert_eq!(store.reap(NonZeroU32::MIN).await.unwrap(), []);
    store.heartbeat(&[Held::new(held.id, held.fence)], Duration::from_millis(50)).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while store.reap(NonZeroU32::MIN).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "a lease that is over is not seen to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let given_back = store.get(&[job.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!((given_back.state, given_back.crashes), (State::Waiting, 1));
}

/// Runs this test again, in a process whose clock is off by so much.
async fn with_a_clock_that_is_off(by: &str, test: &str) {
    if let Ok(schema) = std::env::var(SCHEMA) {
        return in_another_time(&schema).await;
    }
    let library = std::env::var(LIBRARY).unwrap_or_else(|_| {
        panic!(
            "{LIBRARY} is not set; run ./scripts/test, or set it to the file of libfaketime.so.1"
        )
    });
    let schema = Schema::new().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SCHEMA, &schema.name)
        .env("LD_PRELOAD", library)
        .env("FAKETIME", by)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .output()
        .unwrap();
    let told = [done.stdout, done.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(done.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_changes_no_delay_and_no_lease() {
    let test = "a_clock_that_is_an_hour_ahead_changes_no_delay_and_no_lease";
    with_a_clock_that_is_off("+1h", test).await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_behind_changes_no_delay_and_no_lease() {
    let test = "a_clock_that_is_an_hour_behind_changes_no_delay_and_no_lease";
    with_a_clock_that_is_off("-1h", test).await;
}
