//! The statements, one file each, and the version of their texts that is prepared.

use rusqlite::{CachedStatement, Connection};

/// A statement, compiled at its first use on the connection.
pub(crate) fn prepare<'c>(db: &'c Connection, text: &str) -> rusqlite::Result<CachedStatement<'c>> {
    #[cfg(test)]
    let text = &crate::mutant_tests::mutated(text);
    db.prepare_cached(text)
}

macro_rules! statements {
    ($($name:ident = $file:literal $(+ $tail:literal)?;)*) => {
        $(pub(crate) const $name: &str = concat!(include_str!(concat!("sql/", $file, ".sql")) $(, $tail)?);)*
    };
}

statements! {
    SCHEMA_1 = "schema_1";
    NARROW_BY_ID = "select_narrow" + "WHERE id = ?1";
    NARROW_BY_NUM = "select_narrow" + "WHERE num = ?1";
    NARROW_BY_KEY = "select_narrow" + "WHERE held_key = ?1";
    SELECT_WIDE = "select_wide";
    WIDE_BY_ID = "select_wide" + "WHERE id = ?1";
    WIDE_BY_NUM = "select_wide" + "WHERE num = ?1";
    WIDE_BY_NONCE = "select_wide" + "INDEXED BY queue_job_running WHERE state = 1 AND nonce = ?1";
    INSERT_JOB = "insert_job";
    CLAIM = "claim";
    SETTLE = "settle";
    RELEASE = "release";
    CONTROL = "control";
    ERROR = "error";
    ANNOTATE = "annotate";
    HEARTBEAT = "heartbeat";
    APPEND = "append";
    SELECT_LOG = "select_log";
    EXPIRED = "expired";
    EARLIEST_LEASE = "earliest_lease";
    OPEN_QUEUE = "open_queue";
    OPEN_KIND = "open_kind";
    OPEN_PRIORITY = "open_priority";
    OPEN_FIFO = "open_fifo";
    OPEN_LIFO = "open_lifo";
    OPEN_FUTURE = "open_future";
    LANED_QUEUE = "laned_queue";
    LANED_KIND = "laned_kind";
    LANED_PRIORITY = "laned_priority";
    LANED_FIFO = "laned_fifo";
    LANED_LIFO = "laned_lifo";
    LANED_FUTURE = "laned_future";
    LANE_NEXT = "lane_next";
    LANE_FIFO = "lane_fifo";
    LANE_LIFO = "lane_lifo";
    LANE_SLOTS = "lane_slots";
    PAUSED = "paused";
    TALLY = "tally";
    SCHEDULE_BY_NAME = "select_schedule" + "WHERE name = ?1";
    SCHEDULES = "select_schedule" + "ORDER BY name";
    PUT_SCHEDULE = "put_schedule";
    SELECT_RECORDS = "select_records";
    RECORD_VERSION = "record_version";
    PUT_RECORD = "put_record";
}

pub(crate) const JOB_EXISTS: &str = "SELECT 1 FROM queue_job WHERE id = ?1";
pub(crate) const PUT_INPUT: &str = "INSERT INTO queue_input (num, body) VALUES (?1, ?2)";
pub(crate) const DROP_INPUT: &str = "DELETE FROM queue_input WHERE num = ?1";
pub(crate) const PUT_LABEL: &str =
    "INSERT INTO queue_label (key, value, job) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
pub(crate) const DROP_LABEL: &str =
    "DELETE FROM queue_label WHERE key = ?1 AND value = ?2 AND job = ?3";
pub(crate) const DROP_LOG: &str = "DELETE FROM queue_log WHERE job = ?1";
pub(crate) const DROP_JOB: &str = "DELETE FROM queue_job WHERE num = ?1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wide_columns_begin_with_the_narrow_ones() {
        let columns = |text: &str| {
            let (_, rest) = text.split_once("SELECT\n").unwrap();
            rest.split_once("FROM queue_job\n").unwrap().0.trim_end().to_owned()
        };
        assert!(columns(SELECT_WIDE).starts_with(&columns(NARROW_BY_ID)));
    }
}
