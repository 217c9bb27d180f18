-- One range of the primary key; the caller sorts by position.
SELECT entry, seq, kind, at, body FROM queue_log WHERE job = ?1 AND seq > ?2
