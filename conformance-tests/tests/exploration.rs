//! The specification is tested before anything is compared with it: all interleavings of a small
//! world, breadth first, with the invariants checked on every state and every edge; and the invariants
//! themselves are tested by breaking them one by one.
//!
//! The search is bounded by a number of states; `EXPLORE_SECONDS` bounds it by time instead.

#![allow(clippy::print_stdout)] // the size of the search is worth reading

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use queue_core::{
    BulkChange, CancelRequest, ClaimRequest, EntryId, EntryKind, Fence, Fire, Guard, Held,
    JobFilter, JobId, JobPatch, JobUpdate, Lane, LogEntry, LogRead, NewEntry, NewJob, Outcome,
    Payload, Progress, Queues, Record, Seq, State, States, Timestamp, Transition, Unique, Uuid,
    Version, When,
    spec::{Answer, Latitude, Op, Spec, Stored, World, check_step, check_world},
};

const LEASE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_secs(1);
/// How many states are visited unless `EXPLORE_SECONDS` says otherwise: some seconds in a debug build.
const STATES: usize = 25_000;
const SCHEDULE: &str = "hourly";

fn id(n: u128) -> JobId {
    JobId::from_uuid(Uuid::from_u128(n))
}

/// The job with a lane and a unique key.
fn laned() -> NewJob {
    let mut job = NewJob::new("laned", Payload::null());
    job.id = id(1);
    job.lane = Some(Lane::new("lane"));
    job.unique = Some(Unique::new("key"));
    job.max_crashes = 1;
    job
}

/// The plain job, which no lost lease is forgiven.
fn plain() -> NewJob {
    let mut job = NewJob::new("plain", Payload::null());
    job.id = id(2);
    job.priority = 1;
    job.max_crashes = 0;
    job
}

/// A slot of the schedule, whose job shares lane and key with the first.
fn slot(n: u64) -> Fire {
    let mut job = laned();
    job.keep = queue_core::Keep::UnlessCompleted;
    Fire::new(SCHEDULE, Timestamp::EPOCH.plus(TICK * u32::try_from(n).unwrap()), job)
}

/// What a worker remembers: its latest claim, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    token: Option<Uuid>,
    held: Option<(JobId, Fence)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    world: World,
    now: Timestamp,
    workers: [Worker; 2],
    /// How many claims there were, so that every one has a token of its own.
    claims: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Act {
    Tick,
    InsertAgain,
    Claim(usize),
    ClaimAgain(usize),
    Complete(usize),
    Retry(usize),
    Release(usize),
    Fail(usize),
    CancelOwn(usize),
    Append(usize),
    Heartbeat(usize),
    Reap,
    Cancel,
    Wake,
    Edit,
    Delete,
    Pause,
    Resume,
    Fire(u64),
    SkipSlot(u64),
}

fn acts() -> Vec<Act> {
    let mut acts = vec![Act::Tick, Act::InsertAgain, Act::Reap, Act::Cancel, Act::Wake, Act::Edit];
    acts.extend([
        Act::Delete,
        Act::Pause,
        Act::Resume,
        Act::Fire(1),
        Act::Fire(2),
        Act::SkipSlot(2),
    ]);
    for worker in 0..2 {
        acts.extend([Act::Claim(worker), Act::ClaimAgain(worker), Act::Complete(worker)]);
        acts.extend([Act::Retry(worker), Act::Release(worker), Act::Fail(worker)]);
        acts.extend([Act::CancelOwn(worker), Act::Append(worker), Act::Heartbeat(worker)]);
    }
    acts
}

fn request(worker: usize, token: Uuid) -> ClaimRequest {
    let mut request = ClaimRequest::new(Queues::All, ["w0", "w1"][worker], NonZeroU32::MIN, LEASE);
    request.token = token;
    request.log = LogRead::None;
    request
}

