-- Two claimers of one job: the second finds it running and takes nothing. `state = 0` is what makes
-- a claim exclusive; the slot is proved by queue_job_slot.
UPDATE queue_job SET
    state = 1, attempt = ?2, fence = ?3, nonce = ?4, version = ?5, started_at = ?6,
    holder = ?7, lease_until = ?8, wake = ?9, slot = ?10, held_key = ?11
WHERE num = ?1 AND state = 0
