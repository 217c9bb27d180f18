//! Opening: what is refused, with which words, and what any number of openings leave behind.

use std::{sync::Arc, time::Duration};

use mongodb::bson::{Document, doc};
use queue_core::{Clock, ErrorKind, JobStore, NewJob, Payload, Reach, StoreRegistry};
use queue_mongo::{MongoOptions, MongoStore, Wake, mongodb};
use server::Server;

mod server;

#[tokio::test]
async fn a_server_that_does_not_answer_is_unavailable_within_the_timeout() {
    // Port 9 (discard) is closed on test machines; nothing is sent anywhere else.
    let options = MongoOptions::from_url("mongodb://127.0.0.1:9/db").unwrap();
    let opening = options.timeout(Duration::from_millis(300)).open();
    let error = tokio::time::timeout(Duration::from_secs(10), opening).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().starts_with("mongo: open: unavailable: "), "{error}");
}

#[tokio::test]
async fn no_message_contains_the_password() {
    let place = Server::ReplicaSet.url().unwrap();
    let place = place.strip_prefix("mongodb://").unwrap().split_once('/').unwrap().0.to_owned();
    for url in [
        format!("mongodb://ada:s3cret@{place}/queue?replicaSet=rs0"),
        "mongodb://ada:s3cret@/queue".to_owned(),
        "mongodb://ada:s3cret@h:port/queue".to_owned(),
        "mongodb://ada:s3cr:et@h/queue".to_owned(),
    ] {
        let error = MongoStore::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cr"), "{shown}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions_and_left_alone() {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let client = mongodb::Client::with_uri_str(&scratch.url).await.unwrap();
    let database = client.database(&scratch.name);
    let schema = database.collection::<Document>("schema");
    schema.insert_one(doc! { "_id": "version", "version": 7_i64 }).await.unwrap();
    let error = scratch.options(&Clock::system()).unwrap().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(text.contains("schema version 7") && text.contains("up to 1"), "{text}");
    assert_eq!(database.list_collection_names().await.unwrap(), ["schema"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn eight_openings_at_once_of_a_new_database_all_succeed_and_a_ninth_changes_nothing() {
    let scratch = Arc::new(Server::ReplicaSet.scratch().unwrap());
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let open = |_| {
        let (scratch, barrier) = (scratch.clone(), barrier.clone());
        tokio::spawn(async move {
            let options = scratch.options(&Clock::system())?;
            barrier.wait().await;
            let store = options.open().await?;
            store.insert(&[NewJob::new("x", Payload::null())]).await
        })
    };
    let openings: Vec<_> = (0..8).map(open).collect();
    for opening in openings {
        assert!(opening.await.unwrap().unwrap()[0].is_new());
    }
    let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    let jobs = store.database().collection::<Document>("jobs");
    assert_eq!(jobs.count_documents(doc! {}).await.unwrap(), 8);
    let before = jobs.list_index_names().await.unwrap();
    let unique = ["unique_key", "lane_slot"].map(str::to_owned);
    assert!(unique.iter().all(|name| before.contains(name)), "{before:?}");
    let sent = store.commands();
    let again = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    // Who is there, the version, and what the server's clock shows.
    assert!(again.commands() <= 3, "an opening of a database that is there only looks");
    assert_eq!(jobs.list_index_names().await.unwrap(), before);
    assert!(sent > 0);
}

#[tokio::test]
async fn wake_ups_are_promised_only_where_there_are_change_streams() {
    for (server, wake, promised) in [
        (Server::ReplicaSet, Wake::ChangeStream, Some(Reach::Network)),
        (Server::ReplicaSet, Wake::Poll, None),
        (Server::Standalone, Wake::ChangeStream, None),
    ] {
        let scratch = server.scratch().unwrap();
        let options = scratch.options(&Clock::system()).unwrap().wake(wake);
        let capabilities = options.open().await.unwrap().info().capabilities;
        assert_eq!(capabilities.wakeups, promised, "{server:?} {wake:?}");
        assert!(capabilities.durable);
    }
}

#[tokio::test]
async fn the_registry_opens_urls() {
    let scratch = Server::ReplicaSet.scratch().unwrap();
    let mut registry = StoreRegistry::new();
    queue_mongo::register(&mut registry);
    let url = scratch.url.replace("/?", &format!("/{}?wakeups=poll&", scratch.name));
    let store = registry.connect(&url).await.unwrap();
    assert_eq!(store.info().name, "mongo");
    assert_eq!(store.info().capabilities.wakeups, None);
    store.ping().await.unwrap();
}
