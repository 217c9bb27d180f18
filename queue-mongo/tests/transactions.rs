//! Jobs that are changed within the caller's own transaction: with its own writes, or not at all.

use std::{num::NonZeroU32, time::Duration};

use mongodb::{
    ClientSession, Collection,
    bson::{Document, doc},
};
use queue_core::{
    ClaimRequest, Clock, EntryKind, ErrorKind, Guard, Held, Job, JobId, JobPatch, JobStore,
    JobStoreExt, JobUpdate, Keep, NewEntry, NewJob, Outcome, Payload, Queues, State, Timestamp,
    Transition, Unique,
};
use queue_mongo::{MongoStore, mongodb};
use server::{Scratch, Server};

mod server;

const LEASE: Duration = Duration::from_secs(60);

struct World {
    store: MongoStore,
    clock: Clock,
    scratch: Scratch,
}

impl World {
    async fn open() -> World {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000).unwrap());
        let store = scratch.options(&clock).unwrap().open().await.unwrap();
        // A transaction cannot make a collection that another uses at the same moment.
        store.database().create_collection("invoices").await.unwrap();
        World { store, clock, scratch }
    }

    fn invoices(&self) -> Collection<Document> {
        self.store.database().collection("invoices")
    }

    async fn claim(&self) -> Job {
        let request = ClaimRequest::new(Queues::All, "tester", NonZeroU32::MIN, LEASE);
        self.store.claim(&request).await.unwrap().jobs.remove(0)
    }

    async fn held(&self, job: NewJob) -> Job {
        self.store.insert_one(&job).await.unwrap();
        self.claim().await
    }

    /// A transaction with a write of the caller's own in it.
    async fn charging(&self) -> ClientSession {
        let mut session = self.store.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        self.invoices().insert_one(doc! { "paid": true }).session(&mut session).await.unwrap();
        session
    }

    async fn invoiced(&self) -> u64 {
        self.invoices().count_documents(doc! {}).await.unwrap()
    }

    async fn read(&self, id: JobId) -> Job {
        self.store.get_one(id).await.unwrap().unwrap()
    }
}

fn plain() -> NewJob {
    NewJob::new("charge", Payload::null())
}

fn done(job: &Job) -> JobUpdate {
    let output = Some(Payload::from_value("receipt").unwrap());
    let entry = NewEntry::new(EntryKind::Step, Payload::from_value("charged").unwrap());
    let patch = JobPatch::transition(Transition::Complete { output }).with_log([entry]);
    JobUpdate::held(job.id, job.fence, patch)
}

#[tokio::test]
async fn a_job_is_done_with_its_handler_s_own_writes_or_not_at_all() {
    let world = World::open().await;
    let job = world.held(plain()).await;
    let mut session = world.charging().await;
    let outcomes = world.store.update_in(&mut session, &[done(&job)]).await.unwrap();
    assert!(matches!(outcomes[..], [Outcome::Applied(_)]), "{outcomes:?}");
    assert_eq!(world.read(job.id).await, job, "nothing before the end");
    session.abort_transaction().await.unwrap();
    assert_eq!((world.read(job.id).await, world.invoiced().await), (job.clone(), 0));

    let mut session = world.charging().await;
    let update = done(&job);
    world.store.update_in(&mut session, std::slice::from_ref(&update)).await.unwrap();
    session.commit_transaction().await.unwrap();
    let ended = world.read(job.id).await;
    assert_eq!((ended.state, world.invoiced().await), (State::Completed, 1));
    assert_eq!(ended.output.unwrap().as_str(), "\"receipt\"");
    assert_eq!((ended.log.len(), ended.log_len, ended.log[0].seq.0), (1, 1, 1));
    // The same again, within a transaction or without one.
    let again = world.store.update_jobs(std::slice::from_ref(&update)).await.unwrap();
    assert!(matches!(again[..], [Outcome::Repeated(_)]), "{again:?}");
    let mut session = world.charging().await;
    let again = world.store.update_in(&mut session, &[update]).await.unwrap();
    assert!(matches!(again[..], [Outcome::Repeated(_)]), "{again:?}");
    session.abort_transaction().await.unwrap();
}

