use std::{borrow::Cow, collections::BTreeMap, fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error, JobId, MAX_PAGE, QueueName, Result, State, States, Timestamp, job::check_labels,
    name::check_name,
};

/// The most labels that a filter can ask for.
pub const MAX_FILTER_LABELS: usize = 64;

/// Which jobs are meant. All conditions must hold; the default matches every job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobFilter {
    /// One of these ids.
    pub ids: Option<Vec<JobId>>,
    /// One of these queues.
    pub queues: Option<Vec<QueueName>>,
    /// One of these kinds.
    pub kinds: Option<Vec<Cow<'static, str>>>,
    /// One of these states.
    pub states: States,
    /// All of these labels, at most [`MAX_FILTER_LABELS`].
    pub labels: BTreeMap<String, String>,
    /// Inserted in this time.
    pub created: TimeRange,
    /// Due in this time.
    pub run_at: TimeRange,
    /// Ended in this time; a bound leaves out jobs that have not ended.
    pub finished: TimeRange,
}

impl Default for JobFilter {
    fn default() -> Self {
        JobFilter {
            ids: None,
            queues: None,
            kinds: None,
            states: States::ALL,
            labels: BTreeMap::new(),
            created: TimeRange::default(),
            run_at: TimeRange::default(),
            finished: TimeRange::default(),
        }
    }
}

impl JobFilter {
    /// Every job.
    pub fn all() -> Self {
        JobFilter::default()
    }

    /// The job with this id.
    pub fn id(id: JobId) -> Self {
        JobFilter::ids([id])
    }

    /// The jobs with these ids.
    pub fn ids(ids: impl IntoIterator<Item = JobId>) -> Self {
        JobFilter { ids: Some(ids.into_iter().collect()), ..JobFilter::default() }
    }

    /// The jobs of this queue.
    pub fn queue(queue: QueueName) -> Self {
        JobFilter { queues: Some(vec![queue]), ..JobFilter::default() }
    }

    /// The jobs of this kind.
    pub fn kind(kind: impl Into<Cow<'static, str>>) -> Self {
        JobFilter { kinds: Some(vec![kind.into()]), ..JobFilter::default() }
    }

    /// The jobs with this label.
    pub fn label(key: impl Into<String>, value: impl Into<String>) -> Self {
        JobFilter::default().with_label(key, value)
    }

    /// Of those, the jobs with this label.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Of those, the jobs in these states.
    #[must_use]
    pub fn with_states(mut self, states: impl Into<States>) -> Self {
        self.states = states.into();
        self
    }

    /// Checks labels and kinds. Stores call it first.
    ///
    /// # Errors
    /// `Invalid` for a label or kind that no job can have, and for too many labels.
    pub fn check(&self) -> Result<()> {
        self.kinds.iter().flatten().try_for_each(|kind| check_name("kind", kind))?;
        if self.labels.len() > MAX_FILTER_LABELS {
            return Err(Error::invalid(format!(
                "a filter asks for at most {MAX_FILTER_LABELS} labels, not {}",
                self.labels.len()
            )));
        }
        check_labels(&self.labels)
    }
}

/// A range of time; an open end has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeRange {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Strictly before.
    pub before: Option<Timestamp>,
}

impl TimeRange {
    /// From this instant on.
    pub const fn from(from: Timestamp) -> Self {
        TimeRange { from: Some(from), before: None }
    }

    /// Strictly before this instant.
    pub const fn before(before: Timestamp) -> Self {
        TimeRange { from: None, before: Some(before) }
    }

    /// From the first instant on, strictly before the second.
    pub const fn between(from: Timestamp, before: Timestamp) -> Self {
        TimeRange { from: Some(from), before: Some(before) }
    }

    /// Whether the range has no bound.
    pub const fn is_open(&self) -> bool {
        self.from.is_none() && self.before.is_none()
    }

    /// Whether the instant is in the range. No instant is only in the open range.
    pub fn contains(&self, at: Option<Timestamp>) -> bool {
        match at {
            None => self.is_open(),
            Some(at) => {
                self.from.is_none_or(|from| from <= at)
                    && self.before.is_none_or(|before| at < before)
            }
        }
    }
}

/// A page of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobQuery {
    /// Which jobs.
    pub filter: JobFilter,
    /// In which order.
    pub sort: Sort,
    /// After this place. A walk by cursor shows every job that exists throughout exactly once,
    /// whatever is inserted or deleted meanwhile, the cursor's own job included.
    pub after: Option<Cursor>,
    /// Then pass over so many; for page numbers. Costs time in proportion.
    pub offset: u64,
    /// At most so many, and at most [`MAX_PAGE`].
    pub limit: NonZeroU32,
}

impl JobQuery {
    /// The first page of 50, newest first.
    pub fn new(filter: JobFilter) -> Self {
        JobQuery {
            filter,
            sort: Sort::NewestFirst,
            after: None,
            offset: 0,
            limit: const { NonZeroU32::new(50).unwrap() },
        }
    }

    /// Checks the query. Stores call it first.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_PAGE`] jobs at once or a malformed label.
    pub fn check(&self) -> Result<()> {
        if self.limit > MAX_PAGE {
            return Err(Error::invalid(format!(
                "a page has at most {MAX_PAGE} jobs, and {} were asked for; walk on with the cursor",
                self.limit
            )));
        }
        self.filter.check()
    }
}

/// The order of a page: by creation, then by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The newest job first.
    #[default]
    NewestFirst,
    /// The oldest job first.
    OldestFirst,
}

/// A place between two jobs in a listing. Its text form is opaque to users and safe in a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// When the job before this place was inserted.
    pub created_at: Timestamp,
    /// Its id.
    pub id: JobId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.created_at.as_micros(), self.id.as_uuid().simple())
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('_').and_then(|(micros, id)| {
            let created_at = Timestamp::from_micros(micros.parse().ok()?).ok()?;
            Some(Cursor { created_at, id: id.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a cursor; use one that a page returned"))
        })
    }
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins; `None` on the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// A page with these items.
    pub const fn new(items: Vec<T>, next: Option<Cursor>) -> Self {
        Page { items, next }
    }
}

/// How many jobs of a queue are in a state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tally {
    /// The queue.
    pub queue: QueueName,
    /// The state.
    pub state: State,
    /// How many; never 0.
    pub count: u64,
}

impl Tally {
    /// One line of a tally.
    pub const fn new(queue: QueueName, state: State, count: u64) -> Self {
        Tally { queue, state, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form() {
        let cursor = Cursor { created_at: Timestamp::from_micros(-5).unwrap(), id: JobId::new() };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        for bad in ["", "_", "1_x", "x_y", "99999999999999999999_0"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_range_includes_its_start_and_excludes_its_end() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let range = TimeRange::between(at(1), at(3));
        assert!(!range.contains(Some(at(0))) && range.contains(Some(at(1))));
        assert!(range.contains(Some(at(2))) && !range.contains(Some(at(3))));
        assert!(!range.contains(None) && TimeRange::default().contains(None));
    }
}
