use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use queue_core::{
    BulkChange, ClaimRequest, EntryId, EntryKind, Fence, Fire, Guard, Held, JobFilter, JobId,
    JobPatch, JobQuery, JobUpdate, Keep, Lane, LogRead, MAX_PAGE, NewEntry, NewJob, OnConflict,
    Order, Payload, Progress, QueueName, Queues, Record, Seq, State, States, Timestamp, Transition,
    Unique, Uuid, Version, When,
    spec::{Op, World},
};

use super::script::{Act, Shape, Step};
use crate::model::{dice::Dice, uuid};

/// The leases, and by how much the clock moves to end them all.
pub(super) const LEASE: Duration = Duration::from_secs(10);
pub(super) const BEYOND: Duration = Duration::from_secs(11);
const LATER: Duration = Duration::from_secs(3_600);
const KEY: &str = "key";
const LANE: &str = "lane";
const RECORDS: [&str; 2] = ["a/x", "a/y"];
const SCHEDULE: &str = "hourly";
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// Makes operations of steps, by what is known of the store before they are run.
#[derive(Debug, Default)]
pub(super) struct Planner {
    minted: u64,
    edits: u64,
    /// All jobs that were ever named, in that order.
    ids: Vec<JobId>,
}

/// What the operations of one phase are made from.
pub(super) struct Known<'a> {
    pub(super) world: &'a World,
    pub(super) now: Timestamp,
    /// Tokens of claims of this phase, those of the same branch last.
    pub(super) tokens: Vec<ClaimRequest>,
}

impl Planner {
    /// What deletes everything, once all leases are over.
    pub(super) fn clear(&mut self) -> [Op; 2] {
        self.ids.clear();
        [Op::Reap(MAX_PAGE), Op::Delete(JobFilter::all(), MAX_PAGE)]
    }

    /// The operations that a step is.
    pub(super) fn resolve(&mut self, step: &Step, known: &mut Known<'_>) -> Vec<Op> {
        let dice = &mut Dice::new(&step.dice);
        let target = |dice: &mut Dice<'_>| self.target(dice, known);
        let op = match step.act {
            Act::Expire => return Vec::new(),
            Act::Look => {
                let everything = || JobFilter::all();
                let mut look = vec![Op::Get(self.ids.clone(), LogRead::All)];
                look.extend([Op::Schedules, Op::Records(String::new())]);
                if dice.one_in(3) {
                    look.extend([Op::Find(JobQuery::new(everything())), Op::Tally(everything())]);
                }
                return look;
            }
            Act::Insert => Op::Insert(vec![self.job(step.shape, dice)]),
            Act::InsertTwo => Op::Insert((0..2).map(|_| self.job(step.shape, dice)).collect()),
            Act::Claim => self.claim(dice, known, NonZeroU32::MIN),
            Act::ClaimTwo => self.claim(dice, known, TWO),
            Act::Complete | Act::Fail | Act::CancelOwn | Act::Retry | Act::Release => {
                Op::Update(vec![settle(step.act, target(dice), dice, known)])
            }
            Act::SettleAndClaim => {
                let settle = settle(Act::Complete, target(dice), dice, known);
                let Op::Claim(request) = self.claim(dice, known, NonZeroU32::MIN) else {
                    return Vec::new();
                };
                Op::UpdateAndClaim(vec![settle], request)
            }
            Act::Append | Act::Edit | Act::Label | Act::Progress => {
                let id = target(dice);
                Op::Update(vec![self.edit(step.act, id, dice, known)])
            }
            Act::UpdateTwo => {
                let (one, other) = (target(dice), target(dice));
                let mut updates = vec![self.edit(Act::Append, one, dice, known)];
                if other != one {
                    updates.push(self.edit(Act::Label, other, dice, known));
                }
                Op::Update(updates)
            }
            Act::Heartbeat => Op::Heartbeat(vec![held(target(dice), dice, known)], 2 * LEASE),
            Act::HeartbeatTwo => {
                let mut all =
                    vec![held(target(dice), dice, known), held(target(dice), dice, known)];
                all.dedup_by_key(|held| held.id);
                Op::Heartbeat(all, 2 * LEASE)
            }
            Act::Reap => Op::Reap([NonZeroU32::MIN, TWO][dice.below(2)]),
            Act::Cancel => {
                bulk(target(dice), BulkChange::Cancel { reason: "stop".to_owned() }, dice)
            }
            Act::Wake => bulk(target(dice), BulkChange::Wake, dice),
            Act::Raise => bulk(target(dice), BulkChange::Priority([7, -7][dice.below(2)]), dice),
            Act::Move => bulk(target(dice), BulkChange::Queue(queue(dice)), dice),
            Act::Delete => Op::Delete(one_job(target(dice), dice), NonZeroU32::MIN),
            Act::Get => Op::Get(vec![target(dice)], log_read(dice)),
            Act::GetTwo => Op::Get(vec![target(dice), target(dice)], log_read(dice)),
            Act::Find => Op::Find(JobQuery::new(one_job(target(dice), dice))),
            Act::Tally => Op::Tally(one_job(target(dice), dice)),
            Act::Fire => Op::Fire(Box::new(self.fire(step.shape, dice, known))),
            Act::SkipSlot => {
                let slot = self.slot(dice, known);
                Op::Fire(Box::new(Fire::skip(SCHEDULE, slot, Some("no input".to_owned()))))
            }
            Act::Put | Act::PutIf => put(step.act == Act::PutIf, dice, known),
            Act::Records => Op::Records(RECORDS[dice.below(RECORDS.len())].to_owned()),
        };
        vec![op]
    }

