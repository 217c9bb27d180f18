-- Finds the waiting jobs that match a filter, and the slots of their lanes that are taken. It locks nothing; what is picked
-- from its answer is judged again by the claim that follows.
WITH t AS MATERIALIZED (SELECT {now} AS now),
matching AS MATERIALIZED (
    SELECT j.id, j.queue, j.kind, j.rank, j.run_at, j.lane_key, j.lane_limit
    FROM {s}.job j WHERE j.state = 0 AND {filter}
),
found AS MATERIALIZED (
    SELECT w.*, CASE WHEN w.lane_key IS NOT NULL THEN ARRAY(
        SELECT j.slot FROM {s}.job j WHERE j.lane_key = w.lane_key AND j.slot IS NOT NULL
            AND j.slot < w.lane_limit) END AS slots
    FROM matching w WHERE {wanted}{asked}
)
SELECT EXISTS (SELECT FROM {s}.job j WHERE j.state = 1 AND j.nonce = {token}::uuid) AS repeated,
    (SELECT now FROM t) AS now,
    (SELECT min(run_at) FROM found WHERE run_at > (SELECT now FROM t)
        AND (slots IS NULL OR cardinality(slots) < lane_limit)) AS future,
    (SELECT min(j.lease_until) FROM {s}.job j WHERE j.state = 1) AS lease,
    f.*
FROM (SELECT 1) one LEFT JOIN found f ON f.run_at <= (SELECT now FROM t)
ORDER BY f.rank, f.run_at {dir}, f.id {dir}
