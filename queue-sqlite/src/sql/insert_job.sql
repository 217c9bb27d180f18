-- A repeated insert (the answer to the first was lost) meets the id and changes nothing. The unique
-- key was looked up in the same transaction; queue_job_key proves it.
INSERT INTO queue_job (
    id, queue, kind, priority, run_at, max_crashes, keep, version, created_at,
    lane_key, lane_limit, unique_key, unique_within, unique_mode, held_key, labels, input
) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
ON CONFLICT (id) DO NOTHING
