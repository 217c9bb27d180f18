-- Takes due jobs without a lane. The part of a statement before its answer.
--
-- found: with some to spare for rivals.
-- picked: locked in order, one by one until there are enough; a row that a rival holds is passed over, one that
--   a rival changed is judged again, by the whole condition.
--   `run_at` is compared as found, and the state by an inequality: the index of waiting jobs would otherwise be
--   walked through all that is due for each row.
-- taken: the state once more, so that nothing that was not waiting is ever claimed.
--
-- Where wanted jobs with lanes wait, or where the token holds jobs already, it takes nothing and says so.
held AS MATERIALIZED (SELECT j.id FROM {s}.job j WHERE j.state = 1 AND j.nonce = {token}::uuid {unsettled}),
laned AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM {s}.job j WHERE j.state = 0 AND j.lane_key IS NOT NULL{named}) AS waiting
),
{first_open}
picked AS MATERIALIZED (
    SELECT j.id FROM open_found f JOIN {s}.job j ON j.id = ANY (ARRAY[f.id])
    WHERE j.state < 1 AND j.lane_key IS NULL AND j.queue = f.queue AND j.kind = f.kind
        AND j.rank = f.rank AND j.run_at = f.run_at
    ORDER BY f.rank, f.run_at {dir}, f.id {dir} LIMIT {limit}
    FOR NO KEY UPDATE OF j SKIP LOCKED
),
taken AS (
    UPDATE {s}.job j SET {claimed}
    FROM t, (SELECT id, row_number() OVER () AS place FROM picked) p
    WHERE j.id = ANY (ARRAY[p.id]) AND j.state < 1
    RETURNING j.*
)
