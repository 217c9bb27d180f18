//! The binary, run as users run it.

#![cfg(unix)]

mod bench;
mod faults;
mod inventory;
mod look;
mod resume;
mod runs;
mod workflows;
