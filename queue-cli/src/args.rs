//! The arguments of the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use queue::{JobId, JobState, QueueName};

use crate::store;

/// Runs background jobs and durable workflows from files, and shows the jobs of a store.
#[derive(Debug, Parser)]
#[command(name = "queue", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the jobs of a file until none is left
    ///
    /// What was done in an earlier run is not repeated: a job that completed is left alone, one
    /// that was interrupted goes on after its last finished step, one that failed is tried again.
    /// A job is known by the run file and its definitions, its input and, for a file, the file's
    /// size and time of change.
    Run(RunArgs),
    /// List jobs, the newest first
    List(ListArgs),
    /// Show one job with its steps and its log
    Show(ShowArgs),
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        let json = match self {
            Command::Run(args) => args.json,
            Command::List(args) => args.json,
            Command::Show(args) => args.json,
        };
        if json { Format::Json } else { Format::Text }
    }
}

/// What standard output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// People.
    Text,
    /// Exactly one JSON document.
    Json,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// The file with the tasks, workflows and jobs, TOML or JSON
    pub(crate) file: PathBuf,
    /// Where the jobs are stored, for example sqlite:jobs.db [default: sqlite:queue.db beside FILE]
    #[arg(long, value_name = "URL")]
    pub(crate) db: Option<String>,
    /// Another value for one of the file's params; relative paths are taken from FILE's directory
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) params: Vec<(String, String)>,
    /// How many jobs run at once [default: what the file says, else one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Print the summary as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Where the jobs are stored
    #[arg(long, value_name = "URL", default_value = store::DEFAULT)]
    pub(crate) db: String,
    /// Only jobs in this state: waiting, running, completed, failed or cancelled; may be repeated
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<JobState>,
    /// Only jobs of this queue; may be repeated
    #[arg(long, value_name = "QUEUE")]
    pub(crate) queue: Vec<QueueName>,
    /// Only jobs of this task or workflow; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) kind: Vec<String>,
    /// Only jobs with this label; may be repeated, all must be there
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The job's id
    pub(crate) id: JobId,
    /// Where the jobs are stored
    #[arg(long, value_name = "URL", default_value = store::DEFAULT)]
    pub(crate) db: String,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_pair_is_split_at_its_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }
}
