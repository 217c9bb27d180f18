-- The same entry again (a repeat after a lost answer) changes nothing: the first body stays. The
-- position comes from the job's row in the same transaction, so it has neither gap nor repeat.
INSERT INTO queue_log (job, entry, seq, kind, at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (job, entry) DO NOTHING
