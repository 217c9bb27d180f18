//! Filters as queries.

use mongodb::bson::{Bson, Document, doc};
use queue_core::{JobFilter, States, TimeRange};

use crate::codec;

/// The query that matches what the filter matches.
pub(crate) fn query(filter: &JobFilter) -> Document {
    let mut query = Document::new();
    let mut one_of = |field: &str, values: Option<Vec<Bson>>| {
        if let Some(values) = values {
            query.insert(field, doc! { "$in": values });
        }
    };
    one_of("_id", filter.ids.as_ref().map(|ids| ids.iter().map(codec::job_id).collect()));
    let queues = filter.queues.as_ref();
    one_of("queue", queues.map(|queues| queues.iter().map(|q| q.as_str().into()).collect()));
    let kinds = filter.kinds.as_ref();
    one_of("kind", kinds.map(|kinds| kinds.iter().map(|kind| kind.as_ref().into()).collect()));
    if filter.states != States::ALL {
        let states = filter.states.iter().flat_map(codec::stored_states);
        one_of("state", Some(states.collect()));
    }
    if !filter.labels.is_empty() {
        let labels: Vec<Bson> = filter.labels.iter().map(codec::label).collect();
        query.insert("labels", doc! { "$all": labels });
    }
    range(&mut query, "created_at", &filter.created);
    range(&mut query, "run_at", &filter.run_at);
    range(&mut query, "finished_at", &filter.finished);
    query
}

fn range(query: &mut Document, field: &str, range: &TimeRange) {
    if range.is_open() {
        return;
    }
    let mut bounds = Document::new();
    for (operator, bound) in [("$gte", range.from), ("$lt", range.before)] {
        if let Some(at) = bound {
            bounds.insert(operator, at.as_micros());
        }
    }
    query.insert(field, bounds);
}

/// Both queries. Each may name the same fields.
pub(crate) fn both(one: Document, other: Document) -> Document {
    match (one.is_empty(), other.is_empty()) {
        (true, _) => other,
        (_, true) => one,
        _ => doc! { "$and": [one, other] },
    }
}
