//! What goes wrong with a server, a network, a configuration: each ends in an error that says so, or in recovery.
//! Nothing that was acknowledged is lost, nothing that is repeated is doubled.

mod database;

use std::{
    error::Error as _,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use conformance_tests::{Fault, Proxy, Switch};
use database::{Schema, with_parameters};
use futures::future::join_all;
use queue_core::{
    ClaimRequest, Effect, EntryId, EntryKind, Error, ErrorKind, Inserted, Job, JobId, JobPatch,
    JobStore, JobUpdate, Lane, LogRead, NewEntry, NewJob, Outcome, Payload, Queues, State,
    Transition, Unique,
};
use queue_postgres::{
    Pooler, PostgresOptions, PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _, query, raw_sql},
};
use test_servers::Private;

const DEADLINE: Duration = Duration::from_secs(60);

fn job() -> NewJob {
    NewJob::new("x", Payload::null())
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::default(), "worker", limit, Duration::from_secs(3600))
}

fn complete() -> JobPatch {
    JobPatch::transition(Transition::Complete { output: Some(Payload::null()) })
}

/// An error as anybody may come to see it, sources and all.
fn seen(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_server_that_is_down_is_named_with_its_port_and_without_the_password() {
    // Bound and closed again: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    for port in [closed, silent_port] {
        let url = format!("postgres://ada:s3cret@127.0.0.1:{port}/x?acquire_timeout_ms=300");
        let open = tokio::time::timeout(Duration::from_secs(20), PostgresStore::connect(&url));
        let error = open.await.expect("it waits longer than it was told to").unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(!seen(&error).contains("s3cret"), "{}", seen(&error));
    }
}

