//! The ranges of the ready plane that a request names: one per queue and kind.

use std::collections::BTreeSet;

use mongodb::bson::{Bson, Document, doc};

use crate::codec::READY;

/// The server merges so many ranges in the order of their index; when there are more it reads them to their ends and
/// sorts (`internalQueryMaxScansToExplode`, 200 by default).
const MERGED: usize = 200;
/// The most groups of that size in one pipeline, which may have 1,000 stages.
const GROUPS: usize = 400;

/// Queues and kinds to take from. Every range is one of each; without queues it is one per kind, of all queues.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    pub(super) queues: Option<Vec<String>>,
    pub(super) kinds: BTreeSet<String>,
}

/// Matches a field against one of these values.
pub(super) fn one_of(values: &[&str]) -> Bson {
    match values {
        [value] => (*value).into(),
        _ => doc! { "$in": values.to_vec() }.into(),
    }
}

impl Ranges {
    /// Queries that together match all ranges, and each of which the server answers in the order of an index.
    pub(super) fn groups(&self) -> Vec<Document> {
        self.grouped(MERGED)
    }

    /// A query for each range.
    pub(super) fn singles(&self) -> Vec<Document> {
        self.grouped(1)
    }

    /// Adds a range.
    pub(super) fn add(&mut self, queue: &str, kind: &str) {
        if let Some(queues) = self.queues.as_mut().filter(|all| !all.iter().any(|q| q == queue)) {
            queues.push(queue.to_owned());
        }
        self.kinds.insert(kind.to_owned());
    }

    fn grouped(&self, most: usize) -> Vec<Document> {
        let kinds: Vec<&str> = self.kinds.iter().map(String::as_str).collect();
        let kinds_each = kinds.len().clamp(1, most);
        let Some(queues) = &self.queues else {
            let group = |kinds: &[&str]| doc! { "state": READY, "kind": one_of(kinds) };
            return kinds.chunks(kinds_each).map(group).collect();
        };
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        let queues_each = (most / kinds_each).max(1);
        if most > 1 && kinds.chunks(kinds_each).len() * queues.len() / queues_each > GROUPS {
            // So many names are read in full and sorted.
            return vec![doc! { "state": READY, "queue": one_of(&queues), "kind": one_of(&kinds) }];
        }
        let mut groups = Vec::new();
        for queues in queues.chunks(queues_each) {
            for kinds in kinds.chunks(kinds_each) {
                groups
                    .push(doc! { "state": READY, "queue": one_of(queues), "kind": one_of(kinds) });
            }
        }
        groups
    }

    /// A query for each kind, which covers the ranges and perhaps other queues.
    pub(super) fn by_kind(&self) -> Vec<Document> {
        Ranges { queues: None, kinds: self.kinds.clone() }.singles()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(queues: usize, kinds: usize) -> Ranges {
        let names = |n: usize| (0..n).map(|n| n.to_string());
        Ranges { queues: Some(names(queues).collect()), kinds: names(kinds).collect() }
    }

    fn width(query: &Document, field: &str) -> usize {
        match query.get(field) {
            Some(Bson::Document(list)) => list.get_array("$in").unwrap().len(),
            Some(_) => 1,
            None => 0,
        }
    }

    #[test]
    fn every_range_is_in_exactly_one_group_and_no_group_is_too_wide_to_be_merged() {
        for (queues, kinds) in [(1, 1), (3, 7), (150, 2), (1, 500), (7, 300), (2_000, 20)] {
            let groups = ranges(queues, kinds).groups();
            let widths = groups.iter().map(|group| width(group, "queue") * width(group, "kind"));
            assert_eq!(widths.clone().sum::<usize>(), queues * kinds, "{queues} x {kinds}");
            assert!(widths.max().unwrap() <= 200, "{queues} x {kinds}");
        }
        assert!(ranges(0, 3).groups().is_empty());
        assert!(ranges(3, 0).groups().is_empty());
        assert_eq!(ranges(3, 4).singles().len(), 12);
    }
}
