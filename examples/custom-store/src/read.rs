//! Reads: jobs by id, pages, counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use queue_core::{
    Cursor, Job, JobFilter, JobId, JobQuery, LogRead, Page, Row, Sort, Tally, Timestamp,
};
use redb::{Error, ReadableTable};
use uuid::Uuid;

use crate::{
    document::{self, indexed_row, row},
    merge::{Merge, Source},
    tables::View,
};

type Result<T> = std::result::Result<T, Error>;

pub(crate) fn get(view: &impl View, ids: &[JobId], log: LogRead) -> Result<Vec<Option<Job>>> {
    let read =
        |id: &JobId| row(view, *id.as_uuid())?.map(|row| document::job(view, row, log)).transpose();
    ids.iter().map(read).collect()
}

pub(crate) fn find(view: &impl View, query: &JobQuery) -> Result<Page<Job>> {
    let limit = usize::try_from(query.limit.get()).unwrap_or(usize::MAX);
    let (mut skip, mut rows, mut more) = (query.offset, Vec::new(), false);
    walk(view, &query.filter, query.sort, query.after, |row| {
        if skip > 0 {
            skip -= 1;
        } else if rows.len() < limit {
            rows.push(row);
        } else {
            more = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    let jobs = rows.into_iter().map(|row| document::job(view, row, LogRead::None));
    let jobs = jobs.collect::<Result<Vec<Job>>>()?;
    let next = jobs.last().filter(|_| more).map(Cursor::of);
    Ok(Page::new(jobs, next))
}

pub(crate) fn tally(view: &impl View, filter: &JobFilter) -> Result<Vec<Tally>> {
    let mut counts = BTreeMap::new();
    walk(view, filter, Sort::OldestFirst, None, |row| {
        *counts.entry((row.queue, row.control.state)).or_insert(0) += 1;
        ControlFlow::Continue(())
    })?;
    Ok(counts.into_iter().map(|((queue, state), count)| Tally::new(queue, state, count)).collect())
}

/// Where a job stands in listings: when it was created, and its id.
type Place = (i64, u128);

/// Visits the rows that match, by creation and id, until told to stop.
///
/// Reads the jobs that are named by id, or those of one of the labels, or those of the states wanted; the rest of the
/// filter is judged row by row.
pub(crate) fn walk<V: View>(
    view: &V,
    filter: &JobFilter,
    sort: Sort,
    after: Option<Cursor>,
    mut visit: impl FnMut(Row) -> ControlFlow<()>,
) -> Result<()> {
    let (lower, upper) = bounds(filter, sort, after);
    if lower >= upper {
        return Ok(());
    }
    // Everything ascends in a merge; the complement turns an order round.
    let turn = |(created, id): Place| match sort {
        Sort::OldestFirst => (created, id),
        Sort::NewestFirst => (!created, !id),
    };
    for place in Merge::new(sources(view, filter, lower, upper, sort)?)? {
        let (_, id) = turn(place?);
        let row = indexed_row(view, Uuid::from_u128(id))?;
        if row.matches(filter) && visit(row).is_break() {
            break;
        }
    }
    Ok(())
}

fn sources<'a, V: View>(
    view: &'a V,
    filter: &JobFilter,
    lower: Place,
    upper: Place,
    sort: Sort,
) -> Result<Vec<Source<'a, Place>>> {
    let (from, from_id) = (lower.0, Uuid::from_u128(lower.1));
    let (to, to_id) = (upper.0, Uuid::from_u128(upper.1));
    if let Some(ids) = &filter.ids {
        let mut places = BTreeSet::new();
        for id in ids {
            let row = row(view, *id.as_uuid())?;
            places.extend(row.map(|row| (row.created_at.as_micros(), id.as_uuid().as_u128())));
        }
        let places: Vec<_> = places.range(lower..upper).copied().map(Ok).collect();
        return Ok(vec![directed(places.into_iter(), sort)]);
    }
    if let Some((label, value)) = filter.labels.first_key_value() {
        let key = |at, id| (label.as_str(), value.as_str(), at, id);
        let range = view.labels().range(key(from, from_id)..key(to, to_id))?;
        let range = range.map(|entry| {
            let (_, _, created, id) = entry?.0.value();
            Ok((created, id.as_u128()))
        });
        return Ok(vec![directed(range, sort)]);
    }
    let of_state = |state: queue_core::State| {
        let code = state.code();
        let range = view.states().range((code, from, from_id)..(code, to, to_id))?;
        let range = range.map(|entry| {
            let (_, created, id) = entry?.0.value();
            Ok((created, id.as_u128()))
        });
        Ok(directed(range, sort))
    };
    filter.states.iter().map(of_state).collect()
}

/// The places in the order of the listing, turned round if that is descending.
fn directed<'a>(
    places: impl DoubleEndedIterator<Item = Result<Place>> + 'a,
    sort: Sort,
) -> Source<'a, Place> {
    match sort {
        Sort::OldestFirst => Box::new(places),
        Sort::NewestFirst => {
            Box::new(places.rev().map(|place| place.map(|(created, id)| (!created, !id))))
        }
    }
}

/// From which place on, and before which, jobs can match.
fn bounds(filter: &JobFilter, sort: Sort, after: Option<Cursor>) -> (Place, Place) {
    let micros = |at: Timestamp| (at.as_micros(), 0);
    let lower = filter.created.from.map_or((i64::MIN, 0), micros);
    let upper = filter.created.before.map_or((i64::MAX, u128::MAX), micros);
    let Some(cursor) = after else { return (lower, upper) };
    let (created, id) = (cursor.created_at.as_micros(), cursor.id.as_uuid().as_u128());
    match sort {
        Sort::NewestFirst => (lower, upper.min((created, id))),
        Sort::OldestFirst => {
            let next = id.checked_add(1).map_or((created + 1, 0), |id| (created, id));
            (lower.max(next), upper)
        }
    }
}
