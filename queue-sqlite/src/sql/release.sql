-- As settle.sql, for settles that leave the error of an earlier attempt where it is.
UPDATE queue_job SET
    state = ?2, attempt = ?3, version = ?4, run_at = ?5, finished_at = ?6, holder = ?7,
    lease_until = ?8, cancel_reason = ?9, cancel_at = ?10, wake = ?11, slot = ?12,
    settled_fence = ?13, settled_nonce = ?14, settled_kind = ?15, held_key = ?16, log_len = ?17,
    progress = ?18, progress_message = ?19, labels = ?20
WHERE num = ?1
