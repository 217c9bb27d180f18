use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    hash,
    num::NonZeroU32,
    ops::Bound,
    time::Duration,
};

use crate::{
    Ack, BulkChange, BulkOutcome, Capabilities, Claim, ClaimRequest, Claimed, Cursor, Fire, Fired,
    Guard, Held, Inserted, Job, JobFilter, JobId, JobQuery, JobUpdate, Judgement, Lane, LogEntry,
    LogRead, NewEntry, NewJob, Order, Outcome, Page, QueueName, Reach, Reaped, Record, Result, Row,
    ScheduleStat, Seq, Sort, State, Tally, Timestamp, Version, check_held, check_updates,
    clean_progress,
};

/// A job with its log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Stored {
    /// The job.
    pub row: Row,
    /// Its log, in the order of `seq`.
    pub log: Vec<LogEntry>,
}

type Range = (QueueName, Cow<'static, str>);
type Place = (Reverse<i16>, Timestamp, JobId);

/// The state of a store and its operations, as a deterministic machine.
///
/// Equality and hash are those of what users can see; the indexes follow from it.
#[derive(Clone, Debug)]
pub struct World {
    limits: Capabilities,
    jobs: BTreeMap<JobId, Stored>,
    records: BTreeMap<String, Record>,
    schedules: BTreeMap<String, ScheduleStat>,
    keys: BTreeMap<String, JobId>,
    slots: BTreeMap<String, BTreeSet<u32>>,
    waiting: BTreeMap<Range, BTreeSet<Place>>,
    running: BTreeSet<JobId>,
    hints: HashSet<Option<QueueName>>,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.jobs == other.jobs
            && self.records == other.records
            && self.schedules == other.schedules
    }
}

impl Eq for World {}

impl hash::Hash for World {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.jobs.hash(state);
        self.records.hash(state);
        self.schedules.hash(state);
    }
}

impl Default for World {
    fn default() -> Self {
        World::new(Capabilities::new(Reach::Process))
    }
}

impl World {
    /// An empty world with the size limits of a store.
    pub fn new(limits: Capabilities) -> Self {
        World {
            limits,
            jobs: BTreeMap::new(),
            records: BTreeMap::new(),
            schedules: BTreeMap::new(),
            keys: BTreeMap::new(),
            slots: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: BTreeSet::new(),
            hints: HashSet::new(),
        }
    }

