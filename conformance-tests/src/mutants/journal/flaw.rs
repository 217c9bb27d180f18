//! What broken journals do differently.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use queue_core::{
    BulkChange, Effect, Error, ErrorKind, Fence, Fire, Guard, JobFilter, JobPatch, JobUpdate,
    LogRead, Result, State, Timestamp, Uuid,
    spec::{Answer, Op, World, superseded_by},
};

/// How long a broken journal rests between two steps that should have been one: long enough for whoever
/// kills its process to come between.
pub(super) const GAP: Duration = Duration::from_millis(40);

/// What is wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalFlaw {
    /// Nothing.
    None,
    /// What was acknowledged is kept in memory, and written at the end.
    Buffers,
    /// The fields of a patch are one line, its log entries another.
    FieldsBeforeLog,
    /// A superseded job is cancelled by one line, and the job in its place inserted by another.
    CancelsBeforeInserting,
    /// A slot is counted by one line, and its job inserted by another.
    FiresBeforeInserting,
    /// Jobs are marked as deleted by one line, and deleted by another.
    MarksBeforeDeleting,
    /// A line that a killed process has not finished makes the file unreadable.
    RefusesTornLines,
    /// A file is locked by another file beside it, which nobody removes whose process was killed.
    LocksByFile,
    /// After an opening, leases never end.
    ForgetsLeases,
    /// After an opening, the fences of waiting jobs begin anew.
    RestartsFences,
    /// After an opening, nobody knows whose claim took a job.
    ForgetsTokens,
    /// After an opening, the settles of holders are forgotten.
    ForgetsSettles,
    /// After an opening, the lanes of running jobs are free.
    FreesLanes,
    /// An opening begins anew.
    Clears,
    /// Only one process can open the file at a time, whatever the reach says.
    OpensAlone,
    /// Of several openings of a new file, each makes it.
    MigratesUnlocked,
    /// The version of the file is not looked at.
    IgnoresVersion,
    /// A file of a later release is refused, and changed all the same.
    StampsVersion,
    /// A file of a later release is refused with words that help nobody.
    RefusesWithoutAWord,
    /// Each item of a batch is a trip.
    OneTripAnItem,
    /// Each job that a claim took is read by a trip.
    ReadsWhatItClaimed,
    /// Jobs are read and counted before they are updated.
    LooksBeforeUpdating,
    /// Before a slot is fired, it is looked up five times.
    LooksBeforeFiring,
    /// A call without items is a trip.
    AsksForNothing,
}

impl JournalFlaw {
    /// What an opening does to the jobs that are there.
    pub(super) fn at_opening(self, world: &mut World) {
        let ids: Vec<_> = world.jobs().map(|stored| stored.row.id).collect();
        for id in ids {
            world.edit(id, |stored| {
                let control = &mut stored.row.control;
                match (self, control.state) {
                    (JournalFlaw::ForgetsLeases, State::Running) => {
                        control.lease_until = Some(Timestamp::MAX);
                    }
                    (JournalFlaw::RestartsFences, State::Waiting) => {
                        control.fence = Fence::default();
                    }
                    (JournalFlaw::ForgetsTokens, State::Running) => {
                        control.fence.nonce = Uuid::nil();
                    }
                    (JournalFlaw::ForgetsSettles, _) => control.settled = None,
                    (JournalFlaw::FreesLanes, _) => control.slot = None,
                    _ => {}
                }
            });
        }
    }

    /// The steps in which an operation is made that should be one.
    pub(super) fn apart(self, op: &Op, world: &World) -> Option<Vec<Op>> {
        match (self, op) {
            (JournalFlaw::FieldsBeforeLog, Op::Update(updates)) => {
                let mut fields = updates.clone();
                let entries = fields.iter_mut().map(|update| {
                    let log = std::mem::take(&mut update.patch.log);
                    JobUpdate::new(update.id, Guard::None, JobPatch::append(log))
                });
                let entries = Op::Update(entries.collect());
                Some(vec![Op::Update(fields), entries])
            }
            (JournalFlaw::CancelsBeforeInserting, Op::Insert(jobs)) => {
                let cancels = jobs.iter().filter_map(|job| {
                    let unique = job.unique.as_ref()?;
                    let holder = world.key_holder(&unique.key)?;
                    let yields = world.job(holder)?.row.control.yields_to(unique);
                    let reason = superseded_by(job.id);
                    yields.then(|| {
                        Op::UpdateWhere(JobFilter::id(holder), BulkChange::Cancel { reason })
                    })
                });
                let mut steps: Vec<Op> = cancels.collect();
                steps.push(op.clone());
                (steps.len() > 1).then_some(steps)
            }
            (JournalFlaw::FiresBeforeInserting, Op::Fire(fire)) => {
                let job = fire.job.clone()?;
                let slot = Fire::skip(fire.schedule.clone(), fire.slot, fire.error.clone());
                Some(vec![Op::Fire(Box::new(slot)), Op::Insert(vec![job])])
            }
            (JournalFlaw::MarksBeforeDeleting, Op::Delete(filter, _)) => {
                let doomed = world.jobs().map(|stored| &stored.row);
                let doomed = doomed.filter(|row| row.matches(filter));
                let mark = JobPatch::default().with_label("deleted", "yes");
                let marks = doomed.map(|row| JobUpdate::new(row.id, Guard::None, mark.clone()));
                Some(vec![Op::Update(marks.collect()), op.clone()])
            }
            _ => None,
        }
    }

