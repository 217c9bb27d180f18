-- Two claimers of one job: they come one after the other, because candidates are read and claimed
-- under one write lock, and the second one's candidate statement (open_fifo.sql and its sisters: `state = 0`)
-- no longer sees the job. A second check here could not be observed. The slot is proved by
-- queue_job_slot.
UPDATE queue_job SET
    state = 1, attempt = ?2, fence = ?3, nonce = ?4, version = ?5, started_at = ?6,
    holder = ?7, lease_until = ?8, wake = ?9, slot = ?10, held_key = ?11
WHERE num = ?1
