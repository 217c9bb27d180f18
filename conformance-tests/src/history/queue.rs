//! Which jobs were there to be claimed, and whether claims took them when and as they should.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

use queue_core::{
    Inserted, Job, JobId, NewJob, Order, PAUSED_QUEUE, QueueName, State, Timestamp, Transition,
    When,
    spec::{Answer, Op},
};

use super::{
    Call, History, Violation,
    claims::{Life, Lives, after, claimed},
    format::Fate,
    show::Subject,
};

/// How many claims there was something to say about.
#[derive(Default)]
pub(super) struct Asked {
    pub short: u64,
    pub ordered: u64,
}

/// The order in which jobs are claimed: priority descending, then `run_at`, then id.
type Key = (Reverse<i16>, Timestamp, JobId);

const fn key(job: &Job) -> Key {
    (Reverse(job.priority), job.run_at, job.id)
}

/// The jobs among which a claim chooses.
type Class = (QueueName, String);

/// A job was certainly waiting from the one moment to the other. Both ends are those of calls.
struct Stay {
    class: usize,
    from: u64,
    until: u64,
    due: Timestamp,
    /// Its place in the order, if that is known.
    key: Option<Key>,
    /// The call that made it wait, and its job.
    call: usize,
    id: JobId,
}

/// Judges claims by the jobs that were waiting from before they began until after they ended.
pub(super) fn check(history: &History, lives: &Lives<'_>) -> Result<Asked, Violation> {
    let mut classes: BTreeMap<Class, usize> = BTreeMap::new();
    let touched = Touched::of(history);
    let came = arrivals(history);
    let mut stays = Vec::new();
    for (id, life) in lives.sorted() {
        let Some(came) = came.get(&id) else { continue };
        if came.job.lane.is_some()
            || came.job.unique.is_some()
            || touched.is_paused(&came.job.queue)
        {
            continue;
        }
        let class = (came.job.queue.clone(), came.job.kind.to_string());
        let number = classes.len();
        let class = *classes.entry(class).or_insert(number);
        stays.extend(waits(
            history,
            life,
            came,
            class,
            touched.first_bulk(id),
            lives.first_unknown_claim(),
        ));
    }
    let pieces = stays.iter().flat_map(|stay| touched.untouched(stay)).collect::<Vec<_>>();
    let mut short = Vec::new();
    let mut ordered = Vec::new();
    for (question, rivals) in questions(history, lives, &classes) {
        if question.is_short {
            short.push(question.clone());
        }
        if question.last.is_some() {
            ordered.push(question.since_before(rivals));
        }
    }
    let asked = Asked { short: short.len() as u64, ordered: ordered.len() as u64 };
    let mut standing = Standing::new(history, &stays, classes.len());
    for question in short {
        if let Some(stay) = standing.first(&question) {
            return Err(forgotten(history, &stays[stay], question.place));
        }
    }
    ordered.sort_by_key(|question| question.moment);
    let mut standing = Standing::new(history, &pieces, classes.len());
    for question in ordered {
        if let (Some(piece), Some(last)) = (standing.first(&question), question.last)
            && pieces[piece].key.is_some_and(|first| first < key(last))
        {
            return Err(passed_by(history, &pieces[piece], question.place, last));
        }
    }
    Ok(asked)
}

/// A claim about which there is something to ask: what was there before this moment, until the end of the call?
#[derive(Clone)]
struct Question<'h> {
    place: usize,
    moment: u64,
    end: u64,
    /// A time that the store's clock had reached at the moment.
    since: Option<Timestamp>,
    /// The classes that it wanted.
    wanted: Vec<usize>,
    /// It answered fewer jobs than it may, and does not say that there are more.
    is_short: bool,
    /// The last job that it took, if it takes jobs in their order.
    last: Option<&'h Job>,
}

impl Question<'_> {
    /// The same, of what was there before an earlier moment.
    fn since_before(self, moment: Option<u64>) -> Self {
        match moment {
            Some(moment) if moment < self.moment => Question { moment, since: None, ..self },
            _ => self,
        }
    }
}

