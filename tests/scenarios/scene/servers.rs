//! Scenes on the database servers that the environment names.

use std::sync::Arc;

use queue::JobStore;

use super::Scene;

/// The URL of a server, or what to do about its absence.
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run ./scripts/test, which starts the servers, or set it to the URL of one")
    })
}

fn name() -> String {
    format!("queue_scene_{}", queue::core::Uuid::now_v7().simple())
}

/// Runs work to its end from a destructor, which may be called inside another runtime.
fn finally<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    let done = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    });
    // What is left behind is on a server for tests.
    drop(done.join());
}

#[cfg(feature = "postgres")]
mod postgres {
    use queue::postgres::{
        PostgresStore,
        sqlx::{AssertSqlSafe, Connection, PgConnection, Row, query, raw_sql},
    };

    use super::{Arc, JobStore, Scene, finally, name, server};

    /// What two tests cannot do at once, such as to change the database's one row; until the transaction is over.
    const ALONE: &str = "SELECT pg_advisory_xact_lock(77)";

    async fn run(text: String) {
        let mut connection = PgConnection::connect(&server("QUEUE_POSTGRES_URL")).await.unwrap();
        raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    }

    /// A role with a schema of its own, so that the server counts its statements apart.
    struct Role(String);

    impl Drop for Role {
        fn drop(&mut self) {
            let Role(name) = self;
            let text = format!(
                "SET client_min_messages = 'warning'; SET lock_timeout = '10s'; \
                 DROP OWNED BY {name} CASCADE; DROP ROLE {name}"
            );
            finally(move || run(text));
        }
    }

    /// Whom the URL names, replaced by a role whose password is its name.
    fn url_of(role: &str) -> String {
        let url = server("QUEUE_POSTGRES_URL");
        let (scheme, rest) = url.split_once("://").unwrap();
        let place = rest.split_once('@').map_or(rest, |(_, place)| place);
        let glue = if place.contains('?') { '&' } else { '?' };
        format!("{scheme}://{role}:{role}@{place}{glue}schema={role}")
    }

    /// Everything but the one connection that listens is a cost of the calls.
    const COUNT: &str = "SELECT coalesce(sum(s.calls), 0)::bigint AS calls \
        FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid \
        WHERE r.rolname = $1 AND s.query NOT LIKE 'LISTEN%'";

    async fn statements(role: String) -> u64 {
        run(format!("{ALONE}; CREATE EXTENSION IF NOT EXISTS pg_stat_statements")).await;
        let mut connection = PgConnection::connect(&server("QUEUE_POSTGRES_URL")).await.unwrap();
        let counted = query(COUNT).bind(role).fetch_one(&mut connection).await;
        let counted =
            counted.expect("the server needs shared_preload_libraries=pg_stat_statements");
        u64::try_from(counted.get::<i64, _>("calls")).unwrap()
    }

    impl Scene {
        pub async fn postgres() -> Self {
            let role = name();
            run(format!(
                "{ALONE}; CREATE ROLE {role} LOGIN PASSWORD '{role}'; \
                 DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$"
            ))
            .await;
            let open = |url: String| async move {
                Ok(Arc::new(PostgresStore::connect(&url).await?) as Arc<dyn JobStore>)
            };
            let guard = Role(role.clone());
            let mut scene = Self::at("postgres", url_of(&role), open, guard).await;
            scene.statements = Some(Box::new(move || Box::pin(statements(role.clone()))));
            scene
        }
    }
}

#[cfg(feature = "mongo")]
mod mongo {
    use std::sync::Mutex;

    use queue::mongo::{MongoStore, mongodb::Client};

    use super::{Arc, JobStore, Scene, finally, name, server};

    /// A database of the server, dropped with this value.
    struct Database {
        server: String,
        name: String,
    }

    impl Drop for Database {
        fn drop(&mut self) {
            let (server, name) = (self.server.clone(), self.name.clone());
            finally(move || async move {
                let client = Client::with_uri_str(&server).await.unwrap();
                client.database(&name).drop().await.unwrap();
            });
        }
    }

    impl Database {
        /// The server's URL, with the database as its path.
        fn url(&self) -> String {
            let (place, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
            let (scheme, place) = place.split_once("://").unwrap();
            let hosts = place.split_once('/').map_or(place, |(hosts, _)| hosts);
            let glue = if query.is_empty() { "" } else { "?" };
            format!("{scheme}://{hosts}/{}{glue}{query}", self.name)
        }
    }

    impl Scene {
        /// On a replica set.
        pub async fn mongo() -> Self {
            Self::mongo_at("QUEUE_MONGO_URL").await
        }

        /// On a single server without a log of its writes, where nobody is woken.
        pub async fn mongo_standalone() -> Self {
            Self::mongo_at("QUEUE_MONGO_STANDALONE_URL").await
        }

        async fn mongo_at(variable: &str) -> Self {
            let database = Database { server: server(variable), name: name() };
            let opened = Arc::new(Mutex::new(None::<MongoStore>));
            let keep = opened.clone();
            let open = move |url: String| {
                let keep = keep.clone();
                async move {
                    let store = MongoStore::connect(&url).await?;
                    *keep.lock().unwrap() = Some(store.clone());
                    Ok(Arc::new(store) as Arc<dyn JobStore>)
                }
            };
            let mut scene = Self::at("mongodb", database.url(), open, database).await;
            scene.budget = 4;
            scene.statements = Some(Box::new(move || {
                let count = opened.lock().unwrap().as_ref().unwrap().commands();
                Box::pin(async move { count })
            }));
            scene
        }
    }
}
