//! Claims.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use queue_core::{Claim, ClaimRequest, Claimed, Order, QueueName, Queues, Record, Row, Timestamp};
use redb::{Error, ReadableTable};
use uuid::Uuid;

use crate::{
    document::{decode, indexed_row, job},
    merge::{Merge, Source},
    tables::{View, rank},
    work::Work,
};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn claim(work: &mut Work<'_>, request: &ClaimRequest) -> Result<Claimed> {
    let limit = usize::try_from(request.limit.get()).unwrap_or(usize::MAX);
    let held = held_under(&work.tables, request)?;
    let repeated = !held.is_empty();
    let picked = pick(&work.tables, request, work.now, if repeated { 1 } else { limit })?;
    let left = repeated && !picked.jobs.is_empty();
    let rows = if repeated { held } else { take(work, request, picked.jobs)? };
    let next_due = match rows.len() >= limit {
        true => None,
        false if left => Some(work.now),
        false => earliest(picked.future, first_lease(&work.tables)?),
    };
    let jobs = rows.into_iter().map(|row| job(&work.tables, row, request.log));
    Ok(Claimed::new(jobs.collect::<Result<_>>()?, next_due))
}

/// What an earlier claim with this token took and still holds.
fn held_under(view: &impl View, request: &ClaimRequest) -> Result<Vec<Row>> {
    let token = request.token;
    let range = view.held().range((token, Uuid::nil())..=(token, Uuid::max()))?;
    let mut rows =
        range.map(|entry| indexed_row(view, entry?.0.value().1)).collect::<Result<Vec<Row>>>()?;
    rows.sort_by_key(|row| {
        place(request.order, rank(row.priority), row.control.run_at.as_micros(), *row.id.as_uuid())
    });
    Ok(rows)
}

fn take(
    work: &mut Work<'_>,
    request: &ClaimRequest,
    picked: Vec<(Row, Option<u32>)>,
) -> Result<Vec<Row>> {
    let claim = Claim::of(request, work.now);
    let take = |(old, slot): (Row, Option<u32>)| {
        let mut row = old.clone();
        row.control.claim(&claim, slot);
        work.save(&old, &row)?;
        Ok(row)
    };
    picked.into_iter().map(take).collect()
}

/// What a claim would take, and with which slots of their lanes.
struct Picked {
    jobs: Vec<(Row, Option<u32>)>,
    /// When the first job falls due that is not due yet; a filter and full lanes aside, so it may be early.
    future: Option<Timestamp>,
}

fn pick(view: &impl View, request: &ClaimRequest, now: Timestamp, limit: usize) -> Result<Picked> {
    let mut picked = Picked { jobs: Vec::new(), future: None };
    let mut due = Vec::new();
    for (queue, kind, rank) in ranges(view, request)? {
        let key = |at: i64, id: Uuid| (queue.as_str(), kind.as_str(), rank, at, id);
        let (first, last) = (key(i64::MIN, Uuid::nil()), key(i64::MAX, Uuid::max()));
        let latest = key(now.as_micros(), Uuid::max());
        let later = (Bound::Excluded(latest), Bound::Included(last));
        if let Some(entry) = view.waiting().range(later)?.next() {
            let at = Timestamp::from_micros_saturating(entry?.0.value().3);
            picked.future = earliest(picked.future, Some(at));
        }
        due.push(candidates(view, request.order, first, latest)?);
    }
    let mut lanes = Lanes { view, taken: HashMap::new() };
    for candidate in Merge::new(due)? {
        let (place, lane) = candidate?;
        let slot = match &lane {
            Some((key, limit)) => match lanes.free(key, *limit)? {
                Some(slot) => Some(slot),
                None => continue,
            },
            None => None,
        };
        let row = indexed_row(view, id_of(request.order, place))?;
        if request.filter.as_ref().is_some_and(|filter| !row.matches(filter)) {
            continue;
        }
        if let Some(((key, _), slot)) = lane.as_ref().zip(slot) {
            lanes.take(key, slot);
        }
        picked.jobs.push((row, slot));
        if picked.jobs.len() >= limit {
            break;
        }
    }
    Ok(picked)
}

/// Queue, kind and rank of the waiting jobs that the request asks for.
///
/// Found by jumping from one to the next in the index, so jobs that wait cost nothing here, however many they are. Within
/// one, jobs ascend by the time at which they are due, so jobs of the future cost nothing either.
fn ranges(view: &impl View, request: &ClaimRequest) -> Result<Vec<(String, String, i16)>> {
    let mut found = Vec::new();
    match &request.queues {
        Queues::All => ranges_from(view, request, "", None, &mut found)?,
        Queues::Only(queues) => {
            for queue in queues.iter().collect::<BTreeSet<_>>() {
                ranges_from(view, request, queue.as_str(), Some(queue), &mut found)?;
            }
        }
    }
    Ok(found)
}

