//! How many statements a call costs, and the races that they survive.

mod database;

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use database::Schema;
use futures::StreamExt;
use queue_core::{
    ClaimRequest, EntryKind, Fence, Guard, Inserted, Job, JobPatch, JobStore, JobUpdate, LogRead,
    NewEntry, NewJob, Outcome, Payload, Queues, Seq, Transition,
};
use queue_postgres::{
    PostgresStore,
    sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _, query, raw_sql},
};

fn job() -> NewJob {
    NewJob::new("x", Payload::from_text("{\"n\":1}").unwrap())
}

fn request(limit: u32) -> ClaimRequest {
    let limit = NonZeroU32::new(limit).unwrap();
    ClaimRequest::new(Queues::default(), "worker", limit, Duration::from_secs(60))
}

fn complete(job: &Job) -> JobUpdate {
    let patch = JobPatch::transition(Transition::Complete { output: Some(Payload::null()) });
    JobUpdate::held(
        job.id,
        job.fence,
        patch.with_log([NewEntry::new(EntryKind::Step, Payload::null())]),
    )
}

async fn open() -> (Schema, PostgresStore) {
    let schema = Schema::new().unwrap();
    let store = schema.options().unwrap().open().await.unwrap();
    (schema, store)
}

/// How many statements that name the schema the server has executed.
async fn statements(connection: &mut PgConnection, schema: &Schema) -> i64 {
    let like = format!("%\"{}\"%", schema.name);
    let text = "SELECT coalesce(sum(calls), 0)::bigint AS calls FROM pg_stat_statements \
                WHERE query LIKE $1 AND query NOT LIKE '%pg_stat_statements%'";
    query(text).bind(like).fetch_one(connection).await.unwrap().get("calls")
}

#[tokio::test]
async fn a_job_with_one_task_costs_three_statements_and_finish_and_claim_share_one() {
    let (schema, store) = open().await;
    let mut counter = schema.connection().await;
    raw_sql("SELECT pg_advisory_lock(77); CREATE EXTENSION IF NOT EXISTS pg_stat_statements; SELECT pg_advisory_unlock(77)")
        .execute(&mut counter)
        .await
        .unwrap();
    let before = statements(&mut counter, &schema).await;
    store.insert(&[job()]).await.unwrap();
    let claimed = store.claim(&request(1)).await.unwrap();
    assert!(store.update_jobs(&[complete(&claimed.jobs[0])]).await.unwrap()[0].is_saved());
    assert_eq!(statements(&mut counter, &schema).await - before, 3);

    store.insert(&[job(), job()]).await.unwrap();
    let claimed = store.claim(&request(1)).await.unwrap();
    let before = statements(&mut counter, &schema).await;
    let (outcomes, next) =
        store.update_and_claim(&[complete(&claimed.jobs[0])], &request(1)).await.unwrap();
    assert!(outcomes[0].is_saved());
    assert_eq!(next.jobs.len(), 1);
    assert_eq!(statements(&mut counter, &schema).await - before, 1);
}

/// Waits until a statement on this schema waits for a lock.
async fn until_it_waits(connection: &mut PgConnection, schema: &Schema) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let text = "SELECT count(*) AS waiting FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid \
                JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE a.wait_event_type = 'Lock' AND n.nspname = $1";
    loop {
        let row = query(text).bind(&schema.name).fetch_one(&mut *connection).await.unwrap();
        if row.get::<i64, _>("waiting") > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "nothing waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn spawn_update(
    store: &PostgresStore,
    update: JobUpdate,
) -> tokio::task::JoinHandle<queue_core::Result<Vec<Outcome>>> {
    let store = store.clone();
    tokio::spawn(async move { store.update_jobs(&[update]).await })
}

/// A job that is claimed, and a transaction of a rival that has executed this on it and is still open.
async fn rival(text: &str) -> (Schema, PostgresStore, Job, PgConnection) {
    let (schema, store) = open().await;
    store.insert(&[job()]).await.unwrap();
    let held = store.claim(&request(1)).await.unwrap().jobs.remove(0);
    let mut rival = schema.connection().await;
    let text = format!("BEGIN; {text}").replace("{s}", &format!("\"{}\"", schema.name));
    raw_sql(AssertSqlSafe(text)).execute(&mut rival).await.unwrap();
    (schema, store, held, rival)
}

