//! What PostgreSQL makes of the claim: it reads about as many rows as it takes, whatever waits behind them.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{ClaimRequest, Order, QueueName, Queues, Uuid};
use sqlx::{AssertSqlSafe, Row as _, raw_sql};

use crate::{PostgresOptions, claim, db, sql::Sql};

/// The rows that the scans of the table of jobs read, and the plan's text.
fn rows_read(lines: &[String]) -> u64 {
    let number = |text: &str, before: &str| -> Option<u64> {
        let rest = &text[text.rfind(before)? + before.len()..];
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let mut read = 0;
    let mut loops_of_scan = 0;
    for line in lines {
        if line.contains("(actual ") || line.contains("(never executed)") {
            let is_scan = line.contains("Scan") && line.contains(" on job");
            loops_of_scan = if is_scan { number(line, "loops=").unwrap_or(0) } else { 0 };
            read += loops_of_scan * number(line, " rows=").unwrap_or(0);
        } else if line.contains("Rows Removed by") {
            read += loops_of_scan * number(line, ": ").unwrap_or(0);
        }
    }
    read
}

#[tokio::test]
async fn a_claim_reads_about_as_many_rows_as_it_takes() {
    let url = std::env::var("QUEUE_POSTGRES_URL")
        .expect("QUEUE_POSTGRES_URL is not set; run ./scripts/test");
    let schema = format!("test_{}", Uuid::now_v7().simple());
    let store = PostgresOptions::from_url(&url).unwrap().schema(&schema).open().await.unwrap();
    let sql = Sql::new(&schema);
    // 30,000 jobs that are due in three queues, and 10,000 of the far future at the head of the first one.
    let fill = sql.expand(
        "INSERT INTO {s}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at, input) \
         SELECT gen_random_uuid(), 'q' || n % 3, 'k', 0, n, 3, 0, 0, 'null' FROM generate_series(1, 30000) n; \
         INSERT INTO {s}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at, input) \
         SELECT gen_random_uuid(), 'q0', 'k', -5, {max}, 3, 0, 0, 'null' FROM generate_series(1, 10000) n; \
         ANALYZE {s}.job",
    );
    raw_sql(AssertSqlSafe(fill)).execute(store.pool()).await.unwrap();
    let only = |names: &[&str]| {
        Queues::Only(names.iter().map(|name| QueueName::new(name).unwrap()).collect())
    };
    let mut connection = store.pool().acquire().await.unwrap();
    let mut seen = Vec::new();
    for (queues, ranges) in [(only(&["q1"]), 1), (only(&["q0", "q1", "q2"]), 4), (Queues::All, 4)] {
        for order in [Order::Fifo, Order::Lifo] {
            let limit = NonZeroU32::new(10).unwrap();
            let mut request =
                ClaimRequest::new(queues.clone(), "worker", limit, Duration::from_secs(60));
            request.order = order;
            let (text, args) = claim::statement(&sql, &request);
            let text = format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {text}");
            let rows = db::on(&mut connection, &text.into(), args).await.unwrap();
            let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let read = rows_read(&lines);
            seen.push((queues.clone(), order, ranges, read, lines.join("\n")));
        }
    }
    drop(connection);
    let drop_schema = sql.expand("SET client_min_messages = 'warning'; DROP SCHEMA {s} CASCADE");
    raw_sql(AssertSqlSafe(drop_schema)).execute(store.pool()).await.unwrap();
    for (queues, order, ranges, read, plan) in seen {
        assert!(read >= 10, "{queues:?} {order:?}: the plan was not understood\n{plan}");
        assert!(read <= 10 * (10 + ranges), "{queues:?} {order:?} reads {read} rows\n{plan}");
        assert!(!plan.contains("Seq Scan on job"), "{plan}");
    }
}
