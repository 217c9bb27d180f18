//! The conformance suite on a replica set, in a database of its own per property.

use std::process::ExitCode;

use server::Server;

mod harness;
mod server;

fn main() -> ExitCode {
    harness::run(Server::ReplicaSet, "mongo")
}
