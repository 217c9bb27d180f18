//! The server's clock, as last measured.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mongodb::{Database, bson::doc};
use queue_core::{Clock, Result, Timestamp};

use crate::{
    codec::Read as _,
    connect::SLACK,
    error::{Call, corrupt, from_driver},
};

/// How long a measurement is carried on.
const FRESH: Duration = Duration::from_secs(30);
/// How often the server is asked when its answers take long.
const ATTEMPTS: usize = 3;
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

    /// Asks the server: one trip, and up to three where they take long; the shortest counts.
    pub(crate) async fn measure(&self, db: &Database) -> Result<Timestamp> {
        let (mut measured, mut trip) = ask(db).await?;
        if let Some(clock) = &self.manual {
            return Ok(clock.now());
        }
        for _ in 1..ATTEMPTS {
            if trip <= 2 * SLACK {
                break;
            }
            let (other, took) = ask(db).await?;
            if took < trip {
                (measured, trip) = (other, took);
            }
        }
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
        Ok(measured.server.plus(measured.at.elapsed()))
    }
}

/// One measurement, and how long the trip took.
async fn ask(db: &Database) -> Result<(Measured, Duration)> {
    let asked = Instant::now();
    let reply = db
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(|error| from_driver(Call::Read, error))?;
    let millis = reply.get_datetime("localTime").map_err(corrupt)?.timestamp_millis();
    let (at, wall) = (Instant::now(), SystemTime::now());
    let trip = at - asked;
    // The server looked at its clock half a round trip ago, as far as can be known. Of a slow trip that may all be wrong, and
    // a clock that is ahead takes jobs from the living: it is ahead by no more than the slack that is promised.
    let half = (trip / 2).min(SLACK);
    let server = Timestamp::from_micros_saturating(millis.saturating_mul(1_000)).plus(half);
    Ok((Measured { server, at, wall }, trip))
}

/// Whether a reply to `hello` comes from a member of a replica set.
pub(crate) fn is_replica_set(hello: &mongodb::bson::Document) -> bool {
    hello.text("setName").is_ok()
}
