use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// A duration between half and one and a half of the given one, so that processes which began to
/// wait together do not come back together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    // `RandomState` has fresh keys each time: randomness enough for spreading load.
    let share = RandomState::new().hash_one(0_u8) % 1_024;
    wait / 2 + wait.mul_f64(share as f64 / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_around_the_given_one() {
        let wait = Duration::from_millis(100);
        let waits: Vec<Duration> = (0..200).map(|_| jittered(wait)).collect();
        assert!(waits.iter().all(|w| (wait / 2..wait * 3 / 2).contains(w)), "{waits:?}");
        assert!(waits.iter().any(|w| *w < wait) && waits.iter().any(|w| *w > wait));
    }
}
