//! The executable specification.
//!
//! [`World`] is a machine: all jobs, and one method per operation of
//! [`JobStore`](crate::JobStore), a pure function of state, arguments and time. [`Spec`] is the relation built on it:
//! given an operation, the time and an answer, it says whether the contract allows that answer, and if it does, goes on from there.
//! [`Op`] and [`Answer`] are the operations as values, so that scripts and histories can be
//! generated, stored, shrunk and replayed.

mod by_op;
mod invariants;
mod op;
mod relation;
mod world;

pub use by_op::{ByOp, RunOp};
pub use invariants::{Broken, check_step, check_world};
pub use op::{Answer, Op};
pub use relation::{Latitude, Spec, Verdict};
pub use world::{Stored, World, superseded_by};
