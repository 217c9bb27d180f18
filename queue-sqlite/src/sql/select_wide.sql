-- A whole job. Its columns begin with those of select_narrow.sql. Callers append the condition.
SELECT
    num, id, queue, kind, state, priority, run_at, attempt, crashes, max_crashes, keep,
    fence, nonce, version, created_at, started_at, finished_at, holder, lease_until,
    cancel_reason, cancel_at, wake, settled_fence, settled_nonce, settled_kind,
    lane_key, lane_limit, slot, unique_key, unique_within, unique_mode,
    log_len, progress, progress_message, labels, input IS NULL,
    error, output, coalesce(input, (SELECT body FROM queue_input WHERE queue_input.num = queue_job.num))
FROM queue_job
