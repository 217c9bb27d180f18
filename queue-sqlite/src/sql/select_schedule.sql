-- Read in the transaction that moves the slot on: of two schedulers the second finds the slot fired.
-- Callers append the condition.
SELECT name, last_slot, last_job, fired, skipped, last_error FROM queue_schedule
