//! Stores that can be broken: a proxy before the server, a server of one's own, sessions that are ended, tables that are locked.

#![allow(dead_code)] // each test binary uses a part

use super::*;
use crate::database::Schema;
use queue_core::{Error, ErrorKind};
use queue_postgres::sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use test_servers::Private;
use tokio::sync::Mutex;

/// So much for a connection, and so much for an answer.
const LIMIT: Duration = Duration::from_millis(600);
/// A call that finds a connection just in time, and hears no answer.
const PATIENCE: Duration = Duration::from_millis(1_400);

pub fn faults() -> Vec<Fault> {
    [&Proxy::FAULTS[..], &[Fault::Terminated, Fault::Restarted, Fault::Locked]].concat()
}

/// A store with a password that a server which trusts everybody does not ask for; past a pooler if there is one.
pub async fn open(fault: Fault, clock: &Clock, pooler: Option<String>) -> Result<Breakable> {
    const SECRET: &str = "s3cret-of-the-test";
    let private = (fault == Fault::Restarted).then(|| Private::start(&["postgres"]));
    let url = match &private {
        Some(private) => private.get(database::VARIABLE).to_owned(),
        None => database::url()?,
    };
    let schema = Schema::on(url.clone());
    let (direct, name) = (url.clone(), schema.name.clone());
    let mode = if pooler.is_some() { "transaction" } else { "none" };
    let url = pooler.unwrap_or(url);
    let server = url.split('@').nth(1).and_then(|rest| rest.split('/').next());
    let server = server.ok_or_else(|| Error::invalid("the URL names no server"))?;
    let proxy = Proxy::start(server, 1)
        .await
        .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
    let url =
        url.replace(server, &proxy.address().to_string()).replace('@', &format!(":{SECRET}@"));
    let own = format!(
        "application_name={name}&acquire_timeout_ms={ms}&call_timeout_ms={ms}&pooler={mode}",
        ms = LIMIT.as_millis()
    );
    let options = PostgresOptions::from_url(&database::with_parameters(&url, &own))?.schema(&name);
    let store = options.clock(clock.clone()).max_connections(CONNECTIONS).open().await?;
    let clock = clock.clone();
    let sibling = (direct.clone(), name.clone());
    let fixture =
        Fixture::new(Arc::new(store)).clocked().with_secret(SECRET).with_sibling(move || {
            let ((url, schema), clock) = (sibling.clone(), clock.clone());
            Box::pin(async move {
                let options = PostgresOptions::from_url(&url)?.schema(schema).clock(clock);
                Ok(Arc::new(options.max_connections(CONNECTIONS).open().await?)
                    as Arc<dyn JobStore>)
            })
        });
    let through = proxy.switch(fault);
    // The schema goes before the server.
    let fixture = fixture.with_guard(schema).with_guard(proxy);
    let broken = match (fault, private) {
        (Fault::Restarted, Some(private)) => {
            let private = Arc::new(private);
            let crash = Crash(private.clone());
            let broken = Breakable::new(fixture.with_guard(private), crash);
            return Ok(broken.with_patience(Duration::from_secs(4)));
        }
        (Fault::Terminated, _) => Breakable::new(fixture, Ends { url: direct, name }),
        (Fault::Locked, _) => {
            Breakable::new(fixture, Locks { url: direct, name, held: Mutex::new(None) })
        }
        _ => Breakable::new(fixture, through),
    };
    Ok(broken.with_patience(PATIENCE))
}

async fn run(connection: &mut PgConnection, text: String) -> Result<()> {
    let done = raw_sql(AssertSqlSafe(text)).execute(connection).await;
    done.map(drop).map_err(|error| Error::new(ErrorKind::Backend, error.to_string()))
}

async fn connect(url: &str) -> Result<PgConnection> {
    let connected = PgConnection::connect(url).await;
    connected.map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
}

/// Ends the sessions of the store.
struct Ends {
    url: String,
    name: String,
}

#[async_trait]
impl Switch for Ends {
    async fn on(&self) -> Result<()> {
        let text = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            self.name
        );
        run(&mut connect(&self.url).await?, text).await
    }

    async fn off(&self) -> Result<()> {
        Ok(())
    }
}

/// Keeps all writers of jobs waiting.
struct Locks {
    url: String,
    name: String,
    held: Mutex<Option<PgConnection>>,
}

#[async_trait]
impl Switch for Locks {
    async fn on(&self) -> Result<()> {
        let mut connection = connect(&self.url).await?;
        let text = format!("BEGIN; LOCK TABLE \"{}\".job IN EXCLUSIVE MODE", self.name);
        run(&mut connection, text).await?;
        *self.held.lock().await = Some(connection);
        Ok(())
    }

    async fn off(&self) -> Result<()> {
        match self.held.lock().await.take() {
            Some(mut connection) => run(&mut connection, "ROLLBACK".to_owned()).await,
            None => Ok(()),
        }
    }
}

/// Kills the server, and starts it again.
struct Crash(Arc<Private>);

#[async_trait]
impl Switch for Crash {
    async fn on(&self) -> Result<()> {
        let private = self.0.clone();
        blocking(move || private.halt("postgres")).await
    }

    async fn off(&self) -> Result<()> {
        let private = self.0.clone();
        blocking(move || private.resume("postgres")).await
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Backend, error.to_string()))
}

/// A schema that nobody has migrated, for processes that are killed; they are told this name for it.
pub fn place(name: impl Fn(&Schema) -> String) -> Result<Place> {
    let schema = Arc::new(Schema::new()?);
    let (aged, looked) = (schema.clone(), schema.clone());
    let place = Place::new(name(&schema))
        .with_later_release(move || {
            let schema = aged.clone();
            let later =
                "INSERT INTO {s}.schema_version SELECT max(version) + 1 FROM {s}.schema_version";
            Box::pin(async move {
                schema.run(later).await;
                Ok(())
            })
        })
        .with_contents(move || {
            let schema = looked.clone();
            Box::pin(async move { Ok(schema.contents().await.into_bytes()) })
        });
    Ok(place.with_guard(schema))
}
