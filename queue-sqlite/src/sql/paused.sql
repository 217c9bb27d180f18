-- The records that pause queues: the keys from ?1 on, before ?2.
SELECT key FROM queue_record WHERE key >= ?1 AND key < ?2 AND body IS NOT NULL
