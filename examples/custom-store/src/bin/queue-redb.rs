//! The command line of `queue`, with one URL scheme more.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut registry = queue::registry();
    custom_store::register(&mut registry);
    queue_cli::main_with(&registry)
}
