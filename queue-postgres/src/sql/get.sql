-- Reads jobs by id with their logs, in one snapshot.
SELECT {job}, log.* FROM {s}.job j {log} WHERE j.id = ANY ($1::uuid[])
