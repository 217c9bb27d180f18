//! How much a proof does.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

/// How much a proof does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// With all other tests.
    Short,
    /// When it is asked for.
    Full,
}

impl Size {
    /// The number for this size. That of the full one is a variable's, if it is set.
    pub fn of<T: FromStr>(self, variable: &str, short: T, full: T) -> T {
        match (self, std::env::var(variable)) {
            (Size::Short, _) => short,
            (Size::Full, Err(_)) => full,
            (Size::Full, Ok(text)) => match text.parse() {
                Ok(number) => number,
                Err(_) => panic!("{variable} is a number, not {text:?}"),
            },
        }
    }
}

/// Polls until there is something; a test that waits for what never comes fails.
pub async fn within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Says what a proof found.
#[allow(clippy::print_stderr, reason = "figures are for people")]
pub fn report(figures: &str) {
    eprintln!("{figures}");
}

/// Numbers that look random and repeat with their seed.
pub struct Random(u64);

impl Random {
    /// By the seed that the environment gives, or another one each time; says which.
    pub fn seeded(what: &str) -> Self {
        const SEED: &str = "QUEUE_FAULTS_SEED";
        let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) ^ crate::ledger::now());
        report(&format!("{what}: {SEED}={seed}"));
        Random(seed)
    }

    /// From 0 to below `end`. By the method of splitmix64.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}
