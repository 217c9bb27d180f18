//! Servers that die, step down, drop connections and kill operations: a typed error or recovery, and nothing that was
//! acknowledged is lost or done twice.

use std::{sync::Arc, time::Duration};

use conformance_tests::{Fault, Proxy, Switch};
use futures::StreamExt;
use load::Load;
use mongodb::{Client, bson::doc};
use queue_core::{Effect, ErrorKind, JobStore, NewJob, Payload, QueueName};
use queue_mongo::{MongoOptions, MongoStore, Wake, mongodb};
use test_servers::Private;

mod load;

/// A store that gives up early, so that its callers' patience is tried and not the driver's.
async fn open(url: &str) -> MongoStore {
    let options = MongoOptions::from_url(url).unwrap().timeout(Duration::from_secs(2));
    options.wake(Wake::Poll).open().await.unwrap()
}

#[tokio::test]
async fn a_server_that_is_down_is_named_in_time_and_the_password_is_not() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("mongodb://ada:s3cret@{free}/db");
    let options = MongoOptions::from_url(&url).unwrap().timeout(Duration::from_millis(300));
    let opening = tokio::time::timeout(Duration::from_secs(10), options.open());
    let error = opening.await.expect("far beyond the timeout").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

async fn survives_crashes(name: &str, variable: &str) {
    let servers = Private::start(&[name]);
    let store = open(servers.get(variable)).await;
    let load = Load::on(Arc::new(store));
    for _ in 0..2 {
        load.until_done(30).await;
        servers.halt(name);
        servers.resume(name);
    }
    load.until_done(30).await;
    assert!(load.end().await >= 90);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_that_is_killed_under_load_loses_nothing_that_it_acknowledged() {
    survives_crashes("mongo", "QUEUE_MONGO_URL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_that_is_killed_under_load_loses_nothing_that_it_acknowledged() {
    survives_crashes("mongo-standalone", "QUEUE_MONGO_STANDALONE_URL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_steps_down_under_load_is_waited_for() {
    let servers = Private::start(&["mongo"]);
    let url = servers.get("QUEUE_MONGO_URL").to_owned();
    let store = open(&url).await;
    let load = Load::on(Arc::new(store.clone()));
    let operator = Client::with_uri_str(&url).await.unwrap();
    for _ in 0..2 {
        load.until_done(30).await;
        let down = doc! { "replSetStepDown": 1, "force": true };
        operator.database("admin").run_command(down).await.unwrap();
    }
    load.until_done(30).await;
    assert!(load.end().await >= 90);
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_unavailable_in_time_and_found_again() {
    let servers = Private::start(&["mongo-standalone"]);
    let store = open(servers.get("QUEUE_MONGO_STANDALONE_URL")).await;
    store.ping().await.unwrap();
    servers.signal("mongo-standalone", "STOP");
    let job = [NewJob::new("task", Payload::null())];
    // The first call is sent, and waits for an answer; the second finds no server to be sent to.
    for effect in [Effect::Unknown, Effect::None] {
        let hanging = tokio::time::timeout(Duration::from_secs(15), store.insert(&job));
        let error = hanging.await.expect("far beyond the timeout").unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, effect), "{error}");
    }
    servers.signal("mongo-standalone", "CONT");
    load::insist(|| store.insert(&job)).await;
}

#[tokio::test]
async fn a_call_that_hears_nothing_ends_in_time_though_the_driver_would_wait() {
    let server = test_servers::server("QUEUE_MONGO_STANDALONE_URL");
    let host = server.trim_start_matches("mongodb://").split('/').next().unwrap();
    let database = test_servers::Database::at(server.clone());
    let proxy = Proxy::start(host, 1).await.unwrap();
    // The driver asks for a sign of life every 10 s.
    let url = format!("mongodb://{}/?directConnection=true&call_timeout_ms=300", proxy.address());
    let options = MongoOptions::from_url(&url).unwrap().database(database.name());
    let store = options.open().await.unwrap();
    let job = [NewJob::new("task", Payload::null())];
    let silence = proxy.switch(Fault::Silent);
    silence.on().await.unwrap();
    let call = tokio::time::timeout(Duration::from_secs(60), store.insert(&job));
    let error = call.await.expect("far beyond the limit").unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown), "{error}");
    assert!(error.to_string().contains("call_timeout_ms"), "{error}");
    silence.off().await.unwrap();
    load::insist(|| store.insert(&job)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_ups_come_again_after_the_server_was_killed() {
    let servers = Private::start(&["mongo"]);
    let url = servers.get("QUEUE_MONGO_URL");
    let options = MongoOptions::from_url(url).unwrap().timeout(Duration::from_secs(2));
    let store = options.open().await.unwrap();
    let mut wakeups = store.wakeups();
    let patience = Duration::from_secs(60);
    // The stream is open; what happened before it is unknown.
    assert_eq!(tokio::time::timeout(patience, wakeups.next()).await.unwrap().unwrap().queue, None);
    servers.halt("mongo");
    servers.resume("mongo");
    let mut job = NewJob::new("task", Payload::null());
    job.queue = QueueName::new("mail").unwrap();
    load::insist(|| store.insert(std::slice::from_ref(&job))).await;
    let woken = async {
        while let Some(wakeup) = wakeups.next().await {
            if wakeup.queue.as_ref() == Some(&job.queue) {
                return;
            }
        }
    };
    tokio::time::timeout(patience, woken).await.unwrap();
}
