//! Claiming: which jobs are taken, in which order, and when to come back.

use queue_core::{
    Claim, ClaimRequest, Claimed, Job, JobFilter, JobId, Kinds, Lane, Order, QueueName, Queues,
    Record, Timestamp,
};

use rusqlite::CachedStatement;

use crate::{
    codec::{self, every, first},
    error::Db,
    lanes::Lanes,
    sql, write,
    writer::Writing,
};

mod filtered;
mod ranges;
mod stream;

#[cfg(test)]
mod plan_tests;

/// A due job, before it is known whether its lane has room.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    num: i64,
    place: Place,
    lane: Option<Lane>,
}

/// Where a job stands among those of its priority. In bare microseconds: the places before the
/// first and after the last instant of the calendar are needed too.
type Place = (i64, JobId);

/// Whether `a` goes before `b`.
fn precedes(order: Order, a: &Place, b: &Place) -> bool {
    match order {
        Order::Fifo => a < b,
        Order::Lifo => a > b,
    }
}

/// What a claim has taken so far, and what it has learned.
pub(crate) struct Taking<'a, 'w> {
    writing: &'a Writing<'w>,
    request: &'a ClaimRequest,
    claim: Claim,
    lanes: Lanes,
    select: CachedStatement<'a>,
    update: CachedStatement<'a>,
    jobs: Vec<Job>,
}

/// Whether a candidate's lane had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    LaneFull,
}

impl Taking<'_, '_> {
    fn limit(&self) -> usize {
        usize::try_from(self.request.limit.get()).unwrap_or(usize::MAX)
    }

    fn left(&self) -> usize {
        self.limit() - self.jobs.len()
    }

    /// Takes a candidate, if its lane has room.
    fn take(&mut self, candidate: &Candidate) -> Db<Taken> {
        let slot = match &candidate.lane {
            None => None,
            Some(lane) => match self.lanes.free_slot(self.writing.db, lane)? {
                None => return Ok(Taken::LaneFull),
                slot => slot,
            },
        };
        // Candidates are read under the write lock that this runs under: the job is there.
        let Some(mut stored) = first(&mut self.select, [candidate.num], codec::read_wide)? else {
            return Err(rusqlite::Error::QueryReturnedNoRows.into());
        };
        stored.row.control.claim(&self.claim, slot);
        write::put_claim(&mut self.update, &stored)?;
        if let (Some(lane), Some(slot)) = (&candidate.lane, slot) {
            self.lanes.take(lane, slot);
        }
        self.jobs.push(codec::into_job(self.writing.db, stored, self.request.log)?);
        Ok(Taken::Yes)
    }
}

/// Takes the first due jobs that the request matches.
pub(crate) fn claim(writing: &mut Writing<'_>, request: &ClaimRequest) -> Db<Claimed> {
    if let Some(repeated) = repeated(writing, request)? {
        return Ok(repeated);
    }
    let wanted = Wanted::of(writing, request)?;
    let mut taking = Taking {
        writing,
        request,
        claim: Claim::of(request, writing.now),
        lanes: Lanes::default(),
        select: sql::prepare(writing.db, sql::WIDE_BY_NUM)?,
        update: sql::prepare(writing.db, sql::CLAIM)?,
        jobs: Vec::new(),
    };
    let waiting = match request.filter.as_ref().filter(|filter| !is_ranges_only(filter)) {
        Some(filter) => filtered::take(&mut taking, &wanted, filter)?,
        None => ranges::take(&mut taking, &wanted)?,
    };
    if taking.left() == 0 {
        return Ok(Claimed::new(taking.jobs, None));
    }
    let due = [waiting, earliest_lease(writing)?].into_iter().flatten().min();
    Ok(Claimed::new(taking.jobs, due))
}

fn earliest_lease(writing: &Writing<'_>) -> Db<Option<Timestamp>> {
    let until: Option<i64> = codec::value(writing.db, sql::EARLIEST_LEASE, [])?;
    until.map(codec::time).transpose()
}

