-- Puts a record that has the expected version. The update waits for a rival and judges the version that the rival left;
-- `actual` is what the statement saw when it began: one that equals the expected version is asked again.
WITH changed AS (
    UPDATE {s}.record SET body = $3::json, version = version + 1, updated_at = {now}
    WHERE key = $2 AND version = $4 RETURNING version
),
made AS (
    INSERT INTO {s}.record (key, body, version, updated_at)
    SELECT $2, $3::json, 1, {now} WHERE $4 = 0
    ON CONFLICT DO NOTHING RETURNING version
)
SELECT coalesce((SELECT version FROM changed), (SELECT version FROM made)) AS version,
    coalesce((SELECT version FROM {s}.record WHERE key = $2), 0) AS actual
