use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use queue_core::{
    EntryKind, Fence, Guard, Job, JobId, JobPatch, JobUpdate, Keep, NewEntry, Outcome, Payload,
    Progress, Result, Timestamp, Transition,
};
use tokio_util::sync::CancellationToken;

use crate::{
    StepEntry,
    committer::{Committed, Committer},
    time::StoreClock,
};

/// A job that this worker holds.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) id: JobId,
    pub(crate) fence: Fence,
    pub(crate) attempt: u32,
    /// Its place in the queue.
    pub(crate) run_at: Timestamp,
    /// The store's clock.
    pub(crate) clock: StoreClock,
    keep: Keep,
    /// How long its handler may go on when the job is lost.
    lost_grace: Duration,
    /// Tells the handler to stop: cancelled, lost, or shutting down.
    pub(crate) token: CancellationToken,
    /// The job belongs to somebody else, or to nobody.
    pub(crate) lost: CancellationToken,
    /// The worker is stopping and gives the job back.
    pub(crate) stop: CancellationToken,
    /// The end of the run was written: what is said of the job now, nobody's fence guards.
    settled: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    cancel: Option<String>,
    progress: Option<Progress>,
    /// How often progress was reported: what could not be delivered must not replace newer.
    reports: u64,
    /// Entries that ride along with every write until one is acknowledged: their ids make that
    /// safe, and a write that is dropped or refused does not lose them.
    entries: Vec<NewEntry>,
}

