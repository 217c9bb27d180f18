-- The first {count} due jobs of the wanted queues and kinds in one plane of the index; read without locks.
--
-- range: the first of the waiting jobs of each wanted (queue, kind, rank), found by skipping from one to the next.
-- near: the ranges with the first due jobs. Before the n-th of them come n - 1 jobs of others at least, so it
--   has so many fewer to give; further ones have none.
-- bound: a job that is known to have enough jobs before it: the last wanted of a few from each range. Where the
--   ranges are many, they are read up to this job, and not each as if it were alone.
-- found: the first jobs of these ranges, merged. Like the bound it begins at the first job that the range is known to have:
--   dead entries before it, which a vacuum has not removed or may not remove yet, are not passed once more.
{p}_walk AS ({walk}),
{p}_range AS MATERIALIZED (SELECT w.* FROM {p}_walk w WHERE {wanted}),
{p}_near AS MATERIALIZED (
    SELECT h.*, {count} + 1 - row_number() OVER (ORDER BY h.rank, h.run_at {dir}, h.id {dir}) AS share,
        count(*) OVER (PARTITION BY h.rank) * dense_rank() OVER (ORDER BY h.rank) AS crowd
    FROM ({heads} ORDER BY h.rank, h.run_at {dir}, h.id {dir} LIMIT {count}) h
),
{p}_bound AS MATERIALIZED (
    SELECT f.* FROM {p}_near r CROSS JOIN LATERAL (
        SELECT j.rank, j.run_at, j.id FROM {s}.job j
        WHERE {plane}
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND (j.run_at, j.id) {from} (r.run_at, r.id) AND j.run_at <= (SELECT now FROM t)
        ORDER BY j.run_at {dir}, j.id {dir} LIMIT {count} / r.crowd + 2
    ) f
    WHERE (SELECT count(*) FROM {p}_near) > 8
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT 1 OFFSET {count} - 1
),
{p}_found AS MATERIALIZED (
    SELECT f.* FROM {p}_near r LEFT JOIN {p}_bound b ON true CROSS JOIN LATERAL (
        SELECT j.id, j.queue, j.kind, j.rank, j.run_at{lane} FROM {s}.job j
        WHERE {plane}
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND (j.run_at, j.id) {from} (r.run_at, r.id) AND j.run_at <= (SELECT now FROM t)
            AND (j.run_at, j.id) {upto} (CASE WHEN r.rank = b.rank THEN b.run_at ELSE {last_run_at} END,
                CASE WHEN r.rank = b.rank THEN b.id ELSE '{last_id}' END)
        ORDER BY j.run_at {dir}, j.id {dir} LIMIT r.share
    ) f
    WHERE (b.rank IS NULL OR r.rank <= b.rank) {gate}
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT {count}
),
