//! The file of a journal.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use queue_core::{
    Capabilities, Clock, Effect, Error, ErrorKind, Result, Timestamp,
    spec::{Answer, Op, Spec, World},
};
use serde::{Deserialize, Serialize};

use super::flaw::{self, JournalFlaw};

/// The version of the file's form.
const VERSION: u64 = 1;
/// How long an operation waits for the lock.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits before it looks again.
const PAUSE: Duration = Duration::from_micros(300);

/// The first line of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u64,
}

/// Each further line. The operation is a text within it, because payloads may have line breaks.
#[derive(Serialize, Deserialize)]
struct Line {
    now: Timestamp,
    op: String,
}

/// The open file, and what its lines make of the jobs.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    limits: Capabilities,
    flaw: JournalFlaw,
    spec: Spec,
    /// Up to where the file has been read: the end of a line.
    read: u64,
    /// What a broken journal has acknowledged and not written.
    unwritten: Vec<u8>,
}

fn failed(error: impl Into<io::Error>) -> Error {
    let error = error.into();
    Error::new(ErrorKind::Unavailable, format!("the journal: {error}")).with_source(error)
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the journal cannot be read: {what}"))
}

impl Log {
    pub(super) fn open(path: &Path, limits: Capabilities, flaw: JournalFlaw) -> Result<Self> {
        let config = |error: io::Error| {
            Error::new(ErrorKind::Config, format!("cannot open {}: {error}", path.display()))
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(flaw == JournalFlaw::Clears);
        let file = options.open(path).map_err(config)?;
        let (path, spec) = (path.to_owned(), Spec::new(World::new(limits)));
        let mut log = Log { path, file, limits, flaw, spec, read: 0, unwritten: Vec::new() };
        if flaw == JournalFlaw::MigratesUnlocked {
            flaw::migrate_unlocked(&mut log.file).map_err(failed)?;
        }
        log.locked(|log| log.catch_up())?;
        if flaw == JournalFlaw::OpensAlone {
            log.file.try_lock().map_err(failed)?;
        }
        let mut world = log.spec.world().clone();
        flaw.at_opening(&mut world);
        log.spec = Spec::new(world);
        Ok(log)
    }

    /// Does something while nobody else touches the file.
    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.flaw == JournalFlaw::LocksByFile {
            return flaw::locked_by_file(&self.path.with_extension("lock"), || work(self));
        }
        if self.flaw == JournalFlaw::OpensAlone {
            return work(self);
        }
        let since = Instant::now();
        loop {
            match self.file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Contention,
                        format!("the journal stayed locked for {PATIENCE:?}"),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let done = work(self);
        self.file.unlock().map_err(failed)?;
        done
    }

    /// Answers without a look at the file.
    pub(super) fn peek(&mut self, op: &Op, now: Timestamp) -> Result<Answer> {
        self.spec.answer(op, now)
    }

    /// Makes the file look as if a later release had migrated it.
    pub(super) fn age(path: &Path) -> io::Result<()> {
        let text = std::fs::read(path)?;
        let lines = text.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut aged = serde_json::to_vec(&Header { version: VERSION + 1 })?;
        aged.push(b'\n');
        aged.extend(text.get(lines..).unwrap_or_default());
        std::fs::write(path, aged)
    }

    pub(super) fn execute(&mut self, op: &Op, clock: &Clock) -> Result<Answer> {
        self.locked(|log| {
            log.catch_up()?;
            let now = clock.now();
            if !is_write(op) {
                return log.spec.answer(op, now);
            }
            if let Some(parts) = log.flaw.apart(op, log.spec.world()) {
                return log.execute_apart(op, &parts, now);
            }
            let answer = log.spec.answer(op, now)?;
            log.append(now, op)?;
            Ok(answer)
        })
    }

    /// In several steps that should have been one.
    fn execute_apart(&mut self, op: &Op, parts: &[Op], now: Timestamp) -> Result<Answer> {
        let whole = self.spec.clone().answer(op, now)?;
        for (number, part) in parts.iter().enumerate() {
            if number > 0 {
                thread::sleep(flaw::GAP);
            }
            self.spec.answer(part, now)?;
            self.append(now, part)?;
        }
        Ok(whole)
    }

    /// Reads what others have appended, and takes away what nobody has finished.
    fn catch_up(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.read)).map_err(failed)?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        if whole < bytes.len() && self.flaw == JournalFlaw::RefusesTornLines {
            return Err(corrupt("its last line has no end"));
        }
        for line in bytes.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            match self.read {
                0 => self.check_header(line)?,
                _ => self.replay(line)?,
            }
            self.read += line.len() as u64;
        }
        if whole < bytes.len() {
            self.file.set_len(self.read).map_err(failed)?;
        }
        if self.read == 0 {
            let header = serde_json::to_vec(&Header { version: VERSION }).map_err(corrupt)?;
            self.write(header)?;
        }
        Ok(())
    }

    fn check_header(&mut self, line: &[u8]) -> Result<()> {
        let Header { version } = serde_json::from_slice(line).map_err(corrupt)?;
        if version <= VERSION || self.flaw == JournalFlaw::IgnoresVersion {
            return Ok(());
        }
        if self.flaw == JournalFlaw::StampsVersion {
            self.file.seek(SeekFrom::End(0)).map_err(failed)?;
            self.file.write_all(b"{\"seen_by\":1}\n").map_err(failed)?;
        }
        let message = match self.flaw == JournalFlaw::RefusesWithoutAWord {
            true => "cannot open it".to_owned(),
            false => format!(
                "{} has version {version}, and this build knows versions up to {VERSION}; use a newer build",
                self.path.display()
            ),
        };
        Err(Error::new(ErrorKind::Config, message))
    }

    fn replay(&mut self, line: &[u8]) -> Result<()> {
        let Line { now, op } = serde_json::from_slice(line).map_err(corrupt)?;
        let op = serde_json::from_str(&op).map_err(corrupt)?;
        self.spec.answer(&op, now).map(drop).map_err(corrupt)
    }

    /// Appends the line of an operation that has been executed. When that fails, the jobs are what the file says again.
    fn append(&mut self, now: Timestamp, op: &Op) -> Result<()> {
        let op = serde_json::to_string(op).map_err(corrupt)?;
        let line = serde_json::to_vec(&Line { now, op }).map_err(corrupt)?;
        if self.flaw == JournalFlaw::Buffers {
            self.unwritten.extend(line);
            self.unwritten.push(b'\n');
            return Ok(());
        }
        let before = self.read;
        self.write(line).map_err(|error| {
            let undone = self.file.set_len(before);
            (self.spec, self.read) = (Spec::new(World::new(self.limits)), 0);
            error.with_effect(if undone.is_ok() { Effect::None } else { Effect::Unknown })
        })
    }

    fn write(&mut self, mut line: Vec<u8>) -> Result<()> {
        line.push(b'\n');
        self.file.seek(SeekFrom::Start(self.read)).map_err(failed)?;
        if self.flaw == JournalFlaw::RefusesTornLines {
            // Whoever kills the process that makes a file does not know when it gets there.
            let rest = if self.read == 0 { flaw::GAP * 6 } else { flaw::GAP };
            flaw::write_haltingly(&mut self.file, &line, rest).map_err(failed)?;
        } else {
            self.file.write_all(&line).map_err(failed)?;
        }
        self.file.sync_data().map_err(failed)?;
        self.read += line.len() as u64;
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.unwritten.is_empty() {
            // A broken journal: what it still had in its hands is written when it ends in peace.
            let _ = self.file.write_all(&self.unwritten);
        }
    }
}

const fn is_write(op: &Op) -> bool {
    !matches!(op, Op::Get(..) | Op::Find(_) | Op::Tally(_) | Op::Schedules | Op::Records(_))
}
