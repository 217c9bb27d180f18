//! One statement swapped on its way to the server: the suite must notice, on the real database, by the properties that
//! are named for the flaw. With nothing swapped the same properties pass.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use conformance_tests::{Fixture, Harness, Property, Verdict, properties, run_property};
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use queue_core::{Clock, Error, ErrorKind, JobStore, Result, async_trait};
use queue_mongo::{MongoOptions, mongodb};
use server::Server;
use wire::{OnItsWay, Relay, Way};

mod server;
mod wire;

const SEED: u64 = 0x006d_7574_616e_7473;
/// How often a property may try: races do not come out the same way each time.
const TRIES: u64 = 4;

/// What is swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// The write that claims matches the job by its id alone.
    ClaimUnguarded,
    /// A claim takes whatever is under no lease, whether it waits or not.
    ClaimByLease,
    /// An append empties the log and writes it anew.
    LogReinserted,
    /// An append writes back the log as it was read, with the new entries.
    LogReadModifyWrite,
    /// A holder's write does not ask for the fence.
    UpdateUnguarded,
}

struct Swap {
    flaw: Flaw,
    /// For flaws that read first.
    database: mongodb::Database,
    swapped: Arc<AtomicUsize>,
}

/// The filter and the update of each statement of a writing command.
fn statements(command: &mut Document) -> Vec<(&mut Document, &mut Document)> {
    let mut found = Vec::new();
    if command.contains_key("findAndModify") {
        let (mut query, mut update) = (None, None);
        for (key, value) in command.iter_mut() {
            match (key.as_str(), value) {
                ("query", Bson::Document(document)) => query = Some(document),
                ("update", Bson::Document(document)) => update = Some(document),
                _ => {}
            }
        }
        found.extend(query.zip(update));
    } else if let Some(Bson::Array(updates)) = command.get_mut("updates") {
        for update in updates.iter_mut().filter_map(Bson::as_document_mut) {
            let (mut query, mut change) = (None, None);
            for (key, value) in update.iter_mut() {
                match (key.as_str(), value) {
                    ("q", Bson::Document(document)) => query = Some(document),
                    ("u", Bson::Document(document)) => change = Some(document),
                    _ => {}
                }
            }
            found.extend(query.zip(change));
        }
    }
    found
}

/// A field of the query, or of one of the queries that must hold together.
fn field(query: &Document, name: &str) -> Option<Bson> {
    query.get(name).cloned().or_else(|| {
        let parts = query.get_array("$and").ok()?;
        parts.iter().filter_map(Bson::as_document).find_map(|part| field(part, name))
    })
}

fn is_claim(update: &Document) -> bool {
    let set = update.get_document("$set").ok();
    set.is_some_and(|set| {
        set.get_i32("state").is_ok_and(|state| state == 1) && set.contains_key("nonce")
    })
}

fn appended(update: &Document) -> Option<Vec<Bson>> {
    let log = update.get_document("$push").ok()?.get_document("log").ok()?;
    log.get_array("$each").ok().cloned()
}

/// Replaces "is waiting" by "is under no lease" wherever the value says so. Gives how often.
fn by_lease(value: &mut Bson) -> usize {
    match value {
        Bson::Array(items) => items.iter_mut().map(by_lease).sum(),
        Bson::Document(document) => {
            let mut swapped = 0;
            // With a lane or without, or behind one that is full.
            let waiting = [Bson::Int32(0), Bson::Document(doc! { "$in": [0, 5] })];
            if document.get("state").is_some_and(|state| waiting.contains(state)) {
                document.remove("state");
                document.insert("lease_until", Bson::Null);
                swapped += 1;
            }
            swapped + document.iter_mut().map(|(_, value)| by_lease(value)).sum::<usize>()
        }
        _ => 0,
    }
}

impl Swap {
    /// Swaps the statement, if it is the one. Gives how often.
    async fn swap(&self, query: &mut Document, update: &mut Document) -> usize {
        match self.flaw {
            Flaw::ClaimUnguarded if is_claim(update) => {
                *query = doc! { "_id": field(query, "_id").expect("a claim names its job") };
                1
            }
            Flaw::ClaimByLease if is_claim(update) => {
                let mut swapped = Bson::Document(query.clone());
                let count = by_lease(&mut swapped);
                assert_eq!(count, 1, "a claim asks for waiting jobs: {query}");
                *query = swapped.as_document().expect("it is one").clone();
                count
            }
            Flaw::LogReinserted | Flaw::LogReadModifyWrite => {
                self.write_log_back(query, update).await
            }
            Flaw::UpdateUnguarded if query.contains_key("fence") => {
                assert!(query.remove("nonce").is_some(), "a fence has a nonce: {query}");
                query.remove("fence");
                1
            }
            _ => 0,
        }
    }

