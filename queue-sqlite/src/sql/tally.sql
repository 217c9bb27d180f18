-- All jobs by queue and state, each part from an index made for it. The parts are one snapshot.
SELECT queue, 0, count(*) FROM queue_job INDEXED BY queue_job_open
    WHERE state = 0 AND lane_key IS NULL GROUP BY queue
UNION ALL
SELECT queue, 0, count(*) FROM queue_job INDEXED BY queue_job_laned
    WHERE state = 0 AND lane_key IS NOT NULL GROUP BY queue
UNION ALL
SELECT queue, 1, count(*) FROM queue_job INDEXED BY queue_job_running
    WHERE state = 1 GROUP BY queue
UNION ALL
SELECT queue, state, count(*) FROM queue_job INDEXED BY queue_job_ended
    WHERE state > 1 GROUP BY state, queue
