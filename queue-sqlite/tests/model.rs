//! Random scripts, answered by the store and checked by the specification.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    BulkChange, ClaimRequest, Clock, EntryId, EntryKind, Fence, Fire, Guard, Held, JobFilter,
    JobId, JobPatch, JobQuery, JobStore, JobUpdate, Keep, Kinds, Lane, LogRead, NewEntry, NewJob,
    Order, Payload, Progress, QueueName, Queues, Record, Seq, Sort, States, TimeRange, Timestamp,
    Transition, Unique, Uuid, Version, When,
    spec::{Answer, Latitude, Op, Spec, World, check_world},
};
use queue_sqlite::{SqliteOptions, SqliteStore, Synchronous};

const START: i64 = 1_800_000_000_000_000;
const IDS: u64 = 14;

/// Reproducible choices (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()].clone()
    }
}

struct Script {
    dice: Dice,
    clock: Clock,
    tokens: Vec<Uuid>,
}

fn id(n: u64) -> JobId {
    JobId::from_uuid(Uuid::from_u128(u128::from(n) << 64 | 7))
}

fn number(n: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(n).unwrap()).unwrap()
}

fn text(value: u64) -> Payload {
    Payload::from_text(format!("{{\"b\":{value}, \"a\":\"\\u0000$x.y\"}}")).unwrap()
}

impl Script {
    fn queue(&mut self) -> QueueName {
        QueueName::new(self.dice.pick(&["a", "b", "it's; \"b\""])).unwrap()
    }

