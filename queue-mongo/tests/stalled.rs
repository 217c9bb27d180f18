//! Callers that stall in the middle of a call, for longer than the job lives that others make of it meanwhile.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use queue_core::{
    ClaimRequest, Clock, Fire, Fired, Inserted, Job, JobId, JobPatch, JobStore, JobStoreExt,
    JobUpdate, Keep, Lane, NewJob, Outcome, Payload, Queues, Timestamp, Transition, Unique,
    async_trait, spec::superseded_by,
};
use queue_mongo::{MongoOptions, MongoStore, Wake, mongodb};
use server::{Scratch, Server};
use tokio::sync::Notify;
use wire::{OnItsWay, Relay, Way};

mod server;
mod wire;

/// More commands than follow the first write of a call.
const PLACES: usize = 8;

/// Holds up one command after the write that carries an intent.
#[derive(Default)]
struct Stalling {
    has_intent: AtomicBool,
    /// Commands that pass before it.
    passing: AtomicUsize,
    is_held: Notify,
    go_on: Notify,
}

#[async_trait]
impl OnItsWay for Stalling {
    async fn pass(&self, command: &mut Document) -> Way {
        if ["hello", "ping", "endSessions"].iter().any(|other| command.contains_key(other)) {
            return Way::On;
        }
        if self.has_intent.load(Ordering::SeqCst) {
            if self.passing.fetch_sub(1, Ordering::SeqCst) == 0 {
                self.is_held.notify_one();
                self.go_on.notified().await;
            }
        } else if command.contains_key("update") || command.contains_key("insert") {
            let text = command.to_string();
            let has_intent = text.contains("\"successor\"") || text.contains("\"pending\"");
            self.has_intent.store(has_intent, Ordering::SeqCst);
        }
        Way::On
    }
}

/// A store behind such a relay, and one that sees the same database directly.
struct World {
    stalling: Arc<Stalling>,
    slow: MongoStore,
    direct: MongoStore,
    _relay: Relay,
    _scratch: Scratch,
}

impl World {
    async fn open(passing: usize) -> World {
        let scratch = Server::ReplicaSet.scratch().unwrap();
        let direct = scratch.options(&Clock::system()).unwrap().open().await.unwrap();
        let stalling = Arc::new(Stalling { passing: passing.into(), ..Stalling::default() });
        let relay = Relay::before(&scratch.url, stalling.clone()).await.unwrap();
        let options = MongoOptions::from_url(&relay.url).unwrap().database(&scratch.name);
        let slow = options.wake(Wake::Poll).open().await.unwrap();
        World { stalling, slow, direct, _relay: relay, _scratch: scratch }
    }

    /// Has the first call stall, the second end meanwhile and its jobs run, and the first go on. `None`: it has not so many
    /// commands.
    async fn stall<T, U>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        meanwhile: impl Future<Output = U>,
    ) -> Option<(T, U)>
    where
        T: Send + 'static,
    {
        let mut call = tokio::spawn(call);
        tokio::select! {
            _ = &mut call => return None,
            () = self.stalling.is_held.notified() => {}
        }
        let meanwhile = meanwhile.await;
        self.stalling.go_on.notify_one();
        let call = call.await.unwrap();
        wire::assert_sound();
        Some((call, meanwhile))
    }

    /// Runs all that is due to its end. Jobs that are not kept are gone then.
    async fn run(&self) -> Vec<JobId> {
        let jobs = self.direct.claim(&request()).await.unwrap().jobs;
        self.complete(&jobs).await;
        jobs.iter().map(|job| job.id).collect()
    }

    async fn complete(&self, jobs: &[Job]) {
        let complete = JobPatch::transition(Transition::Complete { output: None });
        let updates: Vec<_> =
            jobs.iter().map(|job| JobUpdate::held(job.id, job.fence, complete.clone())).collect();
        let outcomes = self.direct.update_jobs(&updates).await.unwrap();
        assert!(outcomes.iter().all(Outcome::is_saved));
    }

    /// Asserts that nothing is left to run, and no intent.
    async fn assert_done(&self, place: usize) {
        self.direct.reap(NonZeroU32::MIN).await.unwrap();
        let documents = self.direct.database().collection::<Document>("jobs");
        let left = documents.find(doc! { "finished_at": { "$exists": false } }).await.unwrap();
        let left: Vec<Document> = left.try_collect().await.unwrap();
        assert!(left.is_empty(), "made twice, at {place}: {left:?}");
    }
}