#[tokio::test]
async fn a_database_that_is_missing_is_named_with_what_to_do() {
    let url = database::url().unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let error = PostgresStore::connect(&format!("{server}/no_such_database")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let text = error.to_string();
    assert!(text.contains("CREATE DATABASE \"no_such_database\""), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_a_matter_of_configuration_and_is_shown_nowhere() {
    let servers = Private::start(&["postgres"]);
    let mut admin = PgConnection::connect(servers.get(database::VARIABLE)).await.unwrap();
    raw_sql("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
        .execute(&mut admin)
        .await
        .unwrap();
    let with = |password: &str| {
        servers.get(database::VARIABLE).replace("//queue@", &format!("//guarded:{password}@"))
    };
    for (password, clear) in [("s3cret", "s3cret"), ("s3cret%2F%40", "s3cret/@")] {
        let error = PostgresStore::connect(&with(password)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("guarded"), "{error}");
        for secret in [password, clear] {
            assert!(!seen(&error).contains(secret), "{}", seen(&error));
        }
    }
    let store = PostgresStore::connect(&with("right")).await.unwrap();
    let shown = format!("{store:?} {:?}", PostgresOptions::from_url(&with("right")).unwrap());
    assert!(!shown.contains("right"), "{shown}");
}

/// Does it again, as a caller would, until there is an answer.
async fn until_answered<T, F>(failures: &AtomicU64, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = queue_core::Result<T>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                failures.fetch_add(1, Ordering::SeqCst);
                assert!(error.is_transient(), "{error:?}");
                assert!(Instant::now() < deadline, "no answer any more: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// What one writer was told is done.
#[derive(Default)]
struct Done {
    inserted: Vec<JobId>,
    settled: Vec<JobId>,
    entries: Vec<EntryId>,
}

/// Inserts, appends and settles, and repeats what was not answered, until it is told to stop.
async fn write(store: &PostgresStore, stop: &AtomicBool, failures: &AtomicU64) -> Done {
    let mut done = Done::default();
    while !stop.load(Ordering::SeqCst) {
        let new = job();
        // `Existing` after an answer that was lost: the first try was committed.
        until_answered(failures, || store.insert(std::slice::from_ref(&new))).await;
        done.inserted.push(new.id);
        let request = request(1);
        let mut claimed = until_answered(failures, || store.claim(&request)).await;
        let Some(held) = claimed.jobs.pop() else { continue };
        let mut entries = Vec::new();
        for _ in 0..3 {
            let entry = NewEntry::new(EntryKind::Line, Payload::null());
            let append = JobUpdate::held(held.id, held.fence, JobPatch::append([entry.clone()]));
            let told =
                until_answered(failures, || store.update_jobs(std::slice::from_ref(&append))).await;
            assert!(told[0].is_saved(), "{told:?}");
            entries.push(entry.id);
        }
        let settle = JobUpdate::held(held.id, held.fence, complete());
        let told =
            until_answered(failures, || store.update_jobs(std::slice::from_ref(&settle))).await;
        assert!(told[0].is_saved(), "{told:?}");
        done.settled.push(held.id);
        done.entries.extend(entries);
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing_acknowledged_and_the_store_goes_on() {
    let servers = Private::start(&["postgres"]);
    let url = with_parameters(servers.get(database::VARIABLE), "acquire_timeout_ms=500");
    let store = PostgresStore::connect(&url).await.unwrap();
    let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop, failures) = (store.clone(), stop.clone(), failures.clone());
            tokio::spawn(async move { write(&store, &stop, &failures).await })
        })
        .collect();
    for round in 1..=2 {
        until_completed(&store, 20 * round).await;
        let before = failures.load(Ordering::SeqCst);
        servers.halt("postgres");
        // Each writer has seen it.
        let deadline = Instant::now() + DEADLINE;
        while failures.load(Ordering::SeqCst) < before + 4 {
            assert!(Instant::now() < deadline, "nobody notices that the server is gone");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        servers.resume("postgres");
    }
    let so_far = completed(&store).await;
    until_completed(&store, so_far + 20).await;
    stop.store(true, Ordering::SeqCst);
    let done: Vec<Done> = join_all(writers).await.into_iter().map(Result::unwrap).collect();

    let inserted: Vec<_> = done.iter().flat_map(|done| done.inserted.iter().copied()).collect();
    let jobs = store.get(&inserted, LogRead::None).await.unwrap();
    assert!(jobs.iter().all(Option::is_some), "an acknowledged insert is gone");
    let settled: Vec<_> = done.iter().flat_map(|done| done.settled.iter().copied()).collect();
    let jobs = store.get(&settled, LogRead::All).await.unwrap();
    let mut entries = 0;
    for job in jobs {
        let job = job.expect("an acknowledged job is gone");
        assert_eq!(job.state, State::Completed);
        let positions: Vec<_> = job.log.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(positions, [1, 2, 3], "a log with a gap, or with an entry twice");
        entries += job.log.len();
        for entry in &job.log {
            assert!(done.iter().any(|done| done.entries.contains(&entry.id)));
        }
    }
    assert_eq!(entries, done.iter().map(|done| done.entries.len()).sum::<usize>());
    assert!(entries > 100, "there was hardly any load");
}

async fn completed(store: &PostgresStore) -> u64 {
    let none = AtomicU64::new(0);
    let tally =
        until_answered(&none, || async { store.tally(&queue_core::JobFilter::all()).await });
    let done = tally.await.into_iter().filter(|tally| tally.state == State::Completed);
    done.map(|tally| tally.count).sum()
}

async fn until_completed(store: &PostgresStore, wanted: u64) {
    let deadline = Instant::now() + DEADLINE;
    while completed(store).await < wanted {
        assert!(Instant::now() < deadline, "the writers do not get on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a statement of this application waits for a lock, and ends its connection.
async fn terminate_what_waits(connection: &mut PgConnection, application: &str) {
    let text = "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity \
                WHERE application_name = $1 AND wait_event_type = 'Lock' \
                AND wait_event IN ('transactionid', 'tuple')";
    let deadline = Instant::now() + DEADLINE;
    loop {
        let row = query(text).bind(application).fetch_one(&mut *connection).await.unwrap();
        match row.get::<i64, _>("ended") {
            0 => assert!(Instant::now() < deadline, "nothing waits"),
            ended => return assert_eq!(ended, 1),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_statement_whose_connection_is_terminated_may_have_worked_and_its_repeat_does_it_once() {
    let schema = Schema::new().unwrap();
    let application = format!("ended_{}", &schema.name[20..]);
    let options = schema.options_with(&format!("application_name={application}")).unwrap();
    let store = options.open().await.unwrap();
    store.insert(&[job()]).await.unwrap();
    let held: Job = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    let mut watcher = schema.connection().await;
    let mut rival = schema.connection().await;

    let entry = NewEntry::new(EntryKind::Line, Payload::null());
    let new = job();
    let row_of_the_new = format!(
        "INSERT INTO {{s}}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at, input) \
         VALUES ('{}', 'default', 'x', 0, 0, 3, 0, 0, 'null')",
        new.id
    );
    let row_of_the_held = format!("SELECT FROM {{s}}.job WHERE id = '{}' FOR UPDATE", held.id);
    let append = JobUpdate::held(held.id, held.fence, JobPatch::append([entry.clone()]));
    let settle = JobUpdate::held(held.id, held.fence, complete());
    #[derive(Clone)]
    enum Call {
        Insert(NewJob),
        Update(JobUpdate),
    }
    async fn call(store: &PostgresStore, call: Call) -> queue_core::Result<String> {
        Ok(match call {
            Call::Insert(job) => format!("{:?}", store.insert(&[job]).await?),
            Call::Update(update) => format!("{:?}", store.update_jobs(&[update]).await?),
        })
    }
    let applied = format!("{:?}", [Outcome::Applied(queue_core::Ack::default())]);
    for (lock, what, repeated) in [
        (&row_of_the_new, Call::Insert(new.clone()), format!("{:?}", [Inserted::New(new.id)])),
        (&row_of_the_held, Call::Update(append.clone()), applied.clone()),
        (&row_of_the_held, Call::Update(settle.clone()), applied),
    ] {
        let lock = format!("BEGIN; {lock}").replace("{s}", &format!("\"{}\"", schema.name));
        raw_sql(AssertSqlSafe(lock)).execute(&mut rival).await.unwrap();
        let broken = {
            let (store, what) = (store.clone(), what.clone());
            tokio::spawn(async move { call(&store, what).await })
        };
        terminate_what_waits(&mut watcher, &application).await;
        let error = broken.await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Unavailable, Effect::Unknown),
            "{error}"
        );
        raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
        assert_eq!(call(&store, what).await.unwrap(), repeated);
    }
    // Once more, as if the answers had been lost.
    assert!(!store.insert(&[new]).await.unwrap()[0].is_new());
    assert!(store.update_jobs(&[settle]).await.unwrap()[0].is_saved());
    let ended = store.get(&[held.id], LogRead::All).await.unwrap().remove(0).unwrap();
    assert_eq!(ended.log.iter().map(|entry| entry.id).collect::<Vec<_>>(), [entry.id]);
    assert_eq!(ended.state, State::Completed);
}

#[tokio::test]
async fn a_call_that_hears_nothing_ends_in_time_and_its_connection_does_not_keep_the_next_one() {
    let schema = Schema::new().unwrap();
    let url = database::url().unwrap();
    let server = url.split('@').nth(1).unwrap().split('/').next().unwrap();
    for pooler in ["none", "transaction"] {
        let proxy = Proxy::start(server, 1).await.unwrap();
        let through = url.replace(server, &proxy.address().to_string());
        let own = format!("pooler={pooler}&call_timeout_ms=300&acquire_timeout_ms=5000");
        let options = PostgresOptions::from_url(&with_parameters(&through, &own)).unwrap();
        let options = options.schema(&schema.name).max_connections(NonZeroU32::MIN);
        let store = options.open().await.unwrap();
        store.insert(&[job()]).await.unwrap();
        // The connection is asked for a sign of life when it is given back: that is over.
        store.insert(&[job()]).await.unwrap();
        let silence = proxy.switch(Fault::Silent);
        silence.on().await.unwrap();
        let new = [job()];
        let call = tokio::time::timeout(DEADLINE, store.insert(&new));
        let error = call.await.expect("far beyond the limit").unwrap_err();
        assert!(error.is_transient(), "{error}");
        if error.kind() == ErrorKind::Timeout {
            assert_eq!(error.effect(), Effect::Unknown, "{error}");
            assert!(error.to_string().contains("call_timeout_ms"), "{error}");
        }
        silence.off().await.unwrap();
        // By the only connection that there may be: another one by now.
        until_answered(&AtomicU64::new(0), || store.insert(&new)).await;
    }
}

/// Fifty tasks that insert, claim and settle at the same time, by one connection.
async fn fifty_tasks(pooler: Pooler) {
    let schema = Schema::new().unwrap();
    let options = schema.options().unwrap().max_connections(NonZeroU32::MIN).pooler(pooler);
    let store = options.acquire_timeout(DEADLINE).open().await.unwrap();
    let tasks = (0..50).map(|task: u32| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut laned, mut unique) = (job(), job());
            laned.lane = Some(Lane::new(format!("lane {}", task % 7)));
            unique.unique = Some(Unique::new(format!("key {}", task % 11)));
            store.insert(&[laned, job()]).await?;
            store.insert(&[unique]).await?;
            let claimed = store.claim(&request(1)).await?.jobs;
            let settle = |job: &Job| JobUpdate::held(job.id, job.fence, complete());
            let settles: Vec<_> = claimed.iter().map(settle).collect();
            let (outcomes, next) = store.update_and_claim(&settles, &request(2)).await?;
            let settles: Vec<_> = next.jobs.iter().map(settle).collect();
            let outcomes = [outcomes, store.update_jobs(&settles).await?].concat();
            assert!(outcomes.iter().all(Outcome::is_saved), "{outcomes:?}");
            queue_core::Result::<()>::Ok(())
        })
    });
    let through = tokio::time::timeout(DEADLINE, join_all(tasks)).await;
    for answer in through.expect("the tasks wait for each other") {
        answer.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_get_through_a_pool_of_one_connection() {
    fifty_tasks(Pooler::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_get_through_a_pool_of_one_connection_to_a_pooler() {
    fifty_tasks(Pooler::Transaction).await;
}
