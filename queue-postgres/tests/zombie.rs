//! A holder whose lease is over writes while its job is reaped and claimed anew. What it was told is what the
//! next holder reads: an append that was acknowledged is in the log of the next claim, and one that was fenced is in
//! no log, however the statements overlap. The same for settles, heartbeats and progress.
//!
//! Each round forces an overlap. A trigger lets every statement that wrote a job wait at a gate (an advisory lock) before
//! its transaction ends: while the gate is closed the transaction is open and holds the job's row.

mod database;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use database::Schema;
use futures::future::join_all;
use queue_core::{
    ClaimRequest, Clock, EntryId, EntryKind, Held, Job, JobId, JobPatch, JobStore, JobUpdate,
    LogRead, NewEntry, NewJob, Outcome, Payload, Progress, Queues, State, Timestamp, Transition,
    Uuid,
};
use queue_postgres::{
    PostgresStore,
    sqlx::{AssertSqlSafe, PgConnection, Row as _, query, raw_sql},
};
use tokio::task::JoinHandle;

/// Jobs that are raced over at the same time.
const LANES: u32 = 8;
/// 1,000 rounds with them.
const BATCHES: u32 = 125;
const LEASE: Duration = Duration::from_secs(60);
/// What a heartbeat asks for: longer than the rival's clock is ahead.
const RENEWED: Duration = Duration::from_secs(3 * 3600);
const BEHIND: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(30);

/// The write of the holder whose lease is over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Write {
    Append,
    Settle,
    Heartbeat,
    Progress,
}

/// Who is under way when, and who comes to wait behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Overlap {
    /// The reap has written and not committed; the holder's statement, which still sees the job as its own, waits
    /// behind it. The claim follows.
    BehindTheReap,
    /// The reap has committed, the claim has written; the holder's statement waits behind that.
    BehindTheClaim,
    /// The holder's statement began before, and waits while one transaction reaps and claims.
    BehindBoth,
    /// The holder's statement has written and not committed; reap and claim come meanwhile, and again afterwards.
    BeforeBoth,
    /// The holder's statement waits for a row that is set free as reap and claim come.
    AtOnce,
}

const OVERLAPS: [Overlap; 5] = [
    Overlap::BehindTheReap,
    Overlap::BehindTheClaim,
    Overlap::BehindBoth,
    Overlap::BeforeBoth,
    Overlap::AtOnce,
];

/// The gates, by what passes them.
const CLAIMS: i32 = 1;
const REAPS: i32 = 2;
const WRITES: i32 = 3;

struct Arena {
    /// Of the zombies. Its clock stands at the moment of their claim.
    holder: PostgresStore,
    /// For it, their leases are over.
    rival: PostgresStore,
    /// Watches, and keeps the gates.
    keeper: PgConnection,
    gates: i32,
    // The last to go: what holds a lock must have ended.
    schema: Schema,
}

/// What became of a job: what its zombie tried and was told, and what the next holder got, if there was one.
struct Fate {
    id: JobId,
    entry: EntryId,
    told: Outcome,
    next: Option<Job>,
}

