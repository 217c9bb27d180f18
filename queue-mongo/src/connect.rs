//! Opening: the client, the collections, their indexes and the version of the schema.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mongodb::{
    Client, Collection, Database,
    bson::{Document, doc},
    event::{EventHandler, command::CommandEvent},
    options::{Acknowledgment, CollectionOptions, ReadConcern, SelectionCriteria, WriteConcern},
};
use queue_core::{Capabilities, Reach, Result};

use crate::{
    MongoOptions, StopAfter, Wake,
    claim::{Last, Seen},
    clock::{ServerClock, is_replica_set},
    codec::{self, Read as _},
    error::{Call, STORE, from_driver, naming},
    options::config,
};

/// The version of the schema that this code writes.
const VERSION: i64 = 1;
/// The largest payload. Several of them and the rest of a job fit into a document.
pub(crate) const MAX_PAYLOAD_BYTES: u64 = 4 * 1024 * 1024;
/// The most that input and log take. MongoDB's documents end at 16 MiB: a job whose log is full can still be claimed, report
/// its progress, and carry an error or output of the largest size.
pub(crate) const MAX_JOB_BYTES: u64 = (16 * 1024 - 256) * 1024 - MAX_PAYLOAD_BYTES;
/// The driver takes no shorter one; a longer one than its own would help nobody.
const MIN_HEARTBEAT: std::time::Duration = std::time::Duration::from_millis(500);
const MAX_HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(10);
/// How far two measurements of the server's clock may lie apart.
pub(crate) const SLACK: std::time::Duration = std::time::Duration::from_millis(50);

/// An open database.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) client: Client,
    pub(crate) database: Database,
    /// Reads what is there now, to be written back under a guard.
    pub(crate) jobs: Collection<Document>,
    /// Reads what a majority has acknowledged, for callers.
    pub(crate) settled_jobs: Collection<Document>,
    pub(crate) schedules: Collection<Document>,
    pub(crate) records: Collection<Document>,
    /// Lanes that were freed by transactions.
    pub(crate) marks: Collection<Document>,
    /// Reads what is there now, as `jobs` does.
    pub(crate) fresh_records: Collection<Document>,
    pub(crate) clock: ServerClock,
    pub(crate) capabilities: Capabilities,
    /// Whether the deployment has transactions: a replica set, or shards.
    pub(crate) transactions: bool,
    /// Commands that were sent.
    pub(crate) commands: Arc<AtomicU64>,
    pub(crate) seen: Seen,
    /// When this process last looked for lanes that lost their mark.
    pub(crate) repaired: Last,
    /// Commands that may have changed something and were answered.
    pub(crate) writes: Arc<AtomicU64>,
    pub(crate) stop_after: Option<StopAfter>,
    /// How long a call may take.
    pub(crate) call_timeout: std::time::Duration,
}

impl Db {
    /// Waits until a majority has acknowledged all that has been written so far, by whomever. One trip.
    pub(crate) async fn wait_for_majority(&self) -> Result<()> {
        // A write that changes nothing waits for all before it.
        let nothing = doc! { "_id": crate::codec::uuid(&queue_core::Uuid::nil()) };
        let written = self.jobs.update_one(nothing, doc! { "$inc": { "rev": 1_i64 } }).await;
        written.map_err(|error| from_driver(Call::Write, error)).map(drop)
    }
}

/// The commands that change something.
const WRITES: [&str; 4] = ["insert", "update", "findAndModify", "delete"];
pub(crate) const JOBS: &str = "jobs";
pub(crate) const RECORDS: &str = "records";
pub(crate) const MARKS: &str = "freed_lanes";
pub(crate) const SCHEDULES: &str = "schedules";
const SCHEMA: &str = "schema";

