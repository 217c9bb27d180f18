//! What a filter selects, operation by operation: stores write the same condition several times.
//!
//! "All conditions must hold; the default matches every job."

use queue_core::{JobFilter, Row, States, TimeRange, spec::World};

use super::{
    super::{Flaw, Mutant},
    next_micro,
};

type Matches = fn(&Row, &JobFilter) -> bool;

/// The filter that selects just the jobs that this condition does.
fn chosen(world: &World, filter: &JobFilter, matches: Matches) -> JobFilter {
    let rows = world.jobs().map(|job| &job.row);
    JobFilter::ids(rows.filter(|row| matches(row, filter)).map(|row| row.id))
}

fn claims(matches: Matches) -> Flaw {
    Flaw::none().claim(move |world, request, now| {
        request.check()?;
        let mut request = request.clone();
        request.filter = request.filter.map(|filter| chosen(world, &filter, matches));
        world.claim(&request, now)
    })
}

fn pages(matches: Matches) -> Flaw {
    Flaw::none().find(move |world, query, _| {
        query.check()?;
        let mut query = query.clone();
        query.filter = chosen(world, &query.filter, matches);
        world.find(&query)
    })
}

fn counts(matches: Matches) -> Flaw {
    Flaw::none().tally(move |world, filter, _| {
        filter.check()?;
        world.tally(&chosen(world, filter, matches))
    })
}

fn changes(matches: Matches) -> Flaw {
    Flaw::none().update_where(move |world, filter, change, now| {
        filter.check()?;
        world.update_where(&chosen(world, filter, matches), change, now)
    })
}

fn deletions(matches: Matches) -> Flaw {
    Flaw::none().delete(move |world, filter, limit, _| {
        filter.check()?;
        world.delete(&chosen(world, filter, matches), *limit)
    })
}

/// Whether the job matches the filter with a part of it changed.
fn with(row: &Row, filter: &JobFilter, change: impl FnOnce(&mut JobFilter)) -> bool {
    let mut filter = filter.clone();
    change(&mut filter);
    row.matches(&filter)
}

fn no_ids_are_all(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.ids = filter.ids.take().filter(|ids| !ids.is_empty()))
}

fn no_queues_are_all(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| {
        filter.queues = filter.queues.take().filter(|queues| !queues.is_empty());
    })
}

fn no_kinds_are_all(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.kinds = filter.kinds.take().filter(|kinds| !kinds.is_empty()))
}

fn no_states_are_all(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| {
        if filter.states.is_empty() {
            filter.states = States::ALL;
        }
    })
}

fn any_label(row: &Row, filter: &JobFilter) -> bool {
    let some = filter.labels.iter().any(|(key, value)| row.labels.get(key) == Some(value));
    (some || filter.labels.is_empty()) && with(row, filter, |filter| filter.labels.clear())
}

fn label_values_of_any_key(row: &Row, filter: &JobFilter) -> bool {
    let has = |value: &String| row.labels.values().any(|known| known == value);
    filter.labels.values().all(has) && with(row, filter, |filter| filter.labels.clear())
}

fn labels_joined(row: &Row, filter: &JobFilter) -> bool {
    let joined = |(key, value): (&String, &String)| format!("{key}={value}");
    let known: Vec<String> = row.labels.iter().map(joined).collect();
    filter.labels.iter().map(joined).all(|label| known.contains(&label))
        && with(row, filter, |filter| filter.labels.clear())
}

fn labels_without_case(row: &Row, filter: &JobFilter) -> bool {
    let has = |(key, value): (&String, &String)| {
        row.labels.get(key).is_some_and(|known| known.eq_ignore_ascii_case(value))
    };
    filter.labels.iter().all(has) && with(row, filter, |filter| filter.labels.clear())
}

fn dotted_labels_as_paths(row: &Row, filter: &JobFilter) -> bool {
    row.matches(filter) && filter.labels.keys().all(|key| !key.contains('.'))
}

fn queues_without_case(row: &Row, filter: &JobFilter) -> bool {
    let name = row.queue.as_str();
    filter
        .queues
        .as_ref()
        .is_none_or(|queues| queues.iter().any(|queue| queue.as_str().eq_ignore_ascii_case(name)))
        && with(row, filter, |filter| filter.queues = None)
}

fn kinds_by_prefix(row: &Row, filter: &JobFilter) -> bool {
    filter
        .kinds
        .as_ref()
        .is_none_or(|kinds| kinds.iter().any(|kind| row.kind.starts_with(kind.as_ref())))
        && with(row, filter, |filter| filter.kinds = None)
}

fn created_through_the_end(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.created.before = filter.created.before.map(next_micro))
}

fn due_through_the_end(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.run_at.before = filter.run_at.before.map(next_micro))
}

fn finished_through_the_end(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.finished.before = filter.finished.before.map(next_micro))
}

fn created_after_the_start(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.created.from = filter.created.from.map(next_micro))
}

fn due_after_the_start(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.run_at.from = filter.run_at.from.map(next_micro))
}

fn finished_after_the_start(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.finished.from = filter.finished.from.map(next_micro))
}