/// The operation that an act is in this state; `None` where it is none.
fn op(node: &Node, act: Act) -> Option<Op> {
    let settle = |worker: usize, transition| {
        let (id, fence) = node.workers[worker].held?;
        Some(Op::Update(vec![JobUpdate::held(id, fence, JobPatch::transition(transition))]))
    };
    let error = Payload::null;
    match act {
        Act::Tick => None,
        Act::InsertAgain => Some(Op::Insert(vec![laned(), plain()])),
        Act::Claim(worker) => Some(Op::Claim(request(worker, Uuid::from_u128(node.claims + 1)))),
        Act::ClaimAgain(worker) => Some(Op::Claim(request(worker, node.workers[worker].token?))),
        Act::Complete(worker) => settle(worker, Transition::Complete { output: Some(error()) }),
        Act::Retry(worker) => {
            settle(worker, Transition::Retry { when: When::After(TICK), error: error() })
        }
        Act::Release(worker) => settle(worker, Transition::Release { when: When::After(TICK) }),
        Act::Fail(worker) => settle(worker, Transition::Fail { error: error() }),
        Act::CancelOwn(worker) => settle(worker, Transition::Cancel { reason: "own".into() }),
        Act::Append(worker) => {
            let (id, fence) = node.workers[worker].held?;
            let entry = EntryId::from_uuid(Uuid::from_u128(7));
            let entry = NewEntry::with_id(entry, EntryKind::Line, Payload::null());
            Some(Op::Update(vec![JobUpdate::held(id, fence, JobPatch::append([entry]))]))
        }
        Act::Heartbeat(worker) => {
            let (id, fence) = node.workers[worker].held?;
            let mut held = Held::new(id, fence);
            held.progress = Some(Progress::new(50));
            Some(Op::Heartbeat(vec![held], LEASE))
        }
        Act::Reap => Some(Op::Reap(NonZeroU32::MIN)),
        Act::Cancel => Some(Op::UpdateWhere(
            JobFilter::id(id(1)),
            BulkChange::Cancel { reason: "stop".into() },
        )),
        Act::Wake => Some(Op::UpdateWhere(JobFilter::all(), BulkChange::Wake)),
        Act::Edit => {
            // One edit at most, or versions alone would make the world endless.
            let job = node.world.job(id(2)).filter(|job| job.row.labels.is_empty())?;
            let guard = Guard::Version(job.row.control.version);
            let patch = JobPatch::default().with_label("tenant", "a");
            Some(Op::Update(vec![JobUpdate::new(id(2), guard, patch)]))
        }
        Act::Delete => Some(Op::Delete(JobFilter::all(), NonZeroU32::MIN)),
        Act::Pause | Act::Resume => {
            let key = Record::pause_key(&queue_core::QueueName::default());
            let is_paused = !node.world.records(&key).is_empty();
            let record = match act {
                Act::Pause => Record::new(key, Payload::null()),
                _ => Record::removal(key),
            };
            // Once each.
            let version = Version(u64::from(act == Act::Resume));
            (is_paused == (act == Act::Resume)).then_some(Op::PutRecord(record, Some(version)))
        }
        Act::Fire(n) => Some(Op::Fire(Box::new(slot(n)))),
        Act::SkipSlot(n) => Some(Op::Fire(Box::new(Fire::skip(SCHEDULE, slot(n).slot, None)))),
    }
}

/// One step, with everything that must hold of it.
fn step(node: &Node, act: Act) -> Result<Option<Node>, String> {
    let mut next = node.clone();
    if act == Act::Tick {
        next.now = node.now.plus(TICK);
        return Ok(Some(next));
    }
    let Some(op) = op(node, act) else { return Ok(None) };
    let mut machine = Spec::new(node.world.clone());
    let answer = machine.answer(&op, node.now);
    next.world = machine.world().clone();

    let mut relation = Spec::new(node.world.clone());
    for latitude in [Latitude::Alone, Latitude::Contended] {
        let mut relation = relation.clone();
        let verdict = relation.check(&op, node.now, &answer, latitude);
        if !verdict.is_accept() {
            return Err(format!("the relation refuses the machine's own answer: {verdict}"));
        }
        if relation.world() != &next.world {
            return Err("relation and machine part".to_owned());
        }
    }
    let answer = answer.map_err(|error| format!("an error: {error}"))?;
    check_world(&next.world).map_err(|broken| broken.to_string())?;
    check_step(&node.world, &next.world).map_err(|broken| broken.to_string())?;
    if let Answer::Outcomes(outcomes) = &answer
        && outcomes.iter().all(|outcome| !matches!(outcome, Outcome::Applied(_)))
        && next.world != node.world
    {
        return Err(format!("a refused write changed something: {outcomes:?}"));
    }
    if let Answer::Claimed(claimed) = &answer {
        let (Act::Claim(worker) | Act::ClaimAgain(worker)) = act else {
            return Err("an answer to a claim that was none".to_owned());
        };
        if act == Act::Claim(worker) {
            next.claims += 1;
            next.workers[worker].token = Some(Uuid::from_u128(next.claims));
        }
        if let Some(job) = claimed.jobs.first() {
            next.workers[worker].held = Some((job.id, job.fence));
        }
        // A repeat of the same request takes nothing more.
        let again = relation.answer(&op, node.now).and_then(|_| relation.answer(&op, node.now));
        match again {
            Ok(Answer::Claimed(again)) if claimed.jobs.is_empty() || again.jobs == claimed.jobs => {
            }
            again => return Err(format!("a repeated claim took something else: {again:?}")),
        }
    }
    Ok(Some(next))
}