fn request() -> ClaimRequest {
    let many = NonZeroU32::new(100).unwrap();
    ClaimRequest::new(Queues::All, "tester", many, Duration::from_secs(60))
}

fn superseding() -> NewJob {
    let mut job = NewJob::new("task", Payload::null());
    job.unique = Some(Unique::supersede("k"));
    job.keep = Keep::UnlessCompleted;
    job
}

fn unkept() -> NewJob {
    let mut job = NewJob::new("task", Payload::null());
    job.keep = Keep::UnlessCompleted;
    job
}

fn fire(slot: u64, job: NewJob) -> Fire {
    let start = Timestamp::from_micros(1_800_000_000_000_000).unwrap();
    Fire::new("daily", start.plus(Duration::from_secs(slot)), job)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stalls_while_it_supersedes_makes_its_job_once() {
    let mut stalls = 0;
    for place in 0..PLACES {
        let world = World::open(place).await;
        let (old, new) = (superseding(), superseding());
        world.direct.insert(std::slice::from_ref(&old)).await.unwrap();
        let (slow, sent) = (world.slow.clone(), new.clone());
        let stalled = world.stall(async move { slow.insert(&[sent]).await }, async {
            let again = world.direct.insert(std::slice::from_ref(&new)).await.unwrap();
            assert_eq!(again, [Inserted::Existing(new.id)], "at {place}");
            assert_eq!(world.run().await, [new.id], "at {place}");
            assert_eq!(world.direct.state(new.id).await.unwrap(), None);
        });
        let Some((answer, ())) = stalled.await else { break };
        assert_eq!(answer.unwrap(), [Inserted::New(new.id)], "at {place}");
        world.assert_done(place).await;
        stalls += 1;
    }
    assert!((2..PLACES).contains(&stalls), "{stalls}");
}

/// Others take the key while a caller stalls whose job was to have it: to readers it had it, and the first of them took it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_supersedes_the_job_of_a_stalled_caller_is_the_next_one() {
    let mut stalls = 0;
    for place in 0..PLACES {
        let world = World::open(place).await;
        let [old, stalled, next, last] = [(); 4].map(|()| superseding());
        world.direct.insert_one(&old).await.unwrap();
        let (slow, job) = (world.slow.clone(), stalled.clone());
        let meanwhile = async {
            world.direct.insert_one(&next).await.unwrap();
            world.direct.insert_one(&last).await.unwrap();
        };
        let stalling = world.stall(async move { slow.insert_one(&job).await }, meanwhile).await;
        let Some((answer, ())) = stalling else { break };
        assert_eq!(answer.unwrap(), Inserted::New(stalled.id), "{place}");
        let by = async |job: &NewJob| {
            let job = world.direct.get_one(job.id).await.unwrap().unwrap();
            job.cancel.map(|cancel| cancel.reason)
        };
        assert_eq!(by(&old).await, Some(superseded_by(stalled.id)), "{place}");
        assert_eq!(by(&stalled).await, Some(superseded_by(next.id)), "{place}");
        assert_eq!(by(&next).await, Some(superseded_by(last.id)), "{place}");
        assert_eq!(by(&last).await, None, "{place}");
        stalls += 1;
    }
    assert!((2..PLACES).contains(&stalls), "{stalls}");
}

