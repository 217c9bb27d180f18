//! Handlers that are external programs.
//!
//! A [`Program`] is called with its arguments as they are, never through a shell. It is given one
//! JSON document on its standard input and must print one on its standard output and exit with code
//! 0; what it prints on its standard error becomes part of the message when it fails. It has ended
//! when it has exited and its outputs are closed, by processes that it left behind too; these may keep its input.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use queue_core::Payload;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use crate::flow::Template;

mod error;
mod task;

pub use error::ProgramError;
pub use task::ProgramTask;

/// How long a program may run unless it is said: 60 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How much a program may print unless it is said: 16 MiB, the largest payload of a store.
pub const DEFAULT_MAX_OUTPUT: usize = 16 * 1024 * 1024;
/// How much of the end of its standard error is kept for messages, in bytes.
const STDERR_TAIL: usize = 2 * 1024;

/// An external program that handles a task.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Program {
    argv: Vec<Template>,
    dir: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    timeout: Duration,
    max_output: usize,
}

impl Program {
    /// The program `argv[0]` with the arguments that follow it.
    ///
    /// Each may be a [`Template`] over `input`, for example `{{ input.path }}`; what a place is
    /// filled with stays one argument. A name without a slash is looked up in `PATH`; one with a
    /// slash is a path from the program's directory.
    ///
    /// # Errors
    /// `NoProgram` for an empty `argv`, `Template` for an argument that is malformed or uses
    /// another root than `input`.
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Result<Self, ProgramError> {
        let argument = |text: S| {
            let text = text.as_ref();
            let template = Template::parse_text(text).map_err(ProgramError::Template)?;
            match template.paths().iter().find(|path| path.root() != "input") {
                Some(path) => Err(ProgramError::UnknownPlace { path: path.to_string() }),
                None => Ok(template),
            }
        };
        let argv: Vec<Template> = argv.into_iter().map(argument).collect::<Result<_, _>>()?;
        if argv.is_empty() {
            return Err(ProgramError::NoProgram);
        }
        Ok(Program {
            argv,
            dir: None,
            env: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            max_output: DEFAULT_MAX_OUTPUT,
        })
    }

    /// Runs it in this directory; otherwise in that of the process.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets this variable besides those that it inherits.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Kills it when it runs longer than this; [`DEFAULT_TIMEOUT`] unless said.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Kills it when it prints more bytes than this; [`DEFAULT_MAX_OUTPUT`] unless said.
    pub const fn max_output(mut self, bytes: usize) -> Self {
        self.max_output = bytes;
        self
    }

    /// Runs it once and returns what it printed, byte for byte but for outer white space.
    ///
    /// The program runs in a process group of its own, so that a Ctrl-C at the terminal does not
    /// reach it. When it runs too long, prints too much, or when this future is dropped, the whole
    /// group is killed.
    ///
    /// Only the death of this process spares it: then it runs on to its own end, while its step may
    /// run again elsewhere.
    ///
    /// # Errors
    /// See [`ProgramError`]. Whatever the error, the program is not running any more.
    pub async fn run(&self, input: &Payload) -> Result<Payload, ProgramError> {
        let mut argv = self.arguments(input)?;
        if broken!(ProgramsThroughAShell) {
            argv = vec!["sh".to_owned(), "-c".to_owned(), argv.join(" ")];
        }
        let name = argv[0].clone();
        let mut command = Command::new(self.locate(&name)?);
        command.args(&argv[1..]).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|error| self.not_started(&name, error))?;
        let mut group = Group(child);