    // ----- raw access: for the relation, for invariants, and for deliberately broken stores

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &Stored> {
        self.jobs.values()
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Stored> {
        self.jobs.get(&id)
    }

    /// The job that holds a unique key.
    pub fn key_holder(&self, key: &str) -> Option<JobId> {
        self.keys.get(key).copied()
    }

    /// The ids of the running jobs.
    pub fn running(&self) -> impl Iterator<Item = JobId> {
        self.running.iter().copied()
    }

    /// Changes a job in any way, its indexes with it.
    pub fn edit<T>(&mut self, id: JobId, change: impl FnOnce(&mut Stored) -> T) -> Option<T> {
        let mut stored = self.take(id)?;
        let answer = change(&mut stored);
        self.place(stored);
        Some(answer)
    }

    /// Puts a job, whatever was there.
    pub fn place(&mut self, stored: Stored) {
        self.take(stored.row.id);
        let (row, control) = (&stored.row, &stored.row.control);
        if control.state == State::Waiting {
            self.waiting.entry((row.queue.clone(), row.kind.clone())).or_default().insert((
                Reverse(row.priority),
                control.run_at,
                row.id,
            ));
            self.hints.insert(Some(row.queue.clone()));
        }
        if control.state == State::Running {
            self.running.insert(row.id);
        }
        if let (Some(lane), Some(slot)) = (&control.lane, control.slot) {
            self.slots.entry(lane.key.clone()).or_default().insert(slot);
        }
        if let (Some(unique), true) = (&control.unique, control.holds_key()) {
            self.keys.insert(unique.key.clone(), row.id);
        }
        self.jobs.insert(row.id, stored);
    }

    /// Removes a job.
    pub fn take(&mut self, id: JobId) -> Option<Stored> {
        let stored = self.jobs.remove(&id)?;
        let (row, control) = (&stored.row, &stored.row.control);
        if let Entry::Occupied(mut range) =
            self.waiting.entry((row.queue.clone(), row.kind.clone()))
        {
            range.get_mut().remove(&(Reverse(row.priority), control.run_at, row.id));
            if range.get().is_empty() {
                range.remove();
            }
        }
        self.running.remove(&id);
        if let (Some(lane), Some(slot)) = (&control.lane, control.slot) {
            if let Entry::Occupied(mut slots) = self.slots.entry(lane.key.clone()) {
                slots.get_mut().remove(&slot);
                if slots.get().is_empty() {
                    slots.remove();
                }
            }
            self.hints.insert(None);
        }
        if let Some(unique) = &control.unique
            && self.keys.get(&unique.key) == Some(&id)
        {
            self.keys.remove(&unique.key);
        }
        Some(stored)
    }

    /// Where jobs may have become due since the last call; `None` stands for anywhere.
    pub fn take_hints(&mut self) -> impl Iterator<Item = Option<QueueName>> + use<> {
        std::mem::take(&mut self.hints).into_iter()
    }

    // ----- the operations

    /// See [`JobStore::insert`](crate::JobStore::insert).
    ///
    /// # Errors
    /// `Invalid` or `TooLarge`; nothing is changed then.
    pub fn insert(&mut self, jobs: &[NewJob], now: Timestamp) -> Result<Vec<Inserted>> {
        self.limits.check_new(jobs)?;
        Ok(jobs.iter().map(|job| self.insert_one(job, now)).collect())
    }

    fn insert_one(&mut self, job: &NewJob, now: Timestamp) -> Inserted {
        if self.jobs.contains_key(&job.id) {
            return Inserted::Existing(job.id);
        }
        if let Some(unique) = &job.unique
            && let Some(holder) = self.key_holder(&unique.key)
        {
            if !self.jobs[&holder].row.control.yields_to(unique) {
                return Inserted::Existing(holder);
            }
            let reason = superseded_by(job.id);
            self.edit(holder, |old| old.row.control.cancel(&reason, now));
        }
        self.place(Stored { row: Row::new(job, now), log: Vec::new() });
        Inserted::New(job.id)
    }

    /// See [`JobStore::claim`](crate::JobStore::claim).
    ///
    /// # Errors
    /// `Invalid`; nothing is changed then.
    pub fn claim(&mut self, request: &ClaimRequest, now: Timestamp) -> Result<Claimed> {
        request.check()?;
        if let Some(repeated) = self.repeated_claim(request, now) {
            return Ok(repeated);
        }
        let picked = self.pick(request, now);
        let jobs = self.claim_these(&picked, request, now);
        let next_due =
            if jobs.len() < limit(request.limit) { self.next_due(request, now) } else { None };
        Ok(Claimed::new(jobs, next_due))
    }

    /// The answer to a claim whose token took jobs before that are still held under it.
    pub fn repeated_claim(&self, request: &ClaimRequest, now: Timestamp) -> Option<Claimed> {
        let held = self.running.iter().map(|id| &self.jobs[id].row);
        let mut held: Vec<&Row> =
            held.filter(|row| row.control.fence.nonce == request.token).collect();
        if held.is_empty() {
            return None;
        }
        held.sort_by_key(|row| {
            let (at, id) = (row.control.run_at, row.id);
            (Reverse(row.priority), Directed::new((at, id), request.order))
        });
        let jobs: Vec<Job> = held.iter().map(|row| self.read(row.id, request.log)).collect();
        let next_due = (jobs.len() < limit(request.limit)).then_some(now);
        Some(Claimed::new(jobs, next_due))
    }

    /// The jobs that a claim takes, with the lane slots that they get.
    pub fn pick(&self, request: &ClaimRequest, now: Timestamp) -> Vec<(JobId, Option<u32>)> {
        self.pick_where(request, now, |_| true)
    }

    /// The same among the jobs of which this holds; the others take no slot of their lane.
    pub(super) fn pick_where(
        &self,
        request: &ClaimRequest,
        now: Timestamp,
        wanted: impl Fn(&JobId) -> bool,
    ) -> Vec<(JobId, Option<u32>)> {
        let mut lanes = Lanes::new(&self.slots);
        let mut picked = Vec::new();
        for id in self.due(request, now).into_iter().filter(wanted) {
            if picked.len() == limit(request.limit) {
                break;
            }
            match &self.jobs[&id].row.control.lane {
                None => picked.push((id, None)),
                Some(lane) => {
                    if let Some(slot) = lanes.take(lane) {
                        picked.push((id, Some(slot)));
                    }
                }
            }
        }
        picked
    }

    /// Claims these jobs, which must be waiting, and reads them.
    pub fn claim_these(
        &mut self,
        picked: &[(JobId, Option<u32>)],
        request: &ClaimRequest,
        now: Timestamp,
    ) -> Vec<Job> {
        let claim = Claim::of(request, now);
        for (id, slot) in picked {
            self.edit(*id, |stored| stored.row.control.claim(&claim, *slot));
        }
        picked.iter().map(|(id, _)| self.read(*id, request.log)).collect()
    }

    /// All due jobs that the request matches, in order, those behind full lanes included.
    fn due(&self, request: &ClaimRequest, now: Timestamp) -> Vec<JobId> {
        let mut due: Vec<Place> = Vec::new();
        for (range, places) in &self.waiting {
            if !self.is_wanted(range, request) {
                continue;
            }
            let mut next = places.first().map(|place| place.0);
            while let Some(priority) = next {
                let first = (priority, Timestamp::MIN, NIL);
                let due_here = places
                    .range(first..)
                    .take_while(|place| place.0 == priority && place.1 <= now)
                    .filter(|place| self.passes(place.2, request));
                due.extend(due_here);
                let beyond = (Bound::Excluded((priority, Timestamp::MAX, MAX)), Bound::Unbounded);
                next = places.range(beyond).next().map(|place| place.0);
            }
        }
        due.sort_by_key(|(priority, at, id)| (*priority, Directed::new((*at, *id), request.order)));
        due.into_iter().map(|place| place.2).collect()
    }

    /// The earliest instant at which the request could find more, exactly.
    pub fn next_due(&self, request: &ClaimRequest, now: Timestamp) -> Option<Timestamp> {
        let mut lanes = Lanes::new(&self.slots);
        let ranges = self.waiting.iter().filter(|(range, _)| self.is_wanted(range, request));
        let waiting = ranges
            .flat_map(|(_, places)| places)
            .filter(|place| self.passes(place.2, request))
            .filter(|place| {
                let lane = self.jobs[&place.2].row.control.lane.as_ref();
                lane.is_none_or(|lane| lanes.free(lane).is_some())
            })
            .map(|place| place.1.max(now))
            .min();
        let lease =
            self.running.iter().filter_map(|id| self.jobs[id].row.control.lease_until).min();
        [waiting, lease].into_iter().flatten().min()
    }

    fn is_wanted(&self, (queue, kind): &Range, request: &ClaimRequest) -> bool {
        request.queues.contains(queue) && request.kinds.contains(kind) && !self.is_paused(queue)
    }

    fn is_paused(&self, queue: &QueueName) -> bool {
        self.records.get(&Record::pause_key(queue)).is_some_and(|record| record.body.is_some())
    }

    fn passes(&self, id: JobId, request: &ClaimRequest) -> bool {
        request.filter.as_ref().is_none_or(|filter| self.jobs[&id].row.matches(filter))
    }

    /// See [`JobStore::update_jobs`](crate::JobStore::update_jobs).
    ///
    /// # Errors
    /// `Invalid`; nothing is changed then.
    pub fn update(&mut self, updates: &[JobUpdate], now: Timestamp) -> Result<Vec<Outcome>> {
        check_updates(updates)?;
        Ok(updates.iter().map(|update| self.update_one(update, now)).collect())
    }

    fn update_one(&mut self, update: &JobUpdate, now: Timestamp) -> Outcome {
        let Some(stored) = self.jobs.get(&update.id) else { return Outcome::Missing };
        let JobUpdate { id, guard, patch } = update;
        let kind = patch.transition.as_ref().map(crate::Transition::kind);
        let cancel = match stored.row.control.judge(*guard, kind) {
            Judgement::Refuse(outcome) => return outcome,
            Judgement::Apply(cancel) => cancel,
        };
        if patch.largest_payload() as u64 > self.limits.max_payload_bytes {
            return Outcome::TooLarge { limit: self.limits.max_payload_bytes };
        }
        let applied = self.edit(*id, |stored| {
            let ack = stored.row.patch(*guard, patch, cancel, now);
            stored.append(&patch.log, now);
            (ack, stored.row.control.is_dropped())
        });
        match applied {
            None => Outcome::Missing,
            Some((ack, dropped)) => {
                if dropped {
                    self.take(*id);
                }
                Outcome::Applied(ack)
            }
        }
    }

    /// See [`JobStore::heartbeat`](crate::JobStore::heartbeat).
    ///
    /// # Errors
    /// `Invalid`; nothing is changed then.
    pub fn heartbeat(
        &mut self,
        held: &[Held],
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<Outcome>> {
        check_held(held, lease)?;
        let mut beat = |held: &Held| {
            let Some(stored) = self.jobs.get(&held.id) else { return Outcome::Missing };
            match stored.row.control.judge(Guard::Fence(held.fence), None) {
                Judgement::Refuse(outcome) => outcome,
                Judgement::Apply(cancel) => {
                    self.edit(held.id, |stored| {
                        stored.row.control.heartbeat(lease, now);
                        if let Some(progress) = &held.progress {
                            stored.row.progress = Some(clean_progress(progress));
                        }
                    });
                    Outcome::Applied(Ack::holder(cancel))
                }
            }
        };
        Ok(held.iter().map(&mut beat).collect())
    }

    /// See [`JobStore::reap`](crate::JobStore::reap).
    pub fn reap(&mut self, limit: NonZeroU32, now: Timestamp) -> Vec<Reaped> {
        let mut expired: Vec<(Option<Timestamp>, JobId)> = self
            .running
            .iter()
            .map(|id| &self.jobs[id].row)
            .filter(|row| row.control.is_expired(now))
            .map(|row| (row.control.lease_until, row.id))
            .collect();
        expired.sort_unstable();
        expired.truncate(self::limit(limit));
        expired.into_iter().filter_map(|(_, id)| self.reap_one(id, now)).collect()
    }

    /// Reaps one job, whose lease must be over.
    pub fn reap_one(&mut self, id: JobId, now: Timestamp) -> Option<Reaped> {
        self.edit(id, |stored| {
            let row = &mut stored.row;
            row.reap(now);
            let (state, crashes) = (row.control.state, row.control.crashes);
            Reaped::new(id, row.queue.clone(), row.control.fence, state, crashes)
        })
    }

    /// See [`JobStore::update_where`](crate::JobStore::update_where).
    ///
    /// # Errors
    /// `Invalid`; nothing is changed then.
    pub fn update_where(
        &mut self,
        filter: &JobFilter,
        change: &BulkChange,
        now: Timestamp,
    ) -> Result<BulkOutcome> {
        filter.check()?;
        let matching = self.jobs.values().filter(|stored| stored.row.matches(filter));
        let matching: Vec<JobId> = matching.map(|stored| stored.row.id).collect();
        let mut counts = BulkOutcome::default();
        for id in matching {
            let control = &self.jobs[&id].row.control;
            *counts.count(change, control.state) += 1;
            if let Some(operation) = control.bulk_operation(change, now) {
                self.edit(id, |stored| stored.row.change(operation, change, now));
            }
        }
        Ok(counts)
    }

    /// See [`JobStore::delete`](crate::JobStore::delete).
    ///
    /// # Errors
    /// `Invalid`; nothing is changed then.
    pub fn delete(&mut self, filter: &JobFilter, limit: NonZeroU32) -> Result<u64> {
        filter.check()?;
        let mut doomed: Vec<(Timestamp, JobId)> = self
            .jobs
            .values()
            .map(|stored| &stored.row)
            .filter(|row| row.control.state != State::Running && row.matches(filter))
            .map(|row| (row.created_at, row.id))
            .collect();
        doomed.sort_unstable();
        doomed.truncate(self::limit(limit));
        for (_, id) in &doomed {
            self.take(*id);
        }
        Ok(doomed.len() as u64)
    }

    /// See [`JobStore::get`](crate::JobStore::get).
    pub fn get(&self, ids: &[JobId], log: LogRead) -> Vec<Option<Job>> {
        ids.iter().map(|id| self.jobs.contains_key(id).then(|| self.read(*id, log))).collect()
    }

    /// Reads a job that is there.
    fn read(&self, id: JobId, log: LogRead) -> Job {
        let stored = &self.jobs[&id];
        let entries = match log.after() {
            None => Vec::new(),
            Some(after) => stored.log.iter().filter(|entry| entry.seq > after).cloned().collect(),
        };
        stored.row.clone().into_job(entries)
    }

    /// See [`JobStore::find`](crate::JobStore::find).
    ///
    /// # Errors
    /// `Invalid`.
    pub fn find(&self, query: &JobQuery) -> Result<Page<Job>> {
        query.check()?;
        let beyond = |row: &Row| match (query.after, query.sort) {
            (None, _) => true,
            (Some(cursor), Sort::OldestFirst) => (row.created_at, row.id) > cursor.place(),
            (Some(cursor), Sort::NewestFirst) => (row.created_at, row.id) < cursor.place(),
        };
        let mut rows: Vec<&Row> = self
            .jobs
            .values()
            .map(|stored| &stored.row)
            .filter(|row| row.matches(&query.filter) && beyond(row))
            .collect();
        rows.sort_by_key(|row| (row.created_at, row.id));
        if query.sort == Sort::NewestFirst {
            rows.reverse();
        }
        let limit = limit(query.limit);
        let mut rows = rows.into_iter().skip(usize::try_from(query.offset).unwrap_or(usize::MAX));
        let page: Vec<Job> =
            rows.by_ref().take(limit).map(|row| row.clone().into_job(Vec::new())).collect();
        let next = rows.next().and(page.last()).map(Cursor::of);
        Ok(Page::new(page, next))
    }

    /// See [`JobStore::tally`](crate::JobStore::tally).
    ///
    /// # Errors
    /// `Invalid`.
    pub fn tally(&self, filter: &JobFilter) -> Result<Vec<Tally>> {
        filter.check()?;
        let mut counts: BTreeMap<(QueueName, State), u64> = BTreeMap::new();
        for row in self.jobs.values().map(|stored| &stored.row).filter(|row| row.matches(filter)) {
            *counts.entry((row.queue.clone(), row.control.state)).or_default() += 1;
        }
        let tallies = counts.into_iter();
        Ok(tallies.map(|((queue, state), count)| Tally::new(queue, state, count)).collect())
    }

    /// See [`JobStore::fire`](crate::JobStore::fire).
    ///
    /// # Errors
    /// `Invalid` or `TooLarge`; nothing is changed then.
    pub fn fire(&mut self, fire: &Fire, now: Timestamp) -> Result<Fired> {
        fire.check()?;
        if let Some(job) = &fire.job {
            self.limits.check_new(std::slice::from_ref(job))?;
        }
        if let Some(stat) = self.schedules.get(&fire.schedule)
            && fire.slot <= stat.last_slot
        {
            return Ok(Fired::Already { last_slot: stat.last_slot });
        }
        let fired = match fire.job.as_ref().map(|job| self.insert_one(job, now)) {
            None => Fired::Skipped(None),
            Some(Inserted::New(id)) => Fired::Enqueued(id),
            Some(Inserted::Existing(id)) => Fired::Skipped(Some(id)),
        };
        self.schedules
            .entry(fire.schedule.clone())
            .or_insert_with(|| ScheduleStat::new(fire.schedule.clone(), fire.slot))
            .count(fire.slot, &fired, fire.error.clone());
        Ok(fired)
    }

    /// See [`JobStore::schedules`](crate::JobStore::schedules).
    pub fn schedules(&self) -> Vec<ScheduleStat> {
        self.schedules.values().cloned().collect()
    }

    /// Puts the statistics of a schedule, whatever was there.
    pub fn place_schedule(&mut self, stat: ScheduleStat) {
        self.schedules.insert(stat.schedule.clone(), stat);
    }

    /// See [`JobStore::records`](crate::JobStore::records).
    pub fn records(&self, prefix: &str) -> Vec<Record> {
        let from = self.records.range(prefix.to_owned()..);
        let named = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, record)| record);
        named.filter(|record| record.body.is_some()).cloned().collect()
    }