#[tokio::test]
async fn a_holder_that_has_lost_its_job_is_told_so_in_its_transaction() {
    let world = World::open().await;
    let zombie = world.held(plain()).await;
    world.clock.advance(LEASE * 2);
    assert_eq!(world.store.reap(NonZeroU32::MIN).await.unwrap().len(), 1);
    let heir = world.claim().await;
    let mut session = world.charging().await;
    let outcomes = world.store.update_in(&mut session, &[done(&zombie)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Fenced]);
    session.commit_transaction().await.unwrap();
    assert_eq!(world.read(heir.id).await, heir, "the zombie changed nothing");
}

#[tokio::test]
async fn a_transaction_that_another_writer_comes_between_is_aborted_and_can_be_begun_again() {
    let world = World::open().await;
    let job = world.held(plain()).await;
    let mut session = world.charging().await;
    // Its snapshot is older than this heartbeat.
    let beat = world.store.heartbeat(&[Held::new(job.id, job.fence)], LEASE * 2).await.unwrap();
    assert!(beat[0].is_saved());
    let error = world.store.update_in(&mut session, &[done(&job)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Contention, "{error}");
    let error = world.store.update_in(&mut session, &[done(&job)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Contention, "it is over: {error}");
    assert_eq!((world.read(job.id).await.state, world.invoiced().await), (State::Running, 0));
    let mut session = world.charging().await;
    assert!(world.store.update_in(&mut session, &[done(&job)]).await.unwrap()[0].is_saved());
    session.commit_transaction().await.unwrap();
    assert_eq!((world.read(job.id).await.state, world.invoiced().await), (State::Completed, 1));
}

#[tokio::test]
async fn many_changes_in_one_transaction_are_judged_each_by_itself() {
    let world = World::open().await;
    let mut brief = plain();
    brief.keep = Keep::UnlessCompleted;
    brief.unique = Some(Unique::new("k"));
    let (one, brief) = (world.held(plain()).await, world.held(brief).await);
    let label = JobPatch::default().with_label("by", "editor");
    let strange = JobUpdate::new(JobId::new(), Guard::None, label.clone());
    let stale = JobUpdate::new(one.id, Guard::Version(queue_core::Version(999)), label);
    let mut session = world.charging().await;
    let updates = [strange, stale, done(&brief)];
    let outcomes = world.store.update_in(&mut session, &updates).await.unwrap();
    assert!(
        matches!(outcomes[..], [Outcome::Missing, Outcome::Conflict { .. }, Outcome::Applied(_)]),
        "{outcomes:?}"
    );
    session.commit_transaction().await.unwrap();
    assert_eq!(world.store.get_one(brief.id).await.unwrap(), None, "it is not kept");
    assert_eq!(world.read(one.id).await, one);
    let twice = [done(&one), done(&one)];
    let mut session = world.charging().await;
    let error = world.store.update_in(&mut session, &twice).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    session.abort_transaction().await.unwrap();
}

#[tokio::test]
async fn a_server_without_transactions_says_so() {
    let scratch = Server::Standalone.scratch().unwrap();
    let store = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
    let job = plain();
    store.insert_one(&job).await.unwrap();
    let mut session = store.client().start_session().await.unwrap();
    let label = JobPatch::default().with_label("by", "editor");
    let update = [JobUpdate::new(job.id, Guard::None, label)];
    let errors = [
        store.update_in(&mut session, &update).await.unwrap_err(),
        store.insert_in(&mut session, &[plain()]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("replica set"), "{error}");
    }
    assert!(store.get_one(job.id).await.unwrap().unwrap().labels.is_empty());
}

#[tokio::test]
async fn a_committed_insert_and_the_end_of_its_parent_are_one() {
    let world = World::open().await;
    let parent = world.held(plain()).await;
    let child = plain();
    let mut session = world.charging().await;
    world.store.insert_in(&mut session, std::slice::from_ref(&child)).await.unwrap();
    world.store.update_in(&mut session, &[done(&parent)]).await.unwrap();
    let other = world.scratch.options(&world.clock).unwrap().open().await.unwrap();
    assert_eq!(other.get_one(child.id).await.unwrap(), None);
    session.commit_transaction().await.unwrap();
    assert_eq!(other.state(child.id).await.unwrap(), Some(State::Waiting));
    assert_eq!(other.state(parent.id).await.unwrap(), Some(State::Completed));
}