#[tokio::test]
async fn an_append_that_waited_for_the_next_claim_is_fenced_and_appends_nothing() {
    let reclaim = "UPDATE {s}.job SET fence = fence + 1, nonce = gen_random_uuid()";
    let (schema, store, held, mut rival) = rival(reclaim).await;
    let append = JobPatch::append([NewEntry::new(EntryKind::Line, Payload::null())]);
    let zombie = spawn_update(&store, JobUpdate::held(held.id, held.fence, append));
    until_it_waits(&mut schema.connection().await, &schema).await;
    raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    assert_eq!(zombie.await.unwrap().unwrap(), [Outcome::Fenced]);
    let read = store.get(&[held.id], LogRead::All).await.unwrap().remove(0).unwrap();
    assert_eq!((read.log_len, read.log.len()), (0, 0));
    assert_eq!(read.fence.count, held.fence.count + 1);
    assert_ne!(read.fence, Fence::new(held.fence.count, held.fence.nonce));
}

#[tokio::test]
async fn an_entry_that_was_committed_while_a_claim_was_under_way_is_in_the_log_that_it_answers() {
    let (schema, store) = open().await;
    let waiting = job();
    store.insert(std::slice::from_ref(&waiting)).await.unwrap();
    // The claim, which has begun and sees the job without a log, waits where it looks for paused queues.
    schema
        .run(
            "ALTER TABLE {s}.record RENAME TO record_behind;
             CREATE TABLE {s}.gate ();
             CREATE FUNCTION {s}.gated() RETURNS SETOF {s}.record_behind LANGUAGE plpgsql AS $$ BEGIN
                 LOCK TABLE {s}.gate IN ACCESS SHARE MODE;
                 RETURN QUERY SELECT * FROM {s}.record_behind;
             END $$;
             CREATE VIEW {s}.record AS SELECT * FROM {s}.gated()",
        )
        .await;
    let mut keeper = schema.connection().await;
    let close = format!("BEGIN; LOCK TABLE \"{}\".gate IN ACCESS EXCLUSIVE MODE", schema.name);
    raw_sql(AssertSqlSafe(close)).execute(&mut keeper).await.unwrap();
    let claimer = store.clone();
    let claim = tokio::spawn(async move { claimer.claim(&request(1)).await });
    until_it_waits(&mut schema.connection().await, &schema).await;
    let entry = NewEntry::new(EntryKind::Line, Payload::null());
    let append = JobUpdate::new(waiting.id, Guard::None, JobPatch::append([entry.clone()]));
    assert!(store.update_jobs(&[append]).await.unwrap()[0].is_saved());
    raw_sql("COMMIT").execute(&mut keeper).await.unwrap();
    let claimed = claim.await.unwrap().unwrap().jobs.remove(0);
    assert_eq!(claimed.log_len, 1);
    assert_eq!(claimed.log.iter().map(|entry| entry.id).collect::<Vec<_>>(), [entry.id]);
}

#[tokio::test]
async fn a_repeat_that_overtakes_its_own_first_try_appends_the_rest_without_a_gap() {
    let (schema, store, held, mut rival) = rival("UPDATE {s}.job SET log_len = 1").await;
    let (first, second) = (
        NewEntry::new(EntryKind::Line, Payload::from_text("1").unwrap()),
        NewEntry::new(EntryKind::Line, Payload::from_text("2").unwrap()),
    );
    // The first try, whose answer was lost, has appended the first entry and not committed yet.
    let insert = format!(
        "INSERT INTO \"{}\".log VALUES ('{}', '{}', 1, 1, 0, '1')",
        schema.name, held.id, first.id
    );
    raw_sql(AssertSqlSafe(insert)).execute(&mut rival).await.unwrap();
    let append = JobPatch::append([first.clone(), second.clone()]);
    let repeat = spawn_update(&store, JobUpdate::held(held.id, held.fence, append));
    until_it_waits(&mut schema.connection().await, &schema).await;
    raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    assert!(repeat.await.unwrap().unwrap()[0].is_saved());
    let read = store.get(&[held.id], LogRead::All).await.unwrap().remove(0).unwrap();
    let log: Vec<_> = read.log.iter().map(|entry| (entry.id, entry.seq)).collect();
    assert_eq!(log, [(first.id, Seq(1)), (second.id, Seq(2))]);
    assert_eq!(read.log_len, 2);
}