fn ranges_from(
    view: &impl View,
    request: &ClaimRequest,
    start: &str,
    only: Option<&QueueName>,
    found: &mut Vec<(String, String, i16)>,
) -> Result<()> {
    let mut from = (start.to_owned(), String::new(), i16::MIN);
    loop {
        let lower = (from.0.as_str(), from.1.as_str(), from.2, i64::MIN, Uuid::nil());
        let Some(entry) = view.waiting().range(lower..)?.next() else { return Ok(()) };
        let (key, _) = entry?;
        let (queue, kind, rank, _, _) = key.value();
        if only.is_some_and(|only| only.as_str() != queue) {
            return Ok(());
        }
        from = if is_paused(view, queue)? {
            (after(queue), String::new(), i16::MIN)
        } else if !request.kinds.contains(kind) {
            (queue.to_owned(), after(kind), i16::MIN)
        } else {
            found.push((queue.to_owned(), kind.to_owned(), rank));
            match rank.checked_add(1) {
                Some(rank) => (queue.to_owned(), kind.to_owned(), rank),
                None => (queue.to_owned(), after(kind), i16::MIN),
            }
        };
    }
}

/// The first name after this one: names have no control characters.
fn after(name: &str) -> String {
    format!("{name}\0")
}

fn is_paused(view: &impl View, queue: &str) -> Result<bool> {
    let queue = QueueName::new(queue).map_err(|error| Error::Corrupted(error.to_string()))?;
    let Some(bytes) = view.records().get(Record::pause_key(&queue).as_str())? else {
        return Ok(false);
    };
    Ok(decode::<Record>(bytes.value())?.body.is_some())
}

/// A place in the order of a claim: the smaller, the sooner.
type Place = (i16, i64, u128);

fn place(order: Order, rank: i16, run_at: i64, id: Uuid) -> Place {
    match order {
        Order::Fifo => (rank, run_at, id.as_u128()),
        Order::Lifo => (rank, !run_at, !id.as_u128()),
    }
}

fn id_of(order: Order, (_, _, id): Place) -> Uuid {
    match order {
        Order::Fifo => Uuid::from_u128(id),
        Order::Lifo => Uuid::from_u128(!id),
    }
}

type Candidate = (Place, Option<(String, u32)>);

/// The jobs from `first` to `last`, in the order of the claim.
fn candidates<'a>(
    view: &'a impl View,
    order: Order,
    first: (&str, &str, i16, i64, Uuid),
    last: (&str, &str, i16, i64, Uuid),
) -> Result<Source<'a, Candidate>> {
    let range = view.waiting().range(first..=last)?;
    let read = move |entry: std::result::Result<_, redb::StorageError>| {
        let (key, lane): (redb::AccessGuard<'_, _>, redb::AccessGuard<'_, _>) = entry?;
        let (_, _, rank, run_at, id): (&str, &str, i16, i64, Uuid) = key.value();
        let lane: Option<(&str, u32)> = lane.value();
        Ok((place(order, rank, run_at, id), lane.map(|(key, limit)| (key.to_owned(), limit))))
    };
    Ok(match order {
        Order::Fifo => Box::new(range.map(read)),
        Order::Lifo => Box::new(range.rev().map(read)),
    })
}

/// The slots of lanes: those that running jobs hold, and those that this claim has given away.
struct Lanes<'a, V> {
    view: &'a V,
    taken: HashMap<String, BTreeSet<u32>>,
}

impl<V: View> Lanes<'_, V> {
    fn free(&mut self, lane: &str, limit: u32) -> Result<Option<u32>> {
        if !self.taken.contains_key(lane) {
            let held = self.view.slots().range((lane, 0)..=(lane, u32::MAX))?;
            let held = held.map(|entry| Ok(entry?.0.value().1)).collect::<Result<_>>()?;
            self.taken.insert(lane.to_owned(), held);
        }
        let taken = &self.taken[lane];
        Ok((0..limit).find(|slot| !taken.contains(slot)))
    }

    fn take(&mut self, lane: &str, slot: u32) {
        self.taken.entry(lane.to_owned()).or_default().insert(slot);
    }
}

/// The end of the lease that ends first. Its job may be of any queue: whoever claims reaps as well.
fn first_lease(view: &impl View) -> Result<Option<Timestamp>> {
    let first = view.leases().first()?;
    Ok(first.map(|(key, _)| Timestamp::from_micros_saturating(key.value().0)))
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}
