-- What a claim with this token took and still holds.
SELECT {job}, log.*, {now} AS now FROM {s}.job j {log} WHERE j.state = 1 AND j.nonce = $2::uuid
