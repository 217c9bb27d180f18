//! The conformance suite on a server that is no replica set.

use std::process::ExitCode;

use conformance_tests::Suite;
use server::Server;

mod harness;
mod server;

fn main() -> ExitCode {
    Suite::new(harness::Mongo(Server::Standalone)).run()
}
