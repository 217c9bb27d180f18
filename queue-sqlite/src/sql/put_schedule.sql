-- In the same transaction as the job that the slot enqueued.
INSERT INTO queue_schedule (name, last_slot, last_job, fired, skipped, last_error)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (name) DO UPDATE SET
    last_slot = excluded.last_slot, last_job = excluded.last_job, fired = excluded.fired,
    skipped = excluded.skipped, last_error = excluded.last_error
