-- The next lower priority of a queue and kind: one seek.
SELECT priority FROM queue_job INDEXED BY queue_job_laned
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind = ?2 AND priority < ?3
ORDER BY priority DESC LIMIT 1