    /// An id of its own for every call, the same in every run of a script, in no order.
    fn mint(&mut self) -> Uuid {
        self.minted += 1;
        uuid(&format!("parallel {}", self.minted))
    }

    /// Mostly one of two jobs, so that the branches meet.
    fn target(&self, dice: &mut Dice<'_>, known: &Known<'_>) -> JobId {
        let live = |id: &&JobId| match known.world.job(**id) {
            Some(stored) => !stored.row.control.state.is_final(),
            // It may be inserted while others work.
            None => true,
        };
        let ids: Vec<JobId> = self.ids.iter().rev().filter(live).take(4).copied().collect();
        let nobody = JobId::from_uuid(uuid("nobody"));
        let there: Vec<JobId> =
            ids.iter().filter(|id| known.world.job(**id).is_some()).copied().collect();
        match dice.below(16) {
            15 => dice.of(&self.ids).unwrap_or(nobody),
            12..15 => dice.of(&ids).unwrap_or(nobody),
            8..12 => there.get(1).or(there.first()).or(ids.first()).copied().unwrap_or(nobody),
            _ => there.first().or(ids.first()).copied().unwrap_or(nobody),
        }
    }

    fn job(&mut self, shape: Shape, dice: &mut Dice<'_>) -> NewJob {
        let mut job = NewJob::new("race", payload(dice));
        job.id = match dice.one_in(8).then(|| dice.of(&self.ids)).flatten() {
            Some(again) => again,
            None => JobId::from_uuid(self.mint()),
        };
        if !self.ids.contains(&job.id) {
            self.ids.push(job.id);
        }
        let mut has = |parts: u8| dice.below(4) < usize::from(parts);
        if has(shape.unique) {
            let mut unique = Unique::new(KEY);
            if has(shape.supersede) {
                unique.on_conflict = OnConflict::Supersede;
            }
            job.unique = Some(unique);
        }
        // One limit per lane, or it would matter who has which slot.
        job.lane = has(shape.lane).then(|| Lane::new(LANE));
        job.keep = if has(shape.fleeting) { Keep::UnlessCompleted } else { Keep::Always };
        job.max_crashes = if has(shape.poison) { 0 } else { 3 };
        job.labels = BTreeMap::from([("tenant".to_owned(), "a".to_owned())]);
        job.priority = [0, 0, 0, 5][dice.below(4)];
        if dice.one_in(12) {
            job.when = When::After(LATER);
        }
        if let (Some(unique), true) = (&mut job.unique, dice.one_in(6)) {
            unique.within = States::LIVE | State::Completed.into();
        }
        job
    }

    fn claim(&mut self, dice: &mut Dice<'_>, known: &mut Known<'_>, limit: NonZeroU32) -> Op {
        let queues = match dice.one_in(6) {
            true => Queues::default(),
            false => Queues::All,
        };
        let mut request = ClaimRequest::new(queues, ["w1", "w2"][dice.below(2)], limit, LEASE);
        request.token = self.mint();
        request.order = if dice.one_in(4) { Order::Lifo } else { Order::Fifo };
        request.log = log_read(dice);
        if dice.one_in(8) {
            request.filter = Some(JobFilter::label("tenant", "a"));
        }
        known.tokens.push(request.clone());
        Op::Claim(request)
    }

    fn edit(&mut self, act: Act, id: JobId, dice: &mut Dice<'_>, known: &Known<'_>) -> JobUpdate {
        let version = known.world.job(id).map_or(1, |stored| stored.row.control.version.0);
        let guard = match (act, dice.below(4)) {
            (Act::Edit | Act::Label, 3) | (Act::Append | Act::Progress, 0..2) => {
                Guard::Fence(fence(id, dice, known))
            }
            (Act::Edit, _) => Guard::Version(Version(version + [0, 0, 0, 1][dice.below(4)])),
            _ => Guard::None,
        };
        let patch = match act {
            Act::Append => JobPatch::append((0..=dice.below(2)).map(|_| {
                // Few ids, so that an entry comes twice.
                let id = EntryId::from_uuid(match dice.one_in(4) {
                    true => uuid("entry"),
                    false => self.mint(),
                });
                NewEntry::with_id(id, EntryKind::ALL[0], payload(dice))
            })),
            Act::Progress => JobPatch::progress(Progress::new([0, 50, 100][dice.below(3)])),
            _ => {
                self.edits += 1;
                match dice.below(4) {
                    3 => JobPatch::default().without_label("tenant"),
                    2 => JobPatch::default().with_label("tenant", self.edits.to_string()),
                    // Two edits of different labels must both last.
                    _ => JobPatch::default().with_label(format!("label {}", self.edits % 2), "set"),
                }
            }
        };
        JobUpdate::new(id, guard, patch)
    }