    fn kind(&mut self) -> &'static str {
        self.dice.pick(&["x", "y"])
    }

    fn id(&mut self) -> JobId {
        id(self.dice.below(IDS))
    }

    fn when(&mut self) -> When {
        match self.dice.below(5) {
            0 => When::After(Duration::from_secs(self.dice.below(20))),
            1 => When::At(self.instant()),
            _ => When::Now,
        }
    }

    fn instant(&mut self) -> Timestamp {
        let now = self.clock.now();
        match self.dice.one_in(2) {
            true => now.plus(Duration::from_secs(self.dice.below(20))),
            false => now.minus(Duration::from_secs(self.dice.below(20))),
        }
    }

    fn range(&mut self) -> TimeRange {
        match self.dice.below(12) {
            0 => TimeRange::from(self.instant()),
            1 => TimeRange::before(self.instant()),
            _ => TimeRange::default(),
        }
    }

    fn states(&mut self) -> States {
        match self.dice.below(3) {
            0 => States::from_bits(u8::try_from(self.dice.below(32)).unwrap()),
            _ => States::ALL,
        }
    }

    fn filter(&mut self) -> JobFilter {
        let mut filter = JobFilter::all().with_states(self.states());
        if self.dice.one_in(3) {
            filter.ids = Some((0..self.dice.below(6)).map(|_| self.id()).collect());
        }
        if self.dice.one_in(4) {
            filter.queues = Some((0..self.dice.below(3)).map(|_| self.queue()).collect());
        }
        if self.dice.one_in(4) {
            filter.kinds = Some(vec![self.kind().into()]);
        }
        for key in ["tenant", "o'k\"ey"] {
            if self.dice.one_in(4) {
                filter = filter.with_label(key, self.dice.pick(&["1", "2"]));
            }
        }
        filter.created = self.range();
        filter.run_at = self.range();
        filter.finished = self.range();
        filter
    }

    fn job(&mut self) -> NewJob {
        let input = match self.dice.one_in(5) {
            true => Payload::from_value(&"x".repeat(3_000)).unwrap(),
            false => text(self.dice.below(100)),
        };
        let mut job = NewJob::new(self.kind(), input);
        job.id = self.id();
        job.queue = self.queue();
        job.priority = self.dice.pick(&[0, 0, 0, 5, -3]);
        job.when = self.when();
        job.max_crashes = u32::try_from(self.dice.below(3)).unwrap();
        if self.dice.one_in(4) {
            job.keep = Keep::UnlessCompleted;
        }
        for key in ["tenant", "o'k\"ey"] {
            if self.dice.one_in(3) {
                job.labels.insert(key.into(), self.dice.pick(&["1", "2"]).into());
            }
        }
        if self.dice.one_in(3) {
            let key = self.dice.pick(&["k", "l"]);
            let mut unique = match self.dice.one_in(2) {
                true => Unique::supersede(key),
                false => Unique::new(key),
            };
            if self.dice.one_in(3) {
                unique.within = States::LIVE | self.states();
            }
            job.unique = Some(unique);
        }
        if self.dice.one_in(2) {
            let key = self.dice.pick(&["m", "n"]);
            job.lane = Some(Lane::with_limit(key, number(1 + self.dice.below(2))));
        }
        job
    }

    fn claim(&mut self) -> ClaimRequest {
        let queues = match self.dice.one_in(2) {
            true => Queues::All,
            false => Queues::Only((0..1 + self.dice.below(3)).map(|_| self.queue()).collect()),
        };
        let limit = number(1 + self.dice.below(6));
        let lease = Duration::from_secs(1 + self.dice.below(15));
        let mut request = ClaimRequest::new(queues, "worker", limit, lease);
        request.token = match self.tokens.is_empty() || !self.dice.one_in(5) {
            true => Uuid::from_u128(u128::from(self.dice.next())),
            false => self.dice.pick(&self.tokens.clone()),
        };
        self.tokens.push(request.token);
        if self.dice.one_in(3) {
            request.kinds = Kinds::Only(vec![self.kind().into(), "unknown".into()]);
        }
        if self.dice.one_in(3) {
            request.order = Order::Lifo;
        }
        if self.dice.one_in(4) {
            request.filter = Some(self.filter());
        }
        request.log = self.log_read();
        request
    }

    fn log_read(&mut self) -> LogRead {
        match self.dice.below(3) {
            0 => LogRead::None,
            1 => LogRead::All,
            _ => LogRead::After(Seq(self.dice.below(4))),
        }
    }

    fn fence(&mut self, world: &World, id: JobId) -> Fence {
        let stored = world.job(id).map(|stored| stored.row.control.fence).unwrap_or_default();
        match self.dice.below(8) {
            0 => Fence::new(stored.count.wrapping_sub(1), stored.nonce),
            1 => Fence::new(stored.count, Uuid::from_u128(1)),
            2 => Fence::new(u64::MAX, stored.nonce),
            _ => stored,
        }
    }

    fn transition(&mut self) -> Transition {
        match self.dice.below(6) {
            0 => Transition::Retry { when: self.when(), error: text(1) },
            1 => Transition::Release { when: self.when() },
            2 => Transition::Fail { error: text(2) },
            3 => Transition::Cancel { reason: "no\0more".into() },
            4 => Transition::Complete { output: None },
            _ => Transition::Complete { output: Some(text(self.dice.below(9))) },
        }
    }

    fn updates(&mut self, world: &World) -> Vec<JobUpdate> {
        let count = self.dice.below(5);
        let running: Vec<JobId> = world.running().collect();
        let mut ids: Vec<JobId> = (0..count)
            .map(|_| match running.is_empty() || self.dice.one_in(3) {
                true => self.id(),
                false => self.dice.pick(&running),
            })
            .collect();
        if !self.dice.one_in(20) {
            ids.sort_unstable();
            ids.dedup();
        }
        ids.into_iter().map(|id| self.update(world, id)).collect()
    }

    fn update(&mut self, world: &World, id: JobId) -> JobUpdate {
        let version = world.job(id).map(|stored| stored.row.control.version).unwrap_or_default();
        let guard = match self.dice.below(6) {
            0 => Guard::None,
            1 => Guard::Version(Version(version.0 + self.dice.below(2))),
            _ => Guard::Fence(self.fence(world, id)),
        };
        let mut patch = JobPatch::default();
        if matches!(guard, Guard::Fence(_)) && self.dice.one_in(2) {
            patch.transition = Some(self.transition());
        }
        if self.dice.one_in(4) {
            patch.progress = Some(Progress::with_message(30, "a\0b"));
        }
        if self.dice.one_in(4) {
            patch = patch.with_label("tenant", self.dice.pick(&["1", "2"]));
        }
        if self.dice.one_in(4) {
            patch = patch.without_label("o'k\"ey");
        }
        let entries = (0..self.dice.below(4)).map(|_| {
            let id = EntryId::from_uuid(Uuid::from_u128(u128::from(self.dice.below(12))));
            NewEntry::with_id(id, self.dice.pick(&EntryKind::ALL), text(self.dice.below(99)))
        });
        patch.log = entries.collect();
        JobUpdate::new(id, guard, patch)
    }

    fn op(&mut self, world: &World) -> Op {
        match self.dice.below(34) {
            0..=7 => Op::Insert((0..self.dice.below(4)).map(|_| self.job()).collect()),
            8..=13 => Op::Claim(self.claim()),
            14..=18 => Op::Update(self.updates(world)),
            19..=20 => Op::UpdateAndClaim(self.updates(world), self.claim()),
            21..=22 => {
                let held = (0..self.dice.below(3)).map(|_| {
                    let id = self.id();
                    let mut held = Held::new(id, self.fence(world, id));
                    held.progress = self.dice.one_in(2).then(|| Progress::new(7));
                    held
                });
                Op::Heartbeat(held.collect(), Duration::from_secs(9))
            }
            23..=24 => Op::Reap(number(1 + self.dice.below(3))),
            25..=26 => {
                let change = match self.dice.below(5) {
                    0 | 1 => BulkChange::Cancel { reason: "stop".into() },
                    2 => BulkChange::Wake,
                    3 => BulkChange::Priority(self.dice.pick(&[0, 5])),
                    _ => BulkChange::Queue(self.queue()),
                };
                Op::UpdateWhere(self.filter(), change)
            }
            27 => Op::Delete(self.filter(), number(1 + self.dice.below(3))),
            28 => {
                let mut query = JobQuery::new(self.filter());
                query.sort = self.dice.pick(&[Sort::NewestFirst, Sort::OldestFirst]);
                query.limit = number(1 + self.dice.below(5));
                query.offset = self.dice.below(3);
                if self.dice.one_in(2) {
                    let created_at = self.instant();
                    query.after = Some(queue_core::Cursor { created_at, id: self.id() });
                }
                Op::Find(query)
            }
            29 => Op::Tally(match self.dice.one_in(2) {
                true => JobFilter::all(),
                false => self.filter(),
            }),
            30..=31 => {
                let schedule = self.dice.pick(&["s", "t"]);
                let slot = self.instant();
                let error = self.dice.one_in(2).then(|| "why".to_owned());
                Op::Fire(Box::new(match self.dice.one_in(3) {
                    true => Fire::skip(schedule, slot, error),
                    false => Fire::new(schedule, slot, self.job()),
                }))
            }
            32 => Op::Records(self.dice.pick(&["", "paused-queue/", "f"]).to_owned()),
            _ => {
                let key = match self.dice.one_in(2) {
                    true => Record::pause_key(&self.queue()),
                    false => "fact".to_owned(),
                };
                let record = match self.dice.one_in(2) {
                    true => Record::removal(key),
                    false => Record::new(key, text(3)),
                };
                let expect = self.dice.one_in(3).then(|| Version(self.dice.below(3)));
                Op::PutRecord(record, expect)
            }
        }
    }
}

