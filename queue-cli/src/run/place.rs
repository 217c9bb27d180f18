//! Putting the jobs of a run into the store, next to what is there from earlier runs.

use queue::{
    Job, JobFilter, JobId, JobQuery, JobState, JobStates, Queue, RETRY_OF,
    core::{LogRead, MAX_PAGE, NewJob},
};

use super::{Names, expand::Wanted};
use crate::{failure::Failure, run::report::completed_steps};

/// How many jobs are read or written at once.
pub(super) const BATCH: usize = 250;

/// A job of this run as it stood in the store when the run began.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) id: JobId,
    /// The try before this one.
    pub(super) retry_of: Option<JobId>,
    pub(super) before: Before,
}

impl Placed {
    fn new(id: JobId) -> Self {
        Placed { id, retry_of: None, before: Before::New }
    }

    fn retry(of: &Job) -> Self {
        let id = JobId::for_retry(of.id, of.fence);
        Placed { id, retry_of: Some(of.id), before: Before::Failed }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Not there.
    New,
    /// Failed or cancelled in an earlier run: the job is a new one that tries again.
    Failed,
    /// Begun or waiting, with so many completed steps.
    Unfinished(usize),
    /// Completed.
    Done,
}

/// Finds each job or inserts it, and cancels jobs of earlier runs of the file that it no longer
/// asks for.
///
/// A job that failed or was cancelled is tried again as a new job, whose id follows from the old
/// one ([`JobId::for_retry`]), so that runs side by side make one, and which is labelled with that
/// one, as [`Queue::retry`] does it.
pub(super) async fn place(
    queue: &Queue,
    names: &Names,
    wanted: Vec<Wanted>,
) -> Result<Vec<Placed>, Failure> {
    let mut placed = Vec::with_capacity(wanted.len());
    for batch in wanted.chunks(BATCH) {
        placed.extend(place_batch(queue, names, batch).await?);
    }
    cancel_stale(queue, names, &placed).await?;
    Ok(placed)
}

async fn place_batch(
    queue: &Queue,
    names: &Names,
    wanted: &[Wanted],
) -> Result<Vec<Placed>, Failure> {
    let mut placed: Vec<Placed> = wanted.iter().map(|wanted| Placed::new(wanted.id)).collect();
    // The positions whose fate is open: at first all, then those whose latest try is to be looked
    // up.
    let mut open: Vec<usize> = (0..wanted.len()).collect();
    let mut missing = Vec::new();
    while !open.is_empty() {
        let ids = open.iter().map(|position| placed[*position].id).collect();
        let jobs = queue.jobs(ids, LogRead::None).await?;
        let mut again = Vec::new();
        let mut unfinished = Vec::new();
        for (position, job) in open.into_iter().zip(jobs) {
            let Some(job) = job else {
                missing.push(position);
                continue;
            };
            match job.state {
                JobState::Completed => placed[position].before = Before::Done,
                JobState::Waiting | JobState::Running => unfinished.push(position),
                JobState::Failed | JobState::Cancelled => {
                    placed[position] = Placed::retry(&job);
                    again.push(position);
                }
            }
        }
        read_unfinished(queue, &mut placed, &unfinished).await?;
        open = again;
    }
    let new = |position: &usize| new_job(&wanted[*position], &placed[*position], names);
    queue.insert(missing.iter().map(new).collect()).await?;
    Ok(placed)
}

async fn read_unfinished(
    queue: &Queue,
    placed: &mut [Placed],
    positions: &[usize],
) -> Result<(), Failure> {
    let ids = positions.iter().map(|position| placed[*position].id).collect();
    let jobs = queue.jobs(ids, LogRead::All).await?;
    for (position, job) in positions.iter().zip(jobs) {
        let steps = job.map_or(0, |job| completed_steps(&job.log));
        placed[*position].before = Before::Unfinished(steps);
    }
    Ok(())
}

fn new_job(wanted: &Wanted, placed: &Placed, names: &Names) -> NewJob {
    let mut job = NewJob::new(wanted.kind.clone(), wanted.input.clone());
    job.id = placed.id;
    job.queue = names.queue.clone();
    job.priority = wanted.priority;
    job.labels.insert("file".to_owned(), names.file.clone());
    job.labels.insert("definition".to_owned(), names.definition.clone());
    if let Some(before) = placed.retry_of {
        job.labels.insert(RETRY_OF.to_owned(), before.to_string());
    }
    job
}

/// Cancels what will never be asked for again: jobs of an earlier definition, which no worker can
/// run any more, and jobs for files that have changed or are gone.
async fn cancel_stale(queue: &Queue, names: &Names, placed: &[Placed]) -> Result<(), Failure> {
    let wanted: std::collections::HashSet<JobId> = placed.iter().map(|placed| placed.id).collect();
    let is_stale = |job: &Job| {
        let definition = job.labels.get("definition");
        definition != Some(&names.definition)
            || (job.queue == names.queue && !wanted.contains(&job.id))
    };
    let live = JobFilter::label("file", &names.file).with_states(JobStates::LIVE);
    let mut query = JobQuery::new(live);
    query.limit = MAX_PAGE;
    let mut stale = Vec::new();
    loop {
        let page = queue.find(query.clone()).await?;
        stale.extend(page.items.iter().filter(|job| is_stale(job)).map(|job| job.id));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    for batch in stale.chunks(BATCH) {
        let ids = JobFilter::ids(batch.iter().copied());
        queue.cancel_where(ids, "the run file no longer asks for it").await?;
    }
    Ok(())
}
