//! Filters as SQL: fixed fragments, values bound.

use queue_core::{JobFilter, State, States, TimeRange, Uuid};

use crate::args::Args;

enum Value {
    Ids(Vec<Uuid>),
    Names(Vec<String>),
    Text(String),
    Time(i64),
}

/// Conditions on a row called `j` that must all hold, with their values.
pub(crate) struct Conditions {
    text: String,
    next: usize,
    values: Vec<Value>,
}

impl Conditions {
    /// The conditions of a filter, whose values are `$first` and the following. Fields that ask for nothing add nothing, so that
    /// PostgreSQL plans for what is there.
    pub(crate) fn of(filter: &JobFilter, first: usize) -> Self {
        let mut conditions =
            Conditions { text: String::from("true"), next: first, values: Vec::new() };
        if let Some(ids) = &filter.ids {
            let ids = ids.iter().map(|id| *id.as_uuid()).collect();
            conditions.add("j.id = ANY (?::uuid[])", Value::Ids(ids));
        }
        if let Some(queues) = &filter.queues {
            let queues = queues.iter().map(|queue| queue.as_str().to_owned()).collect();
            conditions.add("j.queue = ANY (?::text[])", Value::Names(queues));
        }
        if let Some(kinds) = &filter.kinds {
            let kinds = kinds.iter().map(|kind| kind.clone().into_owned()).collect();
            conditions.add("j.kind = ANY (?::text[])", Value::Names(kinds));
        }
        conditions.states(filter.states);
        if !filter.labels.is_empty() {
            // A map of strings always serialises.
            let labels = serde_json::to_string(&filter.labels).unwrap_or_default();
            conditions
                .add("j.labels IS NOT NULL AND j.labels @> ?::text::jsonb", Value::Text(labels));
        }
        conditions.range(&filter.created, "j.created_at >= ?", "j.created_at < ?");
        conditions.range(&filter.run_at, "j.run_at >= ?", "j.run_at < ?");
        conditions.range(&filter.finished, "j.finished_at >= ?", "j.finished_at < ?");
        conditions
    }

    /// States stand in the text, or no partial index could be used: the sets are 32 at most.
    fn states(&mut self, states: States) {
        if states == States::ALL {
            return;
        }
        if states.is_empty() {
            self.text.push_str(" AND false");
            return;
        }
        if States::FINAL.contains_all(states) {
            self.text.push_str(" AND j.state > 1");
        }
        let codes: Vec<&str> = states
            .iter()
            .map(|state| match state {
                State::Waiting => "0",
                State::Running => "1",
                State::Completed => "2",
                State::Failed => "3",
                State::Cancelled => "4",
            })
            .collect();
        match codes.as_slice() {
            [one] => {
                self.text.push_str(" AND j.state = ");
                self.text.push_str(one);
            }
            several => {
                self.text.push_str(" AND j.state IN (");
                self.text.push_str(&several.join(", "));
                self.text.push(')');
            }
        }
    }

    fn range(&mut self, range: &TimeRange, from: &'static str, before: &'static str) {
        for (fragment, bound) in [(from, range.from), (before, range.before)] {
            if let Some(at) = bound {
                self.add(fragment, Value::Time(at.as_micros()));
            }
        }
    }

    fn add(&mut self, fragment: &'static str, value: Value) {
        self.text.push_str(" AND ");
        self.text.push_str(&fragment.replace('?', &format!("${}", self.next)));
        self.next += 1;
        self.values.push(value);
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The number of the first parameter after those of the conditions.
    pub(crate) fn next(&self) -> usize {
        self.next
    }

    /// Adds the values, which must be the next ones.
    pub(crate) fn bind(&self, args: Args) -> Args {
        self.values.iter().fold(args, |args, value| match value {
            Value::Ids(ids) => args.with(ids.clone()),
            Value::Names(names) => args.with(names.clone()),
            Value::Text(text) => args.with(text.clone()),
            Value::Time(micros) => args.with(*micros),
        })
    }
}
