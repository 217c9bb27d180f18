//! Observable outcomes of the engine, each on every store through one test body.
//!
//! The names begin with the id of the scenario. `docs` are what handlers write as their side effect.

mod scene;

mod backoff;
mod blocking;
mod bounds;
#[cfg(feature = "broken")]
mod broken;
mod callbacks;
mod cancel_races;
mod cancelling;
mod combining;
mod data;
mod editing;
mod errors;
mod hardening;
mod hooks;
mod keeping;
mod lanes;
mod leases;
mod neglected;
mod outside;
mod passes;
mod poison;
mod processes;
mod races;
mod restoring;
mod retention;
mod retries;
mod retry_by_hand;
#[cfg(feature = "broken")]
mod rules;
mod schedule_hooks;
mod schedule_missed;
mod schedulers;
mod schedules;
mod serving;
mod sleeping;
mod stalls;
mod steps;
mod too_large;
mod trips;
mod unknown;
