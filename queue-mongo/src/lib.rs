#![doc = include_str!("lib.md")]

mod batch;
mod bulk;
mod cas;
mod change;
mod claim;
mod clock;
mod codec;
mod connect;
mod error;
mod filter;
mod heartbeat;
mod insert;
mod intent;
#[cfg(test)]
mod measure_tests;
mod options;
mod read;
mod reply;
mod schedule;
mod session;
mod store;
mod update;
mod wake;

pub use mongodb;
pub use options::{MongoOptions, StopAfter, Wake};
pub use queue_core::Result;
pub use store::{MongoStore, register};
