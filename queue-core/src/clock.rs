use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::Timestamp;

/// Where a store takes "now" from.
///
/// Production uses [`Clock::system`]; tests drive a [`Clock::manual`] one, so that nothing has to
/// sleep. Clones share the same hands.
#[derive(Clone, Debug, Default)]
pub struct Clock(Hands);

#[derive(Clone, Debug, Default)]
enum Hands {
    #[default]
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Clock(Hands::System)
    }

    /// A clock that stands at `start` until it is moved by [`Clock::set`] or [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Clock(Hands::Manual(Arc::new(AtomicI64::new(start.as_micros()))))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Hands::System => system_now(),
            Hands::Manual(hands) => Timestamp::from_micros_saturating(hands.load(Ordering::SeqCst)),
        }
    }

    /// Whether the clock moves only when it is told to.
    pub const fn is_manual(&self) -> bool {
        matches!(self.0, Hands::Manual(_))
    }

    /// Moves a manual clock forward; does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Sets a manual clock, forward or back; does nothing to the system's clock.
    pub fn set(&self, now: Timestamp) {
        if let Hands::Manual(hands) = &self.0 {
            hands.store(now.as_micros(), Ordering::SeqCst);
        }
    }
}

fn system_now() -> Timestamp {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp::from_micros_saturating(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_still_and_its_clones_move_together() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let same = clock.clone();
        assert_eq!(clock.now(), Timestamp::EPOCH);
        same.advance(Duration::from_secs(3));
        assert_eq!(clock.now().as_micros(), 3_000_000);
    }

    #[test]
    fn the_system_clock_cannot_be_set() {
        let clock = Clock::system();
        clock.set(Timestamp::EPOCH);
        assert!(clock.now() > Timestamp::EPOCH);
    }
}
