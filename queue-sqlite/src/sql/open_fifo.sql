-- The next due jobs of one range after a place, oldest first: the index is the order, and future jobs are not
-- touched. Read under the write lock: `state = 0` is what makes a claim exclusive.
SELECT num, id, run_at, NULL, NULL FROM queue_job INDEXED BY queue_job_open
WHERE state = 0 AND lane_key IS NULL AND queue = ?1 AND kind = ?2 AND priority = ?3
  AND (run_at, id) > (?4, ?5) AND run_at <= ?6
ORDER BY run_at, id LIMIT ?7
