-- Read in the transaction that puts the record: two racers with one version cannot both win.
SELECT version FROM queue_record WHERE key = ?1