fn unfinished_before_any_time(row: &Row, filter: &JobFilter) -> bool {
    row.matches(filter)
        || (filter.finished.from.is_none()
            && row.control.finished_at.is_none()
            && with(row, filter, |filter| filter.finished = TimeRange::default()))
}

fn unfinished_at_any_time(row: &Row, filter: &JobFilter) -> bool {
    row.matches(filter)
        || (row.control.finished_at.is_none()
            && with(row, filter, |filter| filter.finished = TimeRange::default()))
}

fn any_creation(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.created = TimeRange::default())
}

fn any_due_time(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.run_at = TimeRange::default())
}

fn any_end(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.finished = TimeRange::default())
}

fn any_state(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.states = States::ALL)
}

fn any_kind(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.kinds = None)
}

fn any_labels(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| filter.labels.clear())
}

fn one_bound_of_creation(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| {
        if filter.created.from.is_some() {
            filter.created.before = None;
        }
    })
}

fn first_eight_labels(row: &Row, filter: &JobFilter) -> bool {
    with(row, filter, |filter| {
        filter.labels = std::mem::take(&mut filter.labels).into_iter().take(8).collect();
    })
}

fn ids_replace_the_rest(row: &Row, filter: &JobFilter) -> bool {
    match &filter.ids {
        Some(ids) => ids.contains(&row.id),
        None => row.matches(filter),
    }
}

macro_rules! selections {
    ($($name:literal, $sentence:literal, $operation:ident, $matches:ident;)*) => {
        pub(super) const MUTANTS: &[Mutant] = &[
            $(Mutant::new($name, $sentence, &["REA-9"], || $operation($matches)),)*
        ];
    };
}

