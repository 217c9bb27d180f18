-- Version 1. Run as one batch inside the migration's own transaction.
--
-- Times are microseconds since the Unix epoch. State codes: 0 waiting, 1 running, 2 completed,
-- 3 failed, 4 cancelled. Names compare by their bytes, as they do in Rust: collation "C".
CREATE TABLE {s}.job (
    id               uuid     NOT NULL,
    queue            text     COLLATE "C" NOT NULL,
    kind             text     COLLATE "C" NOT NULL,
    state            smallint NOT NULL DEFAULT 0,
    -- Minus the priority, so that every column of the index ascends and one row comparison skips a range.
    rank             integer  NOT NULL,
    run_at           bigint   NOT NULL,
    attempt          bigint   NOT NULL DEFAULT 0,
    crashes          bigint   NOT NULL DEFAULT 0,
    max_crashes      bigint   NOT NULL,
    keep             smallint NOT NULL,
    fence            bigint   NOT NULL DEFAULT 0,
    nonce            uuid     NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version          bigint   NOT NULL DEFAULT 1,
    created_at       bigint   NOT NULL,
    started_at       bigint,
    finished_at      bigint,
    holder           text,
    lease_until      bigint,
    -- The job's place among those that one claim took, from 1 to the claim's limit.
    claim_place      bigint,
    cancel_reason    text,
    cancel_at        bigint,
    wake             boolean  NOT NULL DEFAULT false,
    settled_fence    bigint,
    settled_nonce    uuid,
    settled_kind     smallint,
    lane_key         text     COLLATE "C",
    lane_limit       bigint,
    slot             bigint,
    unique_key       text     COLLATE "C",
    unique_within    smallint,
    unique_mode      smallint,
    -- The unique key while the job holds it.
    held_key         text     COLLATE "C",
    log_len          bigint   NOT NULL DEFAULT 0,
    progress         smallint,
    progress_message text,
    labels           jsonb,
    input            json     NOT NULL,
    output           json,
    error            json
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Listings, and retention's "oldest first".
CREATE INDEX job_created ON {s}.job (created_at, id);

-- The order of claims is the order of this index: one range per queue, kind and rank.
CREATE INDEX job_open ON {s}.job (queue, kind, rank, run_at, id)
    WHERE state = 0 AND lane_key IS NULL;
-- The same for jobs with a lane; and once more with one range per lane, so that a backlog behind full lanes is skipped.
CREATE INDEX job_laned_open ON {s}.job (queue, kind, rank, run_at, id) INCLUDE (lane_key, lane_limit)
    WHERE state = 0 AND lane_key IS NOT NULL;
CREATE INDEX job_laned ON {s}.job (queue, kind, rank, lane_key, lane_limit, run_at, id)
    WHERE state = 0 AND lane_key IS NOT NULL;

-- Finds what a repeated claim took, and lists the running jobs for reap. A claim that runs on beside its repeat has the same
-- places to give: each is given once, so that the two never hold more than their limit. The end of the lease is in no
-- index: heartbeats would then write a new index entry each (none of 10,000 was a heap-only update).
CREATE UNIQUE INDEX job_running ON {s}.job (nonce, claim_place) WHERE state = 1;

CREATE INDEX job_ended ON {s}.job (state, queue, finished_at) WHERE state > 1;
CREATE UNIQUE INDEX job_key ON {s}.job (held_key) WHERE held_key IS NOT NULL;
CREATE UNIQUE INDEX job_slot ON {s}.job (lane_key, slot) WHERE slot IS NOT NULL;
CREATE INDEX job_labels ON {s}.job USING gin (labels jsonb_path_ops) WHERE labels IS NOT NULL;

-- The last of the indexes: of two that seem to cost the same, as all do for an empty table, the planner takes the later one.
-- Its plans are kept, and finding jobs by their ids through the index of listings reads all of it.
ALTER TABLE {s}.job ADD PRIMARY KEY (id);

-- The foreign key deletes with a snapshot of its own, so that an entry that was appended while the
-- deleting statement waited for the job's lock goes with its job.
CREATE TABLE {s}.log (
    job_id   uuid     NOT NULL REFERENCES {s}.job ON DELETE CASCADE,
    entry_id uuid     NOT NULL,
    seq      bigint   NOT NULL,
    kind     smallint NOT NULL,
    at       bigint   NOT NULL,
    body     json     NOT NULL,
    PRIMARY KEY (job_id, entry_id)
);

CREATE TABLE {s}.schedule (
    name       text   COLLATE "C" NOT NULL PRIMARY KEY,
    last_slot  bigint,
    last_job   uuid,
    fired      bigint NOT NULL DEFAULT 0,
    skipped    bigint NOT NULL DEFAULT 0,
    last_error text
);

CREATE TABLE {s}.record (
    key        text   COLLATE "C" NOT NULL PRIMARY KEY,
    body       json,
    version    bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- Ends a statement that has found its own snapshot stale; the caller repeats it with a new one.
CREATE FUNCTION {s}.again() RETURNS bigint LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'a rival committed meanwhile' USING ERRCODE = 'serialization_failure';
END $body$;

-- Inserts jobs one after the other, for batches in which some have a unique key. Each inner statement
-- sees what rivals committed before it. Keys are locked first, in one order: two batches with the same keys would
-- otherwise wait for each other. By 1,024 locks at most: the server has room for some thousands in all. Holders that
-- may be superseded are locked before they are judged, in the order of ids, as by everybody else; an insert that finds
-- an id taken by a rival it could not see waits for that rival and looks again.
CREATE FUNCTION {s}.enqueue(
    p_now bigint, p_id uuid[], p_queue text[], p_kind text[], p_rank integer[], p_due bigint[],
    p_delay bigint[], p_max_crashes bigint[], p_keep smallint[], p_lane_key text[],
    p_lane_limit bigint[], p_unique_key text[], p_within smallint[], p_mode smallint[],
    p_labels text[], p_input text[]
) RETURNS TABLE (made boolean, job uuid) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_now bigint := coalesce(p_now, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint);
    v_holder record;
BEGIN
    PERFORM pg_advisory_xact_lock(k.lock)
    FROM (SELECT DISTINCT ({seed})::bigint # 1 # (hashtextextended(u.key, 0) & 1023) << 1 AS lock
          FROM unnest(p_unique_key) AS u (key) WHERE u.key IS NOT NULL ORDER BY 1) k;
    IF 1 = ANY (p_mode) THEN
        PERFORM FROM {s}.job j
        WHERE j.held_key IN (SELECT u.key FROM unnest(p_unique_key, p_mode) AS u (key, mode) WHERE u.mode = 1)
        ORDER BY j.id FOR NO KEY UPDATE;
    END IF;
    FOR i IN 1 .. cardinality(p_id) LOOP
        LOOP
            IF EXISTS (SELECT FROM {s}.job j WHERE j.id = p_id[i]) THEN
                made := false; job := p_id[i];
                RETURN NEXT;
                EXIT;
            END IF;
            IF p_unique_key[i] IS NOT NULL THEN
                IF p_mode[i] = 1 THEN
                    SELECT j.id, j.state = 0 AND j.fence = 0
                           AND (j.unique_mode = 1 OR (j.unique_within >> 4) & 1 = 0) AS yields
                    INTO v_holder
                    FROM {s}.job j WHERE j.held_key = p_unique_key[i] FOR NO KEY UPDATE;
                ELSE
                    SELECT j.id, false AS yields
                    INTO v_holder
                    FROM {s}.job j WHERE j.held_key = p_unique_key[i];
                END IF;
                IF FOUND AND NOT v_holder.yields THEN
                    made := false; job := v_holder.id;
                    RETURN NEXT;
                    EXIT;
                END IF;
                IF FOUND THEN
                    UPDATE {s}.job j
                    SET state = 4, version = j.version + 1, finished_at = v_now, cancel_at = v_now,
                        cancel_reason = 'superseded by job ' || p_id[i], held_key = NULL
                    WHERE j.id = v_holder.id;
                END IF;
            END IF;
            INSERT INTO {s}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at,
                lane_key, lane_limit, unique_key, unique_within, unique_mode, held_key, labels, input)
            VALUES (p_id[i], p_queue[i], p_kind[i], p_rank[i],
                coalesce(p_due[i], least(v_now + p_delay[i], {max})), p_max_crashes[i], p_keep[i], v_now,
                p_lane_key[i], p_lane_limit[i], p_unique_key[i], p_within[i], p_mode[i],
                p_unique_key[i], p_labels[i]::jsonb, p_input[i]::json)
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                made := true; job := p_id[i];
                RETURN NEXT;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
END $body$;

-- Fires a slot. The schedule's row is locked first: of many schedulers one goes on, the others find the slot fired.
CREATE FUNCTION {s}.fire(
    p_schedule text, p_slot bigint, p_error text,
    p_now bigint, p_id uuid[], p_queue text[], p_kind text[], p_rank integer[], p_due bigint[],
    p_delay bigint[], p_max_crashes bigint[], p_keep smallint[], p_lane_key text[],
    p_lane_limit bigint[], p_unique_key text[], p_within smallint[], p_mode smallint[],
    p_labels text[], p_input text[]
) RETURNS TABLE (already bigint, made boolean, job uuid) LANGUAGE plpgsql AS $body$
#variable_conflict use_column
DECLARE
    v_made boolean := false;
    v_job uuid;
    v_last bigint;
BEGIN
    INSERT INTO {s}.schedule (name) VALUES (p_schedule) ON CONFLICT DO NOTHING;
    SELECT s.last_slot INTO v_last FROM {s}.schedule s WHERE s.name = p_schedule FOR NO KEY UPDATE;
    IF v_last >= p_slot THEN
        already := v_last;
        RETURN NEXT;
        RETURN;
    END IF;
    IF cardinality(p_id) > 0 THEN
        SELECT e.made, e.job INTO v_made, v_job
        FROM {s}.enqueue(p_now, p_id, p_queue, p_kind, p_rank, p_due, p_delay, p_max_crashes, p_keep,
            p_lane_key, p_lane_limit, p_unique_key, p_within, p_mode, p_labels, p_input) e;
    END IF;
    UPDATE {s}.schedule s
    SET last_slot = p_slot,
        last_job = CASE WHEN v_made THEN v_job ELSE s.last_job END,
        fired = s.fired + v_made::int,
        skipped = s.skipped + (NOT v_made)::int,
        last_error = CASE WHEN v_made THEN p_error ELSE coalesce(p_error, s.last_error) END
    WHERE s.name = p_schedule;
    made := v_made; job := v_job;
    RETURN NEXT;
END $body$;
