//! The command line of queue: runs files of tasks and workflows, and shows the jobs of a store.

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
use serde_json::json;

use crate::{
    args::{Args, Command, Format},
    failure::{Ending, Failure},
};

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr();
    let format = args.command.format();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::caused("cannot start", &error))
        .and_then(|runtime| runtime.block_on(obey(args.command)));
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

async fn obey(command: Command) -> Result<Ending, Failure> {
    match command {
        Command::Run(args) => run::run(args).await,
        Command::List(args) => list::list(args).await,
        Command::Show(args) => show::show(args).await,
    }
}

/// Logs to standard error what `RUST_LOG` asks for; nothing without it.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    }
}
