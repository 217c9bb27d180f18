-- The jobs taken, in order, with their logs; at least one row, which says when to come back.
SELECT EXISTS (SELECT FROM held) AS repeated, (SELECT waiting FROM laned) AS laned, (SELECT now FROM t) AS now,
    CASE WHEN (SELECT count(*) FROM taken) >= {limit} THEN NULL
        WHEN (SELECT count(*) FROM taken) < (SELECT count(*) FROM open_found) THEN (SELECT now FROM t)
        ELSE least(
            {next_open},
            (SELECT min(j.lease_until) FROM {s}.job j WHERE j.state = 1 {unsettled}),
            (SELECT min(lease_until) FROM taken))
    END AS next_due,
    {extra}
    c.*
FROM (SELECT 1) one LEFT JOIN (
    SELECT row_number() OVER (ORDER BY j.rank, j.run_at {dir}, j.id {dir}) AS place, {job}, log.*
    FROM taken j {log}
) c ON true
ORDER BY c.place
