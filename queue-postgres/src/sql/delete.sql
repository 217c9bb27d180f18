-- Deletes matching jobs that do not run, the oldest first. They are locked in the order of ids and matched again as
-- locked; their logs go by the foreign key.
WITH found AS MATERIALIZED (
    SELECT j.id FROM {s}.job j WHERE j.state <> 1 AND {filter} ORDER BY j.created_at, j.id LIMIT {limit}
),
locked AS MATERIALIZED (
    SELECT j.id FROM found f JOIN {s}.job j ON j.id = f.id
    WHERE j.state <> 1 AND {filter}
    ORDER BY j.id
    FOR UPDATE OF j
),
gone AS (DELETE FROM {s}.job j USING locked k WHERE j.id = k.id RETURNING 1)
SELECT count(*) AS deleted FROM gone
