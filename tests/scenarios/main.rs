//! Observable outcomes of the engine, each on every store through one test body.
//!
//! The names begin with the id of the scenario. `docs` are what handlers write as their side effect.

mod scene;

#[cfg(feature = "broken")]
mod broken;
mod cancelling;
mod data;
mod hardening;
mod keeping;
mod leases;
mod passes;
mod processes;
mod races;
mod retries;
mod serving;
mod steps;
mod trips;
mod unknown;
