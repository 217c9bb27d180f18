//! What attacks on the store have found.

mod database;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use database::Schema;
use futures::StreamExt;
use queue_core::{
    ClaimRequest, Clock, Effect, ErrorKind, Guard, Held, Job, JobFilter, JobPatch, JobStore,
    JobUpdate, Lane, LogRead, NewJob, Outcome, Payload, QueueName, Queues, Timestamp, Transition,
    Unique,
};
use queue_postgres::{
    PostgresOptions, PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_scalar, raw_sql},
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
async fn a_claim_that_passes_over_locked_jobs_says_that_there_is_more() {
    for how in ["plain", "lanes", "filter"] {
        let schema = Schema::new().unwrap();
        let store = schema.options().unwrap().open().await.unwrap();
        let jobs: Vec<NewJob> = (0..3)
            .map(|n| {
                let mut job = job();
                job.lane = (how == "lanes").then(|| Lane::new(format!("lane {n}")));
                job
            })
            .collect();
        store.insert(&jobs).await.unwrap();
        let mut connection = schema.connection().await;
        let mut tx = connection.begin().await.unwrap();
        let patch = JobPatch::default().with_label("edited", "yes");
        let edit = |job: &NewJob| JobUpdate::new(job.id, Guard::None, patch.clone());
        store.update_in(&mut tx, &[edit(&jobs[0]), edit(&jobs[1])]).await.unwrap();
        let mut claim = request(2);
        claim.filter =
            (how == "filter").then(|| JobFilter::all().with_states(queue_core::State::Waiting));
        let claimed = store.claim(&claim).await.unwrap();
        assert_eq!(
            claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
            [jobs[2].id],
            "{how}"
        );
        let now = store.ping().await.unwrap();
        assert!(claimed.next_due.is_some_and(|due| due <= now), "{how}: {:?}", claimed.next_due);
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_reap_takes_what_is_behind_a_locked_job() {
    let schema = Schema::new().unwrap();
    let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap());
    let store = schema.options().unwrap().clock(clock.clone()).open().await.unwrap();
    store.insert(&[job(), job()]).await.unwrap();
    let older = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    clock.advance(SECOND);
    let newer = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    clock.advance(600 * SECOND);
    let mut connection = schema.connection().await;
    let mut tx = connection.begin().await.unwrap();
    let settled = store.update_in(&mut tx, &[complete(&older)]).await.unwrap();
    assert!(settled[0].is_saved());
    let reaped = store.reap(NonZeroU32::MIN).await.unwrap();
    assert_eq!(reaped.iter().map(|job| job.id).collect::<Vec<_>>(), [newer.id]);
    tx.commit().await.unwrap();
}

/// Waits until so many statements of this schema wait for a lock.
async fn until_waiting(schema: &Schema, wanted: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity \
        WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0 AND pid <> pg_backend_pid()";
    let mut connection = schema.connection().await;
    let deadline = Instant::now() + 20 * SECOND;
    loop {
        let found: i64 =
            query_scalar(waiting).bind(&schema.name).fetch_one(&mut connection).await.unwrap();
        if found >= wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found} statements wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Locks these jobs by a transaction of somebody else.
async fn locked(schema: &Schema, jobs: &[Job]) -> PgConnection {
    let mut connection = schema.connection().await;
    let ids: Vec<_> = jobs.iter().map(|job| *job.id.as_uuid()).collect();
    let lock = format!("SELECT FROM \"{}\".job WHERE id = ANY ($1) FOR UPDATE", schema.name);
    raw_sql("BEGIN").execute(&mut connection).await.unwrap();
    query(AssertSqlSafe(lock)).bind(ids).execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn the_lease_of_a_claim_begins_when_its_updates_need_not_wait_any_more() {
    const LEASE: Duration = Duration::from_secs(1);
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    store.insert(&[job()]).await.unwrap();
    let held = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    store.insert(&[job()]).await.unwrap();
    let rival = locked(&schema, std::slice::from_ref(&held)).await;
    let call = {
        let (store, update) = (store.clone(), complete(&held));
        let mut claim = request(1);
        claim.lease = LEASE;
        tokio::spawn(async move { store.update_and_claim(&[update], &claim).await })
    };
    until_waiting(&schema, 1).await;
    // A lease that began with the call would be over.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    let released = store.ping().await.unwrap();
    rival.close().await.unwrap();
    let (_, claimed) = call.await.unwrap().unwrap();
    let lease = claimed.jobs[0].lease_until.unwrap();
    assert!(lease >= released.plus(LEASE / 2), "{lease} after {released}");
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_for_a_locked_job_leaves_its_connection_to_others() {
    for pooler in [false, true] {
        let schema = Schema::new().unwrap();
        let (server, mode) = match pooler {
            false => (database::url().unwrap(), "none"),
            true => (test_servers::server("QUEUE_PGBOUNCER_URL"), "transaction"),
        };
        let own = format!("max_connections=1&acquire_timeout_ms=25000&pooler={mode}");
        let options = PostgresOptions::from_url(&database::with_parameters(&server, &own)).unwrap();
        let store = options.schema(&schema.name).open().await.unwrap();
        store.insert(&[job(), job()]).await.unwrap();
        let jobs = store.claim(&request(2)).await.unwrap().jobs;
        let rival = locked(&schema, &jobs[..1]).await;
        let held = jobs.iter().map(|job| Held::new(job.id, job.fence));
        let [waits, free]: [Held; 2] = held.collect::<Vec<_>>().try_into().unwrap();
        let call = {
            let store = store.clone();
            tokio::spawn(async move { store.heartbeat(&[waits], 60 * SECOND).await })
        };
        until_waiting(&schema, 1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        // The server would work on that statement for half a minute, call_timeout.
        let beat = store.heartbeat(&[free], 60 * SECOND).await.unwrap();
        assert!(beat[0].is_saved(), "{beat:?}");
        rival.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_goes_on_waiting_for_a_locked_job_until_its_time_is_over() {
    let schema = Schema::new().unwrap();
    let store = schema.options_with("call_timeout_ms=5000").unwrap().open().await.unwrap();
    store.insert(&[job()]).await.unwrap();
    let held = store.claim(&request(1)).await.unwrap().jobs;
    for is_released in [false, true] {
        let rival = locked(&schema, &held).await;
        let begun = Instant::now();
        let call = {
            let (store, update) = (store.clone(), complete(&held[0]));
            tokio::spawn(async move { store.update_jobs(&[update]).await })
        };
        if is_released {
            // Longer than the server lets one statement wait.
            tokio::time::sleep(3 * SECOND).await;
            rival.close().await.unwrap();
            assert!(call.await.unwrap().unwrap()[0].is_saved());
        } else {
            let error = call.await.unwrap().unwrap_err();
            assert!(error.is_transient() && begun.elapsed() >= 5 * SECOND, "{error}");
            assert_eq!(error.effect(), Effect::None, "{error}");
            rival.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_insert_that_waits_for_a_key_does_not_silence_the_hints_of_others() {
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    let mut hints = store.wakeups();
    let keyed = || {
        let mut job = job();
        job.unique = Some(Unique::new("k"));
        job
    };
    let mut connection = schema.connection().await;
    let mut tx = connection.begin().await.unwrap();
    store.insert_in(&mut tx, &[keyed()]).await.unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.insert(&[keyed()]).await })
    };
    until_waiting(&schema, 1).await;
    let mut other = job();
    other.queue = QueueName::new("other").unwrap();
    store.insert(&[other.clone()]).await.unwrap();
    let heard = async {
        while hints.next().await.is_some_and(|hint| hint.queue.as_ref() != Some(&other.queue)) {}
    };
    tokio::time::timeout(20 * SECOND, heard).await.expect("a hint while the first insert waits");
    assert!(!waiting.is_finished());
    tx.rollback().await.unwrap();
    assert!(waiting.await.unwrap().unwrap()[0].is_new());
}

#[tokio::test]
async fn the_deepest_of_documents_is_kept() {
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    let deepest = ["[", "]"].map(|bracket| bracket.repeat(Payload::MAX_DEPTH)).concat();
    let deepest = Payload::from_text(deepest).unwrap();
    store.insert(&[NewJob::new("x", deepest.clone())]).await.unwrap();
    let held = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    let patch = JobPatch::transition(Transition::Complete { output: Some(deepest.clone()) });
    let settled = store.update_jobs(&[JobUpdate::held(held.id, held.fence, patch)]).await.unwrap();
    assert!(settled[0].is_saved(), "{settled:?}");
    let job = store.get(&[held.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!((Some(job.input), job.output), (Some(deepest.clone()), Some(deepest)));
}

#[tokio::test]
async fn the_longest_of_times_are_taken_and_last() {
    let schema = Schema::new().unwrap();
    for url in [true, false] {
        let options = match url {
            true => schema
                .options_with("call_timeout_ms=2592000000&acquire_timeout_ms=18446744073709551615"),
            false => schema.options(),
        };
        let mut options = options.unwrap();
        if !url {
            options = options.call_timeout(Duration::MAX).acquire_timeout(Duration::MAX);
        }
        let store = options.open().await.unwrap();
        store.insert(&[job()]).await.unwrap();
        assert_eq!(store.claim(&request(1)).await.unwrap().jobs.len(), 1);
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
