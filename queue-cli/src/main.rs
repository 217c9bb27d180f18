//! The binary `queue`: the command line with the stores of its own build.

use std::process::ExitCode;

fn main() -> ExitCode {
    queue_cli::main_with(&queue::registry())
}
