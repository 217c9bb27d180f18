//! Claims by queue and kind: one index range per (queue, kind, priority), merged.

use std::num::NonZeroU32;

use queue_core::{Lane, Timestamp};
use rusqlite::params;

use super::{
    Taken, Taking, Wanted, precedes,
    stream::{Plane, Range, Stream},
};
use crate::{codec::first, error::Db, sql, writer::Writing};

/// After so many jobs behind full lanes a stream looks whether it can skip whole lanes.
const PATIENCE: usize = 64;

/// With more lanes than this in one range, asking for each costs more than walking on.
const MANY_LANES: usize = 1024;

/// Takes due jobs in order, and answers when the next of the others falls due.
pub(super) fn take(taking: &mut Taking<'_, '_>, wanted: &Wanted) -> Db<Option<Timestamp>> {
    let mut ranges = highest(taking.writing, wanted)?;
    let mut next_due: Option<Timestamp> = None;
    while let Some(priority) = ranges.iter().map(|range| range.priority).max() {
        let (here, lower): (Vec<Range>, Vec<Range>) =
            ranges.into_iter().partition(|range| range.priority == priority);
        ranges = lower;
        take_priority(taking, &here)?;
        if taking.left() == 0 {
            return Ok(None);
        }
        for range in here {
            // May be behind a full lane: then it is early, which costs a look and no more.
            let at = future(taking.writing, &range)?;
            next_due = [next_due, at].into_iter().flatten().min();
            ranges.extend(lower_priority(taking.writing, range)?);
        }
    }
    Ok(next_due)
}

/// The ranges in which jobs wait, for each queue and kind the one of the highest priority.
///
/// A leapfrog of two sorted lists, the wanted names and those in the index: its cost is bounded by
/// the shorter one, so neither a head of unknown kinds nor a worker that knows many kinds is scanned.
fn highest(writing: &Writing<'_>, wanted: &Wanted) -> Db<Vec<Range>> {
    let mut ranges = Vec::new();
    for plane in Plane::ALL {
        let statements = plane.statements();
        let mut from = String::new();
        while let Some(at_least) = wanted.queues.at_least(&from) {
            let mut statement = sql::prepare(writing.db, statements.queue)?;
            let found = first(&mut statement, [at_least], |row| Ok(row.get::<_, String>(0)?))?;
            let Some(queue) = found else { break };
            if wanted.queues.contains(&queue) && wanted.takes_from(&queue) {
                kinds_of(writing, wanted, plane, &queue, &mut ranges)?;
            }
            from = after(&queue);
        }
    }
    Ok(ranges)
}

fn kinds_of(
    writing: &Writing<'_>,
    wanted: &Wanted,
    plane: Plane,
    queue: &str,
    ranges: &mut Vec<Range>,
) -> Db<()> {
    let mut statement = sql::prepare(writing.db, plane.statements().kind)?;
    let mut from = String::new();
    while let Some(at_least) = wanted.kinds.at_least(&from) {
        let found = first(&mut statement, [queue, at_least], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i16>(1)?))
        })?;
        let Some((kind, priority)) = found else { break };
        from = after(&kind);
        if wanted.kinds.contains(&kind) {
            ranges.push(Range { plane, queue: queue.to_owned(), kind, priority });
        }
    }
    Ok(())
}

/// The first text after this one that a name can be: names hold no control characters.
fn after(name: &str) -> String {
    format!("{name}\u{1}")
}

fn lower_priority(writing: &Writing<'_>, range: Range) -> Db<Option<Range>> {
    let mut statement = sql::prepare(writing.db, range.plane.statements().priority)?;
    let params = params![range.queue, range.kind, range.priority];
    let lower = first(&mut statement, params, |row| Ok(row.get(0)?))?;
    Ok(lower.map(|priority| Range { priority, ..range }))
}

fn future(writing: &Writing<'_>, range: &Range) -> Db<Option<Timestamp>> {
    let mut statement = sql::prepare(writing.db, range.plane.statements().future)?;
    let params = params![range.queue, range.kind, range.priority, writing.now.as_micros()];
    first(&mut statement, params, |row| crate::codec::time(row.get(0)?))
}

/// Merges the due jobs of ranges of one priority, and takes them until the limit is reached.
fn take_priority(taking: &mut Taking<'_, '_>, ranges: &[Range]) -> Db<()> {
    let (order, now) = (taking.request.order, taking.writing.now);
    let mut streams: Vec<Stream> =
        ranges.iter().map(|range| Stream::new(range.clone(), order, now)).collect();
    while taking.left() > 0 {
        // Not more than is needed, split over the streams with a little to spare.
        let chunk = match streams.len() {
            0 | 1 => taking.left(),
            many => taking.left() / many + 4,
        };
        let mut best: Option<usize> = None;
        let mut index = 0;
        while index < streams.len() {
            if streams[index].peek(taking.writing, order, chunk)?.is_none() {
                streams.swap_remove(index);
                continue;
            }
            let goes_first =
                match (streams[index].front(), best.and_then(|best| streams[best].front())) {
                    (Some(place), Some(first)) => precedes(order, place, first),
                    _ => true,
                };
            if goes_first {
                best = Some(index);
            }
            index += 1;
        }
        let Some(best) = best else { return Ok(()) };
        let Some(candidate) = streams[best].pop() else { return Ok(()) };
        if taking.take(&candidate)? == Taken::LaneFull {
            behind_full_lane(taking, &mut streams, best)?;
        }
    }
    Ok(())
}

/// The lane of the stream's last job is full. A stream of that lane ends here; one of many lanes is, after
/// some patience, replaced by streams of the lanes that have room.
fn behind_full_lane(
    taking: &mut Taking<'_, '_>,
    streams: &mut Vec<Stream>,
    index: usize,
) -> Db<()> {
    if streams[index].lane.is_some() {
        streams.swap_remove(index);
        return Ok(());
    }
    streams[index].blocked += 1;
    if streams[index].blocked != PATIENCE {
        return Ok(());
    }
    let Some(lanes) = lanes_of(taking.writing, &streams[index].range)? else { return Ok(()) };
    let stream = streams.swap_remove(index);
    for lane in lanes {
        if taking.lanes.free_slot(taking.writing.db, &lane)?.is_some() {
            streams.push(stream.of_lane(lane));
        }
    }
    Ok(())
}

/// The lanes of a range, each with the limit that its jobs state; `None` when they are too many.
fn lanes_of(writing: &Writing<'_>, range: &Range) -> Db<Option<Vec<Lane>>> {
    let mut statement = sql::prepare(writing.db, sql::LANE_NEXT)?;
    let mut lanes: Vec<Lane> = Vec::new();
    loop {
        let (key, limit) =
            lanes.last().map_or(("", 0), |lane| (lane.key.as_str(), lane.limit.get()));
        let params = params![range.queue, range.kind, range.priority, key, limit];
        let next = first(&mut statement, params, |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?))
        })?;
        let Some((key, limit)) = next else { return Ok(Some(lanes)) };
        // A limit of 0 cannot be stored: it comes from a NonZeroU32.
        lanes.push(Lane::with_limit(key, NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN)));
        if lanes.len() > MANY_LANES {
            return Ok(None);
        }
    }
}
