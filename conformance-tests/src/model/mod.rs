//! The model check.

use crate::{Case, Checked, Stop};

/// Runs random scripts against the specification.
pub async fn sequential(case: &Case<'_>) -> Checked {
    case.clock()?;
    Err(Stop::inconclusive("nothing to run"))
}
