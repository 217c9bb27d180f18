//! Everybody at one job: nobody is answered an error, nothing is lost, and no transaction is needed for it.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mongodb::bson::Document;
use queue_core::{
    BulkChange, ClaimRequest, EntryId, EntryKind, Guard, Held, Job, JobFilter, JobPatch, JobStore,
    JobStoreExt, JobUpdate, NewEntry, NewJob, Outcome, Payload, Progress, Queues, Result,
    async_trait,
};
use queue_mongo::{MongoOptions, MongoStore, Wake, mongodb};
use server::{Scratch, Server};
use tokio::sync::Barrier;
use wire::{OnItsWay, Relay, Way};

mod server;
mod wire;

const APPENDS: usize = 200;
const STORES: usize = 4;
const OTHERS: usize = 4;
const EACH: usize = 25;
const LEASE: Duration = Duration::from_secs(3_600);

/// Counts what passes.
#[derive(Debug, Default)]
struct Counted {
    commands: AtomicUsize,
    transactions: AtomicUsize,
}

#[async_trait]
impl OnItsWay for Counted {
    async fn pass(&self, command: &mut Document) -> Way {
        self.commands.fetch_add(1, Ordering::SeqCst);
        if ["startTransaction", "autocommit"].iter().any(|key| command.contains_key(key)) {
            self.transactions.fetch_add(1, Ordering::SeqCst);
        }
        Way::On
    }
}

struct World {
    stores: Vec<MongoStore>,
    counted: Arc<Counted>,
    _relay: Relay,
    _scratch: Scratch,
}

impl World {
    async fn open() -> World {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let counted: Arc<Counted> = Arc::default();
        let relay = Relay::before(&scratch.url, counted.clone()).await.unwrap();
        let url = format!("{}&maxPoolSize=60", relay.url);
        let options = MongoOptions::from_url(&url).unwrap().database(&scratch.name);
        let mut stores = Vec::new();
        for _ in 0..STORES {
            stores.push(options.clone().wake(Wake::Poll).open().await.unwrap());
        }
        World { stores, counted, _relay: relay, _scratch: scratch }
    }
}

fn saved(outcomes: &[Outcome]) {
    assert!(outcomes.iter().all(|outcome| outcome.applied().is_some()), "{outcomes:?}");
}

/// What the n-th of the others does all the time.
async fn bother(store: &MongoStore, job: &Job, who: usize) -> Result<()> {
    for step in 0..EACH {
        match who {
            0 => saved(&store.heartbeat(&[Held::new(job.id, job.fence)], LEASE).await?),
            1 => {
                let percent = u8::try_from(step).unwrap();
                let patch = JobPatch::progress(Progress::new(percent));
                saved(&store.update_jobs(&[JobUpdate::held(job.id, job.fence, patch)]).await?);
            }
            2 => {
                let patch = JobPatch::default().with_label(format!("edit-{step}"), "x");
                saved(&store.update_jobs(&[JobUpdate::new(job.id, Guard::None, patch)]).await?);
            }
            _ => {
                let priority = BulkChange::Priority(i16::try_from(step).unwrap());
                let counts = store.update_where(&JobFilter::id(job.id), &priority).await?;
                assert_eq!(counts.changed, 1, "{counts:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_writes_one_job_without_an_error_a_loss_or_a_transaction() {
    let world = World::open().await;
    let store = &world.stores[0];
    store.insert(&[NewJob::new("task", Payload::null())]).await.unwrap();
    let request = ClaimRequest::new(Queues::All, "tester", NonZeroU32::MIN, LEASE);
    let job = store.claim(&request).await.unwrap().jobs.remove(0);
    let barrier = Arc::new(Barrier::new(APPENDS + OTHERS));
    let appends = (0..APPENDS).map(|n| {
        let (store, job, barrier) =
            (world.stores[n % STORES].clone(), job.clone(), barrier.clone());
        tokio::spawn(async move {
            let entry = NewEntry::new(EntryKind::Step, Payload::from_value(&n).unwrap());
            let id = entry.id;
            // The holder's steps, and the lines of somebody who watches.
            let guard = if n % 4 == 3 { Guard::None } else { Guard::Fence(job.fence) };
            let update = [JobUpdate::new(job.id, guard, JobPatch::append([entry]))];
            barrier.wait().await;
            saved(&store.update_jobs(&update).await.unwrap());
            id
        })
    });
    let appends: Vec<_> = appends.collect();
    let others = (0..OTHERS).map(|who| {
        let (store, job, barrier) = (world.stores[who].clone(), job.clone(), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            bother(&store, &job, who).await.unwrap();
        })
    });
    let others: Vec<_> = others.collect();
    let mut expected: BTreeSet<EntryId> = BTreeSet::new();
    for append in appends {
        expected.insert(append.await.unwrap());
    }
    for other in others {
        other.await.unwrap();
    }
    let stored = store.get_one(job.id).await.unwrap().unwrap();
    assert_eq!((stored.log.len(), stored.log_len), (APPENDS, APPENDS as u64));
    assert_eq!(stored.log.iter().map(|entry| entry.id).collect::<BTreeSet<_>>(), expected);
    assert!(stored.log.iter().zip(1..).all(|(entry, seq)| entry.seq.0 == seq));
    assert_eq!((stored.labels.len(), stored.priority), (EACH, EACH as i16 - 1));
    assert_eq!(stored.version.0 - job.version.0, 2 * EACH as u64, "edits and bulk changes");
    assert_eq!(stored.progress.map(|progress| usize::from(progress.percent)), Some(EACH - 1));
    let counted = &world.counted;
    assert!(counted.commands.load(Ordering::SeqCst) > APPENDS);
    assert_eq!(counted.transactions.load(Ordering::SeqCst), 0);
    // One would have been seen.
    let mut session = store.client().start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let job = [NewJob::new("task", Payload::null())];
    store.insert_in(&mut session, &job).await.unwrap();
    session.abort_transaction().await.unwrap();
    assert!(counted.transactions.load(Ordering::SeqCst) > 0);
    wire::assert_sound();
}
