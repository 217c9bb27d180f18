-- Finds the first waiting jobs that match a filter, and the slots of their lanes that are taken: of a lane and a limit as many as there
-- are slots. It locks nothing; what is picked from its answer is judged again by the claim that follows.
WITH t AS MATERIALIZED (SELECT {now} AS now),
matching AS MATERIALIZED (
    SELECT j.id, j.queue, j.kind, j.rank, j.run_at, j.lane_key, j.lane_limit
    FROM {s}.job j WHERE j.state = 0 AND {filter}
),
mine AS MATERIALIZED (SELECT w.* FROM matching w WHERE {wanted}{asked}),
lane AS MATERIALIZED (
    SELECT d.lane_key, d.lane_limit, ARRAY(
        SELECT j.slot FROM {s}.job j WHERE j.lane_key = d.lane_key AND j.slot IS NOT NULL
            AND j.slot < d.lane_limit) AS slots
    FROM (SELECT DISTINCT m.lane_key, m.lane_limit FROM mine m WHERE m.lane_key IS NOT NULL) d
),
found AS MATERIALIZED (
    SELECT m.*, l.slots, m.lane_limit - cardinality(l.slots) AS room
    FROM mine m LEFT JOIN lane l ON l.lane_key = m.lane_key AND l.lane_limit = m.lane_limit
    WHERE m.lane_key IS NULL OR cardinality(l.slots) < m.lane_limit
),
due AS MATERIALIZED (
    SELECT d.id, d.queue, d.kind, d.rank, d.run_at, d.lane_key, d.lane_limit, d.slots
    FROM (
        SELECT f.*, row_number() OVER (
            PARTITION BY f.lane_key, f.lane_limit ORDER BY f.rank, f.run_at {dir}, f.id {dir}) AS turn
        FROM found f WHERE f.run_at <= (SELECT now FROM t)
    ) d
    WHERE d.lane_key IS NULL OR d.turn <= d.room
    ORDER BY d.rank, d.run_at {dir}, d.id {dir} LIMIT {limit}
)
SELECT EXISTS (SELECT FROM {s}.job j WHERE j.state = 1 AND j.nonce = {token}::uuid) AS repeated,
    (SELECT now FROM t) AS now,
    (SELECT min(run_at) FROM found WHERE run_at > (SELECT now FROM t)) AS future,
    (SELECT min(j.lease_until) FROM {s}.job j WHERE j.state = 1) AS lease,
    f.*
FROM (SELECT 1) one LEFT JOIN due f ON true
ORDER BY f.rank, f.run_at {dir}, f.id {dir}
