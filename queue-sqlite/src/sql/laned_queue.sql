-- A step of the loose scan over queues: one seek, however many jobs wait.
SELECT queue FROM queue_job INDEXED BY queue_job_laned
WHERE state = 0 AND lane_key IS NOT NULL AND queue >= ?1
ORDER BY queue LIMIT 1