    /// What is asked before an operation.
    pub(super) fn looks_before(self, op: &Op) -> Vec<Op> {
        match (self, op) {
            (JournalFlaw::LooksBeforeUpdating, Op::Update(updates)) => {
                let ids = updates.iter().map(|update| update.id).collect();
                vec![Op::Get(ids, LogRead::All), Op::Tally(JobFilter::all())]
            }
            (JournalFlaw::LooksBeforeFiring, Op::Fire(_)) => vec![Op::Schedules; 5],
            _ => Vec::new(),
        }
    }

    /// What is asked after an operation.
    pub(super) fn looks_after(self, answer: &Answer) -> Vec<Op> {
        match (self, answer) {
            (JournalFlaw::ReadsWhatItClaimed, Answer::Claimed(claimed)) => {
                let reads = claimed.jobs.iter().map(|job| Op::Get(vec![job.id], LogRead::All));
                reads.collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A batch as calls with one item each.
pub(super) fn split(op: &Op) -> Option<Vec<Op>> {
    Some(match op {
        Op::Insert(jobs) => jobs.iter().map(|job| Op::Insert(vec![job.clone()])).collect(),
        Op::Update(updates) => {
            updates.iter().map(|update| Op::Update(vec![update.clone()])).collect()
        }
        Op::Heartbeat(held, lease) => {
            held.iter().map(|held| Op::Heartbeat(vec![held.clone()], *lease)).collect()
        }
        Op::Get(ids, log) => ids.iter().map(|id| Op::Get(vec![*id], *log)).collect(),
        _ => return None,
    })
}

/// The answers to such calls as one.
pub(super) fn join(answers: Vec<Answer>) -> Result<Answer> {
    let joined = answers.into_iter().reduce(|all, next| match (all, next) {
        (Answer::Inserted(mut all), Answer::Inserted(next)) => {
            all.extend(next);
            Answer::Inserted(all)
        }
        (Answer::Outcomes(mut all), Answer::Outcomes(next)) => {
            all.extend(next);
            Answer::Outcomes(all)
        }
        (Answer::Jobs(mut all), Answer::Jobs(next)) => {
            all.extend(next);
            Answer::Jobs(all)
        }
        (all, _) => all,
    });
    joined.ok_or_else(|| Error::invalid("a broken journal was asked for nothing"))
}

/// Makes a new file without a thought of others who do the same.
pub(super) fn migrate_unlocked(file: &mut File) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        thread::sleep(GAP * 4);
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(b"{\"version\":1}\n")?;
    }
    Ok(())
}

/// Writes a line in two halves, with a rest between them.
pub(super) fn write_haltingly(file: &mut File, line: &[u8], rest: Duration) -> io::Result<()> {
    let (one, other) = line.split_at(line.len() / 2);
    file.write_all(one)?;
    thread::sleep(rest);
    file.write_all(other)
}

/// Holds a lock that is a file, for most of the time in which there is something to do.
pub(super) fn locked_by_file<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let since = Instant::now();
    while OpenOptions::new().write(true).create_new(true).open(path).is_err() {
        if since.elapsed() > GAP * 4 {
            return Err(Error::new(ErrorKind::Contention, "somebody else is at work")
                .with_effect(Effect::None));
        }
        thread::sleep(Duration::from_micros(300));
    }
    let done = work();
    thread::sleep(GAP / 4);
    // An error says that it has gone already.
    let _ = fs::remove_file(path);
    done
}