fn start() -> Node {
    let mut world = World::default();
    let now = Timestamp::EPOCH.plus(Duration::from_secs(3_600));
    world.insert(&[laned(), plain()], now).unwrap();
    Node { world, now, workers: Default::default(), claims: 0 }
}

#[test]
fn every_interleaving_of_a_small_world_keeps_the_invariants() {
    let seconds = std::env::var("EXPLORE_SECONDS").ok().and_then(|text| text.parse().ok());
    let begun = Instant::now();
    let enough = |states: usize| match seconds {
        Some(seconds) => begun.elapsed() >= Duration::from_secs(seconds),
        None => states >= STATES,
    };
    let acts = acts();
    let mut nodes = vec![start()];
    let mut known: HashMap<Node, usize> = HashMap::from([(start(), 0)]);
    // Where a state was reached from, by which act, in how many steps.
    let mut origins: Vec<(usize, Option<Act>, usize)> = vec![(0, None, 0)];
    let (mut edges, mut complete) = (0_usize, 0);
    let mut moves: BTreeSet<(State, State)> = BTreeSet::new();
    let mut effective: BTreeSet<Act> = BTreeSet::new();
    let mut at = 0;
    while at < nodes.len() && !enough(nodes.len()) {
        let node = nodes[at].clone();
        let depth = origins[at].2;
        complete = depth;
        for act in &acts {
            let next = match step(&node, *act) {
                Ok(Some(next)) => next,
                Ok(None) => continue,
                Err(why) => panic!("after {:?}, {act:?}: {why}", path(&origins, at)),
            };
            edges += 1;
            if next != node {
                effective.insert(*act);
            }
            for job in node.world.jobs() {
                let after = next.world.job(job.row.id).map(|job| job.row.control.state);
                moves.extend(after.map(|after| (job.row.control.state, after)));
            }
            if !known.contains_key(&next) {
                known.insert(next.clone(), nodes.len());
                nodes.push(next);
                origins.push((at, Some(*act), depth + 1));
            }
        }
        at += 1;
    }
    println!(
        "{} states, {edges} edges, all interleavings of up to {complete} operations (the deepest state at {}), {:.1} s",
        nodes.len(),
        origins.last().map_or(0, |origin| origin.2),
        begun.elapsed().as_secs_f64(),
    );
    let idle: Vec<&Act> = acts.iter().filter(|act| !effective.contains(act)).collect();
    assert!(idle.is_empty(), "these never changed anything: {idle:?}");
    for from in State::ALL {
        for to in from.next().iter() {
            assert!(moves.contains(&(from, to)), "no step led from {from} to {to}");
        }
    }
}

/// What breadth cannot reach: deep walks, each step drawn by a small generator, mostly one that does something.
#[test]
fn long_random_walks_keep_the_invariants() {
    const WALKS: u64 = 150;
    const LENGTH: usize = 80;
    let acts = acts();
    let mut states = std::collections::HashSet::new();
    for seed in 0..WALKS {
        let mut rng = conformance_tests::Rng::new(seed);
        let (mut node, mut path) = (start(), Vec::new());
        for _ in 0..LENGTH {
            for _ in 0..6 {
                let act = *rng.pick(&acts).unwrap();
                path.push(act);
                match step(&node, act) {
                    Ok(Some(next)) if next != node => {
                        node = next;
                        break;
                    }
                    Ok(_) => {}
                    Err(why) => panic!("walk {seed}, after {path:?}: {why}"),
                }
            }
            states.insert(node.clone());
        }
    }
    println!("{WALKS} walks of {LENGTH} operations, {} states", states.len());
    assert!(states.len() > 2_000, "the walks met only {} states", states.len());
}

