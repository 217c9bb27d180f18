-- A step of the loose scan over the lanes of one range: one seek.
SELECT lane_key, lane_limit FROM queue_job INDEXED BY queue_job_by_lane
WHERE state = 0 AND lane_key IS NOT NULL AND queue = ?1 AND kind = ?2 AND priority = ?3
  AND (lane_key, lane_limit) > (?4, ?5)
ORDER BY lane_key, lane_limit LIMIT 1
