//! A schema of its own for each test, on the server that the environment names.

#![allow(dead_code, clippy::print_stderr)] // each test binary uses a part

use queue_core::{Error, ErrorKind, Result, Uuid};
use queue_postgres::{
    PostgresOptions,
    sqlx::{AssertSqlSafe, Connection, PgConnection, query_scalar, raw_sql},
};

pub const VARIABLE: &str = "QUEUE_POSTGRES_URL";

/// The server for tests.
pub fn url() -> Result<String> {
    test_servers::find(VARIABLE).map_err(|missing| Error::new(ErrorKind::Config, missing))
}

/// A URL with further parameters: `a=b&c=d`.
pub fn with_parameters(url: &str, parameters: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameters}")
}

/// A schema that is dropped with the value.
pub struct Schema {
    pub name: String,
    url: String,
}

impl Schema {
    pub fn new() -> Result<Self> {
        Ok(Self::on(url()?))
    }

    /// On this server.
    pub fn on(url: String) -> Self {
        Schema { name: format!("test_{}", Uuid::now_v7().simple()), url }
    }

    pub fn options(&self) -> Result<PostgresOptions> {
        Ok(PostgresOptions::from_url(&self.url)?.schema(&self.name))
    }

    /// With further parameters of the URL: `a=b&c=d`.
    pub fn options_with(&self, parameters: &str) -> Result<PostgresOptions> {
        let url = with_parameters(&self.url, parameters);
        Ok(PostgresOptions::from_url(&url)?.schema(&self.name))
    }

    /// A URL that names it.
    pub fn url_with_schema(&self) -> String {
        with_parameters(&self.url, &format!("schema={}", self.name))
    }

    /// Its tables, their columns and its version, as a text.
    pub async fn contents(&self) -> String {
        let tables = "SELECT concat((SELECT string_agg(concat_ws(' ', table_name, column_name, data_type), ', ' \
             ORDER BY table_name, ordinal_position) FROM information_schema.columns WHERE table_schema = $1), \
             (SELECT string_agg(version::text, ', ' ORDER BY version) FROM {s}.schema_version))";
        let text = tables.replace("{s}", &format!("\"{}\"", self.name));
        let contents = query_scalar(AssertSqlSafe(text)).bind(&self.name);
        contents.fetch_one(&mut self.connection().await).await.unwrap()
    }

    pub async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Runs statements in which `{s}` is the schema.
    pub async fn run(&self, text: &str) {
        let text = text.replace("{s}", &format!("\"{}\"", self.name));
        raw_sql(AssertSqlSafe(text)).execute(&mut self.connection().await).await.unwrap();
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let drop =
            format!("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.name);
        let url = self.url.clone();
        // A thread of its own: a test's runtime may be the one that this is dropped in.
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(queue_postgres::sqlx::Error::Io)?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await?;
                raw_sql(AssertSqlSafe(format!("SET client_min_messages = 'warning'; {drop}")))
                    .execute(&mut connection)
                    .await?;
                queue_postgres::sqlx::Result::<()>::Ok(())
            })
        });
        match done.join() {
            Ok(Ok(())) => {}
            other => eprintln!("the schema {} was not dropped: {other:?}", self.name),
        }
    }
}