/// The answer to a request whose token took jobs before that are still held under it.
fn repeated(writing: &Writing<'_>, request: &ClaimRequest) -> Db<Option<Claimed>> {
    let mut statement = sql::prepare(writing.db, sql::WIDE_BY_NONCE)?;
    let mut held = every(&mut statement, [&request.token.as_bytes()[..]], codec::read_wide)?;
    if held.is_empty() {
        return Ok(None);
    }
    held.sort_by(|a, b| {
        let place = |row: &queue_core::Row| (row.control.run_at, row.id);
        let (a, b) = (&a.row, &b.row);
        let within = match request.order {
            Order::Fifo => place(a).cmp(&place(b)),
            Order::Lifo => place(b).cmp(&place(a)),
        };
        b.priority.cmp(&a.priority).then(within)
    });
    let read = |stored| codec::into_job(writing.db, stored, request.log);
    let jobs = held.into_iter().map(read).collect::<Db<Vec<Job>>>()?;
    let full = u32::try_from(jobs.len()).is_ok_and(|count| count >= request.limit.get());
    Ok(Some(Claimed::new(jobs, (!full).then_some(writing.now))))
}

/// Whether a filter says nothing but queues and kinds, which is what ranges are made of.
fn is_ranges_only(filter: &JobFilter) -> bool {
    let mut rest = filter.clone();
    (rest.queues, rest.kinds) = (None, None);
    rest == JobFilter::all()
}

/// Names that are wanted: sorted, or all.
#[derive(Debug)]
enum Names {
    All,
    Only(Vec<String>),
}

impl Names {
    fn of<T: AsRef<str>>(names: Option<impl Iterator<Item = T>>) -> Self {
        match names {
            None => Names::All,
            Some(names) => {
                let mut names: Vec<String> = names.map(|name| name.as_ref().to_owned()).collect();
                names.sort_unstable();
                names.dedup();
                Names::Only(names)
            }
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::Only(names) => names.binary_search_by(|known| known.as_str().cmp(name)).is_ok(),
        }
    }

    fn and(self, other: Names) -> Names {
        match (self, other) {
            (Names::All, names) | (names, Names::All) => names,
            (Names::Only(mut names), other) => {
                names.retain(|name| other.contains(name));
                Names::Only(names)
            }
        }
    }

    /// The first wanted name that is not before this one; `None` when there is none.
    fn at_least<'a>(&'a self, from: &'a str) -> Option<&'a str> {
        match self {
            Names::All => Some(from),
            Names::Only(names) => {
                let index = names.partition_point(|name| name.as_str() < from);
                names.get(index).map(String::as_str)
            }
        }
    }
}

/// The queues and kinds that a claim takes from.
#[derive(Debug)]
struct Wanted {
    queues: Names,
    kinds: Names,
    paused: Vec<String>,
}

impl Wanted {
    fn of(writing: &Writing<'_>, request: &ClaimRequest) -> Db<Self> {
        let asked = Names::of(match &request.queues {
            Queues::All => None,
            Queues::Only(queues) => Some(queues.iter().map(QueueName::as_str)),
        });
        let kinds = Names::of(match &request.kinds {
            Kinds::All => None,
            Kinds::Only(kinds) => Some(kinds.iter()),
        });
        let filter = request.filter.as_ref();
        let by_filter = filter.and_then(|filter| filter.queues.as_ref());
        let queues =
            asked.and(Names::of(by_filter.map(|queues| queues.iter().map(QueueName::as_str))));
        let by_filter = filter.and_then(|filter| filter.kinds.as_ref());
        let kinds = kinds.and(Names::of(by_filter.map(|kinds| kinds.iter())));
        Ok(Wanted { queues, kinds, paused: paused(writing)? })
    }

    fn has(&self, queue: &str, kind: &str) -> bool {
        self.takes_from(queue) && self.queues.contains(queue) && self.kinds.contains(kind)
    }

    fn takes_from(&self, queue: &str) -> bool {
        !self.paused.iter().any(|paused| paused == queue)
    }
}

/// The queues that are paused.
fn paused(writing: &Writing<'_>) -> Db<Vec<String>> {
    let prefix = queue_core::PAUSED_QUEUE;
    // The prefix ends with a slash, and `0` is the character after it: this is after every key with
    // the prefix.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let mut statement = sql::prepare(writing.db, sql::PAUSED)?;
    let keys = every(&mut statement, [prefix, &end], |row| Ok(row.get::<_, String>(0)?))?;
    let paused = keys.into_iter().filter_map(|key| {
        let name = QueueName::new(key.strip_prefix(prefix)?).ok()?;
        (Record::pause_key(&name) == key).then(|| name.as_str().to_owned())
    });
    Ok(paused.collect())
}
