//! The conformance suite on a server that is no replica set.

use std::process::ExitCode;

use server::Server;

mod harness;
mod server;

fn main() -> ExitCode {
    harness::run(Server::Standalone, "mongo-standalone")
}