selections! {
    "claim-of-no-ids-is-of-all", "a claim filtered by an empty list of ids takes any", claims, no_ids_are_all;
    "page-of-no-ids-is-of-all", "a page of an empty list of ids shows all jobs", pages, no_ids_are_all;
    "tally-of-no-ids-is-of-all", "a count of an empty list of ids counts all jobs", counts, no_ids_are_all;
    "change-of-no-ids-is-of-all", "a bulk change of an empty list of ids changes all jobs", changes, no_ids_are_all;
    "deletion-of-no-ids-is-of-all", "a deletion of an empty list of ids deletes all jobs", deletions, no_ids_are_all;
    "claim-of-no-filter-queues-is-of-all", "a claim filtered by an empty list of queues takes any", claims, no_queues_are_all;
    "page-of-no-queues-is-of-all", "a page of an empty list of queues shows all jobs", pages, no_queues_are_all;
    "tally-of-no-queues-is-of-all", "a count of an empty list of queues counts all jobs", counts, no_queues_are_all;
    "change-of-no-queues-is-of-all", "a bulk change of an empty list of queues changes all", changes, no_queues_are_all;
    "deletion-of-no-queues-is-of-all", "a deletion of an empty list of queues deletes all", deletions, no_queues_are_all;
    "claim-of-no-filter-kinds-is-of-all", "a claim filtered by an empty list of kinds takes any", claims, no_kinds_are_all;
    "page-of-no-kinds-is-of-all", "a page of an empty list of kinds shows all jobs", pages, no_kinds_are_all;
    "deletion-of-no-kinds-is-of-all", "a deletion of an empty list of kinds deletes all", deletions, no_kinds_are_all;
    "claim-of-no-states-is-of-all", "a claim filtered by the empty set of states takes any", claims, no_states_are_all;
    "page-of-no-states-is-of-all", "a page of the empty set of states shows all jobs", pages, no_states_are_all;
    "tally-of-no-states-is-of-all", "a count of the empty set of states counts all jobs", counts, no_states_are_all;
    "change-of-no-states-is-of-all", "a bulk change of the empty set of states changes all", changes, no_states_are_all;
    "deletion-of-no-states-is-of-all", "a deletion of the empty set of states deletes all", deletions, no_states_are_all;
    "claim-by-any-label", "a claim filtered by several labels takes jobs with one of them", claims, any_label;
    "page-by-any-label", "a page of several labels shows jobs with one of them", pages, any_label;
    "tally-by-any-label", "a count of several labels counts jobs with one of them", counts, any_label;
    "change-by-any-label", "a bulk change of several labels changes jobs with one of them", changes, any_label;
    "deletion-by-any-label", "a deletion of several labels deletes jobs with one of them", deletions, any_label;
    "claim-by-label-values", "a claim filtered by labels looks for their values under any key", claims, label_values_of_any_key;
    "page-by-label-values", "a page of labels looks for their values under any key", pages, label_values_of_any_key;
    "claim-joins-labels", "a claim looks for labels as texts joined by an equals sign", claims, labels_joined;
    "page-joins-labels", "a page looks for labels as texts joined by an equals sign", pages, labels_joined;
    "labels-without-case", "a page takes label values that differ in upper and lower case for one", pages, labels_without_case;
    "page-takes-dots-for-paths", "a page finds no label whose key has a dot", pages, dotted_labels_as_paths;
    "claim-takes-dots-for-paths", "a claim finds no label whose key has a dot", claims, dotted_labels_as_paths;
    "queues-without-case", "a page takes queues that differ in upper and lower case for one", pages, queues_without_case;
    "kinds-by-prefix", "a page of a kind shows kinds that begin with it", pages, kinds_by_prefix;
    "claim-kinds-by-prefix", "a claim filtered by a kind takes kinds that begin with it", claims, kinds_by_prefix;
    "page-created-through-the-end", "a page includes jobs inserted at the end of its range", pages, created_through_the_end;
    "page-due-through-the-end", "a page includes jobs due at the end of its range", pages, due_through_the_end;
    "page-finished-through-the-end", "a page includes jobs that ended at the end of its range", pages, finished_through_the_end;
    "page-created-after-the-start", "a page leaves out jobs inserted at the start of its range", pages, created_after_the_start;
    "page-due-after-the-start", "a page leaves out jobs due at the start of its range", pages, due_after_the_start;
    "page-finished-after-the-start", "a page leaves out jobs that ended at the start of its range", pages, finished_after_the_start;
    "claim-due-through-the-end", "a filtered claim takes jobs due at the end of its range", claims, due_through_the_end;
    "claim-created-through-the-end", "a filtered claim takes jobs inserted at the end of its range", claims, created_through_the_end;
    "claim-due-after-the-start", "a filtered claim leaves out jobs due at the start of its range", claims, due_after_the_start;
    "deletion-finished-through-the-end", "a deletion includes jobs that ended at the end of its range", deletions, finished_through_the_end;
    "deletion-created-through-the-end", "a deletion includes jobs inserted at the end of its range", deletions, created_through_the_end;
    "tally-created-through-the-end", "a count includes jobs inserted at the end of its range", counts, created_through_the_end;
    "change-due-through-the-end", "a bulk change includes jobs due at the end of its range", changes, due_through_the_end;
    "page-of-unfinished-before-any-time", "a page of jobs that ended before a time shows jobs that have not ended", pages, unfinished_before_any_time;
    "tally-of-unfinished-before-any-time", "a count of jobs that ended before a time counts jobs that have not ended", counts, unfinished_before_any_time;
    "deletion-of-unfinished-before-any-time", "a deletion of jobs that ended before a time deletes jobs that have not ended", deletions, unfinished_before_any_time;
    "deletion-of-unfinished", "a deletion of jobs that ended in a time deletes jobs that have not ended", deletions, unfinished_at_any_time;
    "change-of-unfinished", "a bulk change of jobs that ended in a time changes jobs that have not ended", changes, unfinished_at_any_time;
    "claim-of-unfinished", "a claim filtered by when jobs ended takes jobs that have not ended", claims, unfinished_at_any_time;
    "claim-of-any-creation", "a claim does not look at when its filter wants jobs to be inserted", claims, any_creation;
    "claim-of-any-due-time", "a claim does not look at when its filter wants jobs to be due", claims, any_due_time;
    "claim-of-any-state", "a claim does not look at the states in its filter", claims, any_state;
    "tally-of-any-due-time", "a count does not look at when jobs are due", counts, any_due_time;
    "tally-of-any-end", "a count does not look at when jobs ended", counts, any_end;
    "tally-of-any-kind", "a count does not look at the kinds in its filter", counts, any_kind;
    "tally-of-any-state", "a count does not look at the states in its filter", counts, any_state;
    "change-of-any-creation", "a bulk change does not look at when jobs were inserted", changes, any_creation;
    "change-of-any-end", "a bulk change does not look at when jobs ended", changes, any_end;
    "change-of-any-kind", "a bulk change does not look at the kinds in its filter", changes, any_kind;
    "change-of-any-state", "a bulk change does not look at the states in its filter", changes, any_state;
    "change-of-any-labels", "a bulk change does not look at the labels in its filter", changes, any_labels;
    "deletion-of-any-due-time", "a deletion does not look at when jobs are due", deletions, any_due_time;
    "deletion-of-any-kind", "a deletion does not look at the kinds in its filter", deletions, any_kind;
    "deletion-of-any-labels", "a deletion does not look at the labels in its filter", deletions, any_labels;
    "page-with-one-bound", "a page of jobs inserted between two times looks at the first one only", pages, one_bound_of_creation;
    "deletion-with-one-bound", "a deletion of jobs inserted between two times looks at the first one only", deletions, one_bound_of_creation;
    "page-of-eight-labels", "a page looks at the first eight labels of its filter", pages, first_eight_labels;
    "claim-of-eight-labels", "a claim looks at the first eight labels of its filter", claims, first_eight_labels;
    "page-by-ids-alone", "a page of ids shows them whatever else its filter asks for", pages, ids_replace_the_rest;
    "claim-by-ids-alone", "a claim filtered by ids takes them whatever else its filter asks for", claims, ids_replace_the_rest;
    "change-by-ids-alone", "a bulk change of ids changes them whatever else its filter asks for", changes, ids_replace_the_rest;
    "deletion-by-ids-alone", "a deletion of ids deletes them whatever else its filter asks for", deletions, ids_replace_the_rest;
}
