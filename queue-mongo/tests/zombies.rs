//! A holder's write in flight while its job is reaped and claimed anew: it is in what the new holder reads, or it is
//! refused. It is never a late guest.
//!
//! A transaction of the test writes documents first, so that the server makes writers of them wait: both sides at the same
//! jobs, to be let loose on each other, or the old holder's command alone, until the jobs have a new one. A thousand rounds
//! each, several jobs at once.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use mongodb::{
    ClientSession,
    bson::{Binary, Bson, doc, spec::BinarySubtype},
};
use queue_core::{
    ClaimRequest, Clock, EntryKind, Held, Job, JobId, JobPatch, JobStore, JobUpdate, LogRead,
    NewEntry, NewJob, Outcome, Payload, Progress, Queues, State, Timestamp, Transition,
};
use queue_mongo::{MongoStore, mongodb};
use server::{Scratch, Server};
use tokio::task::JoinHandle;

mod server;

const JOBS: usize = 25;
const WAVES: usize = 40;
const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const LEASE: Duration = Duration::from_secs(60);

/// What the old holder sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Append,
    Settle,
    Heartbeat,
    Progress,
}

impl Late {
    /// Sends it for these jobs in one command. With a blocker before them, they wait for what that waits for.
    async fn send(self, store: &MongoStore, blocker: Option<&Job>, jobs: &[Job]) -> Vec<Outcome> {
        let patch = || match self {
            Late::Append | Late::Heartbeat => JobPatch::append([mark()]),
            Late::Settle => {
                let output = Some(Payload::from_value("old").unwrap());
                JobPatch::transition(Transition::Complete { output }).with_log([mark()])
            }
            Late::Progress => JobPatch::progress(Progress::new(42)),
        };
        let mut outcomes = if self == Late::Heartbeat {
            let all = blocker.into_iter().chain(jobs);
            let held: Vec<Held> = all.map(|job| Held::new(job.id, job.fence)).collect();
            store.heartbeat(&held, LEASE * 3).await.unwrap()
        } else {
            let append = |job: &Job| JobUpdate::held(job.id, job.fence, JobPatch::append([mark()]));
            let late = jobs.iter().map(|job| JobUpdate::held(job.id, job.fence, patch()));
            let updates: Vec<_> = blocker.map(append).into_iter().chain(late).collect();
            store.update_jobs(&updates).await.unwrap()
        };
        if blocker.is_some() {
            assert!(outcomes.remove(0).applied().is_some());
        }
        outcomes
    }

    /// Whether the write is in the job.
    fn is_in(self, job: &Job) -> bool {
        match self {
            Late::Append => job.log.len() == 1,
            Late::Settle => job.output.is_some() || !job.log.is_empty(),
            Late::Heartbeat => job.fence.count == 1,
            Late::Progress => job.progress.is_some(),
        }
    }

    /// Whether the job stays with the old holder when the write comes before the reap.
    fn keeps_the_job(self) -> bool {
        matches!(self, Late::Settle | Late::Heartbeat)
    }
}

fn mark() -> NewEntry {
    NewEntry::new(EntryKind::Step, Payload::from_value("old").unwrap())
}

/// A worker that takes the jobs over.
struct Taking {
    jobs: JoinHandle<Vec<Job>>,
    /// Set when the old holder has all its answers.
    answered: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

struct Race {
    late: Late,
    clock: Clock,
    zombie: MongoStore,
    taker: MongoStore,
    scratch: Scratch,
}

impl Race {
    async fn open(late: Late) -> Race {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap());
        // A connection for every writer, so that all of them wait at the server.
        let wide = || scratch.options_with("maxPoolSize=40", &clock).unwrap().open();
        Race { late, zombie: wide().await.unwrap(), taker: wide().await.unwrap(), clock, scratch }
    }

    async fn claim(&self, store: &MongoStore, holder: &str) -> Vec<Job> {
        let request = ClaimRequest::new(Queues::All, holder, MANY, LEASE);
        store.claim(&request).await.unwrap().jobs
    }

