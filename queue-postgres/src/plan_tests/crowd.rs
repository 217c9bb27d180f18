//! A table of jobs in which much stands around what is claimed.

use super::plan::Ground;

/// How many jobs stand in the table.
#[derive(Clone, Copy)]
pub(super) struct Crowd {
    /// Due, in the queues `q0` to `q2`.
    pub(super) ready: u32,
    /// Of the far future in the same queues; half of them with a higher priority.
    pub(super) future: u32,
    /// Ended, in the same queues.
    pub(super) finished: u32,
    /// Of an unknown kind and a higher priority in the queue `head`, before 1,000 of a known kind.
    pub(super) unknown: u32,
    /// Due, twenty each in so many queues more.
    pub(super) queues: u32,
    /// With a lane of their own each, and another job behind each.
    pub(super) users: u32,
}

impl Crowd {
    pub(super) async fn insert(self, ground: &mut Ground) {
        let Crowd { ready, future, finished, unknown, queues, users } = self;
        let far = 4_102_444_800_000_000_u64;
        let jobs = [
            format!("'q' || n % 3, 'k', 0, n FROM generate_series(1, {ready}) n"),
            format!(
                "'q' || n % 3, 'k', -5 * (n % 2)::int, {far} + n FROM generate_series(1, {future}) n"
            ),
            format!("'head', 'unknown', -1, n FROM generate_series(1, {unknown}) n"),
            "'head', 'k', 0, n FROM generate_series(1, 1000) n".to_owned(),
            "'ranks', 'k' || n % 20, n / 20 % 5, n FROM generate_series(1, 10000) n".to_owned(),
            format!("'m' || n % {queues}, 'k', 0, n FROM generate_series(1, 20 * {queues}) n"),
            "'full', 'k', 0, n FROM generate_series(1, 1000) n".to_owned(),
            "'users', 'k', 0, n FROM generate_series(1, 1000) n".to_owned(),
        ];
        for jobs in jobs {
            ground
                .run(&format!(
                    "INSERT INTO {{s}}.job (max_crashes, keep, created_at, input, id, queue, kind, rank, run_at) \
                     SELECT 3, 0, n, 'null', gen_random_uuid(), {jobs}"
                ))
                .await;
        }
        // State, slot and what is set while a job runs.
        let waiting =
            "0, NULL::bigint, 0, NULL::bigint, '00000000-0000-0000-0000-000000000000'::uuid";
        let running = format!("1, 0::bigint, 1, {far}::bigint, md5('token' || n)::uuid");
        let jobs = [
            format!("'full', -1, 'full ' || n % 1000, {waiting} FROM generate_series(1, 3000) n"),
            format!("'full', -1, 'full ' || n, {running} FROM generate_series(0, 999) n"),
            format!(
                "'users', -1, 'user ' || n % {users}, {waiting} FROM generate_series(1, 2 * {users}) n"
            ),
        ];
        for jobs in jobs {
            ground
                .run(&format!(
                    "INSERT INTO {{s}}.job (max_crashes, keep, created_at, input, kind, lane_limit, id, run_at, \
                     queue, rank, lane_key, state, slot, fence, lease_until, nonce) \
                     SELECT 3, 0, n, 'null', 'k', 1, gen_random_uuid(), n, {jobs}"
                ))
                .await;
        }
        ground
            .run(&format!(
                "INSERT INTO {{s}}.job (max_crashes, keep, created_at, input, id, queue, kind, rank, run_at, state, finished_at) \
                 SELECT 3, 0, n, 'null', gen_random_uuid(), 'q' || n % 3, 'k', 0, n, 2, n FROM generate_series(1, {finished}) n"
            ))
            .await;
    }
}
