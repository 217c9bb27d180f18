-- When the next job of one range falls due: one seek.
SELECT run_at FROM queue_job INDEXED BY queue_job_laned
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind = ?2 AND priority = ?3 AND run_at > ?4
ORDER BY run_at LIMIT 1
