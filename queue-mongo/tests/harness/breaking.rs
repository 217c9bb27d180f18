//! Stores that can be broken: a proxy before the server, and a server of one's own.

use std::{sync::Arc, time::Duration};

use conformance_tests::{Breakable, Fault, Fixture, Proxy, Switch, async_trait};
use mongodb::{Client, bson::doc};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result};
use queue_mongo::{MongoOptions, mongodb};
use test_servers::{Database, Private};

use crate::server::Server;

/// How long it looks for a server.
const LIMIT: Duration = Duration::from_millis(600);
/// The driver asks a server for a sign of life every 500 ms, and waits for it for as long as the limit.
const PATIENCE: Duration = Duration::from_millis(3_000);

const SECRET: &str = "s3cret-of-the-test";

pub fn faults() -> Vec<Fault> {
    [&Proxy::FAULTS[..], &[Fault::Restarted]].concat()
}

pub async fn open(server: Server, fault: Fault, clock: &Clock) -> Result<Breakable> {
    let (name, variable) = match server {
        Server::ReplicaSet => ("mongo", "QUEUE_MONGO_URL"),
        Server::Standalone => ("mongo-standalone", "QUEUE_MONGO_STANDALONE_URL"),
    };
    let (name, variable) = match fault {
        // The one fault that is told with all that the driver knows of the server: it must not know the password.
        Fault::Unreachable => ("mongo-auth", "QUEUE_MONGO_AUTH_URL"),
        _ => (name, variable),
    };
    let private = matches!(fault, Fault::Restarted | Fault::Unreachable);
    let private = private.then(|| Private::start(&[name]));
    let direct = match &private {
        Some(private) => private.get(variable).to_owned(),
        None => server.url()?,
    };
    let host = direct.trim_start_matches("mongodb://").split('/').next().unwrap_or_default();
    let (login, host) = host.split_once('@').unwrap_or(("", host));
    let (direct, login) = match login {
        "" => (direct.clone(), String::new()),
        _ => {
            let guarded = format!("guarded:{SECRET}@");
            with_user(&direct).await?;
            (format!("mongodb://{guarded}{host}/?authSource=admin"), guarded)
        }
    };
    let database = Database::at(direct.clone());
    let proxy = Proxy::start(host, 1)
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
    let open = {
        let (name, clock) = (database.name().to_owned(), clock.clone());
        move |url: String| {
            let (name, clock) = (name.clone(), clock.clone());
            async move {
                let options = MongoOptions::from_url(&url)?.database(name).clock(clock);
                let mut tries = 0;
                loop {
                    tries += 1;
                    // Making the indexes may take longer than a call is given here.
                    match options.clone().timeout(LIMIT).open().await {
                        Err(error) if error.is_transient() && tries < 10 => {}
                        opened => return Ok(Arc::new(opened?) as Arc<dyn JobStore>),
                    }
                }
            }
        }
    };
    // The driver is to know the proxy alone, and not what the members of the set call each other.
    let source = if login.is_empty() { "" } else { "&authSource=admin" };
    let url = format!("mongodb://{login}{}/?directConnection=true{source}", proxy.address());
    let store = open(url).await?;
    let sibling = move || Box::pin(open(direct.clone())) as _;
    let through = proxy.switch(fault);
    let fixture = Fixture::new(store).clocked().with_sibling(sibling);
    let fixture = if login.is_empty() { fixture } else { fixture.with_secret(SECRET) };
    let fixture = fixture.with_guard(database).with_guard(proxy);
    Ok(match private {
        Some(private) if fault == Fault::Unreachable => {
            let broken = Breakable::new(fixture.with_guard(private), through);
            broken.with_patience(PATIENCE)
        }
        Some(private) => {
            let private = Arc::new(private);
            let crash = Crash { private: private.clone(), name };
            let broken = Breakable::new(fixture.with_guard(private), crash);
            broken.with_patience(Duration::from_secs(6))
        }
        None => Breakable::new(fixture, through).with_patience(PATIENCE),
    })
}

/// A user whose password stands nowhere else.
async fn with_user(url: &str) -> Result<()> {
    let failed = |error: mongodb::error::Error| {
        Error::new(ErrorKind::Unavailable, format!("no user for tests: {error}"))
    };
    let client = Client::with_uri_str(url).await.map_err(failed)?;
    let user = doc! { "createUser": "guarded", "pwd": SECRET, "roles": ["root"] };
    client.database("admin").run_command(user).await.map(drop).map_err(failed)
}

/// Kills the server, and starts it again.
struct Crash {
    private: Arc<Private>,
    name: &'static str,
}

#[async_trait]
impl Switch for Crash {
    async fn on(&self) -> Result<()> {
        let (private, name) = (self.private.clone(), self.name);
        blocking(move || private.halt(name)).await
    }

    async fn off(&self) -> Result<()> {
        let (private, name) = (self.private.clone(), self.name);
        blocking(move || private.resume(name)).await
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Backend, error.to_string()))
}
