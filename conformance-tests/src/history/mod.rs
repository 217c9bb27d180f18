//! Long runs: every call of every handle on record, and checkers that read the record in near-linear time.
//!
//! A [`Recorder`] stands between a workload and the store's handles and makes a [`History`] of their calls: when each began
//! and ended by one clock of this program, and what was answered. The checkers are functions of the history alone:
//!
//! * [`check_claims`]: nobody holds a job while another does, no claim is given twice, no job is overtaken or forgotten;
//! * [`check_logs`]: what was acknowledged is there once, what is there was written, and no read goes back;
//! * [`check_register`]: the versions of jobs and records form one chain that agrees with real time.
//!
//! They search no interleavings. Claims of a job are numbered, versions count up and log entries have positions, so the order
//! in which the calls took effect can be read off the answers; what remains to be asked is whether that order fits into
//! the times at which the calls ran. A call whose effect is unknown, or that never came back, may have happened at any time
//! since it began, or never. What a checker refuses is a breach of the contract; what it accepts may still be one that this
//! history does not show.
//!
//! A history that was refused is saved, one call a line, and can be checked again without a store:
//!
//! ```no_run
//! use conformance_tests::history::{History, check_claims};
//!
//! let history = History::read("target/conformance/history-mine-1.jsonl".as_ref()).unwrap();
//! match check_claims(&history) {
//!     Ok(summary) => println!("{summary}"),
//!     Err(violation) => println!("{violation}"),
//! }
//! ```
//!
//! `cargo run -p conformance-tests --example recheck -- FILE` does the same with all of them.

mod chain;
mod claims;
mod format;
mod logs;
mod queue;
mod recorder;
mod registers;
mod sequence;
mod show;
mod verdict;

pub use claims::check_claims;
pub use format::{Answered, Call, History, Malformed};
pub use logs::check_logs;
pub use recorder::Recorder;
pub use registers::check_register;
pub use sequence::check_sequence;
pub use verdict::{Summary, Violation};
