-- When the next lease is over: nobody may sleep past it.
SELECT min(lease_until) FROM queue_job INDEXED BY queue_job_running WHERE state = 1
