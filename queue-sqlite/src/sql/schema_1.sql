-- Version 1. One batch, run inside the migration's own BEGIN IMMEDIATE.
--
-- `num` is the rowid: log, labels and large inputs refer to it, because 3 bytes are cheaper than 16.
-- Times are microseconds since the Unix epoch. State codes: 0 waiting, 1 running, 2 completed,
-- 3 failed, 4 cancelled.
CREATE TABLE queue_job (
    num              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL,
    queue            TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    state            INTEGER NOT NULL DEFAULT 0,
    priority         INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    attempt          INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    max_crashes      INTEGER NOT NULL,
    keep             INTEGER NOT NULL,
    fence            INTEGER NOT NULL DEFAULT 0,
    nonce            BLOB,
    version          INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    holder           TEXT,
    lease_until      INTEGER,
    cancel_reason    TEXT,
    cancel_at        INTEGER,
    wake             INTEGER NOT NULL DEFAULT 0,
    settled_fence    INTEGER,
    settled_nonce    BLOB,
    settled_kind     INTEGER,
    lane_key         TEXT,
    lane_limit       INTEGER,
    slot             INTEGER,
    unique_key       TEXT,
    unique_within    INTEGER,
    unique_mode      INTEGER,
    held_key         TEXT,
    log_len          INTEGER NOT NULL DEFAULT 0,
    progress         INTEGER,
    progress_message TEXT,
    labels           TEXT,
    error            TEXT,
    output           TEXT,
    -- NULL: the input is large and stands in queue_input, out of the way of every narrow update,
    -- because SQLite writes a changed row anew as a whole.
    input            TEXT
) STRICT;

CREATE UNIQUE INDEX queue_job_id ON queue_job (id);

-- Listings, and retention's "oldest first".
CREATE INDEX queue_job_created ON queue_job (created_at, id);

-- The order of claims is the order of this index; a claim walks one range of it per
-- (queue, kind, priority). Jobs with a lane have one of their own, so that those without pay nothing.
-- `lane_key` is always NULL in the first: there, or SQLite would ask the table for it.
CREATE INDEX queue_job_open ON queue_job (queue, kind, priority DESC, run_at, id, lane_key)
    WHERE state = 0 AND lane_key IS NULL;
CREATE INDEX queue_job_laned ON queue_job (queue, kind, priority DESC, run_at, id, lane_key, lane_limit)
    WHERE state = 0 AND lane_key IS NOT NULL;
-- Skips a backlog behind full lanes: one range per lane.
CREATE INDEX queue_job_by_lane ON queue_job (queue, kind, priority DESC, lane_key, lane_limit, run_at, id)
    WHERE state = 0 AND lane_key IS NOT NULL;

-- Finds what a repeated claim took, and is the list of running jobs that reap scans. The end of the
-- lease is not in it: every heartbeat would rewrite it.
CREATE INDEX queue_job_running ON queue_job (nonce) WHERE state = 1;

-- Tallies, listings of what went wrong, and retention by the time of the end.
CREATE INDEX queue_job_ended ON queue_job (state, queue, finished_at) WHERE state > 1;

CREATE UNIQUE INDEX queue_job_key ON queue_job (held_key) WHERE held_key IS NOT NULL;
CREATE UNIQUE INDEX queue_job_slot ON queue_job (lane_key, slot) WHERE slot IS NOT NULL;

CREATE TABLE queue_input (
    num  INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;

-- Entry ids ascend with time, so an append goes to the end of its job's range.
CREATE TABLE queue_log (
    job   INTEGER NOT NULL,
    entry BLOB    NOT NULL,
    seq   INTEGER NOT NULL,
    kind  INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    body  TEXT    NOT NULL,
    PRIMARY KEY (job, entry)
) STRICT, WITHOUT ROWID;

CREATE TABLE queue_label (
    key   TEXT    NOT NULL,
    value TEXT    NOT NULL,
    job   INTEGER NOT NULL,
    PRIMARY KEY (key, value, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE queue_schedule (
    name       TEXT    NOT NULL PRIMARY KEY,
    last_slot  INTEGER NOT NULL,
    last_job   BLOB,
    fired      INTEGER NOT NULL,
    skipped    INTEGER NOT NULL,
    last_error TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE queue_record (
    key        TEXT    NOT NULL PRIMARY KEY,
    body       TEXT,
    version    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
