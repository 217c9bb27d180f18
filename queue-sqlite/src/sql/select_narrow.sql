-- The fields that decide, without the payloads. Read inside the write transaction: nothing can
-- change between this and the write that follows. Callers append the condition.
SELECT
    num, id, queue, kind, state, priority, run_at, attempt, crashes, max_crashes, keep,
    fence, nonce, version, created_at, started_at, finished_at, holder, lease_until,
    cancel_reason, cancel_at, wake, settled_fence, settled_nonce, settled_kind,
    lane_key, lane_limit, slot, unique_key, unique_within, unique_mode,
    log_len, progress, progress_message, labels, input IS NULL
FROM queue_job
