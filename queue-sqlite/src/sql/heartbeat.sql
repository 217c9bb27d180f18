-- A heartbeat against a reap: whichever transaction comes second finds the other's doing and is refused.
UPDATE queue_job SET lease_until = ?2, progress = ?3, progress_message = ?4 WHERE num = ?1