async fn open(clock: &Clock) -> (tempfile::TempDir, SqliteStore) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(directory.path().join("jobs.db"))
        .synchronous(Synchronous::Normal)
        .clock(clock.clone());
    (directory, options.open().await.unwrap())
}

/// Plays a script, and answers how many jobs its claims took.
async fn play(seed: u64, steps: usize) -> usize {
    let clock = Clock::manual(Timestamp::from_micros(START).unwrap());
    let (_directory, store) = open(&clock).await;
    let mut spec = Spec::new(World::new(store.info().capabilities));
    let mut script = Script { dice: Dice(seed), clock: clock.clone(), tokens: Vec::new() };
    let mut history: Vec<String> = Vec::new();
    let mut claimed = 0;
    for step in 0..steps {
        if script.dice.one_in(3) {
            clock.advance(Duration::from_millis(script.dice.below(4_000)));
        }
        if script.dice.one_in(25) {
            clock.set(clock.now().minus(Duration::from_secs(3)));
        }
        let mut ids: Vec<JobId> = spec.world().jobs().map(|stored| stored.row.id).collect();
        ids.push(id(IDS));
        let op = script.op(spec.world());
        for op in [op, Op::Get(ids, LogRead::All), Op::Schedules, Op::Records(String::new())] {
            let answer = op.run(&store).await;
            let verdict = spec.check(&op, clock.now(), &answer, Latitude::Alone);
            if let Ok(Answer::Claimed(answer) | Answer::OutcomesAndClaimed(_, answer)) = &answer {
                claimed += answer.jobs.len();
            }
            if !matches!(op, Op::Get(..) | Op::Schedules | Op::Records(_)) {
                history.push(format!("{op:?}\n  -> {answer:?}"));
            }
            let tail = history.iter().rev().take(6).rev().cloned().collect::<Vec<_>>().join("\n");
            assert!(verdict.is_accept(), "seed {seed}, step {step}: {verdict}\n{op:?}\n{tail}");
        }
        check_world(spec.world()).unwrap();
    }
    claimed
}

/// The seeds, `MODEL_SEEDS` many if that is set.
fn seeds(offset: u64) -> std::ops::Range<u64> {
    let many = std::env::var("MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    offset..offset + many
}

#[tokio::test]
async fn the_specification_accepts_every_answer_to_short_scripts() {
    let mut claimed = 0;
    for seed in seeds(0) {
        claimed += play(seed, 60).await;
    }
    assert!(claimed > 50, "the scripts claimed {claimed} jobs only");
}

#[tokio::test]
async fn the_specification_accepts_every_answer_to_long_scripts() {
    let mut claimed = 0;
    for seed in seeds(1_000_000) {
        claimed += play(seed, 250).await;
    }
    assert!(claimed > 200, "the scripts claimed {claimed} jobs only");
}
