//! What PostgreSQL makes of the claim: it reads about as many rows as it takes, whatever waits around them.

mod crowd;
mod figures;
mod plan;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use queue_core::{
    ClaimRequest, Fence, Held, JobId, JobPatch, JobUpdate, Kinds, Order, Payload, QueueName,
    Queues, Transition,
};
use sqlx::Row as _;

use crate::{args::Args, claim::statements, sql::Sql, update};
use crowd::Crowd;
use plan::{Ground, Mode, Plan};

const LIMIT: u32 = 100;

/// A statement, and how many rows it has to read: those that it writes and the first of each range.
struct Case {
    name: String,
    text: Arc<str>,
    args: Args,
    rows: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Claim,
    Look,
}

/// From these queues; from all, if there are none.
fn request(names: &[&str]) -> ClaimRequest {
    let queues = match names {
        [] => Queues::All,
        names => Queues::Only(names.iter().map(|name| QueueName::new(name).unwrap()).collect()),
    };
    ClaimRequest::new(queues, "worker", NonZeroU32::new(LIMIT).unwrap(), Duration::from_secs(60))
}

/// A claim for `LIMIT` jobs of so many ranges.
fn claim(sql: &Sql, names: &[&str], kinds: Kinds, order: Order, with: With, ranges: i64) -> Case {
    let mut request = request(names);
    (request.kinds, request.order) = (kinds, order);
    let name = format!("claim {names:?} {:?} {order:?}", request.kinds);
    let make = match with {
        With::Claim => statements::claim,
        With::Look => statements::look,
    };
    let (text, args) = make(sql, &request);
    Case { name, text, args, rows: i64::from(LIMIT) + ranges }
}

fn claims(sql: &Sql, crowd: &Crowd) -> Vec<Case> {
    let known = || Kinds::Only(vec!["k".into(), "other".into()]);
    let three = ["q0", "q1", "q2"];
    let everything = 6 + 2 + 100 + i64::from(crowd.queues) + 2;
    let both = [Order::Fifo, Order::Lifo].into_iter();
    both.flat_map(|order| {
        [
            claim(sql, &["q1"], Kinds::All, order, With::Claim, 2),
            claim(sql, &["q1"], known(), order, With::Claim, 3),
            claim(sql, &three, Kinds::All, order, With::Claim, 6),
            claim(sql, &["head"], known(), order, With::Claim, 2),
            claim(sql, &["ranks"], Kinds::All, order, With::Claim, 100),
            claim(sql, &["full"], Kinds::All, order, With::Look, 1002),
            claim(sql, &["users"], Kinds::All, order, With::Look, 2),
            claim(sql, &[], Kinds::All, order, With::Look, everything),
            claim(sql, &[], known(), order, With::Look, everything),
        ]
    })
    .collect()
}

/// Jobs that run, with their fences.
async fn held(ground: &mut Ground) -> Vec<Held> {
    let rows = ground.rows("SELECT id, nonce FROM {s}.job WHERE state = 1 LIMIT 100").await;
    rows.iter()
        .map(|row| Held::new(JobId::from_uuid(row.get("id")), Fence::new(1, row.get("nonce"))))
        .collect()
}

fn complete(jobs: impl Iterator<Item = (JobId, Fence)>) -> Vec<JobUpdate> {
    let complete = || JobPatch::transition(Transition::Complete { output: Some(Payload::null()) });
    jobs.map(|(id, fence)| JobUpdate::held(id, fence, complete())).collect()
}

/// What a worker does with the jobs that it holds.
async fn holders(ground: &mut Ground) -> Vec<Case> {
    let held = held(ground).await;
    let sql = &ground.sql;
    let updates = complete(held.iter().map(|held| (held.id, held.fence)));
    let request = request(&["q1"]);
    let (fused, fused_args) = statements::fused(sql, &updates, &request);
    vec![
        Case {
            name: "heartbeat".to_owned(),
            text: sql.heartbeat[0].clone(),
            args: update::heartbeat_args(None, &held, Duration::from_secs(60)),
            rows: 100,
        },
        Case {
            name: "settle".to_owned(),
            text: sql.update.clone(),
            args: update::args(None, &updates, u64::MAX),
            rows: 100,
        },
        Case {
            name: "settle and claim".to_owned(),
            text: fused,
            args: fused_args,
            rows: 100 + i64::from(LIMIT) + 2,
        },
    ]
}

fn assert_frugal(name: &str, rows: i64, plan: &Plan) {
    let Plan { read, pages, text, .. } = plan;
    assert!(
        *read >= i64::from(LIMIT),
        "{name} reads {read} rows: that is not the statement\n{text}"
    );
    assert!(*read <= 10 * rows, "{name} reads {read} rows where {rows} would do\n{text}");
    // A row that is written goes into nine indexes, each four pages deep.
    assert!(*pages <= 50 * rows, "{name} touches {pages} pages for {rows} rows\n{text}");
    assert!(!text.contains("Seq Scan on job"), "{name}\n{text}");
}

const SMALL: Crowd = Crowd {
    ready: 20_000,
    future: 10_000,
    finished: 10_000,
    unknown: 5_000,
    queues: 500,
    users: 3_000,
};

#[tokio::test]
async fn a_claim_reads_about_as_many_rows_as_it_takes_whatever_stands_around_them() {
    Ground::with(async |ground| {
        SMALL.insert(ground).await;
        ground.run("VACUUM ANALYZE {s}.job").await;
        for case in claims(&ground.sql, &SMALL) {
            let statement = ground.prepare("looked_at", &case.text, case.args).await;
            for mode in [Mode::Custom, Mode::Generic] {
                let plan = ground.explain(mode, &statement).await;
                assert_frugal(&format!("{} {mode:?}", case.name), case.rows, &plan);
            }
            ground.run("DEALLOCATE looked_at").await;
        }
    })
    .await;
}

#[tokio::test]
async fn heartbeats_and_settles_read_the_rows_that_they_write() {
    Ground::with(async |ground| {
        SMALL.insert(ground).await;
        ground.run("VACUUM ANALYZE {s}.job").await;
        for case in holders(ground).await {
            let statement = ground.prepare("looked_at", &case.text, case.args).await;
            for mode in [Mode::Custom, Mode::Generic] {
                let plan = ground.explain(mode, &statement).await;
                assert_frugal(&format!("{} {mode:?}", case.name), case.rows, &plan);
            }
            ground.run("DEALLOCATE looked_at").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_plan_that_was_made_for_an_empty_table_serves_a_full_one() {
    Ground::with(async |ground| {
        // A vacuum tells the planner that the table is empty, which without it only seems likely to it.
        ground.run("VACUUM ANALYZE {s}.job").await;
        ground.run("ALTER TABLE {s}.job SET (autovacuum_enabled = off)").await;
        let mut statements = Vec::new();
        for (case, n) in claims(&ground.sql, &SMALL).into_iter().zip(0..) {
            let statement = ground.prepare(&format!("early_{n}"), &case.text, case.args).await;
            ground.explain(Mode::Generic, &statement).await;
            statements.push((case.name, case.rows, statement));
        }
        SMALL.insert(ground).await;
        for (name, rows, statement) in &statements {
            let plan = ground.explain(Mode::Generic, statement).await;
            assert_frugal(name, *rows, &plan);
        }
    })
    .await;
}
