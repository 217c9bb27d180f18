//! The figures in `docs/decisions/0003-postgresql.md`. They take minutes and print what they measure:
//!
//! ```text
//! cargo test -p queue-postgres --lib figures -- --ignored --nocapture --test-threads 1
//! ```
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use queue_core::{JobStore, NewJob, Payload, Unique};

use super::{
    Case, LIMIT, assert_frugal, claims,
    crowd::Crowd,
    holders,
    plan::{Ground, Mode, Plan},
    request,
};
use crate::{args::Args, claim::statements};

const SMALL: Crowd =
    Crowd { ready: 3_000, future: 3, finished: 0, unknown: 1, queues: 10_000, users: 10_000 };

/// The rows that a statement may read of which nothing is asked.
const NO_BOUND: i64 = i64::MAX;

/// The plan that was first, and the median time.
fn median(mut plans: Vec<Plan>) -> (Plan, f64) {
    let first = plans.remove(0);
    plans.sort_by(|a, b| a.millis.total_cmp(&b.millis));
    let millis = plans.swap_remove(plans.len() / 2).millis;
    (first, millis)
}

/// What a claim without any art would be.
fn plain(queues: &[&str]) -> Case {
    let text = "SELECT j.id FROM {s}.job j WHERE j.state = 0 AND j.lane_key IS NULL \
                AND ($1::text[] IS NULL OR j.queue = ANY ($1::text[])) \
                AND j.run_at <= (extract(epoch FROM statement_timestamp()) * 1000000)::bigint \
                ORDER BY j.rank, j.run_at, j.id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED";
    let names: Vec<String> = queues.iter().map(|&queue| queue.to_owned()).collect();
    let names = (!names.is_empty()).then_some(names);
    Case {
        name: format!("plain select {queues:?}"),
        text: text.into(),
        args: Args::new().with(names).with(i64::from(LIMIT)),
        rows: NO_BOUND,
    }
}

#[tokio::test]
#[ignore = "fills millions of rows"]
async fn claims_among_millions_cost_what_they_cost_in_a_small_table() {
    let count = std::env::var("QUEUE_PLAN_ROWS").map_or(1_000_000, |count| count.parse().unwrap());
    let large =
        Crowd { ready: count, future: count, finished: count, unknown: count / 10, ..SMALL };
    Ground::with(async |few| {
        SMALL.insert(few).await;
        few.run("VACUUM ANALYZE {s}.job").await;
        Ground::with(async |many| {
            large.insert(many).await;
            many.run("VACUUM ANALYZE {s}.job").await;
            let plains = || [plain(&["q1"]), plain(&["q0", "q1", "q2"]), plain(&[])];
            let mut of_few = claims(&few.sql, &SMALL);
            of_few.extend(holders(few).await.into_iter().chain(plains()));
            let mut of_many = claims(&many.sql, &large);
            of_many.extend(holders(many).await.into_iter().chain(plains()));
            for (a, b) in of_few.into_iter().zip(of_many) {
                let in_few = few.prepare("looked_at", &a.text, a.args).await;
                let in_many = many.prepare("looked_at", &b.text, b.args).await;
                let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
                let is_ours = b.rows < NO_BOUND;
                for _ in 0..if is_ours { 31 } else { 3 } {
                    of_few.push(few.explain(Mode::Generic, &in_few).await);
                    of_many.push(many.explain(Mode::Generic, &in_many).await);
                }
                let ((small, few_millis), (large, many_millis)) = (median(of_few), median(of_many));
                println!(
                    "{}: {} read, {} pages, {many_millis:.2} ms; small table {} read, {few_millis:.2} ms; ratio {:.2}",
                    b.name, large.read, large.pages, small.read, many_millis / few_millis,
                );
                if is_ours {
                    assert_frugal(&b.name, b.rows, &large);
                }
                few.run("DEALLOCATE looked_at").await;
                many.run("DEALLOCATE looked_at").await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn dead_rows_at_the_head_of_the_queue() {
    for pinned in [false, true] {
        Ground::with(async |ground| {
            ground.run("ALTER TABLE {s}.job SET (autovacuum_enabled = off)").await;
            let fill = "INSERT INTO {s}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at, input) \
                SELECT gen_random_uuid(), 'default', 'k', 0, n, 3, 0, 0, 'null' FROM generate_series(1, 110000) n";
            ground.run(fill).await;
            ground.run("VACUUM ANALYZE {s}.job").await;
            let request = || request(&["default"]);
            let mut pin = ground.store.calls().acquire().await.unwrap();
            if pinned {
                let pin_text = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
                sqlx::raw_sql(pin_text).execute(&mut *pin).await.unwrap();
            }
            let (text, args) = statements::claim(&ground.sql, &request());
            let looked_at = ground.prepare("looked_at", &text, args).await;
            for step in 0..=5 {
                let mut plans = Vec::new();
                for _ in 0..11 {
                    plans.push(ground.explain(Mode::Generic, &looked_at).await);
                }
                let (first, millis) = median(plans);
                println!("pinned {pinned}, {} drained: {} read, {} pages, {millis:.2} ms", step * 20_000, first.read, first.pages);
                if step == 5 { break; }
                let began = Instant::now();
                let mut updates = Vec::new();
                for _ in 0..200 {
                    let (_, claimed) = ground.store.update_and_claim(&updates, &request()).await.unwrap();
                    assert_eq!(claimed.jobs.len(), 100);
                    updates = super::complete(claimed.jobs.iter().map(|job| (job.id, job.fence)));
                }
                ground.store.update_jobs(&updates).await.unwrap();
                println!("    20,000 drained in {:?}", began.elapsed());
            }
            sqlx::raw_sql("ROLLBACK").execute(&mut *pin).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn inserts_by_the_thousand_with_and_without_unique_keys() {
    Ground::with(async |ground| {
        let job = || NewJob::new("k", Payload::from_text("{\"n\":1}").unwrap());
        for round in 0..3 {
            for (name, every) in [("none", usize::MAX), ("one of each thousand", 1000), ("all", 1)]
            {
                let mut spent = Duration::ZERO;
                for _ in 0..10 {
                    let jobs: Vec<_> = (0..1000)
                        .map(|n| {
                            let mut job = job();
                            if n % every == 0 && every < usize::MAX {
                                job.unique = Some(Unique::new(job.id.to_string()));
                            }
                            job
                        })
                        .collect();
                    let began = Instant::now();
                    ground.store.insert(&jobs).await.unwrap();
                    spent += began.elapsed();
                }
                println!(
                    "round {round}, unique keys on {name}: {:.1} us a job",
                    spent.as_secs_f64() * 1e6 / 10_000.0
                );
            }
        }
    })
    .await;
}
