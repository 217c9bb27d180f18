-- As laned_fifo.sql, newest first: the same index, walked backwards. ?6 is not needed: the first place is "now".
SELECT num, id, run_at, lane_key, lane_limit FROM queue_job INDEXED BY queue_job_laned
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind = ?2 AND priority = ?3
  AND (run_at, id) < (?4, ?5)
ORDER BY run_at DESC, id DESC LIMIT ?7
