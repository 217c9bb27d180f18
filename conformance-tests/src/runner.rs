use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use queue_core::Timestamp;

use crate::{Case, Harness, Property, Verdict, case::Notes, rng::mix, verdict::panic_message};

/// What the manual clocks show at the start of every property: microseconds that a store which keeps
/// milliseconds would lose.
pub fn start() -> Timestamp {
    Timestamp::from_micros_saturating(1_772_366_400_123_457)
}

/// How many times over the properties do their work: `CONFORMANCE_ROUNDS`, 1 by default.
pub(crate) fn rounds() -> u32 {
    let asked = std::env::var("CONFORMANCE_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(1).max(1)
}

/// How long a property may take in this run.
pub(crate) fn limit(property: &Property) -> Duration {
    property.limit.saturating_mul(rounds())
}

/// Runs one property against a fresh store of this harness. Needs a tokio runtime with a timer; races are
/// real only on one with several threads.
///
/// A panic is a `Fail` with its message, and so is a property that exceeds its time limit. (One that blocks
/// its thread for ever is beyond this function; [`Suite`](crate::Suite) gives up on such a thread.)
pub async fn run_property(property: &Property, harness: &dyn Harness, seed: u64) -> Verdict {
    run_noted(property, harness, seed, Notes::default()).await
}

/// The same, with what the property has to say beside its verdict.
pub(crate) async fn run_noted(
    property: &Property,
    harness: &dyn Harness,
    seed: u64,
    notes: Notes,
) -> Verdict {
    let check = async {
        let case = Case::noted(harness, mix(seed, property.id), rounds(), notes).await?;
        (property.run)(&case).await
    };
    let limit = limit(property);
    match tokio::time::timeout(limit, AssertUnwindSafe(check).catch_unwind()).await {
        Ok(Ok(checked)) => checked.into(),
        Ok(Err(panic)) => Verdict::Fail(format!("panicked: {}", panic_message(&*panic))),
        Err(_) => Verdict::Fail(hung(limit)),
    }
}

pub(crate) fn hung(limit: Duration) -> String {
    format!("did not end within {limit:?}: an operation hangs, or is far too slow")
}
