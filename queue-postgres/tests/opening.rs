//! Opening and migrating.

mod database;

use std::time::{Duration, Instant};

use database::Schema;
use futures::future::join_all;
use queue_core::{ErrorKind, JobStore, NewJob, Payload};
use queue_postgres::{
    PostgresOptions, PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql},
};

#[tokio::test]
async fn a_server_that_refuses_is_unavailable_at_once() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let began = Instant::now();
    let error = PostgresStore::connect(&format!("postgres://ada:s3cret@127.0.0.1:{port}/x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_that_is_silent_is_unavailable_within_the_configured_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url =
        format!("postgres://ada:s3cret@127.0.0.1:{port}/x?acquire_timeout_ms=200&sslmode=disable");
    let began = Instant::now();
    let error = PostgresStore::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("within 200 ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_database_or_user_that_does_not_exist_is_a_matter_of_configuration() {
    let url = database::url().unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
    for (url, named) in [
        (format!("{server}/no_such_database"), "no_such_database"),
        (format!("postgres://nobody_here:s3cret@{host}/postgres"), "nobody_here"),
    ] {
        let error = PostgresStore::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_database_that_lacks_characters_is_refused_with_what_would_work() {
    let url = database::url().unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let name = format!("test_{}", queue_core::Uuid::now_v7().simple());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let make = format!(
        "CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    raw_sql(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
    let opened = PostgresStore::connect(&format!("{server}/{name}")).await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("LATIN1") && error.to_string().contains("UTF8"), "{error}");
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_unavailable_and_changes_nothing() {
    let schema = Schema::new().unwrap();
    let options = schema.options().unwrap();
    let options = options
        .max_connections(std::num::NonZeroU32::MIN)
        .acquire_timeout(Duration::from_millis(300));
    let store = options.open().await.unwrap();
    let mut rival = schema.connection().await;
    let lock = format!("BEGIN; LOCK TABLE \"{}\".job", schema.name);
    raw_sql(AssertSqlSafe(lock)).execute(&mut rival).await.unwrap();
    let job = || NewJob::new("x", Payload::null());
    let first = [job()];
    // The one connection waits for the lock; which of the two has it does not matter.
    let calls = futures::future::join(async { store.insert(&first).await }, async {
        let error = store.insert(&[job()]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(error.effect(), queue_core::Effect::None);
        raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    });
    assert!(calls.await.0.unwrap()[0].is_new());
    assert!(store.insert(&[job()]).await.unwrap()[0].is_new());
}

#[tokio::test]
async fn eight_at_once_make_one_schema_and_opening_again_changes_nothing() {
    let schema = Schema::new().unwrap();
    let open = || async { schema.options().unwrap().open().await };
    let stores = join_all((0..8).map(|_| open())).await;
    for store in &stores {
        assert!(store.is_ok(), "{store:?}");
    }
    let job = NewJob::new("x", Payload::null());
    assert!(
        stores[0].as_ref().unwrap().insert(std::slice::from_ref(&job)).await.unwrap()[0].is_new()
    );
    let again = open().await.unwrap();
    assert!(!again.insert(&[job]).await.unwrap()[0].is_new());
    let mut connection = schema.connection().await;
    let steps: i64 =
        query_scalar("SELECT count(*) FROM information_schema.tables WHERE table_schema = $1")
            .bind(&schema.name)
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(steps, 5, "tables");
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    let schema = Schema::new().unwrap();
    schema.options().unwrap().open().await.unwrap();
    schema.run("INSERT INTO {s}.schema_version VALUES (7)").await;
    let error = schema.options().unwrap().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let text = error.to_string();
    assert!(text.contains("version 7") && text.contains("up to 1"), "{text}");
}

#[tokio::test]
async fn a_schema_may_have_any_name_and_is_a_store_of_its_own() {
    let mut hostile = Schema::new().unwrap();
    hostile.name = format!("a\"b'c; {{job}} $1 {}", &hostile.name[20..]);
    let other = Schema::new().unwrap();
    let one = hostile.options().unwrap().open().await.unwrap();
    let two = other.options().unwrap().open().await.unwrap();
    let job = NewJob::new("x", Payload::null());
    assert!(one.insert(std::slice::from_ref(&job)).await.unwrap()[0].is_new());
    assert!(two.insert(&[job]).await.unwrap()[0].is_new());
    // Its guard quotes plainly.
    let quoted = format!("DROP SCHEMA \"{}\" CASCADE", hostile.name.replace('"', "\"\""));
    hostile.run(&quoted).await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_gets_no_prepared_statement_and_no_listener() {
    let schema = Schema::new().unwrap();
    let options: PostgresOptions =
        schema.options().unwrap().pooler(queue_postgres::Pooler::Transaction);
    let store = options.max_connections(std::num::NonZeroU32::MIN).open().await.unwrap();
    assert_eq!(store.info().capabilities.wakeups, None);
    for _ in 0..3 {
        store.insert(&[NewJob::new("x", Payload::null())]).await.unwrap();
    }
    let left: i64 =
        query_scalar("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%job%'")
            .persistent(false)
            .fetch_one(store.pool())
            .await
            .unwrap();
    assert_eq!(left, 0);
}
