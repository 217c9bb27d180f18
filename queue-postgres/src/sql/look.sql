-- Finds due jobs, with and without lanes, and the slots that are taken. It locks nothing; what is picked from its answer
-- is judged again by the claim that follows.
WITH RECURSIVE t AS MATERIALIZED (SELECT {now} AS now),
walk AS ({open_walk}),
range AS MATERIALIZED (SELECT w.* FROM walk w WHERE {wanted}),
lane_walk AS ({laned_walk}),
lane AS MATERIALIZED (
    SELECT w.*, held.slots FROM lane_walk w CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT j.slot FROM {s}.job j WHERE j.lane_key = w.lane_key AND j.slot IS NOT NULL
            AND j.slot < w.lane_limit) AS slots) held
    WHERE {wanted} AND cardinality(held.slots) < w.lane_limit
),
found AS MATERIALIZED (
    (SELECT f.* FROM range r CROSS JOIN LATERAL (
        SELECT j.id, j.queue, j.kind, j.rank, j.run_at, NULL::text AS lane_key, NULL::bigint AS lane_limit,
            NULL::bigint[] AS slots
        FROM {s}.job j
        WHERE j.state = 0 AND j.lane_key IS NULL
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND j.run_at <= (SELECT now FROM t)
        ORDER BY j.run_at {dir}, j.id {dir} LIMIT {limit}
    ) f)
    UNION ALL
    (SELECT f.* FROM lane r CROSS JOIN LATERAL (
        SELECT j.id, j.queue, j.kind, j.rank, j.run_at, j.lane_key, j.lane_limit, r.slots
        FROM {s}.job j
        WHERE j.state = 0 AND j.lane_key IS NOT NULL
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND j.lane_key = r.lane_key AND j.lane_limit = r.lane_limit
            AND j.run_at <= (SELECT now FROM t)
        ORDER BY j.run_at {dir}, j.id {dir}
        LIMIT least({limit}, r.lane_limit - cardinality(r.slots))
    ) f)
)
SELECT EXISTS (SELECT FROM {s}.job j WHERE j.state = 1 AND j.nonce = {token}::uuid) AS repeated,
    (SELECT now FROM t) AS now,
    least(
        (SELECT min(f.run_at) FROM range r CROSS JOIN LATERAL (
            SELECT j.run_at FROM {s}.job j
            WHERE j.state = 0 AND j.lane_key IS NULL
                AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
                AND j.run_at > (SELECT now FROM t)
            ORDER BY j.run_at LIMIT 1) f),
        (SELECT min(f.run_at) FROM lane r CROSS JOIN LATERAL (
            SELECT j.run_at FROM {s}.job j
            WHERE j.state = 0 AND j.lane_key IS NOT NULL
                AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
                AND j.lane_key = r.lane_key AND j.lane_limit = r.lane_limit
                AND j.run_at > (SELECT now FROM t)
            ORDER BY j.run_at LIMIT 1) f)) AS future,
    (SELECT min(j.lease_until) FROM {s}.job j WHERE j.state = 1) AS lease,
    f.*
FROM (SELECT 1) one LEFT JOIN found f ON true
ORDER BY f.rank, f.run_at {dir}, f.id {dir}