#[tokio::test]
async fn a_claim_does_not_wait_for_a_job_that_a_rival_holds() {
    let (schema, store) = open().await;
    let jobs = [job(), job()];
    store.insert(&jobs).await.unwrap();
    let mut rival = schema.connection().await;
    let text =
        format!("BEGIN; UPDATE \"{}\".job SET state = 1 WHERE id = '{}'", schema.name, jobs[0].id);
    raw_sql(AssertSqlSafe(text)).execute(&mut rival).await.unwrap();
    let request = request(2);
    let claim = tokio::time::timeout(Duration::from_secs(5), store.claim(&request));
    let claimed = claim.await.expect("the claim waits").unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [jobs[1].id]);
    assert!(
        claimed.next_due.unwrap() <= store.ping().await.unwrap(),
        "it says that it passed one over"
    );
}

#[tokio::test]
async fn a_lane_whose_slots_a_rival_gives_out_is_passed_over_without_waiting() {
    let (schema, store) = open().await;
    let mut laned = job();
    laned.lane = Some(queue_core::Lane::new("lane"));
    let (laned, free) = (laned, job());
    store.insert(&[laned.clone(), free.clone()]).await.unwrap();
    // As a claim does it, without its end.
    let mut rival = schema.connection().await;
    let seed = schema.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let seed = i64::from_ne_bytes(seed.to_ne_bytes());
    let text = format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('lane', {seed}))");
    raw_sql(AssertSqlSafe(text)).execute(&mut rival).await.unwrap();
    let request = request(2);
    let claim = tokio::time::timeout(Duration::from_secs(5), store.claim(&request));
    let claimed = claim.await.expect("the claim waits").unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [free.id]);
    assert!(claimed.next_due.unwrap() <= store.ping().await.unwrap());
    raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
    let claimed = store.claim(&self::request(2)).await.unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [laned.id]);
}

#[tokio::test]
async fn jobs_inserted_in_a_transaction_of_the_caller_share_its_fate() {
    let (schema, store) = open().await;
    let mut connection = schema.connection().await;
    let (mut kept, lost) = (job(), job());
    kept.unique = Some(queue_core::Unique::new("order 1"));

    let mut tx = connection.begin().await.unwrap();
    assert!(store.insert_in(&mut tx, std::slice::from_ref(&lost)).await.unwrap()[0].is_new());
    tx.rollback().await.unwrap();

    let mut tx = connection.begin().await.unwrap();
    let inserted = store.insert_in(&mut tx, &[kept.clone(), kept.clone()]).await.unwrap();
    assert_eq!(inserted, [Inserted::New(kept.id), Inserted::Existing(kept.id)]);
    assert_eq!(store.get(&[kept.id], LogRead::None).await.unwrap(), [None], "not yet");
    tx.commit().await.unwrap();

    let claimed = store.claim(&request(10)).await.unwrap();
    assert_eq!(claimed.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [kept.id]);
    assert_eq!(store.get(&[lost.id], LogRead::None).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_wake_up_reaches_another_store_and_survives_the_loss_of_its_connection() {
    let (schema, store) = open().await;
    let other = schema.options().unwrap().open().await.unwrap();
    let mut wakeups = other.wakeups();
    let mut connection = schema.connection().await;
    for round in 0..2 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // A hint may be lost while nobody listens; a further insert makes a further one.
            store.insert(&[job()]).await.unwrap();
            match tokio::time::timeout(Duration::from_millis(200), wakeups.next()).await {
                Ok(Some(wakeup)) if wakeup.queue.is_some() => break,
                _ => assert!(Instant::now() < deadline, "no wake-up in round {round}"),
            }
        }
        let kill = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
                    WHERE a.query LIKE 'LISTEN \"queue_' || $1 || '\"%'";
        let seed = schema.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // The other store may still be on its way to listen.
        let mut killed = 0;
        while killed < 2 {
            let ended = query(kill).bind(format!("{seed:016x}")).fetch_all(&mut connection).await;
            killed += ended.unwrap().len();
            assert!(Instant::now() < deadline, "{killed} of two stores listened");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round == 0 {
            // What was sent before must not pass for what comes after.
            while let Ok(Some(_)) = tokio::time::timeout(Duration::ZERO, wakeups.next()).await {}
        }
    }
}
