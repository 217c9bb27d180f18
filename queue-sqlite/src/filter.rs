//! Filters as SQL: fixed fragments, values bound.

use queue_core::{JobFilter, State, States, TimeRange};
use rusqlite::types::Value;

/// Conditions that must all hold, with the values of their `?` in order.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    text: String,
    values: Vec<Value>,
}

impl Conditions {
    /// No condition.
    pub(crate) fn new() -> Self {
        Conditions { text: String::from("1"), values: Vec::new() }
    }

    /// The conditions of a filter. Fields that ask for nothing add nothing, so that SQLite plans
    /// for what is there. Lists are bound as one JSON array each: the text of a filter, and its prepared
    /// statement, do not depend on how many names it has.
    pub(crate) fn of(filter: &JobFilter) -> Self {
        let mut conditions = Conditions::new();
        if let Some(ids) = &filter.ids {
            let ids = ids.iter().map(|id| id.as_uuid().simple().to_string());
            conditions.fixed("id IN (SELECT unhex(value) FROM json_each(?))");
            conditions.value(json(ids));
        }
        if let Some(queues) = &filter.queues {
            conditions.fixed("queue IN (SELECT value FROM json_each(?))");
            conditions.value(json(queues.iter().map(|queue| queue.as_str().to_owned())));
        }
        if let Some(kinds) = &filter.kinds {
            conditions.fixed("kind IN (SELECT value FROM json_each(?))");
            conditions.value(json(kinds.iter().map(|kind| kind.clone().into_owned())));
        }
        conditions.states(filter.states);
        for (key, value) in &filter.labels {
            conditions.fixed("num IN (SELECT job FROM queue_label WHERE key = ? AND value = ?)");
            conditions.value(key.clone());
            conditions.value(value.clone());
        }
        conditions.range(&filter.created, "created_at >= ?", "created_at < ?");
        conditions.range(&filter.run_at, "run_at >= ?", "run_at < ?");
        conditions.range(&filter.finished, "finished_at >= ?", "finished_at < ?");
        conditions
    }

    /// States stand in the text, or no partial index could be used: the sets are 32 at most.
    fn states(&mut self, states: States) {
        if states == States::ALL {
            return;
        }
        if states.is_empty() {
            return self.fixed("0");
        }
        if States::FINAL.contains_all(states) {
            self.fixed("state > 1");
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
        // Not `IN` for one: a partial index wants its own condition in the text.
        match codes.as_slice() {
            [one] => {
                self.text.push_str(" AND state = ");
                self.text.push_str(one);
            }
            several => {
                self.text.push_str(" AND state IN (");
                self.text.push_str(&several.join(", "));
                self.text.push(')');
            }
        }
    }

    fn range(&mut self, range: &TimeRange, from: &'static str, before: &'static str) {
        for (fragment, bound) in [(from, range.from), (before, range.before)] {
            if let Some(at) = bound {
                self.fixed(fragment);
                self.value(at.as_micros());
            }
        }
    }

    /// Adds a fragment; its values follow by [`Conditions::value`].
    pub(crate) fn fixed(&mut self, fragment: &'static str) {
        self.text.push_str(" AND ");
        self.text.push_str(fragment);
    }

    /// Adds the value of the next `?`.
    pub(crate) fn value(&mut self, value: impl Into<Value>) {
        self.values.push(value.into());
    }

    /// The index by which the matching jobs are read in the order of their creation, a few at a
    /// time. SQLite, which knows no frequencies here, would sort a million completed jobs to show fifty.
    pub(crate) fn ordered_by(filter: &JobFilter) -> &'static str {
        const WENT_WRONG: States = States::of(&[State::Failed, State::Cancelled]);
        let states = filter.states;
        if filter.ids.is_some() || !filter.labels.is_empty() || states.is_empty() {
            ""
        } else if states == State::Running.into() {
            "INDEXED BY queue_job_running "
        } else if WENT_WRONG.contains_all(states) {
            "INDEXED BY queue_job_ended "
        } else {
            "INDEXED BY queue_job_created "
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }
}

fn json(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    // A list of strings always serialises.
    serde_json::to_string(&texts).unwrap_or_else(|_| String::from("[]"))
}
