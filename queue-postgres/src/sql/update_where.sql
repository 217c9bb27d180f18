-- Changes all matching jobs and counts them. Jobs that live are locked in the order of ids and matched again as locked;
-- those that had ended are only counted.
WITH t AS MATERIALIZED (SELECT {now} AS now),
found AS MATERIALIZED (SELECT j.id, j.state FROM {s}.job j WHERE {filter}),
locked AS MATERIALIZED (
    SELECT j.id, j.state, j.run_at, j.cancel_at, j.queue
    FROM found f JOIN {s}.job j ON j.id = f.id
    WHERE f.state <= 1 AND {filter}
    ORDER BY j.id
    FOR NO KEY UPDATE OF j
),
written AS (
    UPDATE {s}.job j SET {set}
    FROM t, locked k
    WHERE j.id = k.id AND k.state <= 1 AND {touched}
    RETURNING j.queue
)
SELECT (SELECT count(*) FROM locked WHERE state = 0) AS waiting,
    (SELECT count(*) FROM locked WHERE state = 1) AS running,
    (SELECT count(*) FROM locked WHERE state > 1) + (SELECT count(*) FROM found WHERE state > 1) AS ended,
    ARRAY(SELECT DISTINCT queue FROM written) AS queues