/// The claims that can be judged, in the order of their begins; each with the begin of the earliest other claim or reap that was
/// under way when it began.
///
/// Such a rival may have seen a job as it was before it began to wait anew: a database locks the row as it is now before it
/// finds that it is not what was looked for, and whoever passes over locked rows passes over it.
fn questions<'h>(
    history: &'h History,
    lives: &Lives<'_>,
    classes: &BTreeMap<Class, usize>,
) -> Vec<(Question<'h>, Option<u64>)> {
    // As many as there are callers at once.
    let mut under_way: Vec<&Call> = Vec::new();
    let mut questions = Vec::new();
    for (place, call) in history.numbered() {
        if !matches!(call.op, Op::Claim(_) | Op::UpdateAndClaim(..) | Op::Reap(_)) {
            continue;
        }
        under_way.retain(|rival| rival.settled() >= call.begin);
        let rivals = under_way.iter().map(|rival| rival.begin).min();
        if !matches!(call.fate(), Fate::Nothing) {
            under_way.push(call);
        }
        let (Op::Claim(request) | Op::UpdateAndClaim(_, request)) = &call.op else { continue };
        let is_first = lives.tokens.get(&request.token).is_some_and(|(first, _)| *first == place);
        let (Some(end), Some(claimed), None, true) =
            (call.end, claimed(call), &request.filter, is_first)
        else {
            continue;
        };
        let wanted = classes.iter().filter(|((queue, kind), _)| {
            request.queues.contains(queue) && request.kinds.contains(kind)
        });
        let says_so = match (claimed.next_due, call.now) {
            (None, _) => false,
            (Some(due), Some(now)) => due <= now,
            (Some(_), None) => true,
        };
        let question = Question {
            place,
            moment: call.begin,
            end,
            since: call.since,
            wanted: wanted.map(|(_, class)| *class).collect(),
            is_short: (claimed.jobs.len() as u64) < u64::from(request.limit.get()) && !says_so,
            last: claimed.jobs.last().filter(|_| request.order == Order::Fifo),
        };
        questions.push((question, rivals));
    }
    questions
}

fn forgotten(history: &History, stay: &Stay, place: usize) -> Violation {
    let what = format!(
        "job {} was due and waiting all the while, but a claim answered fewer than it may and does not say that there are more",
        stay.id
    );
    Violation::new(history, &Subject::Claim(stay.id), what, [stay.call, place])
}

fn passed_by(history: &History, stay: &Stay, place: usize, last: &Job) -> Violation {
    let what = format!(
        "job {} was overtaken by job {}: it goes before it, and was due, waiting and at nobody's hands all the while",
        stay.id, last.id
    );
    Violation::new(history, &Subject::Claim(stay.id), what, [stay.call, place])
}

/// How a job came.
struct Arrival<'h> {
    job: &'h NewJob,
    /// When it was certainly there, and the call that says so.
    there: u64,
    call: usize,
}

fn arrivals(history: &History) -> HashMap<JobId, Arrival<'_>> {
    let mut came: HashMap<JobId, Arrival<'_>> = HashMap::new();
    for (place, call) in history.numbered() {
        let (Op::Insert(jobs), Fate::Done(Answer::Inserted(answers))) = (&call.op, call.fate())
        else {
            continue;
        };
        for (job, answer) in jobs.iter().zip(answers) {
            // A job that was there has the content of an earlier call, which is the same when it is a repeat.
            let (Inserted::New(id) | Inserted::Existing(id)) = *answer;
            let earlier = came.get(&id).is_some_and(|known| known.there <= call.settled());
            if id == job.id && !earlier {
                came.insert(id, Arrival { job, there: call.settled(), call: place });
            }
        }
    }
    came
}

