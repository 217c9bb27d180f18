-- A removal keeps the row, with its version.
INSERT INTO queue_record (key, body, version, updated_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (key) DO UPDATE SET
    body = excluded.body, version = excluded.version, updated_at = excluded.updated_at