/// As the first test, for slots whose job is `job`, with `before` in the queue.
async fn stalls_while_it_fires(before: Option<fn() -> NewJob>, job: fn() -> NewJob, next: bool) {
    let mut stalls = 0;
    for place in 0..2 * PLACES {
        let world = World::open(place).await;
        let first = fire(0, job());
        let job = first.job.clone().unwrap();
        if let Some(before) = before {
            world.direct.insert(&[before()]).await.unwrap();
        }
        let slow = world.slow.clone();
        let stalled = world.stall(async move { slow.fire(&first).await }, async {
            assert_eq!(world.direct.schedules().await.unwrap().len(), 1);
            assert_eq!(world.run().await, [job.id], "at {place}");
            assert_eq!(world.direct.state(job.id).await.unwrap(), None);
            if next {
                let fired = world.direct.fire(&fire(1, unkept())).await.unwrap();
                assert!(matches!(fired, Fired::Enqueued(_)));
                assert_eq!(world.run().await.len(), 1);
            }
        });
        let Some((answer, ())) = stalled.await else { break };
        assert_eq!(answer.unwrap(), Fired::Enqueued(job.id), "at {place}");
        world.assert_done(place).await;
        let known = world.direct.schedules().await.unwrap();
        assert_eq!((known[0].fired, known[0].skipped), (1 + u64::from(next), 0), "at {place}");
        stalls += 1;
    }
    assert!((3..2 * PLACES).contains(&stalls), "{stalls}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stalls_while_it_fires_makes_its_job_once() {
    stalls_while_it_fires(None, unkept, false).await;
    stalls_while_it_fires(None, unkept, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stalls_while_its_slot_supersedes_makes_its_job_once() {
    stalls_while_it_fires(Some(superseding), superseding, false).await;
    stalls_while_it_fires(Some(superseding), superseding, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stalls_while_its_slot_is_passed_over_makes_no_job() {
    for place in 0..2 * PLACES {
        let world = World::open(place).await;
        let keyed = || {
            let mut job = unkept();
            job.unique = Some(Unique::new("k"));
            job
        };
        let (slow, first, holder) = (world.slow.clone(), fire(0, keyed()), keyed());
        let job = first.job.clone().unwrap();
        let call = async move { slow.fire(&first).await };
        let stalled = world.stall(call, async {
            let inserted = world.direct.insert(std::slice::from_ref(&holder)).await.unwrap();
            let was_first = inserted == [Inserted::New(holder.id)];
            assert_eq!(world.direct.schedules().await.unwrap().len(), 1);
            was_first
        });
        let Some((answer, was_first)) = stalled.await else {
            assert!(place >= 3);
            return;
        };
        let known = &world.direct.schedules().await.unwrap()[0];
        let expected =
            if was_first { Fired::Skipped(Some(holder.id)) } else { Fired::Enqueued(job.id) };
        assert_eq!(answer.unwrap(), expected, "at {place}");
        assert_eq!((known.fired, known.skipped), (u64::from(!was_first), u64::from(was_first)));
        assert_eq!(world.run().await, [if was_first { holder.id } else { job.id }]);
        world.assert_done(place).await;
    }
    panic!("a fire of more than {PLACES} commands");
}

/// A claim that finds a lane full is held up while the job in the lane ends, and once more while the next one starts: it must
/// not say that there is nothing to wait for, nor to wait for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_stalls_while_its_lane_moves_on_says_when_to_come_back() {
    let mut stalls = 0;
    for (first, more) in (0..PLACES).flat_map(|first| (0..PLACES).map(move |more| (first, more))) {
        let world = World::open(0).await;
        let laned = || {
            let mut job = NewJob::new("task", Payload::null());
            job.lane = Some(Lane::new("lane"));
            job
        };
        world.direct.insert(&[laned(), laned()]).await.unwrap();
        let running = world.direct.claim(&request()).await.unwrap().jobs;
        assert_eq!(running.len(), 1);
        let until = running[0].lease_until.unwrap();

        world.stalling.passing.store(first, Ordering::SeqCst);
        world.stalling.has_intent.store(true, Ordering::SeqCst);
        let slow = world.slow.clone();
        let mut call = tokio::spawn(async move { slow.claim(&request()).await.unwrap() });
        let (mut next, mut held) = (Vec::new(), 0);
        while held < 2 {
            tokio::select! {
                biased;
                () = world.stalling.is_held.notified() => {}
                _ = tokio::time::sleep(Duration::from_secs(10)) => panic!("no command, no answer"),
                () = async { while !call.is_finished() { tokio::task::yield_now().await } } => break,
            }
            let pass = match held {
                0 => {
                    world.complete(&running).await;
                    more
                }
                _ => {
                    next = world.direct.claim(&request()).await.unwrap().jobs;
                    usize::MAX
                }
            };
            held += 1;
            world.stalling.passing.store(pass, Ordering::SeqCst);
            world.stalling.go_on.notify_one();
        }
        let claimed = (&mut call).await.unwrap();
        wire::assert_sound();
        stalls += held;
        let now = world.direct.ping().await.unwrap();
        let due = claimed.next_due.unwrap_or(Timestamp::MAX);
        let place = format!("held {held} times, after {first} commands and {more} more");
        if claimed.jobs.is_empty() {
            // Of what ran when the claim began, or of what runs since.
            let latest = next.first().and_then(|job| job.lease_until).unwrap_or(now);
            assert!(
                due <= latest.max(if held == 0 { until } else { now }),
                "{place}: {due}, {now}"
            );
        }
        if held == 0 && more == 0 {
            break;
        }
    }
    assert!(stalls > 4, "{stalls}");
}