fn path(origins: &[(usize, Option<Act>, usize)], mut at: usize) -> Vec<Act> {
    let mut path = Vec::new();
    while let (from, Some(act), _) = origins[at] {
        path.push(act);
        at = from;
    }
    path.reverse();
    path
}

// ----- the invariants are not vacuous

const WAITING: u128 = 1;
const RUNNING: u128 = 2;
const COMPLETED: u128 = 3;
const FAILED: u128 = 4;
const CANCELLED: u128 = 5;

/// A world with a job in every state; the running one has a lane, a key and a log.
fn sample() -> World {
    let now = Timestamp::EPOCH.plus(TICK);
    let mut world = World::default();
    let mut job = |n: u128| {
        let mut job = NewJob::new("k", Payload::null());
        job.id = id(n);
        if n == RUNNING {
            job.lane = Some(Lane::new("lane"));
            job.unique = Some(Unique::new("key"));
        }
        world.insert(&[job], now).unwrap();
    };
    [COMPLETED, FAILED, CANCELLED].into_iter().for_each(&mut job);
    let mut claim = request(0, Uuid::from_u128(9));
    claim.limit = NonZeroU32::new(3).unwrap();
    for job in world.claim(&claim, now).unwrap().jobs {
        let transition = match job.id.as_uuid().as_u128() {
            COMPLETED => Transition::Complete { output: None },
            FAILED => Transition::Fail { error: Payload::null() },
            _ => Transition::Cancel { reason: "own".into() },
        };
        let update = JobUpdate::held(job.id, job.fence, JobPatch::transition(transition));
        world.update(&[update], now).unwrap();
    }
    let mut job = |n: u128| {
        let mut job = NewJob::new("k", Payload::null());
        job.id = id(n);
        if n == RUNNING {
            job.lane = Some(Lane::new("lane"));
            job.unique = Some(Unique::new("key"));
        }
        world.insert(&[job], now).unwrap();
    };
    job(RUNNING);
    let running = world.claim(&request(1, Uuid::from_u128(10)), now).unwrap().jobs.remove(0);
    let entry = NewEntry::new(EntryKind::Line, Payload::null());
    let update = JobUpdate::held(running.id, running.fence, JobPatch::append([entry]));
    world.update(&[update], now).unwrap();
    let mut waiting = NewJob::new("k", Payload::null());
    waiting.id = id(WAITING);
    world.insert(&[waiting], now).unwrap();
    for (n, state) in (1..).zip(State::ALL) {
        assert_eq!(world.job(id(n)).unwrap().row.control.state, state);
    }
    world
}

fn some_cancel() -> Option<CancelRequest> {
    Some(CancelRequest::new("stop", Timestamp::EPOCH))
}

