//! A pooler in transaction mode: told of, not told of, and with wake-ups past it.

mod database;

use std::time::{Duration, Instant};

use database::{Schema, url, with_parameters};
use futures::StreamExt;
use queue_core::{Effect, ErrorKind, JobStore, NewJob, Payload, Reach};
use queue_postgres::PostgresOptions;
use test_servers::Private;

fn job() -> NewJob {
    NewJob::new("x", Payload::null())
}

#[tokio::test]
async fn a_pooler_that_the_url_does_not_mention_is_refused_with_what_to_write() {
    let (servers, schema) = (Private::beside(&["pgbouncer"]), Schema::new().unwrap());
    let url = servers.get("QUEUE_PGBOUNCER_URL");
    for round in 0..3 {
        // The server connections that the pooler has by then are more each time.
        let error = PostgresOptions::from_url(url).unwrap().schema(&schema.name).open().await;
        let error = error.expect_err(&format!("round {round}"));
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Config, Effect::None));
        assert!(error.to_string().contains("?pooler=transaction"), "{error}");
        let told = PostgresOptions::from_url(&with_parameters(url, "pooler=transaction")).unwrap();
        let store = told.schema(&schema.name).open().await.unwrap();
        let inserts = (0..4).map(|_| async { store.insert(&[job()]).await.unwrap()[0].is_new() });
        assert_eq!(futures::future::join_all(inserts).await, [true; 4]);
    }
}

#[tokio::test]
async fn a_pooler_that_takes_no_settings_is_refused_with_what_to_write_and_works_then() {
    let (servers, schema) = (Private::beside(&["pgbouncer"]), Schema::new().unwrap());
    let url = servers.get("QUEUE_PGBOUNCER_URL");
    let (server, _) = url.rsplit_once('/').unwrap();
    let url = format!("{server}/session_mode");
    let options = PostgresOptions::from_url(&url).unwrap().schema(&schema.name);
    let error = options.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("`?pooler=transaction`"), "{error}");
    let url = database::with_parameters(&url, "pooler=transaction");
    let options = PostgresOptions::from_url(&url).unwrap().schema(&schema.name);
    let store = options.open().await.unwrap();
    assert!(store.insert(&[job()]).await.unwrap()[0].is_new());
}

#[tokio::test]
async fn a_server_without_a_pooler_is_not_taken_for_one() {
    let schema = Schema::new().unwrap();
    for _ in 0..5 {
        schema.options().unwrap().open().await.unwrap();
    }
}

#[tokio::test]
async fn wake_ups_pass_by_the_pooler_where_a_server_to_listen_on_is_named() {
    let (servers, schema) = (Private::beside(&["pgbouncer"]), Schema::new().unwrap());
    let pooled = with_parameters(servers.get("QUEUE_PGBOUNCER_URL"), "pooler=transaction");
    let direct: String = url()
        .unwrap()
        .bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect();
    let pooled = with_parameters(&pooled, &format!("listen_url={direct}"));
    let options = PostgresOptions::from_url(&pooled).unwrap().schema(&schema.name);
    let store = options.clone().open().await.unwrap();
    let other = options.open().await.unwrap();
    assert_eq!(store.info().capabilities.wakeups, Some(Reach::Network));
    let mut wakeups = other.wakeups();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // A hint may be lost while nobody listens; a further insert makes a further one.
        store.insert(&[job()]).await.unwrap();
        match tokio::time::timeout(Duration::from_millis(200), wakeups.next()).await {
            Ok(Some(wakeup)) if wakeup.queue.is_some() => break,
            _ => assert!(Instant::now() < deadline, "no wake-up"),
        }
    }
}
