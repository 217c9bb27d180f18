-- What became of the updates that rode along, beside the first row only.
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT coalesce(v.verdict, 6) FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS verdicts,
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT v.state FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS states,
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT v.version + v.bump FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS versions,
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT v.version FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS actuals,
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT v.cancel_reason FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS reasons,
    CASE WHEN coalesce(c.place, 1) = 1 THEN ARRAY(SELECT v.cancel_at FROM u LEFT JOIN judged v ON v.place = u.place ORDER BY u.place) END AS cancels,
    (SELECT coalesce(bool_or(v.verdict = 0 AND v.kind IS NOT NULL AND v.slot IS NOT NULL), false) FROM judged v) AS lane_freed,
    (SELECT CASE WHEN (SELECT count(*) FROM appended) <> (SELECT count(*) FROM entry)
        THEN {s}.again() END) AS again,