type Break = (&'static str, u128, fn(&mut Stored));

#[test]
fn every_invariant_of_a_state_can_be_broken() {
    let breaks: [Break; 18] = [
        ("exactly the running jobs have a holder", RUNNING, |job| job.row.control.holder = None),
        ("exactly the running jobs have a lease", COMPLETED, |job| {
            job.row.control.lease_until = Some(Timestamp::EPOCH);
        }),
        ("exactly the running jobs with a lane have a slot", RUNNING, |job| {
            job.row.control.slot = None;
        }),
        ("exactly the final states have an end", COMPLETED, |job| {
            job.row.control.finished_at = None;
        }),
        ("only a running job carries a wake mark", WAITING, |job| job.row.control.wake = true),
        ("no waiting job is to be cancelled", WAITING, |job| {
            job.row.control.cancel = some_cancel();
        }),
        ("a cancelled job says why", CANCELLED, |job| job.row.control.cancel = None),
        ("no attempt or crash without a claim", WAITING, |job| job.row.control.attempt = 1),
        ("a job that crashed too often has ended", WAITING, |job| {
            job.row.control.crashes = 4;
            job.row.control.fence.count = 4;
        }),
        ("the remembered settle is not from the future", COMPLETED, |job| {
            if let Some(settled) = &mut job.row.control.settled {
                settled.fence.count += 1;
            }
        }),
        ("the length of the log is known", RUNNING, |job| job.row.control.log_len = 2),
        ("positions in the log run from 1 without gaps", RUNNING, |job| job.log[0].seq = Seq(2)),
        ("no entry is in the log twice", RUNNING, |job| {
            let again = LogEntry::stored(
                NewEntry::with_id(job.log[0].id, EntryKind::Line, Payload::null()),
                Seq(2),
                Timestamp::EPOCH,
            );
            job.log.push(again);
            job.row.control.log_len = 2;
        }),
        ("only a completed job has an output", FAILED, |job| {
            job.row.output = Some(Payload::null());
        }),
        ("a completed job has no error", COMPLETED, |job| job.row.error = Some(Payload::null())),
        ("two jobs hold one unique key", WAITING, |job| {
            job.row.control.unique = Some(Unique::new("key"));
        }),
        ("a slot beyond the lane's limit", RUNNING, |job| job.row.control.slot = Some(1)),
        ("two jobs hold one slot of a lane", WAITING, |job| {
            job.row.control.state = State::Running;
            job.row.control.holder = Some("w".into());
            job.row.control.lease_until = Some(Timestamp::EPOCH);
            job.row.control.lane = Some(Lane::new("lane"));
            job.row.control.slot = Some(0);
        }),
    ];
    assert_eq!(check_world(&sample()), Ok(()));
    for (rule, job, spoil) in breaks {
        let mut world = sample();
        world.edit(id(job), spoil);
        let broken = check_world(&world).expect_err(rule);
        assert!(broken.to_string().starts_with(rule), "{rule} was to be broken, not {broken}");
    }
}

#[test]
fn every_invariant_of_a_step_can_be_broken() {
    let breaks: [Break; 15] = [
        ("the transition is in the table", COMPLETED, |job| {
            job.row.control.state = State::Waiting;
            job.row.control.version.0 += 1;
        }),
        ("every change of state bumps the version", WAITING, |job| {
            job.row.control.state = State::Cancelled;
        }),
        ("versions never go back", RUNNING, |job| job.row.control.version.0 -= 1),
        ("fences never go back", RUNNING, |job| job.row.control.fence.count -= 1),
        ("fences go up one by one", RUNNING, |job| job.row.control.fence.count += 2),
        ("only a claim changes the fence", WAITING, |job| job.row.control.fence.count += 1),
        ("only a claim changes the fence", FAILED, |job| {
            job.row.control.fence.nonce = Uuid::from_u128(99);
        }),
        ("no running job is taken from its holder", RUNNING, |job| {
            job.row.control.fence.count += 1;
        }),
        ("crashes are never forgotten", RUNNING, |job| job.row.control.crashes = 0),
        ("the log only grows", RUNNING, |job| job.log.clear()),
        ("the log only grows", RUNNING, |job| {
            job.log[0].body = Payload::from_text("1").unwrap();
        }),
        ("a request to cancel is never cleared or changed", RUNNING, |job| {
            job.row.control.cancel = None;
        }),
        ("a final state is final", FAILED, |job| {
            job.row.control.finished_at = Some(Timestamp::MAX);
        }),
        ("a job keeps its date of birth", WAITING, |job| job.row.created_at = Timestamp::MAX),
        ("a job keeps its input", WAITING, |job| {
            job.row.input = Payload::from_text("1").unwrap();
        }),
    ];
    let mut before = sample();
    before.edit(id(RUNNING), |job| {
        job.row.control.crashes = 1;
        job.row.control.fence.count = 2;
        job.row.control.cancel = some_cancel();
    });
    assert_eq!(check_world(&before), Ok(()));
    assert_eq!(check_step(&before, &before), Ok(()));
    for (rule, job, spoil) in breaks {
        let mut after = before.clone();
        after.edit(id(job), spoil);
        let broken = check_step(&before, &after).expect_err(rule);
        assert!(broken.to_string().starts_with(rule), "{rule} was to be broken, not {broken}");
    }
}

#[test]
fn a_running_job_does_not_vanish() {
    let before = sample();
    let mut after = before.clone();
    after.take(id(RUNNING));
    let broken = check_step(&before, &after).expect_err("a running job was taken out");
    assert!(broken.to_string().starts_with("a running job was deleted"), "{broken}");
    let mut after = before.clone();
    after.delete(&JobFilter::all().with_states(States::FINAL), NonZeroU32::MAX).unwrap();
    assert_eq!(check_step(&before, &after), Ok(()));
}
