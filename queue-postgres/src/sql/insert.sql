-- Inserts jobs without unique keys: one statement for any number. In the order of ids, so that two calls with
-- the same jobs wait for each other instead of locking up; a job that is there stays as it is.
--
-- $17: the queues that workers are told of, at the commit; where nothing was inserted, nobody need be told.
WITH made AS (
    INSERT INTO {s}.job (id, queue, kind, rank, run_at, max_crashes, keep, created_at,
        lane_key, lane_limit, labels, input)
    SELECT n.id, n.queue, n.kind, n.rank, coalesce(n.due, least(t.now + n.delay, {max})), n.max_crashes,
        n.keep, t.now, n.lane_key, n.lane_limit, n.labels::jsonb, n.input::json
    FROM (SELECT {now} AS now) t,
        unnest($2::uuid[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::smallint[], $10::text[], $11::bigint[], $12::text[], $13::smallint[],
            $14::smallint[], $15::text[], $16::text[]) WITH ORDINALITY
        AS n (id, queue, kind, rank, due, delay, max_crashes, keep, lane_key, lane_limit,
            unique_key, within, mode, labels, input, place)
    ORDER BY n.id, n.place
    ON CONFLICT (id) DO NOTHING
    RETURNING id
),
told AS MATERIALIZED (
    SELECT count(pg_notify({channel}, q.queue)) FROM unnest($17::text[]) AS q (queue)
)
SELECT made.id FROM made, told
