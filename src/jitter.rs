use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use queue_core::Result;

/// A duration between half and one and a half of the given one, so that processes which began to
/// wait together do not come back together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    // `RandomState` has fresh keys each time: randomness enough for spreading load.
    let share = RandomState::new().hash_one(0_u8) % 1_024;
    (wait / 2).saturating_add(wait.mul_f64(share as f64 / 1_024.0))
}

/// How often a call is made in all, when its trouble is of a passing kind.
const TRIES: u32 = 4;

/// Makes a call that is safe to repeat, a few times if the store has passing trouble.
pub(crate) async fn repeated<T, Fut>(mut call: impl FnMut() -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<T>>,
{
    let mut tries = 1;
    loop {
        match call().await {
            Err(error) if error.is_transient() && tries < TRIES => {
                tokio::time::sleep(jittered(Duration::from_millis(20) * tries)).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
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
        assert!((0..200).all(|_| jittered(Duration::MAX) >= Duration::MAX / 2));
    }
}