pub(crate) fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// Opens the database that the options name.
pub(crate) async fn open(options: MongoOptions) -> Result<Db> {
    let mut driver = options.parse().await?;
    let (commands, writes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (sent, written) = (commands.clone(), writes.clone());
    driver.command_event_handler = Some(EventHandler::callback(move |event| match event {
        CommandEvent::Started(_) => drop(sent.fetch_add(1, Ordering::Relaxed)),
        CommandEvent::Succeeded(event) if WRITES.contains(&event.command_name.as_str()) => {
            written.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }));
    driver.server_selection_timeout.get_or_insert(options.timeout);
    // A server that hangs is found out by the driver's monitor, which asks so often and waits so long.
    driver.connect_timeout.get_or_insert(options.timeout);
    driver.heartbeat_freq.get_or_insert(options.timeout.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT));
    driver.write_concern = Some(durable());
    // The driver repeats a write whose answer was lost, and where the repeat is refused it reports that alone: a write that
    // was applied would count as one that changed nothing. Callers repeat by id and by token, which is safe anywhere.
    // Whatever the URL says: those that services hand out ask for it as a matter of course.
    driver.retry_writes = Some(false);
    driver.app_name.get_or_insert_with(|| "queue".to_owned());
    let user = driver.credential.as_ref().and_then(|credential| credential.username.clone());
    let name = options.database.clone().or_else(|| driver.default_database.clone());
    let client = Client::with_options(driver).map_err(|error| from_driver(Call::Read, error))?;
    let database = client.database(name.as_deref().unwrap_or("queue"));
    let open = |name: &str, concern: ReadConcern| {
        database.collection_with_options::<Document>(
            name,
            CollectionOptions::builder()
                .read_concern(concern)
                .write_concern(durable())
                .selection_criteria(SelectionCriteria::ReadPreference(
                    mongodb::options::ReadPreference::Primary,
                ))
                .build(),
        )
    };
    let hello = database
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(|error| naming(user.as_deref(), from_driver(Call::Read, error)))
        .map_err(|error| error.with_operation("open"))?;
    let mut capabilities = Capabilities::new(Reach::Network);
    capabilities.durable = true;
    capabilities.schedule_slack = SLACK;
    capabilities.max_payload_bytes = MAX_PAYLOAD_BYTES;
    capabilities.max_job_bytes = Some(MAX_JOB_BYTES);
    if options.wake == Wake::ChangeStream && is_replica_set(&hello) {
        capabilities.wakeups = Some(Reach::Network);
    }
    let db = Db {
        jobs: open(JOBS, ReadConcern::local()),
        settled_jobs: open(JOBS, ReadConcern::majority()),
        schedules: open(SCHEDULES, ReadConcern::majority()),
        records: open(RECORDS, ReadConcern::majority()),
        marks: open(MARKS, ReadConcern::local()),
        fresh_records: open(RECORDS, ReadConcern::local()),
        clock: ServerClock::new(options.clock),
        capabilities,
        transactions: is_replica_set(&hello) || hello.text("msg").is_ok_and(|it| it == "isdbgrid"),
        commands,
        seen: Seen::default(),
        repaired: Last::default(),
        writes,
        stop_after: options.stop_after,
        call_timeout: options.call_timeout,
        database,
        client,
    };
    migrate(&db).await.map_err(|error| naming(user.as_deref(), error).with_operation("open"))?;
    // On a connection that is warm by now, so that the half of the trip is short.
    db.now().await.map_err(|error| error.with_operation("open"))?;
    Ok(db)
}

/// Brings the database to this version. Any number of processes may do so at once: creating an index that is there is
/// no change, and the version is written last.
async fn migrate(db: &Db) -> Result<()> {
    let schema = db.database.collection::<Document>(SCHEMA);
    let known = schema
        .find_one(doc! { "_id": "version" })
        .await
        .map_err(|error| from_driver(Call::Read, error))?;
    if let Some(known) = known {
        let version = known.int("version")?;
        if version > VERSION {
            return Err(config(format!(
                "the database {:?} has schema version {version}, and this code knows versions up to \
                 {VERSION}; use a newer release",
                db.database.name()
            ))
            .with_store(STORE));
        }
        return Ok(());
    }
    let failed = |error| from_driver(Call::Write, error);
    let create = async |name: &str| match db.database.create_collection(name).await {
        // Another process was faster.
        Err(error) if crate::error::code_of(&error) == Some(48) => Ok(()),
        created => created,
    };
    let indexes = doc! { "createIndexes": JOBS, "indexes": indexes() };
    let index = async { db.database.run_command(indexes).await.map(drop) };
    // Each waits for the disk.
    futures::try_join!(index, create(RECORDS), create(SCHEDULES), create(MARKS)).map_err(failed)?;
    schema
        .update_one(doc! { "_id": "version" }, doc! { "$max": { "version": VERSION } })
        .upsert(true)
        .await
        .map(drop)
        .or_else(|error| match crate::error::code_of(&error) {
            Some(crate::error::DUPLICATE) => Ok(()),
            _ => Err(failed(error)),
        })
}

/// Why each index is there.
fn indexes() -> Vec<Document> {
    let ready = doc! { "state": codec::READY };
    let parked = doc! { "state": codec::PARKED };
    vec![
        // Claims: one range per queue and kind, in order; what is not yet due is skipped at each priority. The server
        // merges the ranges of a request, and walks them backwards, priority by priority, for LIFO. The
        // state is a part of the key, or the server would fetch every document to check it.
        doc! {
            "name": "ready_queue", "partialFilterExpression": &ready,
            "key": { "state": 1, "queue": 1, "kind": 1, "priority": -1, "run_at": 1, "_id": 1 },
        },
        // Claims from all queues.
        doc! {
            "name": "ready", "partialFilterExpression": &ready,
            "key": { "state": 1, "kind": 1, "priority": -1, "run_at": 1, "_id": 1 },
        },
        // Jobs behind full lanes.
        doc! {
            "name": "parked", "partialFilterExpression": &parked,
            "key": {
                "state": 1, "lane.key": 1, "lane.limit": 1,
                "priority": -1, "run_at": 1, "_id": 1, "queue": 1, "kind": 1,
            },
        },
        // Lanes that have a free slot since the last claim.
        doc! { "name": "freed", "key": { "freed": 1 }, "sparse": true },
        // The jobs of a claim, and all running jobs. A claim that runs on beside its repeat has the same places to give: each
        // is given once, so that the two never hold more than their limit. The lease is in no index, or every
        // heartbeat would have to write one.
        doc! {
            "name": "held", "unique": true, "partialFilterExpression": { "state": 1 },
            "key": { "nonce": 1, "claim_place": 1 },
        },
        // At most one job per unique key, and one per slot of a lane.
        doc! {
            "name": "unique_key", "unique": true, "key": { "held_key": 1 },
            "partialFilterExpression": { "held_key": { "$exists": true } },
        },
        doc! {
            "name": "lane_slot", "unique": true, "key": { "slot_lane": 1, "slot": 1 },
            "partialFilterExpression": { "slot_lane": { "$exists": true } },
        },
        doc! { "name": "created", "key": { "created_at": 1, "_id": 1 } },
        doc! { "name": "state_created", "key": { "state": 1, "created_at": 1, "_id": 1 } },
        // Jobs without labels or intents are not in these.
        doc! { "name": "labels", "key": { "labels": 1 }, "sparse": true },
        doc! { "name": "successor", "key": { "successor._id": 1 }, "sparse": true },
    ]
}

impl Db {
    /// The store's clock.
    pub(crate) async fn now(&self) -> Result<queue_core::Timestamp> {
        self.clock.now(&self.database).await
    }

    /// Ends an operation where a test wants it to end.
    pub(crate) fn stop_point(&self, place: StopAfter) -> Result<()> {
        match self.stop_after == Some(place) {
            false => Ok(()),
            true => Err(queue_core::Error::new(
                queue_core::ErrorKind::Unavailable,
                "stopped here, as a test asked",
            )
            .with_effect(queue_core::Effect::Unknown)
            .with_store(STORE)),
        }
    }
}
