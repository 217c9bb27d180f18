-- From a key on, in order. The caller stops where the prefix ends.
SELECT key, body, version, updated_at FROM queue_record WHERE key >= ?1 ORDER BY key
