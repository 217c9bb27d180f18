#![doc = include_str!("lib.md")]

mod args;
mod bulk;
mod claim;
mod codec;
mod connect;
mod db;
mod error;
mod filter;
mod insert;
mod options;
#[cfg(test)]
mod plan_tests;
mod read;
mod schedule;
mod schema;
mod sql;
mod store;
mod update;
mod wake;

pub use options::{Pooler, PostgresOptions};
pub use queue_core::Result;
pub use sqlx;
pub use store::{PostgresStore, register};

// Named for its feature only.
use sqlx_postgres as _;
