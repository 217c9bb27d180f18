-- As laned_fifo.sql, for one lane of the range.
SELECT num, id, run_at, lane_key, lane_limit FROM queue_job INDEXED BY queue_job_by_lane
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind = ?2 AND priority = ?3
  AND (run_at, id) > (?4, ?5) AND run_at <= ?6 AND lane_key = ?8 AND lane_limit = ?9
ORDER BY run_at, id LIMIT ?7