impl Arena {
    async fn open() -> Self {
        let schema = Schema::new().unwrap();
        let gates = (Uuid::now_v7().as_u64_pair().1 >> 33) as i32;
        let base: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let open = |now, connections| {
            let options = schema.options_with(&format!("application_name=zombie_{gates}"));
            let connections = NonZeroU32::new(connections).unwrap();
            options.unwrap().clock(Clock::manual(now)).max_connections(connections).open()
        };
        let holder = open(base, LANES).await.unwrap();
        let rival = open(base.plus(BEHIND), 2).await.unwrap();
        let gate = format!(
            "CREATE FUNCTION {{s}}.gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared({gates}, CASE WHEN NEW.fence > OLD.fence THEN {CLAIMS}
                     WHEN OLD.state = 1 AND NEW.state = 0 THEN {REAPS} ELSE {WRITES} END);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER gate AFTER UPDATE ON {{s}}.job FOR EACH ROW EXECUTE FUNCTION {{s}}.gate()"
        );
        schema.run(&gate).await;
        let keeper = schema.connection().await;
        Arena { schema, holder, rival, keeper, gates }
    }

    async fn close(&mut self, gate: i32) {
        let text = "SELECT pg_advisory_lock($1, $2)";
        query(text).bind(self.gates).bind(gate).execute(&mut self.keeper).await.unwrap();
    }

    async fn open_gate(&mut self, gate: i32) {
        let text = "SELECT pg_advisory_unlock($1, $2)";
        query(text).bind(self.gates).bind(gate).execute(&mut self.keeper).await.unwrap();
    }

    /// Waits until so many statements wait: for a row, or at a gate.
    async fn until_waiting(&mut self, wanted: u32) {
        let text = "SELECT count(*) AS waiting FROM pg_stat_activity WHERE application_name = $1 \
                    AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple', 'advisory')";
        let deadline = Instant::now() + DEADLINE;
        loop {
            let row = query(text).bind(format!("zombie_{}", self.gates));
            let row = row.fetch_one(&mut self.keeper).await.unwrap();
            let waiting: i64 = row.get("waiting");
            if waiting == i64::from(wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{waiting} statements wait instead of {wanted}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Runs this on the keeper's connection; `{s}` is the schema, `{ids}` are these jobs.
    async fn run(&mut self, text: &str, jobs: &[Job]) {
        let ids: Vec<String> = jobs.iter().map(|job| format!("'{}'", job.id)).collect();
        let text = text
            .replace("{s}", &format!("\"{}\"", self.schema.name))
            .replace("{ids}", &ids.join(", "));
        raw_sql(AssertSqlSafe(text)).execute(&mut self.keeper).await.unwrap();
    }

    fn zombies(
        &self,
        write: Write,
        jobs: &[Job],
    ) -> Vec<JoinHandle<queue_core::Result<(EntryId, Outcome)>>> {
        jobs.iter()
            .map(|job| {
                let (store, id, fence) = (self.holder.clone(), job.id, job.fence);
                let entry =
                    NewEntry::new(EntryKind::Line, Payload::from_text("\"late?\"").unwrap());
                let entry_id = entry.id;
                tokio::spawn(async move {
                    let update = |patch| JobUpdate::held(id, fence, patch);
                    let complete = Transition::Complete { output: Some(Payload::null()) };
                    let told = match write {
                        Write::Append => {
                            store.update_jobs(&[update(JobPatch::append([entry]))]).await
                        }
                        Write::Settle => {
                            let patch = JobPatch::transition(complete).with_log([entry]);
                            store.update_jobs(&[update(patch)]).await
                        }
                        Write::Progress => {
                            let patch = JobPatch::progress(Progress::new(77));
                            store.update_jobs(&[update(patch)]).await
                        }
                        Write::Heartbeat => store.heartbeat(&[Held::new(id, fence)], RENEWED).await,
                    };
                    Ok((entry_id, told?.remove(0)))
                })
            })
            .collect()
    }

    async fn reap(&self) -> usize {
        self.rival.reap(NonZeroU32::new(LANES).unwrap()).await.unwrap().len()
    }

    async fn claim(&self) -> Vec<Job> {
        self.rival.claim(&request()).await.unwrap().jobs
    }

    /// Claims until it has so many: a job that a zombie's statement holds at the moment is passed over.
    async fn claim_all(&self, wanted: usize) -> Vec<Job> {
        let deadline = Instant::now() + DEADLINE;
        let mut taken = self.claim().await;
        while taken.len() < wanted {
            assert!(Instant::now() < deadline, "{} of {wanted} could be claimed", taken.len());
            taken.extend(self.claim().await);
        }
        taken
    }

    /// Forces one overlap on as many jobs as there are lanes.
    async fn round(&mut self, write: Write, overlap: Overlap) -> Vec<Fate> {
        let jobs: Vec<_> = (0..LANES).map(|_| NewJob::new("x", Payload::null())).collect();
        self.holder.insert(&jobs).await.unwrap();
        let jobs = self.holder.claim(&request()).await.unwrap().jobs;
        assert_eq!(jobs.len(), LANES as usize);
        let all = jobs.len();
        let (zombies, next) = match overlap {
            Overlap::BehindTheReap => {
                self.close(REAPS).await;
                let rival = self.rival.clone();
                let reap = tokio::spawn(async move {
                    rival.reap(NonZeroU32::new(LANES).unwrap()).await.unwrap().len()
                });
                self.until_waiting(1).await;
                let zombies = self.zombies(write, &jobs);
                self.until_waiting(1 + LANES).await;
                self.open_gate(REAPS).await;
                assert_eq!(reap.await.unwrap(), all);
                (zombies, self.claim_all(all).await)
            }
            Overlap::BehindTheClaim => {
                assert_eq!(self.reap().await, all);
                self.close(CLAIMS).await;
                let rival = self.rival.clone();
                let claim =
                    tokio::spawn(async move { rival.claim(&request()).await.unwrap().jobs });
                self.until_waiting(1).await;
                let zombies = self.zombies(write, &jobs);
                self.until_waiting(1 + LANES).await;
                self.open_gate(CLAIMS).await;
                (zombies, claim.await.unwrap())
            }
            Overlap::BehindBoth => {
                let hold =
                    "BEGIN; SELECT FROM {s}.job WHERE id IN ({ids}) ORDER BY id FOR NO KEY UPDATE";
                self.run(hold, &jobs).await;
                let zombies = self.zombies(write, &jobs);
                self.until_waiting(LANES).await;
                let take = "UPDATE {s}.job SET state = 0, version = version + 1, holder = NULL, \
                                lease_until = NULL WHERE id IN ({ids}); \
                            UPDATE {s}.job SET state = 1, fence = fence + 1, nonce = gen_random_uuid(), \
                                version = version + 1, holder = 'next', lease_until = 9e15 WHERE id IN ({ids}); \
                            COMMIT";
                self.run(take, &jobs).await;
                let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
                let next = self.rival.get(&ids, LogRead::All).await.unwrap();
                (zombies, next.into_iter().flatten().collect())
            }
            Overlap::BeforeBoth => {
                self.close(WRITES).await;
                let zombies = self.zombies(write, &jobs);
                self.until_waiting(LANES).await;
                // They neither wait nor take what is being written.
                let tries = async { (self.reap().await, self.claim().await.len()) };
                let tried = tokio::time::timeout(DEADLINE, tries).await;
                assert_eq!(tried.expect("reap or claim waits for the zombie"), (0, 0));
                self.open_gate(WRITES).await;
                // Acknowledged before they come again.
                let done = join_all(zombies).await;
                let done = done.into_iter().map(|told| tokio::spawn(async { told.unwrap() }));
                let done: Vec<_> = done.collect();
                self.reap().await;
                (done, self.claim().await)
            }
            Overlap::AtOnce => {
                let hold =
                    "BEGIN; SELECT FROM {s}.job WHERE id IN ({ids}) ORDER BY id FOR NO KEY UPDATE";
                self.run(hold, &jobs).await;
                let zombies = self.zombies(write, &jobs);
                self.until_waiting(LANES).await;
                let taker = async {
                    let mut taken = Vec::new();
                    while !zombies.iter().all(JoinHandle::is_finished) {
                        self.rival.reap(NonZeroU32::new(LANES).unwrap()).await.unwrap();
                        taken.extend(self.rival.claim(&request()).await.unwrap().jobs);
                    }
                    taken
                };
                let release = raw_sql("COMMIT").execute(&mut self.keeper);
                let (mut taken, released) = tokio::join!(taker, release);
                released.unwrap();
                self.reap().await;
                taken.extend(self.claim().await);
                (zombies, taken)
            }
        };
        let claims = next.len();
        let mut next: HashMap<_, _> = next.into_iter().map(|job| (job.id, job)).collect();
        assert_eq!(next.len(), claims, "{overlap:?}: a job was claimed twice");
        let told = join_all(zombies).await.into_iter().map(|told| told.unwrap().unwrap());
        let fates = jobs.iter().zip(told).map(|(job, (entry, told))| Fate {
            id: job.id,
            entry,
            told,
            next: next.remove(&job.id),
        });
        fates.collect()
    }

    /// What each zombie was told holds for the next holder, and in the end.
    async fn judge(&self, write: Write, overlap: Overlap, fates: &[Fate]) {
        let ids: Vec<_> = fates.iter().map(|fate| fate.id).collect();
        let finally = self.rival.get(&ids, LogRead::All).await.unwrap();
        for (fate, last) in fates.iter().zip(finally) {
            let last = last.unwrap();
            let applied = match &fate.told {
                Outcome::Applied(_) => true,
                Outcome::Fenced => false,
                // A transition of a job that nobody has claimed anew yet.
                Outcome::Illegal { from: State::Waiting } if write == Write::Settle => false,
                other => panic!("{overlap:?}: the zombie was told {other:?}"),
            };
            match overlap {
                Overlap::BeforeBoth => assert!(applied, "{overlap:?}: it was first, and fenced"),
                Overlap::AtOnce => {}
                _ => assert!(!applied, "{overlap:?}: it was late, and applied"),
            }
            let keeps_the_job = applied && matches!(write, Write::Settle | Write::Heartbeat);
            assert_eq!(fate.next.is_none(), keeps_the_job, "{overlap:?}: {:?}", fate.told);
            let count = |job: &Job| job.log.iter().filter(|entry| entry.id == fate.entry).count();
            let entries = usize::from(applied && matches!(write, Write::Append | Write::Settle));
            let percent = (applied && write == Write::Progress).then_some(77);
            for job in fate.next.iter().chain([&last]) {
                assert_eq!(count(job), entries, "{overlap:?}: {:?}: {job:?}", fate.told);
                assert_eq!((job.log.len(), job.log_len), (entries, entries as u64), "{overlap:?}");
                assert_eq!(job.progress.as_ref().map(|p| p.percent), percent, "{overlap:?}");
            }
            match &fate.next {
                Some(next) => {
                    assert_eq!((next.state, last.state), (State::Running, State::Running));
                    assert_eq!((last.fence, last.lease_until), (next.fence, next.lease_until));
                    assert_eq!(last.output, None, "{overlap:?}");
                }
                None if write == Write::Settle => {
                    assert_eq!(
                        (last.state, &last.output),
                        (State::Completed, &Some(Payload::null()))
                    );
                }
                None => {
                    let renewed = self.holder.ping().await.unwrap().plus(RENEWED);
                    assert_eq!((last.state, last.lease_until), (State::Running, Some(renewed)));
                }
            }
        }
    }
}

fn request() -> ClaimRequest {
    let limit = NonZeroU32::new(LANES).unwrap();
    ClaimRequest::new(Queues::default(), "worker", limit, LEASE)
}

async fn race(write: Write) {
    let mut arena = Arena::open().await;
    for batch in 0..BATCHES {
        let overlap = OVERLAPS[batch as usize % OVERLAPS.len()];
        let fates = arena.round(write, overlap).await;
        arena.judge(write, overlap, &fates).await;
        arena.run("DELETE FROM {s}.job", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_races_reap_and_claim_and_is_in_the_next_holders_log_or_refused() {
    race(Write::Append).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settle_races_reap_and_claim_and_ends_the_job_or_is_refused() {
    race(Write::Settle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_races_reap_and_claim_and_keeps_the_job_or_is_refused() {
    race(Write::Heartbeat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_races_reap_and_claim_and_is_what_the_next_holder_sees_or_refused() {
    race(Write::Progress).await;
}
