use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

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
    Manual(Arc<watch::Sender<Timestamp>>),
}

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Clock(Hands::System)
    }

    /// A clock that stands at `start` until it is moved by [`Clock::set`] or [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Clock(Hands::Manual(Arc::new(watch::Sender::new(start))))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Hands::System => system_now(),
            Hands::Manual(hands) => *hands.borrow(),
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
            hands.send_replace(now);
        }
    }

    /// Resolves once a manual clock shows another time than `seen`, at once if it does already; never on the system's
    /// clock. What waits for an instant of a manual clock looks again each time it is moved.
    pub async fn moved_from(&self, seen: Timestamp) {
        match &self.0 {
            Hands::System => std::future::pending().await,
            // The sender lives as long as this borrow of it: the wait cannot break off.
            Hands::Manual(hands) => {
                let _ = hands.subscribe().wait_for(|now| *now != seen).await;
            }
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
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_manual_clock_stands_still_and_its_clones_move_together() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let same = clock.clone();
        assert_eq!(clock.now(), Timestamp::EPOCH);
        same.advance(Duration::from_secs(3));
        assert_eq!(clock.now().as_micros(), 3_000_000);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_manual_clock_to_move_is_told_also_afterwards() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let mut waiting = Box::pin(clock.moved_from(Timestamp::EPOCH));
        assert!((&mut waiting).now_or_never().is_none());
        clock.advance(Duration::from_micros(1));
        waiting.await;
        clock.moved_from(Timestamp::EPOCH).await;
    }

    #[tokio::test]
    async fn the_system_clock_tells_nobody() {
        assert!(Clock::system().moved_from(Timestamp::EPOCH).now_or_never().is_none());
    }

    #[test]
    fn the_system_clock_cannot_be_set() {
        let clock = Clock::system();
        clock.set(Timestamp::EPOCH);
        assert!(clock.now() > Timestamp::EPOCH);
    }
}
