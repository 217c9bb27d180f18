//! What SQLite makes of the statements: each must be a seek in the index made for it.

use queue_core::{JobFilter, State, States};
use rusqlite::Connection;

use crate::{connect, filter::Conditions, sql};

fn database() -> (tempfile::TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let options = crate::SqliteOptions::new(directory.path().join("jobs.db"));
    let db = connect::open_writer(&options).unwrap();
    (directory, db)
}

/// The lines of the plan, joined.
fn plan(db: &Connection, text: &str) -> String {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
    for index in 1..=statement.parameter_count() {
        statement.raw_bind_parameter(index, 1).unwrap();
    }
    let mut rows = statement.raw_query();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        lines.push(row.get::<_, String>(3).unwrap());
    }
    lines.join("; ")
}

/// Asserts that a statement does one seek in this index, and neither scans nor sorts.
#[track_caller]
fn assert_seek(db: &Connection, text: &str, index: &str, range: &str) {
    let plan = plan(db, text);
    assert_eq!(plan, format!("SEARCH queue_job USING {index} ({range})"), "{text}");
}

#[test]
fn candidates_come_in_the_order_of_the_index_from_a_place_to_now() {
    let (_directory, db) = database();
    let range = "queue=? AND kind=? AND priority=?";
    for (text, index, lane, until_now) in [
        (sql::OPEN_FIFO, "queue_job_open", "", " AND (run_at,id)>(?,?) AND run_at<?"),
        (sql::OPEN_LIFO, "queue_job_open", "", " AND (run_at,id)<(?,?)"),
        (sql::LANED_FIFO, "queue_job_laned", "", " AND (run_at,id)>(?,?) AND run_at<?"),
        (sql::LANED_LIFO, "queue_job_laned", "", " AND (run_at,id)<(?,?)"),
        (
            sql::LANE_FIFO,
            "queue_job_by_lane",
            " AND lane_key=? AND lane_limit=?",
            " AND (run_at,id)>(?,?) AND run_at<?",
        ),
        (
            sql::LANE_LIFO,
            "queue_job_by_lane",
            " AND lane_key=? AND lane_limit=?",
            " AND (run_at,id)<(?,?)",
        ),
    ] {
        let range = format!("{range}{lane}{until_now}");
        assert_seek(&db, text, &format!("COVERING INDEX {index}"), &range);
    }
}

#[test]
fn every_step_of_a_loose_scan_is_one_seek() {
    let (_directory, db) = database();
    let range = "queue=? AND kind=? AND priority=?";
    for (plane, statements) in [
        ("open", [sql::OPEN_QUEUE, sql::OPEN_KIND, sql::OPEN_PRIORITY, sql::OPEN_FUTURE]),
        ("laned", [sql::LANED_QUEUE, sql::LANED_KIND, sql::LANED_PRIORITY, sql::LANED_FUTURE]),
    ] {
        let index = format!("COVERING INDEX queue_job_{plane}");
        let [queue, kind, priority, future] = statements;
        assert_seek(&db, queue, &index, "queue>?");
        assert_seek(&db, kind, &index, "queue=? AND kind>?");
        assert_seek(&db, priority, &index, "queue=? AND kind=? AND priority<?");
        assert_seek(&db, future, &index, &format!("{range} AND run_at>?"));
    }
    let lanes = format!("{range} AND (lane_key,lane_limit)>(?,?)");
    assert_seek(&db, sql::LANE_NEXT, "COVERING INDEX queue_job_by_lane", &lanes);
    assert_seek(&db, sql::LANE_SLOTS, "COVERING INDEX queue_job_slot", "lane_key=? AND slot>?");
}

#[test]
fn claiming_writes_touch_one_row() {
    let (_directory, db) = database();
    for text in [sql::CLAIM, sql::SETTLE, sql::RELEASE, sql::HEARTBEAT, sql::ANNOTATE] {
        assert_seek(&db, text, "INTEGER PRIMARY KEY", "rowid=?");
    }
    assert!(plan(&db, sql::WIDE_BY_NONCE).contains("INDEX queue_job_running (nonce=?)"));
}

#[test]
fn a_heartbeat_and_an_append_touch_no_index() {
    let (_directory, db) = database();
    for text in [sql::HEARTBEAT, sql::ANNOTATE] {
        let mut statement = db.prepare(&format!("EXPLAIN {text}")).unwrap();
        for index in 1..=statement.parameter_count() {
            statement.raw_bind_parameter(index, 1).unwrap();
        }
        let mut rows = statement.raw_query();
        let mut opened = 0;
        while let Some(row) = rows.next().unwrap() {
            opened += usize::from(row.get::<_, String>(1).unwrap() == "OpenWrite");
        }
        assert_eq!(opened, 1, "only the table is opened for writing: {text}");
    }
}

#[test]
fn listings_do_not_sort_what_they_do_not_show() {
    let (_directory, db) = database();
    let newest = "ORDER BY created_at DESC, id DESC LIMIT ?";
    for (states, plan_of) in [
        (States::ALL, "queue_job_created"),
        (States::FINAL, "queue_job_created"),
        (State::Completed.into(), "queue_job_created"),
        (State::Running.into(), "queue_job_running"),
        (State::Failed.into(), "queue_job_ended (state=?)"),
    ] {
        let filter = JobFilter::all().with_states(states);
        let conditions = Conditions::of(&filter);
        let index = Conditions::ordered_by(&filter);
        let text =
            format!("SELECT input FROM queue_job {index}WHERE {} {newest}", conditions.text());
        let plan = plan(&db, &text);
        assert!(plan.contains(plan_of), "{states:?}: {plan}");
        let sorts = plan.contains("TEMP B-TREE");
        assert_eq!(sorts, plan_of != "queue_job_created", "{states:?}: {plan}");
    }
}
