use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    num::NonZeroU32,
    time::Duration,
};

use queue_core::{
    BulkChange, Capabilities, ClaimRequest, Cursor, EntryId, EntryKind, Fence, Fire, Guard, Held,
    JobFilter, JobId, JobPatch, JobQuery, JobUpdate, Keep, Kinds, Lane, LogRead, NewEntry, NewJob,
    OnConflict, Order, Payload, Progress, QueueName, Queues, Record, Seq, Sort, State as JobState,
    States, TimeRange, Timestamp, Transition, Unique, Uuid, Version, When,
    spec::{Answer, Op, Spec, World},
};

use super::{
    dice::Dice,
    script::{Kind, Step},
};
use crate::rng::mix;

const KINDS: [&str; 3] = ["mail", "resize", "a'b"];
const KEYS: [&str; 2] = ["k", "k%"];
const RECORDS: [&str; 5] = ["a/x", "a/y", "ab", "a_%", "A/x"];
const PREFIXES: [&str; 6] = ["", "a/", "a", "a_", "paused-queue/", "zzz"];
const SCHEDULES: [&str; 2] = ["hourly", "hourly "];
const PAYLOADS: [&str; 9] = [
    "null",
    "{}",
    r#"{"b":1,"a":2,"a":3}"#,
    r#""\u0000 \ud800 $x""#,
    "18446744073709551615",
    "[1,  -0.0, 1e308]",
    r#"{"$set":{"a.b":"$c"}}"#,
    r#""e\u0301 é 😀""#,
    "9007199254740993",
];

/// What a step becomes.
pub(super) enum Action {
    /// Time goes by.
    Advance(Duration),
    /// The store is called.
    Do(Box<Op>),
}

/// What the author of a script knows: what the store holds by the specification, and what it said.
pub(super) struct State {
    pub(super) spec: Spec,
    ids: Vec<JobId>,
    fences: Vec<(JobId, Fence)>,
    requests: Vec<ClaimRequest>,
    updates: Vec<Vec<JobUpdate>>,
    cursors: Vec<Cursor>,
    minted: u64,
    begun: Option<Timestamp>,
}

impl State {
    pub(super) fn new(limits: Capabilities) -> Self {
        State {
            spec: Spec::new(World::new(limits)),
            ids: Vec::new(),
            fences: Vec::new(),
            requests: Vec::new(),
            updates: Vec::new(),
            cursors: Vec::new(),
            minted: 0,
            begun: None,
        }
    }

    /// Takes in what an answer tells: fences to write under, places to read on from.
    pub(super) fn remember(&mut self, op: &Op, answer: &Answer) {
        let claimed = match answer {
            Answer::Claimed(claimed) | Answer::OutcomesAndClaimed(_, claimed) => Some(claimed),
            _ => None,
        };
        let taken = claimed.into_iter().flat_map(|claimed| &claimed.jobs);
        self.fences.extend(taken.map(|job| (job.id, job.fence)));
        if let Answer::Page(page) = answer {
            self.cursors.extend(page.next);
        }
        if let Op::Claim(request) | Op::UpdateAndClaim(_, request) = op {
            self.requests.push(request.clone());
        }
        if let Op::Update(updates) | Op::UpdateAndClaim(updates, _) = op {
            self.updates.push(updates.clone());
        }
    }

