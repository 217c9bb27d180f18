//! Sizes that are judged too early.
//!
//! "Where several would fit, the first of this order is answered: `Missing`, `Repeated`, `Fenced` or `Conflict`, `Illegal`,
//! `TooLarge`."

use queue_core::Outcome;

use super::super::{Flaw, Mutant};

/// The size is judged before what is refused so.
fn before(refused: fn(&Outcome) -> bool) -> Flaw {
    Flaw::none().update(move |world, updates, now| {
        let limit = 2 * 1024 * 1024;
        let mut outcomes = world.update(updates, now)?;
        for (update, outcome) in updates.iter().zip(&mut outcomes) {
            if refused(outcome) && update.patch.largest_payload() > limit {
                *outcome = Outcome::TooLarge { limit: limit as u64 };
            }
        }
        Ok(outcomes)
    })
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "size-before-the-fence",
        "an update that is too large is refused for its size, though its writer has lost the job",
        &["UPD-21"],
        || before(|outcome| *outcome == Outcome::Fenced),
    ),
    Mutant::new(
        "size-before-the-version",
        "an edit that is too large is refused for its size, though the version has moved on",
        &["UPD-21"],
        || before(|outcome| matches!(outcome, Outcome::Conflict { .. })),
    ),
    Mutant::new(
        "size-before-the-state",
        "a settle that is too large is refused for its size, though nobody runs the job",
        &["UPD-21"],
        || before(|outcome| matches!(outcome, Outcome::Illegal { .. })),
    ),
    Mutant::new(
        "size-before-the-job",
        "an update that is too large is refused for its size, though its job is gone",
        &["UPD-21"],
        || before(|outcome| *outcome == Outcome::Missing),
    ),
];
