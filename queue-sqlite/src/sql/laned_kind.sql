-- A step of the loose scan over the kinds of a queue, with the kind's highest priority: one seek.
SELECT kind, priority FROM queue_job INDEXED BY queue_job_laned
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind >= ?2
ORDER BY kind, priority DESC LIMIT 1
