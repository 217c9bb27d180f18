-- Puts a record whatever is there.
INSERT INTO {s}.record AS r (key, body, version, updated_at)
VALUES ($2, $3::json, 1, {now})
ON CONFLICT (key) DO UPDATE SET body = excluded.body, version = r.version + 1, updated_at = excluded.updated_at
RETURNING version, NULL::bigint AS actual
