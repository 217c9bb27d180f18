//! The server's clock, as last measured.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mongodb::{Database, bson::doc};
use queue_core::{Clock, Result, Timestamp};

use crate::{
    codec::Read as _,
    error::{Call, corrupt, from_driver},
};

/// How long a measurement is carried on.
const FRESH: Duration = Duration::from_secs(30);
/// A difference between the wall clock and the monotonic one that says that the machine slept.
const SLEPT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Measured {
    server: Timestamp,
    at: Instant,
    wall: SystemTime,
}

impl Measured {
    fn is_fresh(&self) -> bool {
        let passed = self.at.elapsed();
        let by_wall = self.wall.elapsed().unwrap_or(Duration::MAX);
        passed < FRESH && by_wall.abs_diff(passed) < SLEPT
    }
}

/// Where "now" comes from: a manual clock, or the server. Stamping in the server itself would make a pipeline of every
/// write.
#[derive(Debug)]
pub(crate) struct ServerClock {
    manual: Option<Clock>,
    measured: Mutex<Option<Measured>>,
}

impl ServerClock {
    pub(crate) fn new(clock: Clock) -> Self {
        ServerClock { manual: clock.is_manual().then_some(clock), measured: Mutex::new(None) }
    }

    fn last(&self) -> Option<Measured> {
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now. One trip when the last measurement is old.
    pub(crate) async fn now(&self, db: &Database) -> Result<Timestamp> {
        if let Some(clock) = &self.manual {
            return Ok(clock.now());
        }
        match self.last().filter(Measured::is_fresh) {
            Some(last) => Ok(last.server.plus(last.at.elapsed())),
            None => self.measure(db).await,
        }
    }

    /// Asks the server. Always one trip.
    pub(crate) async fn measure(&self, db: &Database) -> Result<Timestamp> {
        let asked = Instant::now();
        let reply = db
            .run_command(doc! { "hello": 1 })
            .await
            .map_err(|error| from_driver(Call::Read, error))?;
        if let Some(clock) = &self.manual {
            return Ok(clock.now());
        }
        let millis = reply.get_datetime("localTime").map_err(corrupt)?.timestamp_millis();
        let (at, wall) = (Instant::now(), SystemTime::now());
        // The server looked at its clock half a round trip ago, as far as can be known.
        let half = (at - asked) / 2;
        let server = Timestamp::from_micros_saturating(millis.saturating_mul(1_000)).plus(half);
        let measured = Measured { server, at, wall };
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
        Ok(server)
    }
}

/// Whether a reply to `hello` comes from a member of a replica set.
pub(crate) fn is_replica_set(hello: &mongodb::bson::Document) -> bool {
    hello.text("setName").is_ok()
}
