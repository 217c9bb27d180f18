//! Claims at the edges, checked by the specification: past a long backlog behind full lanes, and at both ends of
//! the calendar.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    ClaimRequest, Clock, JobId, JobPatch, JobStore, JobUpdate, Lane, NewJob, Order, Payload,
    Queues, Timestamp, Transition, Uuid, When,
    spec::{Answer, Latitude, Op, Spec, World},
};
use queue_sqlite::{SqliteOptions, SqliteStore, Synchronous};

struct Checked {
    clock: Clock,
    store: SqliteStore,
    spec: Spec,
    _directory: tempfile::TempDir,
}

impl Checked {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::EPOCH.plus(Duration::from_secs(1_000_000)));
        let options = SqliteOptions::new(directory.path().join("jobs.db"))
            .synchronous(Synchronous::Normal)
            .clock(clock.clone());
        let store = options.open().await.unwrap();
        let spec = Spec::new(World::new(store.info().capabilities));
        Checked { clock, store, spec, _directory: directory }
    }

    async fn run(&mut self, op: Op) -> Answer {
        let answer = op.run(&self.store).await;
        let verdict = self.spec.check(&op, self.clock.now(), &answer, Latitude::Alone);
        assert!(verdict.is_accept(), "{op:?}: {verdict}");
        answer.unwrap()
    }

    async fn claim(&mut self, limit: u32, order: Order) -> Vec<queue_core::Job> {
        let limit = NonZeroU32::new(limit).unwrap();
        let mut request = ClaimRequest::new(Queues::All, "worker", limit, Duration::from_secs(600));
        request.order = order;
        match self.run(Op::Claim(request)).await {
            Answer::Claimed(claimed) => claimed.jobs,
            other => panic!("{other:?}"),
        }
    }
}

fn laned(n: u64, key: &str, limit: u32) -> NewJob {
    let mut job = NewJob::new(["x", "y"][usize::from(n % 2 == 1)], Payload::null());
    job.id = JobId::from_uuid(Uuid::from_u128(u128::from(n) << 64 | 1));
    job.when = When::At(Timestamp::EPOCH.plus(Duration::from_secs(n / 3)));
    job.lane = Some(Lane::with_limit(key, NonZeroU32::new(limit).unwrap()));
    job
}

/// 900 jobs of three lanes at the head, one of them with jobs of two limits, then 40 of other lanes and 20 without.
fn backlog() -> Vec<NewJob> {
    let mut jobs: Vec<NewJob> = (0..900)
        .map(|n| match n % 3 {
            0 => laned(n, "one", 1),
            1 => laned(n, "two", 2),
            _ => laned(n, "mixed", if n < 800 { 1 } else { 3 }),
        })
        .collect();
    jobs.extend((900..940).map(|n| laned(n, &format!("lane {}", n / 2), 1)));
    jobs.extend((940..960).map(|n| {
        let mut job = laned(n, "none", 1);
        job.lane = None;
        job
    }));
    jobs
}

async fn drain(order: Order) {
    let mut checked = Checked::open().await;
    checked.run(Op::Insert(backlog())).await;
    let mut held = Vec::new();
    let mut rounds = 0;
    loop {
        let claimed = checked.claim(6, order).await;
        rounds += 1;
        if claimed.is_empty() && held.is_empty() {
            break;
        }
        let stuck = claimed.is_empty();
        held.extend(claimed);
        // Keep a few lanes full at any time.
        let keep = if stuck || rounds > 60 { 0 } else { 4 };
        let done = held.drain(..held.len().saturating_sub(keep)).map(|job| {
            let patch = JobPatch::transition(Transition::Complete { output: None });
            JobUpdate::held(job.id, job.fence, patch)
        });
        let done: Vec<JobUpdate> = done.collect();
        checked.run(Op::Update(done)).await;
    }
    assert_eq!(checked.spec.world().running().count(), 0);
    let ended = checked.spec.world().jobs().filter(|job| job.row.control.state.is_final()).count();
    assert_eq!(ended, 960);
}

#[tokio::test]
async fn a_backlog_behind_full_lanes_is_passed_in_order_fifo() {
    drain(Order::Fifo).await;
}

#[tokio::test]
async fn a_backlog_behind_full_lanes_is_passed_in_order_lifo() {
    drain(Order::Lifo).await;
}

#[tokio::test]
async fn more_lanes_than_are_asked_one_by_one_are_walked() {
    let mut checked = Checked::open().await;
    let head = (0..300).map(|n| laned(2 * n, "full", 1));
    let many = (300..1_600).map(|n| laned(2 * n, &format!("lane {n}"), 1));
    checked.run(Op::Insert(head.chain(many).collect())).await;
    assert_eq!(checked.claim(1, Order::Fifo).await.len(), 1);
    assert_eq!(checked.claim(20, Order::Fifo).await.len(), 20);
}

#[tokio::test]
async fn the_first_and_the_last_instant_of_the_calendar_are_instants_like_others() {
    for order in [Order::Fifo, Order::Lifo] {
        let mut checked = Checked::open().await;
        checked.clock.set(Timestamp::MAX);
        let jobs = (0..4).map(|n| {
            let mut job = laned(n, &format!("lane {n}"), 1);
            job.kind = "x".into();
            // The nil id is the smallest there is.
            job.id = JobId::from_uuid(Uuid::from_u128(n.into()));
            job.when = When::At(if n < 2 { Timestamp::MIN } else { Timestamp::MAX });
            if n % 2 == 0 {
                job.lane = None;
            }
            job
        });
        checked.run(Op::Insert(jobs.collect())).await;
        assert_eq!(checked.claim(3, order).await.len(), 3);
        assert_eq!(checked.claim(3, order).await.len(), 1);
    }
}