        let mut stderr = Vec::new();
        let talk = self.talk(&mut group, input, &mut stderr);
        let limit = if broken!(ProgramsRunForEver) { Duration::MAX } else { self.timeout };
        let ended = tokio::time::timeout(limit, talk).await;
        let broken = match ended.unwrap_or(Err(Broken::TooSlow)) {
            Ok(Ended { status, stdout }) if status.success() => {
                return document(&name, &stdout, || tail(&stderr));
            }
            Ok(Ended { status, .. }) => {
                let said = if broken!(ProgramErrorsAreDropped) { &[][..] } else { &stderr };
                return Err(ProgramError::ended_badly(name, status, tail(said)));
            }
            Err(broken) => broken,
        };
        group.kill();
        // Reaps it; a killed process ends at once, and if the wait fails there is nothing to reap.
        let _ = group.0.wait().await;
        let program = name;
        Err(match broken {
            Broken::TooSlow => {
                ProgramError::TimedOut { program, after: self.timeout, stderr: tail(&stderr) }
            }
            Broken::TooLong => ProgramError::TooMuchOutput { program, limit: self.max_output },
            Broken::Io(source) => ProgramError::Io { program, source },
        })
    }

    /// The arguments for this input.
    fn arguments(&self, input: &Payload) -> Result<Vec<String>, ProgramError> {
        let data = match self.argv.iter().all(Template::is_constant) {
            true => Value::Null,
            false => {
                let input: Value =
                    input.to().map_err(|error| ProgramError::Input(error.message().to_owned()))?;
                json!({ "input": input })
            }
        };
        let render = |argument: &Template| argument.render_text(&data);
        self.argv.iter().map(render).collect::<Result<_, _>>().map_err(ProgramError::Template)
    }

    /// What to execute. A relative path is resolved here: whether it would be relative to the
    /// directory of this process or to that of the child is platform-specific.
    fn locate<'a>(&self, name: &'a str) -> Result<Cow<'a, OsStr>, ProgramError> {
        match &self.dir {
            Some(dir) if !dir.is_dir() => Err(ProgramError::NoDirectory { dir: dir.clone() }),
            Some(dir) if name.contains('/') && Path::new(name).is_relative() => {
                Ok(Cow::Owned(dir.join(name).into_os_string()))
            }
            _ => Ok(Cow::Borrowed(OsStr::new(name))),
        }
    }

    fn not_started(&self, name: &str, source: std::io::Error) -> ProgramError {
        let program = name.to_owned();
        match source.kind() {
            std::io::ErrorKind::NotFound if name.contains('/') => {
                let path = self.dir.as_deref().unwrap_or(Path::new("")).join(name);
                ProgramError::NoFile { program, path }
            }
            std::io::ErrorKind::NotFound => {
                let own = self.env.iter().rev().find(|(name, _)| name == "PATH");
                let path = own.map(|(_, path)| path.clone()).or_else(|| std::env::var_os("PATH"));
                let path = path.unwrap_or_default().to_string_lossy().into_owned();
                ProgramError::NotInPath { program, path }
            }
            // A NUL, for which the system has no place in an argument; more than it takes.
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::ArgumentListTooLong => {
                ProgramError::Unpassable { program, source }
            }
            _ => ProgramError::Io { program, source },
        }
    }

    /// Feeds the program and reads what it prints until it has ended. Only when its outputs are
    /// closed it is waited for: until its exit is collected its group's number cannot be reused, so a
    /// late kill cannot hit others. What it has not read by its end it need not read.
    async fn talk(
        &self,
        group: &mut Group,
        input: &Payload,
        stderr: &mut Vec<u8>,
    ) -> Result<Ended, Broken> {
        let mut stdin = group.0.stdin.take();
        let mut stdout = group.0.stdout.take();
        let mut errors = group.0.stderr.take();
        let feed = async {
            if let Some(stdin) = &mut stdin {
                // A program need not read its input: a broken pipe is no failure.
                let _ = stdin.write_all(input.as_str().as_bytes()).await;
            }
            drop(stdin);
            // Fed or not, the end is told by the other side.
            std::future::pending().await
        };
        let unlimited = broken!(ProgramOutputIsUnlimited).then_some(usize::MAX);
        let read = read_to_limit(&mut stdout, unlimited.unwrap_or(self.max_output));
        let listen = async { keep_tail(&mut errors, stderr).await.map_err(Broken::Io) };
        let end = async {
            let (stdout, ()) = tokio::try_join!(read, listen)?;
            let status = group.0.wait().await.map_err(Broken::Io)?;
            Ok(Ended { status, stdout })
        };
        // A process that it left behind may hold the input and never read it, so that feeding ends
        // with the program. It goes on while only the outputs are closed: the program may still read.
        tokio::select! {
            ended = end => ended,
            never = feed => never,
        }
    }
}

struct Ended {
    status: ExitStatus,
    stdout: Vec<u8>,
}

/// Why a program is not listened to any longer.
enum Broken {
    TooSlow,
    TooLong,
    Io(std::io::Error),
}

/// A child that leads a process group; the group is killed with it when this is dropped.
struct Group(Child);

impl Group {
    fn kill(&mut self) {
        // The id is there until the exit was collected.
        #[cfg(unix)]
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(id)
        {
            // It fails when the whole group has ended already.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        // Where there are no groups. It fails when the process has ended already.
        let _ = self.0.start_kill();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn read_to_limit(
    stdout: &mut Option<impl AsyncRead + Unpin>,
    limit: usize,
) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    if let Some(stdout) = stdout {
        let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        stdout.take(one_more).read_to_end(&mut bytes).await.map_err(Broken::Io)?;
    }
    if bytes.len() > limit { Err(Broken::TooLong) } else { Ok(bytes) }
}

/// Reads to the end, keeping at least the last [`STDERR_TAIL`] bytes.
async fn keep_tail(
    stderr: &mut Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
) -> std::io::Result<()> {
    let Some(stderr) = stderr else { return Ok(()) };
    while stderr.read_buf(kept).await? > 0 {
        if kept.len() > 8 * STDERR_TAIL {
            kept.drain(..kept.len() - STDERR_TAIL);
        }
    }
    Ok(())
}

/// The end of what was printed on standard error, as text.
fn tail(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(STDERR_TAIL);
    let text = String::from_utf8_lossy(&stderr[start..]);
    let cut = if start > 0 { "..." } else { "" };
    format!("{cut}{}", text.trim())
}

/// Reads what was printed as one JSON document.
fn document(
    program: &str,
    stdout: &[u8],
    stderr: impl FnOnce() -> String,
) -> Result<Payload, ProgramError> {
    const SHOWN: usize = 80;
    let shown = || {
        let text = String::from_utf8_lossy(stdout);
        let more = if text.chars().nth(SHOWN).is_some() { "..." } else { "" };
        format!("{:?}{more}", text.chars().take(SHOWN).collect::<String>())
    };
    let fault = match std::str::from_utf8(stdout) {
        Ok(text) if text.trim().is_empty() => "nothing was printed".to_owned(),
        Ok(text) => match Payload::from_text(text) {
            Ok(document) => return Ok(document),
            Err(error) => format!("{}; the output begins with {}", error.message(), shown()),
        },
        Err(error) => format!(
            "not UTF-8 from byte {} on; the output begins with {}",
            error.valid_up_to() + 1,
            shown()
        ),
    };
    Err(ProgramError::NotJson { program: program.to_owned(), fault, stderr: stderr() })
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
