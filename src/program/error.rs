use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use thiserror::Error;

use crate::flow::TemplateError;

/// Why a program could not do its work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// No program was named.
    #[error("argv is empty; its first element names the program")]
    NoProgram,
    /// An argument cannot be read or filled.
    #[error("argv: {0}")]
    Template(TemplateError),
    /// An argument uses something other than the input.
    #[error("argv uses `{path}`; a path in argv begins with `input`")]
    UnknownPlace {
        /// The path.
        path: String,
    },
    /// The input cannot be read for the arguments.
    #[error("argv: the input cannot be read: {0}")]
    Input(String),
    /// The directory to run in is not there.
    #[error("the directory {} to run programs in is not there", dir.display())]
    NoDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// The program is in none of the directories of `PATH`.
    #[error("the program {program:?} was not found in any directory of PATH ({path})")]
    NotInPath {
        /// Its name.
        program: String,
        /// The directories.
        path: String,
    },
    /// The program is given by a path at which there is nothing.
    #[error(
        "the program {program:?} was not found: there is no {}, or its interpreter is missing",
        path.display()
    )]
    NoFile {
        /// Its name.
        program: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system cannot pass the arguments: one holds a NUL, or they are too long.
    #[error("the program {program:?} cannot be given its arguments")]
    Unpassable {
        /// Its name.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The program cannot be started, or not be talked to.
    #[error("the program {program:?} cannot be run")]
    Io {
        /// Its name.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// It exited with another code than 0.
    #[error("{program:?} exited with code {code}{}", said(stderr))]
    Exit {
        /// Its name.
        program: String,
        /// The code.
        code: i32,
        /// The end of what it printed on standard error.
        stderr: String,
    },
    /// A signal ended it.
    #[error("{program:?} was killed by signal {signal}{}", said(stderr))]
    Signal {
        /// Its name.
        program: String,
        /// The signal's number.
        signal: i32,
        /// The end of what it printed on standard error.
        stderr: String,
    },
    /// It ran too long and was killed.
    #[error("{program:?} was killed because it ran longer than {after:?}{}", said(stderr))]
    TimedOut {
        /// Its name.
        program: String,
        /// How long it was allowed to run.
        after: Duration,
        /// The end of what it printed on standard error.
        stderr: String,
    },
    /// It printed too much and was killed.
    #[error("{program:?} was killed because it printed more than {limit} bytes")]
    TooMuchOutput {
        /// Its name.
        program: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// It printed something else than one JSON document.
    #[error("{program:?} must print one JSON document, but: {fault}{}", said(stderr))]
    NotJson {
        /// Its name.
        program: String,
        /// What is wrong, where, and how the output begins.
        fault: String,
        /// The end of what it printed on standard error.
        stderr: String,
    },
}

impl ProgramError {
    /// Whether another run of the same program with the same input may succeed.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Exit { .. }
                | Self::Signal { .. }
                | Self::TimedOut { .. }
                | Self::NotJson { .. }
        )
    }

    /// A name for programs to recognise the error by.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoProgram
            | Self::Template(_)
            | Self::UnknownPlace { .. }
            | Self::Input(_)
            | Self::Unpassable { .. } => "program-arguments",
            Self::NoDirectory { .. } | Self::NotInPath { .. } | Self::NoFile { .. } => {
                "program-missing"
            }
            Self::Io { .. } => "program-io",
            Self::Exit { .. } | Self::Signal { .. } => "program-failed",
            Self::TimedOut { .. } => "program-timeout",
            Self::TooMuchOutput { .. } | Self::NotJson { .. } => "program-output",
        }
    }

    pub(super) fn ended_badly(program: String, status: ExitStatus, stderr: String) -> Self {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Self::Signal { program, signal, stderr };
        }
        // Without a signal there is a code on every platform.
        Self::Exit { program, code: status.code().unwrap_or(-1), stderr }
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}