    /// Jobs whose lease is over, and which their holder still believes to have.
    async fn expired(&self) -> Vec<Job> {
        let jobs: Vec<NewJob> = (0..JOBS).map(|_| NewJob::new("task", Payload::null())).collect();
        self.zombie.insert(&jobs).await.unwrap();
        let held = self.claim(&self.zombie, "old").await;
        assert_eq!(held.len(), JOBS);
        self.clock.advance(LEASE * 2);
        held
    }

    /// A transaction that has written these jobs.
    async fn blocking(&self, jobs: &[Job]) -> ClientSession {
        let mut session = self.taker.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let ids: Vec<Bson> = jobs.iter().map(|job| bson_id(&job.id)).collect();
        let written = self
            .taker
            .database()
            .collection::<mongodb::bson::Document>("jobs")
            .update_many(doc! { "_id": { "$in": ids } }, doc! { "$set": { "touched": 1 } })
            .session(&mut session)
            .await
            .unwrap();
        assert_eq!(written.modified_count, jobs.len() as u64);
        session
    }

    /// Until so many writes are under way at the server: none of them can end before the transaction does.
    async fn until_waiting(&self, writes: usize) {
        let admin = self.taker.client().database("admin");
        let jobs = format!("{}.jobs", self.scratch.name);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let waiting = doc! { "currentOp": 1, "active": true, "ns": &jobs, "op": "update" };
            let reply = admin.run_command(waiting).await.unwrap();
            let found = reply.get_array("inprog").unwrap().len();
            if found >= writes {
                return;
            }
            assert!(Instant::now() < deadline, "{found} of {writes} writes wait");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Each job's write as a command of its own.
    fn write_each(&self, jobs: &[Job]) -> JoinHandle<Vec<Outcome>> {
        let writes: Vec<_> =
            jobs.iter().map(|job| self.write_all(None, vec![job.clone()])).collect();
        tokio::spawn(async move {
            join_all(writes).await.into_iter().flat_map(|outcomes| outcomes.unwrap()).collect()
        })
    }

    fn write_all(&self, blocker: Option<Job>, jobs: Vec<Job>) -> JoinHandle<Vec<Outcome>> {
        let (late, store) = (self.late, self.zombie.clone());
        tokio::spawn(async move { late.send(&store, blocker.as_ref(), &jobs).await })
    }

    /// Reaps and claims until a whole pass began after the writers had their answers.
    fn take_over(self: &Arc<Self>) -> Taking {
        let (answered, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (race, last, counted) = (self.clone(), answered.clone(), count.clone());
        let jobs = tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let is_last = last.load(Ordering::SeqCst);
                race.taker.reap(MANY).await.unwrap();
                taken.extend(race.claim(&race.taker, "new").await);
                counted.store(taken.len(), Ordering::SeqCst);
                if is_last {
                    return taken;
                }
            }
        });
        Taking { jobs, answered, count }
    }

    /// One wave; gives how many of the writes were applied.
    async fn wave(self: &Arc<Self>, wave: usize) -> usize {
        let jobs = self.expired().await;
        let (writing, taking) = match wave % 4 {
            2 | 3 => self.behind_a_blocker(&jobs, wave % 4 == 2).await,
            order => self.at_the_jobs(&jobs, order == 0, wave % 8 < 4).await,
        };
        let outcomes = writing.await.unwrap();
        taking.answered.store(true, Ordering::SeqCst);
        let taken = taking.jobs.await.unwrap();
        self.check(&jobs, &outcomes, taken).await
    }

    /// Both sides wait at the jobs themselves, and are let loose on each other.
    async fn at_the_jobs(
        self: &Arc<Self>,
        jobs: &[Job],
        writers_first: bool,
        commits: bool,
    ) -> (JoinHandle<Vec<Outcome>>, Taking) {
        let mut session = self.blocking(jobs).await;
        let both = if writers_first {
            let writing = self.write_each(jobs);
            self.until_waiting(JOBS).await;
            (writing, self.take_over())
        } else {
            let taking = self.take_over();
            self.until_waiting(1).await;
            (self.write_each(jobs), taking)
        };
        self.until_waiting(JOBS + 1).await;
        match commits {
            true => session.commit_transaction().await.unwrap(),
            false => session.abort_transaction().await.unwrap(),
        }
        both
    }

    /// The writes are at the server, in a command that waits at another job, while these are reaped and claimed: all of
    /// them, or as many as there is time for.
    async fn behind_a_blocker(
        self: &Arc<Self>,
        jobs: &[Job],
        until_all_are_taken: bool,
    ) -> (JoinHandle<Vec<Outcome>>, Taking) {
        self.zombie.insert(&[NewJob::new("blocker", Payload::null())]).await.unwrap();
        let blocker = self.claim(&self.zombie, "old").await.remove(0);
        let mut session = self.blocking(std::slice::from_ref(&blocker)).await;
        let writing = self.write_all(Some(blocker), jobs.to_vec());
        self.until_waiting(1).await;
        let taking = self.take_over();
        let deadline = Instant::now() + Duration::from_secs(20);
        while until_all_are_taken && taking.count.load(Ordering::SeqCst) < JOBS {
            assert!(Instant::now() < deadline, "the jobs are not taken");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        session.abort_transaction().await.unwrap();
        (writing, taking)
    }

    async fn check(&self, jobs: &[Job], outcomes: &[Outcome], taken: Vec<Job>) -> usize {
        let late = self.late;
        let number = taken.len();
        let taken: HashMap<JobId, Job> = taken.into_iter().map(|job| (job.id, job)).collect();
        assert_eq!(taken.len(), number, "no job is taken twice");
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let ends = self.taker.get(&ids, LogRead::All).await.unwrap();
        let mut applied = 0;
        for ((job, outcome), end) in jobs.iter().zip(outcomes).zip(ends) {
            let end = end.unwrap();
            let saved = match outcome {
                Outcome::Applied(_) => true,
                Outcome::Fenced => false,
                // Between the reap and the next claim nobody holds the job.
                Outcome::Illegal { from: State::Waiting } if late == Late::Settle => false,
                other => panic!("{late:?}: {other:?}"),
            };
            applied += usize::from(saved);
            assert_eq!(late.is_in(&end), saved, "{late:?} was {outcome:?}: {end:?}");
            match taken.get(&job.id) {
                // What the new holder was given is what there is: nothing came later.
                Some(new) => {
                    assert!(!(saved && late.keeps_the_job()), "{late:?} was saved, yet {new:?}");
                    assert_eq!(late.is_in(new), saved, "{late:?} was {outcome:?}: {new:?}");
                    assert_eq!((new.fence.count, end.fence), (2, new.fence));
                    assert_eq!(end.log, new.log);
                    assert_eq!(end.state, State::Running);
                    assert_eq!(end.lease_until, new.lease_until);
                }
                None => {
                    assert!(saved && late.keeps_the_job(), "nobody has {end:?}");
                    let lease = (late == Late::Heartbeat).then(|| self.clock.now().plus(LEASE * 3));
                    assert_eq!(end.lease_until, lease);
                }
            }
        }
        // The next wave begins with no job that could fall due.
        self.taker
            .database()
            .collection::<mongodb::bson::Document>("jobs")
            .delete_many(doc! {})
            .await
            .unwrap();
        applied
    }
}

fn bson_id(id: &JobId) -> Bson {
    let bytes = id.as_uuid().as_bytes().to_vec();
    Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes })
}

async fn thousand_rounds(late: Late) {
    let race = Arc::new(Race::open(late).await);
    let mut applied = 0;
    for wave in 0..WAVES {
        applied += race.wave(wave).await;
    }
    let refused = JOBS * WAVES - applied;
    assert!(applied >= 20 && refused >= 20, "{late:?}: {applied} applied, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_append_is_in_the_log_that_the_new_holder_reads_or_it_is_refused() {
    thousand_rounds(Late::Append).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_settle_ends_the_job_before_anybody_else_has_it_or_it_is_refused() {
    thousand_rounds(Late::Settle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_heartbeat_keeps_the_job_or_it_is_refused() {
    thousand_rounds(Late::Heartbeat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_progress_is_what_the_new_holder_reads_or_it_is_refused() {
    thousand_rounds(Late::Progress).await;
}
