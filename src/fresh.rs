use std::sync::Arc;

use queue_core::{Job, JobPatch, JobUpdate, Result, Timestamp, Transition, When};
use tokio_util::sync::CancellationToken;

use crate::{
    active::Active,
    committer::{Committed, Committer},
    keeper::Keeper,
    time::StoreClock,
};

/// What a claim took.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) jobs: Vec<Fresh>,
    pub(crate) next_due: Option<Timestamp>,
}

/// A job that was claimed and not started.
///
/// Its lease is renewed from the moment at which the claim was answered, although whoever claimed it may be on a thread that a
/// handler blocks. Dropped, it is given back to its place in the queue.
#[derive(Debug)]
pub(crate) struct Fresh {
    /// `None` once it was started or given back.
    job: Option<Job>,
    active: Arc<Active>,
    keeper: Arc<Keeper>,
    committer: Committer,
}

impl Fresh {
    /// `stop` is cancelled when whoever claimed the job stops.
    pub(crate) fn new(
        job: Job,
        clock: StoreClock,
        stop: CancellationToken,
        keeper: Arc<Keeper>,
        committer: Committer,
    ) -> Self {
        let active = Arc::new(Active::new(&job, clock, stop, keeper.lost_grace));
        if !broken!(ClaimsAreHeldLate) {
            keeper.add(active.clone());
        }
        Fresh { job: Some(job), active, keeper, committer }
    }

    pub(crate) const fn job(&self) -> Option<&Job> {
        self.job.as_ref()
    }

    pub(crate) const fn active(&self) -> &Arc<Active> {
        &self.active
    }

    /// Takes the job, to be started.
    pub(crate) fn start(&mut self) -> Option<Job> {
        self.job.take()
    }

    /// Gives the job back, and waits until the store has it.
    pub(crate) async fn give_back(mut self) -> Result<Option<Committed>> {
        let Some(job) = self.job.take() else { return Ok(None) };
        self.keeper.remove(&self.active);
        self.committer.commit(unstarted(&job)).await.map(Some)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.keeper.remove(&self.active);
        if let Some(job) = &self.job
            && !broken!(UnstartedClaimsAreStranded)
        {
            self.committer.commit_unheard(unstarted(job));
        }
    }
}

/// The update that gives back a job which was claimed and not started, to its place in the queue.
pub(crate) fn unstarted(job: &Job) -> JobUpdate {
    let patch = JobPatch::transition(Transition::Release { when: When::At(job.run_at) });
    JobUpdate::held(job.id, job.fence, patch)
}
