-- One row per change, in their order. `again` ends the statement when its snapshot was stale.
SELECT coalesce(v.verdict, 6) AS verdict, v.state, v.version + v.bump AS version, v.version AS actual,
    v.cancel_reason, v.cancel_at,
    CASE WHEN v.verdict = 0 AND v.kind IS NOT NULL AND v.next_state = 0 THEN v.queue END AS waiting,
    coalesce(v.verdict = 0 AND v.kind IS NOT NULL AND v.slot IS NOT NULL, false) AS lane_freed,
    (SELECT CASE WHEN (SELECT count(*) FROM appended) <> (SELECT count(*) FROM entry)
        THEN {s}.again() END) AS again
FROM u LEFT JOIN judged v ON v.place = u.place
ORDER BY u.place
