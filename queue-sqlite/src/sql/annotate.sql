-- Appends, progress and labels. No indexed column is among them: the indexes are left alone.
UPDATE queue_job SET
    version = ?2, log_len = ?3, progress = ?4, progress_message = ?5, labels = ?6
WHERE num = ?1