    async fn write_log_back(&self, query: &Document, update: &mut Document) -> usize {
        let Some(new) = appended(update) else { return 0 };
        let jobs = self.database.collection::<Document>("jobs");
        let Some(job) = jobs.find_one(query.clone()).await.expect("the job can be read") else {
            return 0;
        };
        if self.flaw == Flaw::LogReinserted {
            let emptied = doc! { "$set": { "log": [] } };
            jobs.update_one(query.clone(), emptied).await.expect("the log can be emptied");
        }
        let mut log = job.get_array("log").expect("a job has a log").clone();
        log.extend(new);
        update.remove("$push");
        match update.get_mut("$set") {
            Some(Bson::Document(set)) => drop(set.insert("log", log)),
            _ => drop(update.insert("$set", doc! { "log": log })),
        }
        1
    }
}

#[async_trait]
impl OnItsWay for Swap {
    async fn pass(&self, command: &mut Document) -> Way {
        let mut swapped = 0;
        if self.flaw == Flaw::ClaimByLease
            && let Some(pipeline) = command.get_mut("pipeline")
        {
            swapped += by_lease(pipeline);
        }
        for (query, update) in statements(command) {
            swapped += self.swap(query, update).await;
        }
        self.swapped.fetch_add(swapped, Ordering::SeqCst);
        Way::On
    }
}

/// Stores whose commands pass through the swap.
struct Swapped {
    flaw: Flaw,
    swapped: Arc<AtomicUsize>,
}

#[async_trait]
impl Harness for Swapped {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let failed = |what: String| Error::new(ErrorKind::Unavailable, what);
        let scratch = Server::ReplicaSet.scratch()?;
        let client = Client::with_uri_str(&scratch.url).await;
        let database = client.map_err(|e| failed(e.to_string()))?.database(&scratch.name);
        let swap = Swap { flaw: self.flaw, database, swapped: self.swapped.clone() };
        let relay = Relay::before(&scratch.url, Arc::new(swap)).await;
        let relay = relay.map_err(|e| failed(e.to_string()))?;
        let options =
            MongoOptions::from_url(&relay.url)?.database(&scratch.name).clock(clock.clone());
        let store = options.clone().open().await?;
        let sibling = move || {
            let open = options.clone().open();
            Box::pin(async move { Ok(Arc::new(open.await?) as Arc<dyn JobStore>) }) as _
        };
        let fixture = Fixture::new(Arc::new(store)).clocked().with_sibling(sibling);
        Ok(fixture.with_guard(relay).with_guard(scratch))
    }
}

fn property(id: &str) -> Property {
    let found = properties().into_iter().find(|property| property.id == id);
    found.unwrap_or_else(|| panic!("there is no property {id}"))
}

async fn kills(flaw: Flaw, ids: &[&str]) {
    for id in ids {
        // A broken store may hang, which is a verdict too.
        let property = property(id).within(Duration::from_secs(10));
        let swapped = Arc::new(AtomicUsize::new(0));
        let harness = Swapped { flaw, swapped: swapped.clone() };
        let mut verdicts = Vec::new();
        for attempt in 0..TRIES {
            let verdict = run_property(&property, &harness, SEED + attempt).await;
            assert!(!matches!(verdict, Verdict::Skip(_)), "{id}: {verdict}");
            verdicts.push(verdict);
            if verdicts.iter().any(Verdict::is_fail) {
                break;
            }
        }
        wire::assert_sound();
        let count = swapped.load(Ordering::SeqCst);
        assert!(count > 0, "{flaw:?}: the statement that is to be swapped is no longer sent");
        let noticed = verdicts.iter().any(Verdict::is_fail);
        assert!(noticed, "{flaw:?} was not noticed by {id}, with {count} statements swapped");
    }
}

const NAMED: [(Flaw, &[&str]); 5] = [
    (Flaw::ClaimUnguarded, &["CLM-1"]),
    (Flaw::ClaimByLease, &["CLM-11"]),
    (Flaw::LogReinserted, &["LOG-1", "LOG-4", "LOG-9"]),
    (Flaw::LogReadModifyWrite, &["LOG-1", "LOG-8"]),
    (Flaw::UpdateUnguarded, &["UPD-1", "LSE-5"]),
];

async fn kills_as_named(flaw: Flaw) {
    let (_, ids) = NAMED.iter().find(|(named, _)| *named == flaw).expect("it names its killers");
    kills(flaw, ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_does_not_look_again_is_noticed() {
    kills_as_named(Flaw::ClaimUnguarded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_looks_at_the_lease_alone_is_noticed() {
    kills_as_named(Flaw::ClaimByLease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_emptied_and_written_anew_is_noticed() {
    kills_as_named(Flaw::LogReinserted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_read_and_written_back_is_noticed() {
    kills_as_named(Flaw::LogReadModifyWrite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_the_fence_is_noticed() {
    kills_as_named(Flaw::UpdateUnguarded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_swapped_the_same_properties_pass() {
    for id in NAMED.iter().flat_map(|(_, ids)| *ids) {
        let harness = Swapped { flaw: Flaw::None, swapped: Arc::default() };
        let verdict = run_property(&property(id), &harness, SEED).await;
        assert!(verdict.is_pass(), "{id}: {verdict}");
        wire::assert_sound();
    }
}
