-- Scans the running jobs only. The caller reaps them in this same transaction, so that of many
-- reapers, and of reaper and holder, exactly one wins.
SELECT num FROM queue_job INDEXED BY queue_job_running
WHERE state = 1 AND lease_until <= ?1
ORDER BY lease_until, id LIMIT ?2
