//! What attacks on the store have found.

mod database;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use database::Schema;
use queue_core::{
    ClaimRequest, ErrorKind, Guard, Held, Job, JobFilter, JobPatch, JobStore, JobUpdate, Lane,
    LogRead, NewJob, Outcome, Payload, Queues, Transition,
};
use queue_postgres::{
    PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql},
};

const SECOND: Duration = Duration::from_secs(1);

fn job() -> NewJob {
    NewJob::new("x", Payload::null())
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::All, "worker", limit, 60 * SECOND)
}

fn complete(job: &Job) -> JobUpdate {
    let patch = JobPatch::transition(Transition::Complete { output: None });
    JobUpdate::held(job.id, job.fence, patch)
}

/// A moment of some microseconds, another each time.
fn moment(n: u64, most: u64) -> Duration {
    Duration::from_micros(n * 37 % most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_application_abandons_swallows_no_acknowledged_job() {
    let schema = Schema::new().unwrap();
    let store = schema.options_with("max_connections=1").unwrap().open().await.unwrap();
    let other = schema.options().unwrap().open().await.unwrap();
    for n in 0..200 {
        let _ = tokio::time::timeout(moment(n, 800), store.pool().begin()).await;
        let job = job();
        store.insert(std::slice::from_ref(&job)).await.unwrap();
        assert!(other.get(&[job.id], LogRead::None).await.unwrap()[0].is_some(), "job {n}");
    }
}

/// Calls that are dropped at any moment leave the store usable for the next.
async fn dropped_calls(store: &PostgresStore, witness: &PostgresStore) {
    for n in 0..200 {
        let _ = tokio::time::timeout(moment(n, 2_500), store.tally(&JobFilter::all())).await;
        let _ = tokio::time::timeout(moment(n, 1_500), store.insert(&[job()])).await;
        let job = job();
        store.insert(std::slice::from_ref(&job)).await.unwrap();
        let ids = [job.id];
        let seen = tokio::time::timeout(20 * SECOND, witness.get(&ids, LogRead::None)).await;
        let seen = seen.expect("nobody is kept waiting");
        assert!(seen.unwrap()[0].is_some(), "job {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_the_connections_usable() {
    let schema = Schema::new().unwrap();
    let store = schema.options_with("max_connections=1").unwrap().open().await.unwrap();
    let witness = schema.options().unwrap().open().await.unwrap();
    dropped_calls(&store, &witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_keep_none_of_a_pooler_s_connections() {
    let schema = Schema::on(test_servers::server("QUEUE_PGBOUNCER_URL"));
    let options = || schema.options_with("max_connections=1&pooler=transaction").unwrap().open();
    let (store, witness) = (options().await.unwrap(), options().await.unwrap());
    dropped_calls(&store, &witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_a_long_transaction_does_not_cost_its_siblings_their_leases() {
    const LEASE: Duration = Duration::from_secs(3);
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    store.insert(&[job(), job()]).await.unwrap();
    let mut claim = request(2);
    claim.lease = LEASE;
    let jobs = store.claim(&claim).await.unwrap().jobs;
    let mut connection = schema.connection().await;
    let mut tx = connection.begin().await.unwrap();
    let settled = store.update_in(&mut tx, &[complete(&jobs[0])]).await.unwrap();
    assert!(settled[0].is_saved());
    let held: Vec<Held> = jobs.iter().map(|job| Held::new(job.id, job.fence)).collect();
    let before = store.get(&[jobs[1].id], LogRead::None).await.unwrap().remove(0).unwrap();
    let beating = {
        let store = store.clone();
        tokio::spawn(async move { store.heartbeat(&held, LEASE).await })
    };
    let deadline = Instant::now() + 20 * SECOND;
    loop {
        let now = store.get(&[jobs[1].id], LogRead::None).await.unwrap().remove(0).unwrap();
        if now.lease_until > before.lease_until {
            break;
        }
        assert!(Instant::now() < deadline, "the sibling's lease is not renewed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tx.commit().await.unwrap();
    let outcomes = beating.await.unwrap().unwrap();
    assert_eq!(outcomes[0], Outcome::Fenced, "it was completed meanwhile");
    assert!(outcomes[1].is_saved(), "{outcomes:?}");
}

#[tokio::test]
async fn a_job_that_somebody_has_locked_does_not_hide_those_behind_it() {
    for how in ["plain", "lanes", "filter"] {
        let schema = Schema::new().unwrap();
        let store = schema.options().unwrap().open().await.unwrap();
        let first = job();
        store.insert(std::slice::from_ref(&first)).await.unwrap();
        let behind = |n| {
            let mut job = job();
            job.lane = (how == "lanes").then(|| Lane::new(format!("lane {n}")));
            job
        };
        store.insert(&(0..20).map(behind).collect::<Vec<_>>()).await.unwrap();
        let mut connection = schema.connection().await;
        let mut tx = connection.begin().await.unwrap();
        let patch = JobPatch::default().with_label("edited", "yes");
        let edit = JobUpdate::new(first.id, Guard::None, patch);
        assert!(store.update_in(&mut tx, &[edit]).await.unwrap()[0].is_saved());
        let mut claim = request(1);
        claim.filter =
            (how == "filter").then(|| JobFilter::all().with_states(queue_core::State::Waiting));
        assert_eq!(store.claim(&claim).await.unwrap().jobs.len(), 1, "{how}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_pooler_that_is_refused_finds_nothing_made() {
    let schema = Schema::on(test_servers::server("QUEUE_PGBOUNCER_URL"));
    let error = schema.options().unwrap().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let text = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{}'", schema.name);
    let mut direct = Schema::new().unwrap().connection().await;
    let there: i64 = query_scalar(AssertSqlSafe(text)).fetch_one(&mut direct).await.unwrap();
    assert_eq!(there, 0, "the schema was made");
}

#[tokio::test]
async fn a_role_that_may_not_create_schemas_uses_the_one_that_was_made_for_it() {
    let role = test_servers::Role::new();
    let name = role.url().rsplit_once("schema=").unwrap().1.to_owned();
    let mut connection = PgConnection::connect(&database::url().unwrap()).await.unwrap();
    let text = format!(
        "CREATE SCHEMA {name} AUTHORIZATION {name}; \
         DO $$ BEGIN EXECUTE format('REVOKE CREATE ON DATABASE %I FROM {name}', current_database()); END $$"
    );
    let text = format!("SELECT pg_advisory_xact_lock(77); {text}");
    raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    let store = PostgresStore::connect(&role.url()).await.unwrap();
    assert!(store.insert(&[job()]).await.unwrap()[0].is_new());
}

#[tokio::test]
async fn a_claim_by_a_filter_takes_what_lanes_of_several_limits_leave() {
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    let laned = |limit: u32| {
        let mut job = job();
        job.lane = Some(Lane::with_limit("lane", NonZeroU32::new(limit).unwrap()));
        job
    };
    // The first two take the slots that those of the limit 2 would have; the fourth is behind more of them than the claim is for.
    let jobs = [laned(3), laned(3), laned(2), laned(2), job()];
    for job in &jobs {
        store.insert(std::slice::from_ref(job)).await.unwrap();
    }
    let mut claim = request(3);
    claim.filter = Some(JobFilter::all().with_states(queue_core::State::Waiting));
    let taken: Vec<_> = store.claim(&claim).await.unwrap().jobs.iter().map(|job| job.id).collect();
    assert_eq!(taken, [jobs[0].id, jobs[1].id, jobs[4].id]);
}
