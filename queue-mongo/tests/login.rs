//! Who is let in and how: passwords, rights, certificates. What is refused is said in time, by name, without the password.

use std::{error::Error as _, time::Duration};

use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use queue_core::{Error, ErrorKind, JobStore};
use queue_mongo::{MongoOptions, MongoStore, mongodb};
use test_servers::Private;

fn guarded() -> (Private, String) {
    let servers = Private::start(&["mongo-auth"]);
    let url = servers.get("QUEUE_MONGO_AUTH_URL").to_owned();
    (servers, url)
}

async fn open(url: &str) -> Result<MongoStore, Error> {
    MongoOptions::from_url(url)?.timeout(Duration::from_secs(2)).open().await
}

/// All that an error shows, down to its last source.
fn shown(error: &Error) -> String {
    let mut shown = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        shown += &format!(" {error} {error:?}");
        source = error.source();
    }
    shown
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_the_user_s_name_and_printed_nowhere() {
    let (_servers, url) = guarded();
    open(&url).await.unwrap().ping().await.unwrap();
    let wrong = url.replace(":right@", ":wr0ng-s3cret@");
    let error = open(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("the user \"queue\" is not let in"), "{error}");
    assert!(!shown(&error).contains("s3cret"), "{}", shown(&error));
    let options = format!("{:?}", MongoOptions::from_url(&wrong).unwrap());
    assert!(!options.contains("s3cret"), "{options}");
}

#[tokio::test]
async fn a_user_without_rights_is_told_who_may_not_do_what() {
    let (_servers, url) = guarded();
    let admin = Client::with_uri_str(&url).await.unwrap().database("admin");
    for (user, roles) in [("nobody", Vec::new()), ("reader", vec!["readAnyDatabase"])] {
        let roles: Vec<Bson> = roles.into_iter().map(Bson::from).collect();
        let create = doc! { "createUser": user, "pwd": "p4ssword", "roles": roles };
        admin.run_command(create).await.unwrap();
        let theirs = url.replace("queue:right@", &format!("{user}:p4ssword@"));
        let error = open(&theirs).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let words = error.to_string();
        let says = format!("the user {user:?} is not permitted: not authorized on queue");
        assert!(words.contains(&says), "{words}");
        assert!(!shown(&error).contains("p4ssword"), "{}", shown(&error));
    }
}

async fn encrypted(url: &str) -> i64 {
    let admin = Client::with_uri_str(url).await.unwrap().database("admin");
    let status: Document = admin.run_command(doc! { "serverStatus": 1 }).await.unwrap();
    let versions = status.get_document("transportSecurity").unwrap();
    versions.values().filter_map(Bson::as_i64).sum()
}

#[tokio::test]
async fn tls_is_spoken_with_a_server_whose_authority_is_named_and_with_no_other() {
    let (servers, url) = guarded();
    let authority = servers.get("QUEUE_TLS_CA");
    assert_eq!(encrypted(&url).await, 0);
    let store = open(&format!("{url}?tls=true&tlsCAFile={authority}")).await.unwrap();
    store.ping().await.unwrap();
    assert!(encrypted(&url).await > 0, "the connections are encrypted");
    let another = authority.replace("ca.crt", "server.crt");
    for wrong in ["tls=true".to_owned(), format!("tls=true&tlsCAFile={another}")] {
        let error = open(&format!("{url}?{wrong}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong}: {error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(!shown(&error).contains("right"), "{}", shown(&error));
    }
    let error = open(&format!("{url}?tls=true&tlsCAFile=/does/not/exist")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