/// The times that a job certainly waited, up to the first change in bulk that may have been about it.
fn waits<'a>(
    history: &'a History,
    life: &'a Life<'_>,
    came: &'a Arrival<'_>,
    class: usize,
    bulk: u64,
    unknown: u64,
) -> impl Iterator<Item = Stay> + 'a {
    let slack = history.limits().schedule_slack;
    let counts = std::iter::once(0).chain(life.runs.keys().copied());
    counts.filter_map(move |count| {
        let (from, call, when) = match count {
            0 => (came.there, came.call, came.job.when),
            _ => {
                let end = life.chain.entered(after(count))?;
                (end.end, end.call, given_back(&history.calls[end.call], came.job.id)?)
            }
        };
        let next = life.runs.get(&(count + 1)).map(|run| run.job);
        let read = life.read.get(&count).copied();
        // A later claim than the next one says that the next one, of which nothing is known, has happened.
        if next.is_none() && life.runs.range(count + 1..).next().is_some() {
            return None;
        }
        // Without a next claim it may be one of unknown effect that took it, unless a read shows that none has.
        let last_seen = read.map_or(0, |(begin, _)| begin);
        let until = life.chain.entered(after(count) + 1);
        let until = until.map_or(unknown.max(last_seen), |span| span.begin);
        let known = next.or(read.map(|(_, job)| job));
        let due = match when {
            When::At(at) => at,
            _ => match (known, history.calls[call].now) {
                (_, Some(now)) if matches!(when, When::Now) => now,
                (Some(job), _) => job.run_at,
                (None, _) if matches!(when, When::Now) && slack == Duration::ZERO => Timestamp::MIN,
                _ => return None,
            },
        };
        let until = until.min(bulk);
        let key = known.map(key);
        (from < until).then_some(Stay { class, from, until, due, key, call, id: came.job.id })
    })
}

/// When the job is due again after this call, if that left it waiting.
fn given_back(call: &Call, id: JobId) -> Option<When> {
    match &call.op {
        Op::Update(updates) | Op::UpdateAndClaim(updates, _) => {
            let update = updates.iter().find(|update| update.id == id)?;
            match update.patch.transition.as_ref()? {
                Transition::Retry { when, .. } | Transition::Release { when } => Some(*when),
                _ => None,
            }
        }
        _ => match call.fate() {
            // It is due from before: that is what the claim that was reaped says.
            Fate::Done(Answer::Reaped(reaped)) => {
                let mine = reaped.iter().find(|reaped| reaped.id == id)?;
                (mine.state == State::Waiting).then_some(When::At(Timestamp::MIN))
            }
            _ => None,
        },
    }
}

/// The calls that name a job without taking it, and those that change jobs in bulk.
struct Touched {
    named: HashMap<JobId, Vec<(u64, u64)>>,
    bulk: HashMap<JobId, u64>,
    any: u64,
    paused: Vec<QueueName>,
}

impl Touched {
    fn of(history: &History) -> Self {
        let (mut named, mut bulk) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        let (mut any, mut paused) = (u64::MAX, Vec::new());
        for call in &history.calls {
            if matches!(call.fate(), Fate::Nothing) {
                continue;
            }
            let mut name = |id| named.entry(id).or_default().push((call.begin, call.settled()));
            match &call.op {
                Op::Update(updates) | Op::UpdateAndClaim(updates, _) => {
                    updates.iter().for_each(|update| name(update.id));
                }
                Op::Heartbeat(held, _) => held.iter().for_each(|held| name(held.id)),
                Op::Insert(jobs) => jobs.iter().for_each(|job| name(job.id)),
                Op::UpdateWhere(filter, _) | Op::Delete(filter, _) => match &filter.ids {
                    Some(ids) => ids.iter().for_each(|id| {
                        bulk.entry(*id).or_insert(call.begin);
                    }),
                    None => any = any.min(call.begin),
                },
                Op::PutRecord(record, _) => {
                    let name = record.key.strip_prefix(PAUSED_QUEUE);
                    paused.extend(name.and_then(|name| QueueName::new(name).ok()));
                }
                _ => {}
            }
        }
        Touched { named, bulk, any, paused }
    }

    fn is_paused(&self, queue: &QueueName) -> bool {
        self.paused.contains(queue)
    }

    fn first_bulk(&self, id: JobId) -> u64 {
        self.bulk.get(&id).copied().unwrap_or(u64::MAX).min(self.any)
    }

    /// The parts of a stay in which no other call named the job.
    fn untouched(&self, stay: &Stay) -> Vec<Stay> {
        let mut free = stay.from;
        let mut pieces = Vec::new();
        let named = self.named.get(&stay.id).map_or(&[][..], |named| &named[..]);
        let later = named.iter().filter(|(_, end)| *end > stay.from);
        // In the order of their begins, as they are in the history.
        for (begin, end) in later.copied().chain([(stay.until, u64::MAX)]) {
            let until = begin.min(stay.until);
            if free < until {
                pieces.push(Stay { from: free, until, ..*stay });
            }
            free = free.max(end);
        }
        pieces
    }
}

