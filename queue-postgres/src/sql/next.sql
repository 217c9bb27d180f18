-- The first job of a plane that is not due yet. Of a range that has none due, it is the one that the walk has met.
least((SELECT min(r.run_at) FROM {p}_range r WHERE r.run_at > (SELECT now FROM t)),
    (SELECT min(f.run_at) FROM {p}_range r CROSS JOIN LATERAL (
        SELECT j.run_at FROM {s}.job j
        WHERE r.run_at <= (SELECT now FROM t) AND {plane}
            AND j.queue = r.queue AND j.kind = r.kind AND j.rank = r.rank
            AND j.run_at > (SELECT now FROM t)
        ORDER BY j.run_at LIMIT 1) f))
