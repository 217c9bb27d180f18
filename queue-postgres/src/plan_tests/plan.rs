//! Runs a statement as the store does, in a transaction that is rolled back, and says what it read.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt;
use queue_core::Uuid;
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _,
    postgres::{PgConnection, PgRow},
    raw_sql,
};

use crate::{PostgresOptions, PostgresStore, args::Args, db, sql::Sql};

/// What the server may make of a prepared statement: a plan for these very values, or one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Custom,
    Generic,
}

/// What a statement did.
#[derive(Debug)]
pub(super) struct Plan {
    /// Entries of the indexes of the table of jobs, dead ones too, and rows that scans of the table returned.
    pub(super) read: i64,
    /// Pages touched. An index that is searched by a column behind a range counts one entry and walks through many pages.
    pub(super) pages: i64,
    /// Planning and execution in the server.
    pub(super) millis: f64,
    pub(super) text: String,
}

/// A schema of its own, with a connection as the store's are.
pub(super) struct Ground {
    pub(super) sql: Sql,
    pub(super) store: PostgresStore,
    connection: PgConnection,
}

impl Ground {
    /// Runs a test and drops the schema, however it ends.
    pub(super) async fn with(test: impl AsyncFnOnce(&mut Ground)) {
        let url = std::env::var("QUEUE_POSTGRES_URL")
            .expect("QUEUE_POSTGRES_URL is not set; run ./scripts/test");
        let schema = format!("test_{}", Uuid::now_v7().simple());
        let store = PostgresOptions::from_url(&url).unwrap().schema(&schema).open().await.unwrap();
        let connection = store.calls().acquire().await.unwrap().detach();
        let mut ground = Ground { sql: Sql::new(&schema), store, connection };
        let done = AssertUnwindSafe(test(&mut ground)).catch_unwind().await;
        // Its transaction may be open.
        let _ = ground.connection.close().await;
        let drop = "SET client_min_messages = 'warning'; DROP SCHEMA {s} CASCADE";
        let drop = raw_sql(AssertSqlSafe(ground.sql.expand(drop)));
        drop.execute(ground.store.pool()).await.unwrap();
        done.unwrap_or_else(|panic| resume_unwind(panic));
    }

    pub(super) async fn run(&mut self, text: &str) {
        let text = self.sql.expand(text);
        raw_sql(AssertSqlSafe(text)).execute(&mut self.connection).await.unwrap();
    }

    pub(super) async fn rows(&mut self, text: &str) -> Vec<PgRow> {
        let text = self.sql.expand(text);
        db::on(&mut self.connection, &text, Args::new()).await.unwrap()
    }

    /// What this transaction has read of the table of jobs so far, by the server's own count.
    async fn read(&mut self) -> i64 {
        let text = "SELECT sum(pg_stat_get_xact_tuples_returned(o.oid))::bigint AS read FROM ( \
             SELECT '{s}.job'::regclass::oid AS oid \
             UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = '{s}.job'::regclass) o";
        self.rows(text).await[0].get("read")
    }

    /// Prepares a statement under a name, and keeps its values.
    pub(super) async fn prepare(&mut self, name: &str, text: &str, args: Args) -> Prepared {
        let each = |text: &dyn Fn(usize) -> String| {
            (1..=args.len()).map(text).collect::<Vec<_>>().join(", ")
        };
        // `EXECUTE` takes expressions and no parameters of its own: the values go by way of settings.
        let keep = format!(
            "SELECT ARRAY[{}] AS kept, ARRAY[{}] AS types",
            each(&|n| format!("set_config('plan.{name}_{n}', ${n}::text, false)")),
            each(&|n| format!("pg_typeof(${n})::text")),
        );
        let rows = db::on(&mut self.connection, &keep.into(), args).await.unwrap();
        let types: Vec<String> = rows[0].get("types");
        self.run(&format!("PREPARE {name} ({}) AS {text}", types.join(", "))).await;
        let value = |(name_of_type, n): (&String, usize)| {
            format!("nullif(current_setting('plan.{name}_{n}'), '')::{name_of_type}")
        };
        let values: Vec<String> = types.iter().zip(1..).map(value).collect();
        Prepared(format!("{name} ({})", values.join(", ")))
    }

    /// Explains a prepared statement, which is executed and undone.
    pub(super) async fn explain(&mut self, mode: Mode, statement: &Prepared) -> Plan {
        let mode = match mode {
            Mode::Custom => "force_custom_plan",
            Mode::Generic => "force_generic_plan",
        };
        self.run(&format!("BEGIN; SET LOCAL plan_cache_mode = '{mode}'")).await;
        let before = self.read().await;
        let text = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE {}", statement.0);
        let lines: Vec<String> = self.rows(&text).await.iter().map(|row| row.get(0)).collect();
        let read = self.read().await - before;
        self.run("ROLLBACK").await;
        let times = lines
            .iter()
            .filter(|line| line.starts_with("Planning Time") || line.starts_with("Execution Time"));
        let millis = times
            .filter_map(|line| line.split_whitespace().rev().nth(1)?.parse::<f64>().ok())
            .sum();
        // The first line of buffers is that of the whole.
        let pages = lines.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared "));
        let pages = pages.map_or(0, |counts| {
            let count = |count: &str| -> Option<i64> {
                count.strip_prefix("hit=").or(count.strip_prefix("read="))?.parse().ok()
            };
            counts.split_whitespace().filter_map(count).sum()
        });
        Plan { read, pages, millis, text: lines.join("\n") }
    }
}

/// A prepared statement with its values.
pub(super) struct Prepared(String);
