//! Jobs that end in the transaction of what they do: both happen, or neither.

mod database;

use std::{num::NonZeroU32, time::Duration};

use database::Schema;
use queue_core::{
    ClaimRequest, Clock, EntryKind, ErrorKind, Job, JobPatch, JobStore, JobUpdate, LogRead,
    NewEntry, NewJob, Outcome, Payload, Queues, State, Timestamp, Transition,
};
use queue_postgres::{
    PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_scalar},
};

const HOUR: Duration = Duration::from_secs(3600);

fn request() -> ClaimRequest {
    ClaimRequest::new(Queues::default(), "worker", NonZeroU32::MIN, Duration::from_secs(60))
}

/// A store with a table of the application beside it, and a job that is claimed.
struct Scene {
    store: PostgresStore,
    /// For it, the lease is over.
    rival: PostgresStore,
    held: Job,
    connection: PgConnection,
    // The last to go: what holds a lock must have ended.
    schema: Schema,
}

impl Scene {
    async fn open() -> Self {
        let schema = Schema::new().unwrap();
        let base: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let at = |now| schema.options().unwrap().clock(Clock::manual(now)).open();
        let (store, rival) = (at(base).await.unwrap(), at(base.plus(HOUR)).await.unwrap());
        schema.run("CREATE TABLE {s}.paid (job uuid PRIMARY KEY)").await;
        store.insert(&[NewJob::new("pay", Payload::null())]).await.unwrap();
        let held = store.claim(&request()).await.unwrap().jobs.remove(0);
        let connection = schema.connection().await;
        Scene { schema, store, rival, held, connection }
    }

    fn settle(&self) -> JobUpdate {
        let done = JobPatch::transition(Transition::Complete { output: Some(Payload::null()) });
        let done = done.with_log([NewEntry::new(EntryKind::Line, Payload::null())]);
        JobUpdate::held(self.held.id, self.held.fence, done)
    }

    fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{s}", &format!("\"{}\"", self.schema.name)))
    }

    /// How often the job's own work is done, and the job.
    async fn now(&self) -> (i64, Job) {
        let text = self.sql("SELECT count(*) FROM {s}.paid");
        let paid = query_scalar(text).fetch_one(self.store.pool()).await.unwrap();
        let job = self.store.get(&[self.held.id], LogRead::All).await.unwrap().remove(0).unwrap();
        (paid, job)
    }
}

/// Does the job's work and settles it, in one transaction, which is then as told.
async fn pay(scene: &mut Scene, settle: JobUpdate, commit: bool) -> Vec<Outcome> {
    let insert = scene.sql("INSERT INTO {s}.paid VALUES ($1)");
    let mut tx = scene.connection.begin().await.unwrap();
    query(insert).bind(scene.held.id.as_uuid()).execute(&mut *tx).await.unwrap();
    let outcomes = scene.store.update_in(&mut tx, &[settle]).await.unwrap();
    match commit {
        true => tx.commit().await.unwrap(),
        false => tx.rollback().await.unwrap(),
    }
    outcomes
}

#[tokio::test]
async fn a_job_that_is_settled_in_a_transaction_of_the_caller_shares_its_fate() {
    let mut scene = Scene::open().await;
    let settle = scene.settle();
    assert!(pay(&mut scene, settle.clone(), false).await[0].applied().is_some());
    let (paid, job) = scene.now().await;
    assert_eq!((paid, job.state, job.log_len), (0, State::Running, 0));
    assert_eq!((job.fence, job.lease_until), (scene.held.fence, scene.held.lease_until));

    assert!(pay(&mut scene, settle.clone(), true).await[0].applied().is_some());
    let (paid, job) = scene.now().await;
    assert_eq!((paid, job.state, job.log.len()), (1, State::Completed, 1));
    // The answer to the commit may have been lost.
    let again = scene.store.update_in(&mut scene.connection, &[settle]).await.unwrap();
    assert!(matches!(again[0], Outcome::Repeated(_)), "{again:?}");
    assert_eq!(scene.now().await.1.log.len(), 1);
}

#[tokio::test]
async fn a_holder_whose_job_went_to_another_is_told_in_its_transaction_and_can_roll_back() {
    let mut scene = Scene::open().await;
    assert_eq!(scene.rival.reap(NonZeroU32::MIN).await.unwrap().len(), 1);
    let next = scene.rival.claim(&request()).await.unwrap().jobs.remove(0);
    let settle = scene.settle();
    assert_eq!(pay(&mut scene, settle, false).await, [Outcome::Fenced]);
    let (paid, job) = scene.now().await;
    assert_eq!((paid, job.state, job.log_len, job.fence), (0, State::Running, 0, next.fence));
}

#[tokio::test]
async fn a_job_that_a_transaction_settles_cannot_be_taken_before_its_end() {
    let mut scene = Scene::open().await;
    let settle = scene.settle();
    let mut tx = scene.connection.begin().await.unwrap();
    assert!(scene.store.update_in(&mut tx, &[settle]).await.unwrap()[0].is_saved());
    // Its lease is over for the rival, which neither waits nor takes it.
    let reap = tokio::time::timeout(Duration::from_secs(20), scene.rival.reap(NonZeroU32::MIN));
    assert_eq!(reap.await.expect("the reap waits").unwrap(), []);
    assert!(scene.rival.claim(&request()).await.unwrap().jobs.is_empty());
    tx.commit().await.unwrap();
    assert_eq!(scene.rival.reap(NonZeroU32::MIN).await.unwrap(), []);
    let job = scene.rival.get(&[scene.held.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!(job.state, State::Completed);
}

#[tokio::test]
async fn updates_in_a_transaction_are_checked_like_others_and_none_is_no_statement() {
    let mut scene = Scene::open().await;
    let twice = [scene.settle(), scene.settle()];
    let error = scene.store.update_in(&mut scene.connection, &twice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(scene.store.update_in(&mut scene.connection, &[]).await.unwrap(), []);
}
