-- Makes changes of jobs, each under its guard, with their log entries. The part of a statement before its answer.
--
-- locked: in the order of ids, so that two calls with the same jobs never lock up; a row that a rival
--   changed meanwhile is read as the rival left it. Guards are judged on that (a zombie whose append
--   waited for the new claim is fenced).
-- entry, appended: positions come from the locked row. What is in the log already is looked up with the
--   statement's snapshot, which may be older than the lock: then fewer rows are appended than were numbered, and
--   `again` in the answer ends the statement for another try.
t AS MATERIALIZED (SELECT {now} AS now),
u AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::smallint[], $4::bigint[], $5::uuid[], $6::smallint[],
        $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::smallint[], $12::text[], $13::text[],
        $14::text[], $15::boolean[]) WITH ORDINALITY
    AS u (id, guard, guard_count, guard_nonce, kind, due, delay, payload, reason, percent, message,
        labels_set, labels_gone, large, place)
),
locked AS MATERIALIZED (
    SELECT u.place, j.state, j.fence, j.nonce, j.version, j.settled_fence, j.settled_nonce,
        j.settled_kind, j.cancel_reason, j.cancel_at, j.keep, j.log_len, j.slot, j.queue
    FROM u JOIN {s}.job j ON j.id = ANY (ARRAY[u.id])
    ORDER BY j.id
    FOR NO KEY UPDATE OF j
),
judged AS MATERIALIZED (
    SELECT u.*, k.state, k.version, k.cancel_reason, k.cancel_at, k.log_len, k.slot, k.queue,
        CASE WHEN u.kind = 0 THEN 2 WHEN u.kind = 3 THEN 3 WHEN u.kind = 4 THEN 4
            WHEN u.kind IN (1, 2) AND k.cancel_at IS NOT NULL THEN 4
            WHEN u.kind IN (1, 2) THEN 0
            ELSE k.state END AS next_state,
        (u.kind IS NOT NULL OR u.labels_set IS NOT NULL OR u.labels_gone IS NOT NULL
            OR u.percent IS NOT NULL AND u.guard <> 2)::int AS bump,
        coalesce(u.kind = 0 AND k.keep = 1, false) AS dropped,
        CASE
            WHEN u.guard = 1 AND k.version <> u.guard_count THEN 3
            WHEN u.guard = 2 AND k.settled_fence = u.guard_count AND k.settled_nonce = u.guard_nonce
                THEN CASE WHEN u.kind = k.settled_kind THEN 1 ELSE 2 END
            WHEN u.guard = 2 AND (k.fence <> u.guard_count OR k.nonce <> u.guard_nonce) THEN 2
            WHEN u.guard = 2 AND k.state <> 1 THEN CASE WHEN u.kind IS NULL THEN 2 ELSE 4 END
            WHEN u.large THEN 5
            ELSE 0
        END AS verdict
    FROM locked k JOIN u ON u.place = k.place
),
entry AS MATERIALIZED (
    SELECT v.id AS job_id, n.entry_id, n.kind, n.body,
        v.log_len + row_number() OVER (PARTITION BY v.id ORDER BY n.place) AS seq
    FROM unnest($16::bigint[], $17::uuid[], $18::smallint[], $19::text[]) WITH ORDINALITY
        AS n (job_place, entry_id, kind, body, place)
    JOIN judged v ON v.place = n.job_place
    WHERE v.verdict = 0 AND NOT v.dropped AND NOT EXISTS (
        SELECT FROM {s}.log l WHERE l.job_id = v.id AND l.entry_id = n.entry_id)
),
appended AS (
    INSERT INTO {s}.log (job_id, entry_id, seq, kind, at, body)
    SELECT e.job_id, e.entry_id, e.seq, e.kind, t.now, e.body::json FROM entry e, t
    ON CONFLICT DO NOTHING
    RETURNING 1
),
added AS MATERIALIZED (SELECT job_id, count(*) AS entries FROM entry GROUP BY job_id),
written AS (
    UPDATE {s}.job j SET
        state = v.next_state,
        attempt = CASE WHEN v.kind = 2 AND v.next_state = 0 THEN greatest(j.attempt - 1, 0) ELSE j.attempt END,
        version = j.version + v.bump,
        holder = CASE WHEN v.kind IS NULL THEN j.holder END,
        lease_until = CASE WHEN v.kind IS NULL THEN j.lease_until END,
        wake = CASE WHEN v.kind IS NULL THEN j.wake ELSE false END,
        slot = CASE WHEN v.kind IS NULL THEN j.slot END,
        run_at = CASE WHEN v.kind IS NULL OR v.next_state <> 0 THEN j.run_at
            WHEN v.kind = 2 AND j.wake THEN t.now
            ELSE coalesce(v.due, least(t.now + v.delay, {max})) END,
        finished_at = CASE WHEN v.kind IS NOT NULL AND v.next_state > 1 THEN t.now ELSE j.finished_at END,
        cancel_reason = CASE WHEN v.kind = 4 THEN coalesce(j.cancel_reason, v.reason) ELSE j.cancel_reason END,
        cancel_at = CASE WHEN v.kind = 4 THEN coalesce(j.cancel_at, t.now) ELSE j.cancel_at END,
        settled_fence = CASE WHEN v.kind IS NULL THEN j.settled_fence ELSE j.fence END,
        settled_nonce = CASE WHEN v.kind IS NULL THEN j.settled_nonce ELSE j.nonce END,
        settled_kind = coalesce(v.kind, j.settled_kind),
        held_key = CASE WHEN v.kind IS NULL THEN j.held_key
            WHEN j.unique_mode = 0 AND (j.unique_within >> v.next_state) & 1 = 1 THEN j.unique_key END,
        error = CASE WHEN v.kind = 0 THEN NULL WHEN v.kind IN (1, 3) THEN v.payload::json ELSE j.error END,
        output = CASE WHEN v.kind = 0 THEN v.payload::json ELSE j.output END,
        progress = coalesce(v.percent, j.progress),
        progress_message = CASE WHEN v.percent IS NULL THEN j.progress_message ELSE v.message END,
        labels = CASE WHEN v.labels_set IS NULL AND v.labels_gone IS NULL THEN j.labels
            ELSE nullif((coalesce(j.labels, '{}') || coalesce(v.labels_set::jsonb, '{}'))
                - ARRAY(SELECT json_array_elements_text(v.labels_gone::json)), '{}') END,
        log_len = j.log_len + coalesce(a.entries, 0)
    FROM t, judged v LEFT JOIN added a ON a.job_id = v.id
    WHERE j.id = ANY (ARRAY[v.id]) AND v.verdict = 0 AND NOT v.dropped
        AND (v.bump = 1 OR v.percent IS NOT NULL OR a.entries > 0)
),
dropped AS (
    DELETE FROM {s}.job j USING judged v WHERE j.id = ANY (ARRAY[v.id]) AND v.verdict = 0 AND v.dropped
)
