#![doc = include_str!("lib.md")]

mod claim;
mod clock;
pub mod effects;
mod error;
mod ext;
mod id;
mod info;
mod job;
mod job_error;
mod log;
mod memory;
pub mod name;
mod payload;
mod query;
mod record;
mod registry;
mod row;
mod schedule;
pub mod spec;
mod state;
mod store;
mod time;
mod update;

pub use claim::*;
pub use clock::Clock;
pub use error::*;
pub use ext::JobStoreExt;
pub use id::*;
pub use info::*;
pub use job::*;
pub use job_error::JobError;
pub use log::*;
pub use memory::{MemoryStore, broadcast_wakeups};
pub use name::QueueName;
pub use payload::Payload;
pub use query::*;
pub use record::*;
pub use registry::{Opener, StoreRegistry, percent_decode};
pub use row::*;
pub use schedule::*;
pub use state::*;
pub use store::*;
pub use time::*;
pub use update::*;

#[doc(no_inline)]
pub use async_trait::async_trait;
#[doc(no_inline)]
pub use uuid::Uuid;
