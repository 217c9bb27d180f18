#![doc = include_str!("lib.md")]

mod args;
mod bulk;
mod claim;
mod codec;
mod connect;
#[cfg(test)]
#[path = "../tests/database/mod.rs"]
mod database;
mod db;
mod error;
mod filter;
mod insert;
#[cfg(test)]
mod mutant_tests;
mod options;
#[cfg(test)]
mod plan_tests;
mod pooler;
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

// So that what tests share may be part of this crate's own tests, too.
#[cfg(test)]
extern crate self as queue_postgres;

// Named for its feature only.
use sqlx_postgres as _;