impl Active {
    /// `stop` is cancelled when whoever claimed the job stops.
    pub(crate) fn new(
        job: &Job,
        clock: StoreClock,
        stop: CancellationToken,
        lost_grace: Duration,
    ) -> Self {
        Active {
            id: job.id,
            fence: job.fence,
            attempt: job.attempt,
            run_at: job.run_at,
            clock,
            keep: job.keep,
            lost_grace,
            token: stop.child_token(),
            lost: CancellationToken::new(),
            stop,
            settled: AtomicBool::new(false),
            notes: Mutex::new(Notes {
                cancel: job.cancel.as_ref().map(|cancel| cancel.reason.clone()),
                ..Notes::default()
            }),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Notes are plain values: a panic elsewhere cannot leave them half written.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the job is to be cancelled. The first reason stays.
    pub(crate) fn request_cancel(&self, reason: &str) {
        self.notes().cancel.get_or_insert_with(|| reason.to_owned());
        self.token.cancel();
    }

    pub(crate) fn cancel_reason(&self) -> Option<String> {
        self.notes().cancel.clone()
    }

    pub(crate) fn lose(&self) {
        self.lost.cancel();
        self.token.cancel();
    }

    /// Resolves when the handler is not to be waited for any longer.
    pub(crate) async fn abandoned(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.token.cancelled(), if broken!(CancelKillsTheStep) => {}
            () = async {
                self.lost.cancelled().await;
                tokio::time::sleep(self.lost_grace).await;
            }, if !broken!(LostHandlersGoOn) => {}
        }
    }

    pub(crate) fn report(&self, progress: Progress) {
        let mut notes = self.notes();
        notes.progress = Some(progress).filter(|_| !broken!(ProgressIsDropped));
        notes.reports += 1;
    }

    /// Takes the progress that the next heartbeat is to carry, and its number.
    pub(crate) fn take_progress(&self) -> (Option<Progress>, u64) {
        let mut notes = self.notes();
        (notes.progress.take(), notes.reports)
    }

    /// Puts progress back that could not be delivered, unless there is newer.
    pub(crate) fn give_back(&self, progress: Option<Progress>, number: u64) {
        let mut notes = self.notes();
        if notes.reports == number && notes.progress.is_none() {
            notes.progress = progress;
        }
    }

    /// Puts an entry aside, to ride with the job's next writes.
    pub(crate) fn append_later(&self, entry: NewEntry) {
        self.notes().entries.push(entry);
    }

    /// Notes that the end of the run was written. The job may have a new holder from now on.
    pub(crate) fn note_settled(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Appends a line to the job's log. After the end of the run it is written as anybody may write one; `Lost` then says that
    /// the job is not there any more.
    pub(crate) async fn append_line(&self, committer: &Committer, line: &str) -> Result<Written> {
        let entry = NewEntry::new(EntryKind::Line, Payload::from_value(line)?);
        let patch = JobPatch::append([entry]);
        if !self.settled.load(Ordering::Acquire) {
            return self.write(committer, patch).await;
        }
        let update = JobUpdate::new(self.id, Guard::None, patch);
        Ok(match committer.commit(update).await?.outcome {
            Outcome::Applied(_) | Outcome::Repeated(_) => Written::Saved,
            Outcome::TooLarge { limit } => Written::TooLarge(limit),
            _ => Written::Lost,
        })
    }

    /// Whether the write that completes the job deletes it.
    pub(crate) fn is_dropped_when_complete(&self) -> bool {
        self.keep == Keep::UnlessCompleted
    }

    /// Writes to the job, together with what was put aside, and takes note of what comes back.
    pub(crate) async fn write(&self, committer: &Committer, patch: JobPatch) -> Result<Written> {
        Ok(self.write_end(committer, patch, Aside::Sent).await?.0)
    }

    /// How many entries are put aside.
    pub(crate) fn entries_aside(&self) -> usize {
        self.notes().entries.len()
    }

    /// As [`write`](Self::write), and says whether an earlier try whose answer was lost had made the write: then the store has
    /// not told what it made of it.
    pub(crate) async fn write_end(
        &self,
        committer: &Committer,
        mut patch: JobPatch,
        entries: Aside,
    ) -> Result<(Written, Repeated)> {
        let kind = patch.transition.as_ref().map(Transition::kind);
        let (aside, progress, number) = {
            let mut notes = self.notes();
            let progress = notes.progress.take();
            let aside = match entries {
                Aside::Sent => notes.entries.clone(),
                Aside::LeftOut => Vec::new(),
            };
            (aside, progress, notes.reports)
        };
        patch.progress = patch.progress.or_else(|| progress.clone());
        patch.log.splice(..0, aside.iter().cloned());
        let Committed { outcome, repeated } = self
            .commit(committer, patch, aside.len())
            .await
            .inspect_err(|_| self.give_back(progress.clone(), number))?;
        let deleted = repeated
            && self.is_dropped_when_complete()
            && kind == Some(queue_core::TransitionKind::Complete);
        let made_before = match outcome {
            Outcome::Repeated(_) => Repeated::Yes,
            _ => Repeated::No,
        };
        let written = match outcome {
            Outcome::Applied(ack) | Outcome::Repeated(ack) => {
                self.notes().entries.retain(|entry| aside.iter().all(|done| done.id != entry.id));
                if let Some(cancel) = ack.cancel
                    && !broken!(WriteCancelIsIgnored)
                {
                    self.request_cancel(&cancel.reason);
                }
                Written::Saved
            }
            // The first try, whose answer was lost, completed the job and deleted it.
            Outcome::Missing if deleted => Written::Saved,
            Outcome::TooLarge { limit } => {
                self.give_back(progress, number);
                Written::TooLarge(limit)
            }
            _ if broken!(IgnoresLoss) => Written::Saved,
            Outcome::Fenced
            | Outcome::Conflict { .. }
            | Outcome::Illegal { .. }
            | Outcome::Missing => {
                self.lose();
                Written::Lost
            }
        };
        Ok((written, made_before))
    }

    /// Sends a patch, whose first entries were put aside. Where its entries are too large together, it is sent again without the
    /// inputs of their steps, those put aside first: they must not be the reason why what became of a step, or of the job, is
    /// not stored. The ids stay, so that no entry is there twice.
    async fn commit(
        &self,
        committer: &Committer,
        mut patch: JobPatch,
        aside: usize,
    ) -> Result<Committed> {
        let whole = JobUpdate::held(self.id, self.fence, patch.clone());
        let mut committed = committer.commit(whole).await?;
        for entries in [0..aside, aside..patch.log.len()] {
            let Outcome::TooLarge { limit } = committed.outcome else { break };
            // Whose single payload is too large, is so without them.
            if patch.largest_payload() as u64 > limit || !lighten(&mut patch.log[entries]) {
                continue;
            }
            tracing::warn!(job = %self.id, "inputs of steps are left out of the log, which has no room for them");
            let lighter = JobUpdate::held(self.id, self.fence, patch.clone());
            committed = committer.commit(lighter).await?;
        }
        Ok(committed)
    }
}

/// Takes the inputs of steps out of entries, and says whether there were any.
fn lighten(log: &mut [NewEntry]) -> bool {
    let mut lighter = false;
    for entry in log {
        if let Some(without) = StepEntry::without_input(entry) {
            *entry = without;
            lighter = true;
        }
    }
    lighter
}

/// What becomes of the entries that were put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// They ride with the write.
    Sent,
    /// They stay where they are.
    LeftOut,
}

/// Whether the store had made a write before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    Yes,
    No,
}

/// What became of a write to a held job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Written {
    Saved,
    Lost,
    TooLarge(u64),
}
