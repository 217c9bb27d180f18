//! The due jobs of one range, in order, a few at a time.

use std::collections::VecDeque;

use queue_core::{JobId, Lane, Order, Timestamp, Uuid};
use rusqlite::params;

use super::{Candidate, Place, filtered::read_candidate};
use crate::{
    codec::{every, id_bytes},
    error::Db,
    sql,
    writer::Writing,
};

/// The two kinds of waiting job, each with an index of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    /// Without a lane.
    Open,
    /// With one.
    Laned,
}

/// The statements of a plane.
pub(super) struct Statements {
    pub(super) queue: &'static str,
    pub(super) kind: &'static str,
    pub(super) priority: &'static str,
    pub(super) future: &'static str,
    fifo: &'static str,
    lifo: &'static str,
}

impl Plane {
    pub(super) const ALL: [Plane; 2] = [Plane::Open, Plane::Laned];

    pub(super) const fn statements(self) -> Statements {
        match self {
            Plane::Open => Statements {
                queue: sql::OPEN_QUEUE,
                kind: sql::OPEN_KIND,
                priority: sql::OPEN_PRIORITY,
                future: sql::OPEN_FUTURE,
                fifo: sql::OPEN_FIFO,
                lifo: sql::OPEN_LIFO,
            },
            Plane::Laned => Statements {
                queue: sql::LANED_QUEUE,
                kind: sql::LANED_KIND,
                priority: sql::LANED_PRIORITY,
                future: sql::LANED_FUTURE,
                fifo: sql::LANED_FIFO,
                lifo: sql::LANED_LIFO,
            },
        }
    }
}

/// One range of an index: a queue, a kind and a priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) plane: Plane,
    pub(super) queue: String,
    pub(super) kind: String,
    pub(super) priority: i16,
}

/// The due jobs of a range, or of one lane in it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) range: Range,
    pub(super) lane: Option<Lane>,
    /// How many of its jobs were found behind a full lane.
    pub(super) blocked: usize,
    /// The last job that was taken from the front.
    place: Place,
    read: VecDeque<Candidate>,
    exhausted: bool,
}

impl Stream {
    /// All due jobs of a range.
    pub(super) fn new(range: Range, order: Order, now: Timestamp) -> Self {
        // Before the first place. Backwards: the earliest id of the next microsecond, so that the
        // seek lands on now and passes no future job.
        let start = match order {
            Order::Fifo => i64::MIN,
            Order::Lifo => now.as_micros().saturating_add(1),
        };
        let place = (start, JobId::from_uuid(Uuid::nil()));
        Stream { range, lane: None, blocked: 0, place, read: VecDeque::new(), exhausted: false }
    }

    /// Those of one lane that this stream has not passed yet.
    pub(super) fn of_lane(&self, lane: Lane) -> Self {
        Stream {
            range: self.range.clone(),
            lane: Some(lane),
            blocked: 0,
            place: self.place,
            read: VecDeque::new(),
            exhausted: false,
        }
    }

    /// The next job, read ahead `chunk` at a time.
    pub(super) fn peek(
        &mut self,
        writing: &Writing<'_>,
        order: Order,
        chunk: usize,
    ) -> Db<Option<&Candidate>> {
        if self.read.is_empty() && !self.exhausted {
            self.fill(writing, order, chunk.max(1))?;
        }
        Ok(self.read.front())
    }

    /// The next job's place, if one was read.
    pub(super) fn front(&self) -> Option<&Place> {
        self.read.front().map(|candidate| &candidate.place)
    }

    pub(super) fn pop(&mut self) -> Option<Candidate> {
        let candidate = self.read.pop_front()?;
        self.place = candidate.place;
        Some(candidate)
    }

    fn fill(&mut self, writing: &Writing<'_>, order: Order, chunk: usize) -> Db<()> {
        let statements = self.range.plane.statements();
        let text = match (&self.lane, order) {
            (None, Order::Fifo) => statements.fifo,
            (None, Order::Lifo) => statements.lifo,
            (Some(_), Order::Fifo) => sql::LANE_FIFO,
            (Some(_), Order::Lifo) => sql::LANE_LIFO,
        };
        let mut statement = sql::prepare(writing.db, text)?;
        let range = &self.range;
        let shared = params![
            range.queue,
            range.kind,
            range.priority,
            self.place.0,
            id_bytes(&self.place.1),
            writing.now.as_micros(),
            i64::try_from(chunk).unwrap_or(i64::MAX),
        ];
        let own: &[&dyn rusqlite::ToSql] = match &self.lane {
            None => &[],
            Some(lane) => params![lane.key, lane.limit.get()],
        };
        let values: Vec<&dyn rusqlite::ToSql> = shared.iter().chain(own).copied().collect();
        let read = every(&mut statement, values.as_slice(), read_candidate)?;
        self.exhausted = read.len() < chunk;
        self.read = read.into();
        Ok(())
    }
}
