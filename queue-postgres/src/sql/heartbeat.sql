-- Renews leases. In two rounds: first those that nobody has locked, so that one job in a long transaction of its handler does not
-- keep the leases of all others from being renewed; then, waiting, the rest. Rows are locked in the order of ids and judged as locked; no indexed column is written, so the
-- new row versions stay in their pages without index entries.
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::uuid[], $5::smallint[], $6::text[]) WITH ORDINALITY
    AS u (id, guard_count, guard_nonce, percent, message, place)
),
locked AS MATERIALIZED (
    SELECT u.place, j.id, j.cancel_reason, j.cancel_at,
        j.state = 1 AND j.fence = u.guard_count AND j.nonce = u.guard_nonce AS is_held
    FROM u JOIN {s}.job j ON j.id = ANY (ARRAY[u.id])
    ORDER BY j.id
    FOR NO KEY UPDATE OF j {waiting}
),
written AS (
    UPDATE {s}.job j SET
        lease_until = least({clock} + $7::bigint, {max}),
        progress = coalesce(u.percent, j.progress),
        progress_message = CASE WHEN u.percent IS NULL THEN j.progress_message ELSE u.message END
    FROM locked k JOIN u ON u.place = k.place
    WHERE j.id = ANY (ARRAY[k.id]) AND k.is_held
)
SELECT CASE WHEN k.is_held THEN 0 WHEN k.is_held IS NULL THEN 6 ELSE 2 END AS verdict,
    k.cancel_reason, k.cancel_at
FROM u LEFT JOIN locked k ON k.place = u.place
ORDER BY u.place