    /// See [`JobStore::put_record`](crate::JobStore::put_record).
    ///
    /// # Errors
    /// `Invalid` or `TooLarge`; nothing is changed then.
    pub fn put_record(
        &mut self,
        record: &Record,
        expect: Option<Version>,
        now: Timestamp,
    ) -> Result<Outcome> {
        self.limits.check_record(record)?;
        let actual = self.records.get(&record.key).map_or(Version(0), |record| record.version);
        if expect.is_some_and(|expected| expected != actual) {
            return Ok(Outcome::Conflict { actual });
        }
        let version = Version(actual.0 + 1);
        let stored = Record { version, updated_at: now, ..record.clone() };
        self.records.insert(record.key.clone(), stored);
        self.hints.insert(None);
        Ok(Outcome::Applied(Ack::editor(version)))
    }
}

impl Stored {
    /// Appends the entries whose id the log does not have.
    pub fn append(&mut self, entries: &[NewEntry], now: Timestamp) {
        for entry in entries {
            if self.log.iter().all(|known| known.id != entry.id) {
                self.row.control.log_len += 1;
                let seq = Seq(self.row.control.log_len);
                self.log.push(LogEntry::stored(entry.clone(), seq, now));
            }
        }
    }
}

impl BulkOutcome {
    /// The count to which a matching job in this state belongs.
    pub const fn count(&mut self, change: &BulkChange, state: State) -> &mut u64 {
        match (change, state) {
            (_, State::Completed | State::Failed | State::Cancelled) => &mut self.finished,
            (BulkChange::Cancel { .. } | BulkChange::Wake, State::Running) => &mut self.signalled,
            _ => &mut self.changed,
        }
    }
}