    fn slot(&mut self, dice: &mut Dice<'_>, known: &Known<'_>) -> Timestamp {
        let stats = known.world.schedules();
        let last = stats.iter().find(|stat| stat.schedule == SCHEDULE).map(|stat| stat.last_slot);
        let minutes = u64::try_from(dice.below(4)).unwrap_or(0);
        last.unwrap_or(known.now).plus(Duration::from_secs(60 * minutes))
    }

    fn fire(&mut self, shape: Shape, dice: &mut Dice<'_>, known: &Known<'_>) -> Fire {
        let slot = self.slot(dice, known);
        let known = self.ids.len();
        let fire = Fire::new(SCHEDULE, slot, self.job(shape, dice));
        // The job of a slot has the slot's id.
        self.ids.truncate(known);
        self.ids.extend(fire.job.as_ref().map(|job| job.id).filter(|id| !self.ids.contains(id)));
        fire
    }
}

/// The fence under which the job is held, or will be when a claim of this phase takes it.
fn fence(id: JobId, dice: &mut Dice<'_>, known: &Known<'_>) -> Fence {
    let Some(stored) = known.world.job(id) else { return Fence::default() };
    let (current, state) = (stored.row.control.fence, stored.row.control.state);
    let planned = match dice.below(4) {
        0 => dice.of(&known.tokens),
        _ => known.tokens.last().cloned(),
    };
    match planned {
        Some(request) if state == State::Waiting => Fence::new(current.count + 1, request.token),
        Some(request) if dice.one_in(6) => Fence::new(current.count + 1, request.token),
        _ => current,
    }
}

fn settle(act: Act, id: JobId, dice: &mut Dice<'_>, known: &Known<'_>) -> JobUpdate {
    let fence = fence(id, dice, known);
    let when = if dice.one_in(4) { When::Now } else { When::After(LATER) };
    let transition = match act {
        Act::Fail => Transition::Fail { error: payload(dice) },
        Act::CancelOwn => Transition::Cancel { reason: "by itself".to_owned() },
        Act::Retry => Transition::Retry { when, error: payload(dice) },
        Act::Release => Transition::Release { when },
        _ => Transition::Complete { output: Some(payload(dice)) },
    };
    JobUpdate::held(id, fence, JobPatch::transition(transition))
}

fn held(id: JobId, dice: &mut Dice<'_>, known: &Known<'_>) -> Held {
    let mut held = Held::new(id, fence(id, dice, known));
    held.progress = dice.one_in(4).then(|| Progress::new(50));
    held
}

/// A filter that at most this job matches.
fn one_job(id: JobId, dice: &mut Dice<'_>) -> JobFilter {
    let filter = JobFilter::id(id);
    match dice.below(6) {
        4 => filter.with_states(State::Waiting),
        5 => filter.with_states(State::Running),
        _ => filter,
    }
}

fn bulk(id: JobId, change: BulkChange, dice: &mut Dice<'_>) -> Op {
    Op::UpdateWhere(one_job(id, dice), change)
}

fn put(versioned: bool, dice: &mut Dice<'_>, known: &Known<'_>) -> Op {
    // Mostly the same one.
    let key = RECORDS[usize::from(dice.one_in(4))];
    let there = known.world.records(key).into_iter().find(|record| record.key == key);
    let current = there.map_or(0, |record| record.version.0);
    let record = match dice.one_in(4) {
        true => Record::removal(key),
        false => Record::new(key, payload(dice)),
    };
    let version = Version(current + [0, 0, 0, 1][dice.below(4)]);
    Op::PutRecord(record, versioned.then_some(version))
}

fn payload(dice: &mut Dice<'_>) -> Payload {
    // Numbers are JSON.
    Payload::from_text(dice.below(256).to_string()).unwrap_or_default()
}

fn queue(dice: &mut Dice<'_>) -> QueueName {
    let other = QueueName::new("other").unwrap_or_default();
    if dice.one_in(2) { other } else { QueueName::default() }
}

fn log_read(dice: &mut Dice<'_>) -> LogRead {
    match dice.below(4) {
        2 => LogRead::After(Seq(1)),
        3 => LogRead::None,
        _ => LogRead::All,
    }
}