/// The latest time that the store's clock is known to have reached, by when that is known.
struct Reached(std::iter::Peekable<std::vec::IntoIter<(u64, Timestamp)>>, Timestamp);

impl Reached {
    fn of(history: &History) -> Self {
        let known = history.calls.iter().filter_map(|call| Some((call.end?, call.since?)));
        let mut known: Vec<(u64, Timestamp)> = known.collect();
        known.sort_unstable();
        Reached(known.into_iter().peekable(), Timestamp::MIN)
    }

    fn at(&mut self, moment: u64, since: Option<Timestamp>) -> Timestamp {
        while let Some((_, time)) = self.0.next_if(|(end, _)| *end < moment) {
            self.1 = self.1.max(time);
        }
        self.1 = since.map_or(self.1, |since| self.1.max(since));
        self.1
    }
}

/// The stays that have begun, with the first in the order among those that last long enough.
///
/// For each class a Fenwick tree over the ends of the stays, which keeps minima: adding and asking take `log n` steps.
struct Standing<'s> {
    stays: &'s [Stay],
    reached: Reached,
    slack: Duration,
    /// By begin, the latest first.
    coming: Vec<usize>,
    /// Begun, but perhaps not due: by the time.
    early: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// The ends, ascending.
    ends: Vec<u64>,
    least: Vec<Vec<Option<(Rank, usize)>>>,
}

/// Stays whose place in the order is not known come last.
type Rank = (bool, Option<Key>);

impl<'s> Standing<'s> {
    fn new(history: &History, stays: &'s [Stay], classes: usize) -> Self {
        let mut coming: Vec<usize> = (0..stays.len()).collect();
        coming.sort_by_key(|stay| Reverse(stays[*stay].from));
        let mut ends: Vec<u64> = stays.iter().map(|stay| stay.until).collect();
        ends.sort_unstable();
        ends.dedup();
        let least = vec![Vec::new(); classes];
        let (reached, slack) = (Reached::of(history), history.limits().schedule_slack);
        Standing { stays, reached, slack, coming, early: BinaryHeap::new(), ends, least }
    }

    /// Adds the stays that began before the moment of this question and were due by then. Questions come in the order of
    /// their moments.
    fn advance(&mut self, question: &Question<'_>) {
        let now = self.reached.at(question.moment, question.since);
        while let Some(stay) = self.coming.pop_if(|stay| self.stays[*stay].from < question.moment) {
            self.early.push(Reverse((self.stays[stay].due, stay)));
        }
        while let Some(Reverse((due, stay))) = self.early.peek().copied() {
            // Without any time known, what is due at once is due.
            if due != Timestamp::MIN && due.plus(self.slack) > now {
                break;
            }
            self.early.pop();
            self.add(stay);
        }
    }

    fn add(&mut self, stay: usize) {
        let Stay { class, until, key, .. } = &self.stays[stay];
        let least = &mut self.least[*class];
        if least.is_empty() {
            least.resize(self.ends.len() + 1, None);
        }
        let rank: Rank = (key.is_none(), *key);
        // Reversed, so that a prefix of the tree is a suffix of the ends.
        let mut at = self.ends.len() - self.ends.partition_point(|end| end < until);
        while at < least.len() {
            if least[at].is_none_or(|(known, _)| rank < known) {
                least[at] = Some((rank, stay));
            }
            at += at & at.wrapping_neg();
        }
    }

    /// The first in the order of the stays that the claim should have seen all the while.
    fn first(&mut self, question: &Question<'_>) -> Option<usize> {
        self.advance(question);
        let beyond = self.ends.len() - self.ends.partition_point(|end| *end <= question.end);
        let mut first: Option<(Rank, usize)> = None;
        let classes = question.wanted.iter().map(|class| &self.least[*class]);
        for least in classes.filter(|least| !least.is_empty()) {
            let mut at = beyond;
            while at > 0 {
                if let Some((rank, stay)) = least[at]
                    && first.is_none_or(|(known, _)| rank < known)
                {
                    first = Some((rank, stay));
                }
                at -= at & at.wrapping_neg();
            }
        }
        first.map(|(_, stay)| stay)
    }
}
