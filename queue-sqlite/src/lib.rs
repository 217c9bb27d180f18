#![doc = include_str!("lib.md")]

mod bulk;
mod claim;
mod codec;
mod connect;
mod error;
mod filter;
mod insert;
mod lanes;
#[cfg(test)]
mod mutant_tests;
mod options;
mod read;
mod reader;
mod schedule;
mod schema;
mod sql;
mod store;
mod update;
mod write;
mod writer;

pub use options::{SqliteOptions, Synchronous};
pub use queue_core::Result;
pub use rusqlite;
pub use store::{SqliteStore, register};
