-- Reaps, bulk changes and supersedes: everything that happens to a job without its holder. The
-- row was read in the same transaction, so a settle came wholly before or comes wholly after.
UPDATE queue_job SET
    queue = ?2, priority = ?3, state = ?4, attempt = ?5, crashes = ?6, version = ?7, run_at = ?8,
    finished_at = ?9, holder = ?10, lease_until = ?11, cancel_reason = ?12, cancel_at = ?13,
    wake = ?14, slot = ?15, held_key = ?16
WHERE num = ?1
