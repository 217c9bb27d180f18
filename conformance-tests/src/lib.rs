#![doc = include_str!("lib.md")]

mod case;
pub mod faults;
mod harness;
pub mod history;
pub mod matrix;
pub mod model;
pub mod mutants;
pub mod processes;
pub mod properties;
mod property;
mod race;
mod report;
mod rng;
mod runner;
mod suite;
mod verdict;

pub use case::{Breaking, Case};
pub use faults::{Breakable, ChaosStore, Fault, Proxy, Switch};
pub use harness::{Fixture, Harness, Place};
pub use properties::properties;
pub use property::Property;
pub use race::race;
pub use report::{GroupTotal, Level, Report, RunReport};
pub use rng::Rng;
pub use runner::{run_property, start};
pub use suite::Suite;
pub use verdict::{Checked, Stop, Verdict};

#[doc(no_inline)]
pub use queue_core::async_trait;
