-- The slots of a lane that are held, in order. Slots are given out in this same transaction;
-- queue_job_slot proves that none is given twice.
SELECT slot FROM queue_job INDEXED BY queue_job_slot
WHERE lane_key = ?1 AND slot IS NOT NULL ORDER BY slot
