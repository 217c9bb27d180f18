//! The conformance suite on a replica set, in a database of its own per property.

use std::process::ExitCode;

use conformance_tests::Suite;
use server::Server;

mod harness;
mod server;

fn main() -> ExitCode {
    Suite::new(harness::Mongo(Server::ReplicaSet)).run()
}
