-- The error of a job that crashed too often, in the transaction that fails it.
UPDATE queue_job SET error = ?2 WHERE num = ?1