    /// What the step is, as things stand.
    pub(super) fn resolve(&mut self, step: &Step, now: Timestamp) -> Vec<Action> {
        self.begun.get_or_insert(now);
        let dice = &mut Dice::new(&step.dice);
        let op = match step.kind {
            Kind::Advance => return vec![Action::Advance(self.delay(dice, now))],
            Kind::Insert => {
                let count = [1, 1, 1, 2, 3][dice.below(5)];
                Op::Insert((0..count).map(|_| self.new_job(dice, now)).collect())
            }
            Kind::Claim => Op::Claim(self.request(dice, now)),
            Kind::Update => Op::Update(self.updates(dice, now)),
            Kind::UpdateAndClaim => {
                Op::UpdateAndClaim(self.updates(dice, now), self.request(dice, now))
            }
            Kind::Heartbeat => {
                let mut held: Vec<Held> = (0..=dice.below(2)).map(|_| self.held(dice)).collect();
                if !dice.one_in(12) {
                    held.dedup_by_key(|held| held.id);
                }
                Op::Heartbeat(held, dice.duration())
            }
            Kind::Reap => Op::Reap(limit(dice, 3)),
            Kind::UpdateWhere => Op::UpdateWhere(self.filter(dice, now), change(dice)),
            Kind::Delete => Op::Delete(self.filter(dice, now), limit(dice, 3)),
            Kind::Get => {
                let ids = (0..dice.below(5)).map(|_| self.job(dice)).collect();
                Op::Get(ids, log_read(dice))
            }
            Kind::Find => Op::Find(self.query(dice, now)),
            Kind::Tally => Op::Tally(self.filter(dice, now)),
            Kind::Fire => Op::Fire(Box::new(self.fire(dice, now))),
            Kind::Schedules => Op::Schedules,
            Kind::Records => Op::Records(PREFIXES[dice.below(PREFIXES.len())].to_owned()),
            Kind::PutRecord => return self.put_record(dice),
        };
        vec![Action::Do(Box::new(op))]
    }

    /// An id of its own for every call, the same in every run of a script, in no order.
    fn mint(&mut self) -> Uuid {
        self.minted += 1;
        uuid(&format!("minted {}", self.minted))
    }

    /// A job that is there, or more rarely was, or never was.
    fn job(&mut self, dice: &mut Dice<'_>) -> JobId {
        let nobody = JobId::from_uuid(uuid("nobody"));
        let there: Vec<JobId> = self.spec.world().jobs().map(|job| job.row.id).collect();
        match dice.below(12) {
            11 => nobody,
            10 => dice.of(&self.ids).unwrap_or(nobody),
            _ => dice.of(&there).unwrap_or(nobody),
        }
    }

