use std::time::Duration;

use queue_core::{JobId, Uuid};

/// How long to wait before a retry. The default is not to wait.
///
/// With `k` failures so far, the latest included, the wait is
///
/// - fixed: `delay`;
/// - exponential: `delay * 2^(k - 1)`, so the first retry waits exactly `delay`;
///
/// and then at most `cap`, and then spread by the [`Jitter`], which only shortens it. Everything saturates: a wait beyond what
/// a [`Duration`] or the store's calendar holds is the longest that they hold.
///
/// A step waits by its own failures, and its job by the failures of the job, if the workflow has a backoff too. The
/// later of the dates counts, and the latest of several steps that failed side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Backoff {
    /// The wait before the first retry.
    pub delay: Duration,
    /// How the wait grows.
    pub growth: Growth,
    /// The longest wait.
    pub cap: Option<Duration>,
    /// How the wait is spread.
    pub jitter: Jitter,
}

/// How the wait before a retry grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Growth {
    /// It stays the same.
    #[default]
    Fixed,
    /// It doubles with every failure.
    Exponential,
}

/// How waits are spread, so that what failed together does not come back together.
///
/// The formulas are those of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. Their random
/// share is no random number here but the first 48 bits of a name-based UUID (version 5, RFC 9562) of the job's
/// id with the step's id and its failures: the same failure of the same step of the same job waits equally long
/// whoever computes it, and different jobs are spread evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// The wait is as it is.
    #[default]
    None,
    /// Between nothing and the wait: `wait * share`.
    Full,
    /// Between half the wait and the wait: `wait / 2 + wait / 2 * share`.
    Equal,
}

impl Backoff {
    /// The same wait before every retry.
    pub const fn fixed(delay: Duration) -> Self {
        Backoff { delay, growth: Growth::Fixed, cap: None, jitter: Jitter::None }
    }

    /// A wait that doubles with every failure.
    pub const fn exponential(delay: Duration) -> Self {
        Backoff { growth: Growth::Exponential, ..Self::fixed(delay) }
    }

    /// Never longer than this.
    #[must_use]
    pub const fn capped(mut self, cap: Duration) -> Self {
        self.cap = Some(cap);
        self
    }

    /// Spread so.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The wait after so many failures in all, the latest included, before it is spread: with
    /// jitter, the longest that [`of`](Self::of) can answer.
    pub fn after(&self, failures: u32) -> Duration {
        let wait = match self.growth {
            Growth::Fixed => self.delay,
            Growth::Exponential => {
                let before = if broken!(FirstRetryIsDoubled) { 0 } else { 1 };
                let doublings = failures.saturating_sub(before);
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.delay.saturating_mul(factor)
            }
        };
        self.cap.map_or(wait, |cap| wait.min(cap))
    }

    /// The wait of this step of this job after so many failures, spread by the jitter.
    pub fn of(&self, job: JobId, step: &str, failures: u32) -> Duration {
        let wait = self.after(failures);
        match self.jitter {
            Jitter::None => wait,
            Jitter::Full if broken!(JitterExceedsTheCap) => {
                wait + portion(wait, share(job, step, failures))
            }
            Jitter::Full => portion(wait, share(job, step, failures)),
            Jitter::Equal => {
                let half = wait / 2;
                half + portion(wait - half, share(job, step, failures))
            }
        }
    }
}

/// How many bits of the hash make the share.
const SHARE_BITS: u32 = 48;

/// The share of the wait, in units of `2^-48`: from 0 to just below 1.
fn share(job: JobId, step: &str, failures: u32) -> u64 {
    // The number has a fixed length and stands first, so no two pairs have one name.
    let mut name = failures.to_be_bytes().to_vec();
    name.extend_from_slice(step.as_bytes());
    let hash = Uuid::new_v5(job.as_uuid(), &name);
    // The version stands in the 49th bit and after.
    hash.as_bytes()[..6].iter().fold(0, |share, byte| share << 8 | u64::from(*byte))
}

/// `wait * share`, rounded down.
fn portion(wait: Duration, share: u64) -> Duration {
    // A duration has fewer than 94 bits of nanoseconds: it is cut in two so that the products fit.
    let nanos = wait.as_nanos();
    let (high, low) = (nanos >> SHARE_BITS, nanos & ((1 << SHARE_BITS) - 1));
    let product = high * u128::from(share) + ((low * u128::from(share)) >> SHARE_BITS);
    let (seconds, rest) = (product / 1_000_000_000, product % 1_000_000_000);
    // Never more than the wait, whose parts fit.
    Duration::new(u64::try_from(seconds).unwrap_or(u64::MAX), rest as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long() {
        let backoff = Backoff::exponential(SECOND).capped(5 * SECOND);
        let waits: Vec<_> = (1..=5).map(|failures| backoff.after(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(Backoff::exponential(SECOND).after(u32::MAX), SECOND * u32::MAX);
        assert_eq!(Backoff::fixed(SECOND).after(9), SECOND);
    }

    #[test]
    fn waits_beyond_what_a_duration_holds_are_the_longest_it_holds() {
        let longest = Backoff::exponential(Duration::MAX).jitter(Jitter::Equal);
        assert_eq!(longest.after(7), Duration::MAX);
        let wait = longest.of(JobId::new(), "step", 7);
        assert!((Duration::MAX / 2..=Duration::MAX).contains(&wait), "{wait:?}");
    }

    #[test]
    fn jitter_only_shortens_the_capped_wait_by_as_much_as_it_says() {
        let capped = Backoff::exponential(SECOND).capped(60 * SECOND);
        let (full, equal) = (capped.jitter(Jitter::Full), capped.jitter(Jitter::Equal));
        for _ in 0..200 {
            let job = JobId::new();
            assert!(full.of(job, "step", 30) < 60 * SECOND);
            let wait = equal.of(job, "step", 30);
            assert!((30 * SECOND..60 * SECOND).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn jitter_is_the_same_for_one_failure_and_spreads_different_ones_evenly() {
        let backoff = Backoff::fixed(1_000 * SECOND).jitter(Jitter::Full);
        let job = JobId::new();
        assert_eq!(backoff.of(job, "step", 2), backoff.of(job, "step", 2));
        assert_ne!(backoff.of(job, "step", 2), backoff.of(job, "step", 3));
        assert_ne!(backoff.of(job, "step", 2), backoff.of(job, "other", 2));
        let waits: Vec<u64> =
            (0..2_000).map(|_| backoff.of(JobId::new(), "step", 1).as_secs()).collect();
        for quarter in 0..4 {
            let there = waits.iter().filter(|wait| **wait / 250 == quarter).count();
            // 500 are expected; a fair coin leaves this range once in 10^20.
            assert!((300..700).contains(&there), "{there} of 2000 in quarter {quarter}");
        }
    }

    #[test]
    fn a_known_job_waits_as_it_always_did() {
        let job: JobId = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let backoff = Backoff::fixed(1_000 * SECOND).jitter(Jitter::Full);
        // Reckoned by hand from the SHA-1 of the id and the name.
        assert_eq!(backoff.of(job, "step", 1).as_millis(), 664_975);
    }
}
