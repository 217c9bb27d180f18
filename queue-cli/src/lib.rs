#![doc = include_str!("lib.md")]

mod args;
mod definition;
mod failure;
mod list;
mod run;
mod show;
mod store;
mod text;
mod walk;

use std::{io, process::ExitCode};

use clap::Parser;
use queue::StoreRegistry;
use serde_json::json;

use crate::{
    args::{Args, Command, Format},
    failure::{Ending, Failure},
};

/// Carries out the command that the program's arguments say, on the stores of this registry, and says how to exit.
///
/// It is all of a program: it reads the arguments of the process, prints help and malformed arguments and exits by itself for
/// those, logs what `RUST_LOG` asks for, starts a runtime of its own (so it must not be called within one), and stops at
/// Ctrl-C and SIGTERM. `queue.db` stays the default place where `--db` is not given, so the registry should know
/// `sqlite:`, as [`queue::registry`] does.
pub fn main_with(registry: &StoreRegistry) -> ExitCode {
    let args = Args::parse();
    log_to_stderr();
    let format = args.command.format();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::caused("cannot start", &error))
        .and_then(|runtime| runtime.block_on(obey(registry, args.command)));
    match ended {
        Ok(ending) => ending.into(),
        Err(failure) => {
            text::to_stderr(&failure.to_string());
            if format == Format::Json {
                text::to_stdout(&json!({ "error": failure.message(), "causes": failure.causes() }));
            }
            ExitCode::FAILURE
        }
    }
}

async fn obey(registry: &StoreRegistry, command: Command) -> Result<Ending, Failure> {
    match command {
        Command::Run(args) => run::run(registry, args).await,
        Command::List(args) => list::list(registry, args).await,
        Command::Show(args) => show::show(registry, args).await,
    }
}

/// Logs to standard error what `RUST_LOG` asks for; nothing without it.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
}
