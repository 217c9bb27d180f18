-- Finds due jobs, with and without lanes, and the slots that are taken. It locks nothing; what is picked from its answer
-- is judged again by the claim that follows.
--
-- ahead: the first jobs with lanes in their order, more than are wanted, with the slots that are held of their lanes.
-- pickable: whether the claim can be filled from those, and from jobs without lanes before the last of those; then it need
--   not know when to come back. A job has a free slot if there are more than jobs of its lane before it.
-- enough: the same, or there are no more. Only otherwise are the lanes walked, one seek each
--   and another for its slots: of 10,000 lanes with a free slot the first few need no more than this.
-- lane: the wanted lanes with a free slot.
WITH RECURSIVE t AS MATERIALIZED (SELECT {now} AS now),
{first_open}
{first_laned}
ahead AS MATERIALIZED (
    SELECT f.*, held.slots, f.lane_limit - cardinality(held.slots) AS free,
        row_number() OVER (PARTITION BY f.lane_key ORDER BY f.rank, f.run_at {dir}, f.id {dir}) AS turn
    FROM laned_found f CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT j.slot FROM {s}.job j WHERE j.lane_key = f.lane_key AND j.slot IS NOT NULL
            AND j.slot < f.lane_limit) AS slots) held
),
last AS MATERIALIZED (
    SELECT f.rank, f.run_at, f.id FROM laned_found f
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT 1 OFFSET {ahead} - 1
),
pickable AS MATERIALIZED (
    SELECT (SELECT count(*) FROM ahead a WHERE a.turn <= a.free)
        + (SELECT count(*) FROM open_found f LEFT JOIN last l ON true WHERE l.id IS NULL OR f.rank < l.rank
            OR f.rank = l.rank AND (f.run_at, f.id) {upto} (l.run_at, l.id)) >= {limit} AS fill
),
enough AS MATERIALIZED (SELECT p.fill OR NOT EXISTS (SELECT FROM last) AS so FROM pickable p),
lane_walk AS ({lane_walk}),
lane AS MATERIALIZED (
    SELECT w.*, held.slots FROM lane_walk w CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT j.slot FROM {s}.job j WHERE j.lane_key = w.lane_key AND j.slot IS NOT NULL
            AND j.slot < w.lane_limit) AS slots) held
    WHERE {wanted} AND cardinality(held.slots) < w.lane_limit
),
found AS MATERIALIZED (
    (SELECT f.id, f.queue, f.kind, f.rank, f.run_at, NULL::text AS lane_key, NULL::bigint AS lane_limit,
        NULL::bigint[] AS slots
    FROM open_found f)
    UNION ALL
    (SELECT f.id, f.queue, f.kind, f.rank, f.run_at, f.lane_key, f.lane_limit, f.slots
    FROM ahead f WHERE (SELECT so FROM enough))
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
    CASE WHEN NOT (SELECT fill FROM pickable) THEN least(
        {next_open},
        CASE WHEN (SELECT so FROM enough) THEN {next_laned} END,
        (SELECT min(f.run_at) FROM lane r CROSS JOIN LATERAL (
            SELECT j.run_at FROM {s}.job j
            WHERE j.state = 0 AND j.lane_key IS NOT NULL
                AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
                AND j.lane_key = r.lane_key AND j.lane_limit = r.lane_limit
                AND j.run_at > (SELECT now FROM t)
            ORDER BY j.run_at LIMIT 1) f)) END AS future,
    CASE WHEN NOT (SELECT fill FROM pickable) THEN
        (SELECT min(j.lease_until) FROM {s}.job j WHERE j.state = 1) END AS lease,
    f.*
FROM (SELECT 1) one LEFT JOIN found f ON true
ORDER BY f.rank, f.run_at {dir}, f.id {dir}