    fn new_job(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> NewJob {
        let mut job = NewJob::new(KINDS[dice.below(KINDS.len())], payload(dice));
        job.queue = queue(dice);
        job.priority = [0, 0, 5, -5][dice.below(4)];
        job.when = when(dice, now);
        job.unique = match dice.below(5) {
            3 => Some(unique(dice, OnConflict::Return)),
            4 => Some(unique(dice, OnConflict::Supersede)),
            _ => None,
        };
        job.lane = match dice.below(4) {
            2 => Some(Lane::new("lane")),
            3 => Some(Lane::with_limit("wide", limit(dice, 2))),
            _ => None,
        };
        job.labels = labels(dice).into_iter().collect();
        job.max_crashes = [3, 0, 1][dice.below(3)];
        job.keep = if dice.one_in(4) { Keep::UnlessCompleted } else { Keep::Always };
        if dice.one_in(12) {
            job.labels.insert("bad\n".to_owned(), "label".to_owned());
        }
        job.id = match dice.one_in(8) {
            true => self.job(dice),
            false => JobId::from_uuid(self.mint()),
        };
        self.ids.push(job.id);
        job
    }

    fn request(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> ClaimRequest {
        let queues = match dice.below(6) {
            4 => Queues::Only(dice.some_of(&queues())),
            5 => Queues::default(),
            _ => Queues::All,
        };
        let limit = limit(dice, 4);
        let mut request =
            ClaimRequest::new(queues, ["w1", "w2"][dice.below(2)], limit, dice.duration());
        request.order = if dice.one_in(3) { Order::Lifo } else { Order::Fifo };
        request.kinds = match dice.one_in(6) {
            true => Kinds::Only(dice.some_of(&KINDS.map(Cow::Borrowed))),
            false => Kinds::All,
        };
        request.log = log_read(dice);
        request.token = self.mint();
        if dice.one_in(8) {
            request.filter = Some(self.filter(dice, now));
        }
        if dice.one_in(24) {
            request.lease = Duration::ZERO;
        }
        match dice.one_in(8) {
            true => dice.of(&self.requests).unwrap_or(request),
            false => request,
        }
    }

    /// The fence under which the job is held, or one that is stale, made up or of nobody.
    fn fence(&mut self, dice: &mut Dice<'_>, id: JobId) -> Fence {
        let current =
            self.spec.world().job(id).map(|job| job.row.control.fence).unwrap_or_default();
        match dice.below(12) {
            8 => Fence::default(),
            9 => Fence::new(current.count, uuid("nobody")),
            10 | 11 => {
                let own = self.fences.iter().filter(|(job, _)| *job == id);
                let own: Vec<Fence> = own.map(|(_, fence)| *fence).collect();
                dice.of(&own).unwrap_or(current)
            }
            _ => current,
        }
    }

    fn updates(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> Vec<JobUpdate> {
        let mut updates: Vec<JobUpdate> =
            (0..=dice.below(3)).map(|_| self.update(dice, now)).collect();
        if !dice.one_in(12) {
            // A job twice in a call is refused, which should be the exception.
            let mut seen = HashSet::new();
            updates.retain(|update| seen.insert(update.id));
        }
        match dice.one_in(6) {
            true => dice.of(&self.updates).unwrap_or(updates),
            false => updates,
        }
    }

    fn update(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> JobUpdate {
        let running: Vec<JobId> = self.spec.world().running().collect();
        let id = match dice.below(4) {
            3 => self.job(dice),
            _ => dice.of(&running).unwrap_or_else(|| self.job(dice)),
        };
        let guard = match dice.below(9) {
            5 => Guard::None,
            6 | 7 => {
                let job = self.spec.world().job(id);
                let current = job.map_or(0, |job| job.row.control.version.0);
                Guard::Version(Version(
                    [current, current, current + 1, current.saturating_sub(1)][dice.below(4)],
                ))
            }
            _ => Guard::Fence(self.fence(dice, id)),
        };
        JobUpdate::new(id, guard, patch(dice, matches!(guard, Guard::Fence(_)), now))
    }

    fn held(&mut self, dice: &mut Dice<'_>) -> Held {
        let running: Vec<JobId> = self.spec.world().running().collect();
        let id = match dice.one_in(4) {
            true => self.job(dice),
            false => dice.of(&running).unwrap_or_else(|| self.job(dice)),
        };
        let mut held = Held::new(id, self.fence(dice, id));
        held.progress = dice.one_in(3).then(|| progress(dice));
        held
    }

    fn filter(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> JobFilter {
        let mut filter = JobFilter::all();
        if dice.below(5) < 2 {
            return filter;
        }
        if dice.one_in(4) {
            filter.ids = Some((0..[1, 2, 3, 0][dice.below(4)]).map(|_| self.job(dice)).collect());
        }
        if dice.one_in(5) {
            filter.queues = Some(dice.some_of(&queues()));
        }
        if dice.one_in(6) {
            filter.kinds = Some(dice.some_of(&KINDS.map(Cow::Borrowed)));
        }
        if dice.one_in(3) {
            filter.states = dice.some_of(&JobState::ALL).into_iter().collect();
        }
        if dice.one_in(4) {
            filter.labels = labels(dice).into_iter().collect();
        }
        filter.created = self.range(dice, now);
        filter.run_at = self.range(dice, now);
        filter.finished = self.range(dice, now);
        filter
    }

    /// Mostly no range; else one whose ends are instants at which something happened.
    fn range(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> TimeRange {
        match dice.below(12) {
            7 => TimeRange::from(self.instant(dice, now)),
            8 => TimeRange::before(self.instant(dice, now)),
            9 => TimeRange::between(self.instant(dice, now), self.instant(dice, now)),
            _ => TimeRange::default(),
        }
    }

    fn instant(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> Timestamp {
        let id = self.job(dice);
        let Some(job) = self.spec.world().job(id) else { return now };
        let control = &job.row.control;
        match dice.below(4) {
            0 => job.row.created_at,
            1 => control.run_at,
            2 => control.finished_at.unwrap_or(now),
            _ => now,
        }
    }

    /// How far the clock moves: often to the very instant at which a lease ends or a job falls
    /// due, or just short of it.
    fn delay(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> Duration {
        let jobs = self.spec.world().jobs().map(|job| &job.row.control);
        let moments = jobs.flat_map(|control| [control.lease_until, Some(control.run_at)]);
        // "Never" is no place to go to: nothing would happen there any more.
        let horizon = now.plus(Duration::from_secs(7 * 86_400));
        let next = moments.flatten().filter(|at| (now..horizon).contains(at) && *at != now).min();
        let until = next.map_or(Duration::from_secs(1), |next| now.until(next));
        match dice.below(8) {
            0..=2 => until,
            3 => until.saturating_sub(Duration::from_micros(1)),
            4 => until + Duration::from_micros(1),
            5 => Duration::from_micros(1),
            _ => dice.duration(),
        }
    }

    fn query(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> JobQuery {
        let mut query = JobQuery::new(self.filter(dice, now));
        query.sort = if dice.one_in(2) { Sort::OldestFirst } else { Sort::NewestFirst };
        query.limit = limit(dice, 4);
        query.offset = [0, 0, 1, 3][dice.below(4)];
        if dice.one_in(2) {
            query.after = dice.of(&self.cursors);
        }
        if dice.one_in(24) {
            query.limit = NonZeroU32::MAX;
        }
        query
    }

    fn fire(&mut self, dice: &mut Dice<'_>, now: Timestamp) -> Fire {
        let schedule = SCHEDULES[dice.below(SCHEDULES.len())];
        let minutes = u64::try_from(dice.below(5)).unwrap_or(0);
        let begun = self.begun.unwrap_or(now);
        let slot = begun.plus(Duration::from_secs(60 * minutes));
        if dice.one_in(4) {
            let error = dice.one_in(2).then(|| "no input".to_owned());
            return Fire::skip(schedule, slot, error);
        }
        let job = self.new_job(dice, now);
        let mut fire = Fire::new(schedule, slot, job);
        fire.error = dice.one_in(6).then(|| "late".to_owned());
        if let (Some(job), true) = (&mut fire.job, dice.one_in(24)) {
            job.id = JobId::from_uuid(uuid("nobody"));
        }
        self.ids.extend(fire.job.as_ref().map(|job| job.id));
        fire
    }

    fn put_record(&mut self, dice: &mut Dice<'_>) -> Vec<Action> {
        let pause = dice.one_in(3);
        let key = match pause {
            true => Record::pause_key(&queue(dice)),
            false => RECORDS[dice.below(RECORDS.len())].to_owned(),
        };
        let known = self.spec.world().records(&key).into_iter().find(|known| known.key == key);
        // A pause is soon lifted, or there would be little left to claim.
        let removes = dice.one_in(if pause && known.is_some() { 1 } else { 3 });
        let record = match removes {
            true => Record::removal(key.as_str()),
            false => Record::new(key.as_str(), payload(dice)),
        };
        let current = known.map_or(0, |known| known.version.0);
        let expect = match dice.below(4) {
            2 => Some(Version(current)),
            3 => Some(Version([current + 1, 0, 1][dice.below(3)])),
            _ => None,
        };
        let put = Action::Do(Box::new(Op::PutRecord(record, expect)));
        // A pause takes hold, and ends, within a second.
        match pause {
            true => vec![put, Action::Advance(Duration::from_secs(1))],
            false => vec![put],
        }
    }
}

pub(super) fn uuid(name: &str) -> Uuid {
    let (high, low) = (mix(1, name), mix(2, name));
    uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
        .into_uuid()
}

fn queues() -> Vec<QueueName> {
    ["default", "mail \"x\"", "DEFAULT"]
        .iter()
        .filter_map(|name| QueueName::new(name).ok())
        .collect()
}

fn queue(dice: &mut Dice<'_>) -> QueueName {
    dice.of(&queues()).unwrap_or_default()
}

fn payload(dice: &mut Dice<'_>) -> Payload {
    // The texts are JSON: `the_texts_are_json`.
    Payload::from_text(PAYLOADS[dice.below(PAYLOADS.len())]).unwrap_or_default()
}

fn limit(dice: &mut Dice<'_>, most: usize) -> NonZeroU32 {
    let more = u32::try_from(dice.below(most)).unwrap_or(0);
    NonZeroU32::MIN.saturating_add(more)
}

fn log_read(dice: &mut Dice<'_>) -> LogRead {
    match dice.below(4) {
        0 | 1 => LogRead::All,
        2 => LogRead::After(Seq(u64::try_from(dice.below(4)).unwrap_or(0))),
        _ => LogRead::None,
    }
}

fn when(dice: &mut Dice<'_>, now: Timestamp) -> When {
    match dice.below(8) {
        5 => When::After(dice.duration()),
        6 => When::At(now.plus(dice.duration())),
        7 => When::At(
            [Timestamp::MIN, Timestamp::MAX, now.minus(Duration::from_secs(5))][dice.below(3)],
        ),
        _ => When::Now,
    }
}

fn unique(dice: &mut Dice<'_>, on_conflict: OnConflict) -> Unique {
    let mut unique = Unique::new(KEYS[dice.below(KEYS.len())]);
    unique.on_conflict = on_conflict;
    let wider = [JobState::Completed.into(), JobState::Failed.into(), States::FINAL];
    if dice.one_in(3) {
        unique.within = States::LIVE | wider[dice.below(wider.len())];
    }
    if dice.one_in(16) {
        unique.within = JobState::Waiting.into();
    }
    unique
}

fn labels(dice: &mut Dice<'_>) -> Vec<(String, String)> {
    let pairs = [("tenant", "a"), ("tenant", "b"), ("zone", "a")];
    let some = dice.below(4);
    let chosen = pairs.iter().cycle().skip(some).take(some.min(2));
    chosen.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn progress(dice: &mut Dice<'_>) -> Progress {
    let mut progress = Progress::new([0, 50, 100][dice.below(3)]);
    progress.message = dice.one_in(3).then(|| "half\0way".to_owned());
    if dice.one_in(24) {
        progress.percent = 101;
    }
    progress
}

/// A patch; with a transition where the guard is one that may have it, and rarely where it may not.
fn patch(dice: &mut Dice<'_>, held: bool, now: Timestamp) -> JobPatch {
    let mut patch = JobPatch::default();
    let transition = dice.below(12);
    if held || dice.one_in(24) {
        patch.transition = match transition {
            4 | 7 => {
                Some(Transition::Complete { output: (!dice.one_in(3)).then(|| payload(dice)) })
            }
            5 | 6 => Some(Transition::Retry { when: when(dice, now), error: payload(dice) }),
            8 | 9 => Some(Transition::Release { when: when(dice, now) }),
            10 => Some(Transition::Fail { error: payload(dice) }),
            11 => Some(Transition::Cancel { reason: "by\0itself".to_owned() }),
            _ => None,
        };
    }
    for _ in 0..dice.below(4) {
        let id = EntryId::from_uuid(uuid(&format!("entry {}", dice.below(6))));
        let kind = EntryKind::ALL[dice.below(EntryKind::ALL.len())];
        patch.log.push(NewEntry::with_id(id, kind, payload(dice)));
    }
    patch.progress = dice.one_in(4).then(|| progress(dice));
    if dice.one_in(3) {
        let named = labels(dice).into_iter();
        patch.labels =
            named.map(|(k, v)| (k, (!dice.one_in(3)).then_some(v))).collect::<BTreeMap<_, _>>();
    }
    patch
}

fn change(dice: &mut Dice<'_>) -> BulkChange {
    match dice.below(6) {
        0 | 1 => BulkChange::Cancel { reason: ["stop", "halt\0"][dice.below(2)].to_owned() },
        2 | 3 => BulkChange::Wake,
        4 => BulkChange::Priority([7, -7][dice.below(2)]),
        _ => BulkChange::Queue(queue(dice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_json() {
        for text in PAYLOADS {
            assert_eq!(Payload::from_text(text).unwrap().as_str(), text);
        }
        assert_eq!(queues().len(), 3);
    }
}
