-- Claims these jobs, with these slots of their lanes.
--
-- A lane is tried by an advisory lock first: a rival that is giving out its slots keeps it until it has committed, so nobody
-- ever waits at the unique index of slots. A rival that committed between this statement's snapshot and
-- its lock makes a unique violation; then the caller looks again. Rows are judged again as locked, by the whole condition.
-- Places are counted over what could be locked: a claim and its repeat that take anything at all both have the first.
WITH t AS MATERIALIZED (SELECT {now} AS now),
wish AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::bigint[],
        $8::bigint[]) WITH ORDINALITY
    AS w (id, queue, kind, rank, lane_key, lane_limit, slot, place)
),
lane AS MATERIALIZED (
    SELECT d.lane_key, pg_try_advisory_xact_lock(hashtextextended(d.lane_key, {seed})) AS ours
    FROM (SELECT DISTINCT w.lane_key FROM wish w WHERE w.lane_key IS NOT NULL ORDER BY 1) d
),
picked AS MATERIALIZED (
    SELECT j.id, w.slot
    FROM wish w LEFT JOIN lane l ON l.lane_key = w.lane_key JOIN {s}.job j ON j.id = ANY (ARRAY[w.id])
    WHERE (w.lane_key IS NULL OR l.ours)
        AND j.state < 1 AND j.run_at <= (SELECT now FROM t)
        AND j.queue = w.queue AND j.kind = w.kind AND j.rank = w.rank AND {filter}
    ORDER BY w.place
    FOR NO KEY UPDATE OF j SKIP LOCKED
),
taken AS (
    UPDATE {s}.job j SET {claimed}, slot = p.slot
    FROM t, (SELECT id, slot, row_number() OVER () AS place FROM picked) p
    WHERE j.id = ANY (ARRAY[p.id]) AND j.state < 1
    RETURNING j.*
)
SELECT {job}, log.* FROM taken j {log}
ORDER BY j.rank, j.run_at {dir}, j.id {dir}
