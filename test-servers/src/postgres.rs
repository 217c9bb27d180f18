use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, query, raw_sql};

use crate::{block_on, parts, server, unique_name, with_parameter};

const SERVER: &str = "QUEUE_POSTGRES_URL";

/// What two tests cannot do at once, such as to change the database's one row; until the transaction is over.
const ALONE: &str = "SELECT pg_advisory_xact_lock(77)";

/// Everything that a role's connections have executed, but for those that listen, which is no call's cost.
const COUNT: &str = "SELECT coalesce(sum(s.calls), 0)::bigint AS calls \
    FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid \
    WHERE r.rolname = $1 AND s.query NOT LIKE 'LISTEN%'";

/// Without TLS, unless the URL says how: it takes the driver 80 ms more to connect, and tests connect often.
pub fn without_tls(url: &str) -> String {
    if url.contains("sslmode=") { url.to_owned() } else { with_parameter(url, "sslmode=disable") }
}

async fn run(text: String) -> PgConnection {
    let url = without_tls(&server(SERVER));
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.expect("a statement for tests");
    connection
}

/// A role of PostgreSQL with a schema of the same name, dropped with this value. The server counts its statements apart.
#[derive(Debug)]
pub struct Role(String);

impl Role {
    /// Makes one on the server that `QUEUE_POSTGRES_URL` names, whose role must be allowed to.
    ///
    /// # Panics
    /// Without a server, or where that is not allowed.
    #[expect(clippy::new_without_default, reason = "it makes something on a server")]
    pub fn new() -> Self {
        let name = unique_name();
        let text = format!(
            "{ALONE}; CREATE ROLE {name} LOGIN PASSWORD '{name}'; \
             DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {name}', current_database()); END $$"
        );
        block_on(move || run(text)).expect("a role of PostgreSQL");
        Role(name)
    }

    /// The URL with which it logs in.
    pub fn url(&self) -> String {
        let (url, name) = (server(SERVER), &self.0);
        let [scheme, _, hosts, database, query] = parts(&url);
        let url = format!("{scheme}://{name}:{name}@{hosts}/{database}");
        let url = if query.is_empty() { url } else { with_parameter(&url, query) };
        with_parameter(&url, &format!("schema={name}"))
    }

    /// Its name, and that of its schema.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Counts what its connections have executed so far.
    pub fn statements(&self) -> impl Future<Output = u64> + Send + 'static {
        counted(self.0.clone(), "")
    }

    /// The same for the role with this name, without notifications, which calls do not wait for.
    pub fn calls_of(name: String) -> impl Future<Output = u64> + Send + 'static {
        counted(name, " AND s.query NOT LIKE 'SELECT pg_notify%'")
    }
}

async fn counted(name: String, further: &'static str) -> u64 {
    let extension = format!("{ALONE}; CREATE EXTENSION IF NOT EXISTS pg_stat_statements");
    let mut connection = run(extension).await;
    let count = AssertSqlSafe(format!("{COUNT}{further}"));
    let counted = query(count).bind(name).fetch_one(&mut connection).await;
    let counted = counted.expect("the server needs shared_preload_libraries=pg_stat_statements");
    counted.get::<i64, _>("calls").unsigned_abs()
}

impl Drop for Role {
    fn drop(&mut self) {
        let name = &self.0;
        let text = format!(
            "SET client_min_messages = 'warning'; SET lock_timeout = '10s'; {ALONE}; \
             DROP OWNED BY {name} CASCADE; DROP ROLE {name}"
        );
        // Its panic has said what was left behind, on a server for tests.
        drop(block_on(move || run(text)));
    }
}
