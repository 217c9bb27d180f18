-- Takes expired jobs from their holders. Rows that another reaper or the holder is writing are passed over and do not count
-- towards the limit; what is locked is judged again: the holder may have renewed or finished meanwhile.
WITH t AS MATERIALIZED (SELECT {now} AS now),
locked AS MATERIALIZED (
    SELECT j.id, j.lease_until,
        CASE WHEN j.cancel_at IS NOT NULL THEN 4 WHEN j.crashes >= j.max_crashes THEN 3 ELSE 0 END AS next_state
    FROM {s}.job j
    WHERE j.state = 1 AND j.lease_until <= (SELECT now FROM t)
    ORDER BY j.lease_until, j.id LIMIT $2
    FOR NO KEY UPDATE OF j SKIP LOCKED
),
written AS (
    UPDATE {s}.job j SET
        state = k.next_state,
        attempt = greatest(j.attempt - 1, 0),
        crashes = j.crashes + 1,
        version = j.version + 1,
        holder = NULL, lease_until = NULL, wake = false, slot = NULL,
        finished_at = CASE WHEN k.next_state > 1 THEN t.now ELSE j.finished_at END,
        held_key = CASE WHEN j.unique_mode = 0 AND (j.unique_within >> k.next_state) & 1 = 1 THEN j.unique_key END,
        error = CASE WHEN k.next_state = 3
            THEN replace(replace($3, $4, (j.crashes + 1)::text), $5, j.attempt::text)::json ELSE j.error END
    FROM t, locked k
    WHERE j.id = ANY (ARRAY[k.id])
    RETURNING j.id, j.queue, j.fence, j.nonce, j.state, j.crashes, j.lane_key, k.lease_until
)
SELECT id, queue, fence, nonce, state, crashes, lane_key IS NOT NULL AS laned
FROM written ORDER BY lease_until, id
