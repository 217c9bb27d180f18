-- Takes due jobs without a lane. The part of a statement before its answer.
--
-- range: the wanted (queue, kind, rank) with waiting jobs, found by skipping from one to the next.
-- found: the first jobs of each range, merged; read without locks, with some to spare for rivals.
-- picked: locked in order, one by one until there are enough; a row that a rival holds is passed over, one that
--   a rival changed is judged again, by the whole condition.
-- taken: `state = 0` once more, so that nothing that was not waiting is ever claimed.
--
-- Where jobs with lanes wait, or where the token holds jobs already, it takes nothing and says so.
held AS MATERIALIZED (SELECT j.id FROM {s}.job j WHERE j.state = 1 AND j.nonce = {token}::uuid {unsettled}),
laned AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM {s}.job j WHERE j.state = 0 AND j.lane_key IS NOT NULL) AS waiting
),
walk AS ({open_walk}),
range AS MATERIALIZED (SELECT w.queue, w.kind, w.rank FROM walk w WHERE {wanted}),
found AS MATERIALIZED (
    SELECT f.* FROM range r CROSS JOIN LATERAL (
        SELECT j.id, j.queue, j.kind, j.rank, j.run_at FROM {s}.job j
        WHERE j.state = 0 AND j.lane_key IS NULL
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND j.run_at <= (SELECT now FROM t)
        ORDER BY j.run_at {dir}, j.id {dir} LIMIT {fetch}
    ) f
    WHERE NOT (SELECT waiting FROM laned) AND NOT EXISTS (SELECT FROM held) {updates_first}
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT {fetch}
),
picked AS MATERIALIZED (
    SELECT j.id FROM found f JOIN {s}.job j ON j.id = f.id
    WHERE j.state = 0 AND j.lane_key IS NULL AND j.queue = f.queue AND j.kind = f.kind
        AND j.rank = f.rank AND j.run_at <= (SELECT now FROM t)
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT {limit}
    FOR NO KEY UPDATE OF j SKIP LOCKED
),
taken AS (
    UPDATE {s}.job j SET {claimed}
    FROM t, picked p
    WHERE j.id = p.id AND j.state = 0
    RETURNING j.*
)