impl Cursor {
    /// The place after this job.
    pub const fn of(job: &Job) -> Self {
        Cursor { created_at: job.created_at, id: job.id }
    }

    const fn place(&self) -> (Timestamp, JobId) {
        (self.created_at, self.id)
    }
}

/// The reason with which a superseded job is cancelled.
pub fn superseded_by(id: JobId) -> String {
    format!("superseded by job {id}")
}

/// The free slots of lanes, as one claim gives them out.
struct Lanes<'a> {
    held: &'a BTreeMap<String, BTreeSet<u32>>,
    /// The lowest slot of each lane that may be free: within a claim, slots are only taken.
    lowest: HashMap<&'a str, u32>,
}

impl<'a> Lanes<'a> {
    fn new(held: &'a BTreeMap<String, BTreeSet<u32>>) -> Self {
        Lanes { held, lowest: HashMap::new() }
    }

    /// The lowest free slot, if it is below the job's own limit.
    fn free(&mut self, lane: &'a Lane) -> Option<u32> {
        let held = self.held.get(&lane.key);
        let lowest = self.lowest.entry(&lane.key).or_insert(0);
        while held.is_some_and(|held| held.contains(lowest)) {
            *lowest += 1;
        }
        (*lowest < lane.limit.get()).then_some(*lowest)
    }

    fn take(&mut self, lane: &'a Lane) -> Option<u32> {
        let slot = self.free(lane)?;
        self.lowest.insert(&lane.key, slot + 1);
        Some(slot)
    }
}

/// A key that sorts forwards for FIFO and backwards for LIFO.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Directed<K> {
    Forwards(K),
    Backwards(Reverse<K>),
}

impl<K> Directed<K> {
    const fn new(key: K, order: Order) -> Self {
        match order {
            Order::Fifo => Directed::Forwards(key),
            Order::Lifo => Directed::Backwards(Reverse(key)),
        }
    }
}

const NIL: JobId = JobId::from_uuid(crate::Uuid::nil());
const MAX: JobId = JobId::from_uuid(crate::Uuid::max());

fn limit(limit: NonZeroU32) -> usize {
    usize::try_from(limit.get()).unwrap_or(usize::MAX)
}
