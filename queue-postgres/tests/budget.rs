//! What a job costs in statements when a hundred go together, counted by the server.

mod database;

use std::{num::NonZeroU32, time::Duration};

use database::Schema;
use queue_core::{
    ClaimRequest, EntryKind, Job, JobPatch, JobStore, JobUpdate, Lane, NewEntry, NewJob, Payload,
    QueueName, Queues, Transition,
};
use queue_postgres::{
    PostgresStore,
    sqlx::{PgConnection, Row as _, query, raw_sql},
};

const BATCH: usize = 100;
const BATCHES: usize = 5;
const JOBS: usize = BATCH * BATCHES;

fn job(n: usize) -> NewJob {
    NewJob::new("x", Payload::from_text(format!("{{\"n\":{n}}}")).unwrap())
}

fn request() -> ClaimRequest {
    let limit = NonZeroU32::new(u32::try_from(BATCH).unwrap()).unwrap();
    ClaimRequest::new(Queues::default(), "worker", limit, Duration::from_secs(60))
}

/// The end of jobs, with a log entry each.
fn complete(jobs: &[Job]) -> Vec<JobUpdate> {
    let complete = |job: &Job| {
        let patch = JobPatch::transition(Transition::Complete { output: Some(Payload::null()) });
        let entry = NewEntry::new(EntryKind::Step, Payload::null());
        JobUpdate::held(job.id, job.fence, patch.with_log([entry]))
    };
    jobs.iter().map(complete).collect()
}

/// Counts the statements on a schema that the server executes.
struct Counter {
    schema: Schema,
    connection: PgConnection,
    before: i64,
}

impl Counter {
    async fn open() -> (Self, PostgresStore) {
        let schema = Schema::new().unwrap();
        let store = schema.options().unwrap().open().await.unwrap();
        let mut connection = schema.connection().await;
        // Of two tests that make the extension at once, one would fail.
        let extension = "SELECT pg_advisory_lock(77); \
                         CREATE EXTENSION IF NOT EXISTS pg_stat_statements; \
                         SELECT pg_advisory_unlock(77)";
        raw_sql(extension).execute(&mut connection).await.unwrap();
        let mut counter = Counter { schema, connection, before: 0 };
        counter.before = counter.count().await;
        (counter, store)
    }

    async fn count(&mut self) -> i64 {
        let text = "SELECT coalesce(sum(calls), 0)::bigint AS calls FROM pg_stat_statements \
                    WHERE query LIKE $1 AND query NOT LIKE '%pg_stat_statements%'";
        let like = format!("%\"{}\"%", self.schema.name);
        query(text).bind(like).fetch_one(&mut self.connection).await.unwrap().get("calls")
    }

    /// Statements since the opening.
    async fn since(&mut self) -> usize {
        let count = self.count().await;
        usize::try_from(count - self.before).unwrap()
    }
}

async fn insert(store: &PostgresStore, make: impl Fn(usize) -> NewJob) {
    for batch in 0..BATCHES {
        let jobs: Vec<_> = (0..BATCH).map(|n| make(batch * BATCH + n)).collect();
        assert!(store.insert(&jobs).await.unwrap().iter().all(|inserted| inserted.is_new()));
    }
}

/// Claims and settles until nothing is left, and counts the jobs.
async fn drain(store: &PostgresStore) -> usize {
    let mut done = 0;
    while done < JOBS {
        let claimed = store.claim(&request()).await.unwrap();
        assert!(!claimed.jobs.is_empty(), "{done} jobs came");
        let outcomes = store.update_jobs(&complete(&claimed.jobs)).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.is_saved()));
        done += claimed.jobs.len();
    }
    done
}

#[tokio::test]
async fn jobs_by_the_hundred_cost_three_statements_a_hundred() {
    let (mut counter, store) = Counter::open().await;
    // Lanes in other queues cost nothing.
    let mut elsewhere = job(0);
    (elsewhere.queue, elsewhere.lane) = (QueueName::new("other").unwrap(), Some(Lane::new("x")));
    store.insert(&[elsewhere]).await.unwrap();
    insert(&store, job).await;
    assert_eq!(drain(&store).await, JOBS);
    let statements = counter.since().await;
    assert!(statements <= 3 * BATCHES + 1, "{statements} statements for {JOBS} jobs");
}

#[tokio::test]
async fn jobs_by_the_hundred_whose_end_claims_the_next_cost_two_statements_a_hundred() {
    let (mut counter, store) = Counter::open().await;
    insert(&store, job).await;
    let mut claimed = store.claim(&request()).await.unwrap();
    let mut done = 0;
    while !claimed.jobs.is_empty() {
        done += claimed.jobs.len();
        let (outcomes, next) =
            store.update_and_claim(&complete(&claimed.jobs), &request()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.is_saved()));
        claimed = next;
    }
    assert_eq!(done, JOBS);
    let statements = counter.since().await;
    assert!(statements <= 2 * BATCHES + 1, "{statements} statements for {JOBS} jobs");
}

/// A claim that meets a lane finds that out, looks at the lanes, and takes: two statements more.
#[tokio::test]
async fn jobs_with_lanes_cost_at_most_five_statements_a_hundred() {
    let many = NonZeroU32::new(1_000).unwrap();
    let of_their_own = |n: usize| Lane::new(format!("user {n}"));
    let of_a_few = |n: usize| Lane::with_limit(format!("tenant {}", n % 7), many);
    for lane in [&of_their_own as &dyn Fn(usize) -> Lane, &of_a_few] {
        let (mut counter, store) = Counter::open().await;
        insert(&store, |n| {
            let mut job = job(n);
            job.lane = Some(lane(n));
            job
        })
        .await;
        assert_eq!(drain(&store).await, JOBS);
        let statements = counter.since().await;
        assert!(statements <= 5 * BATCHES, "{statements} statements for {JOBS} jobs");
    }
}
