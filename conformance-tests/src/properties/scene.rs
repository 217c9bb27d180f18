//! Values and steps that many properties need.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use queue_core::{
    Ack, BulkChange, BulkOutcome, ClaimRequest, EntryKind, Fire, Fired, Guard, Held, Job,
    JobFilter, JobId, JobPatch, JobStore, JobStoreExt, JobUpdate, NewEntry, NewJob, Outcome,
    Payload, QueueName, Queues, Reaped, Record, State, Timestamp, Transition, When,
};
use serde::Serialize;

use crate::{Case, Checked, Stop, check, check_eq};

pub(super) type Store = Arc<dyn JobStore>;

/// A lease that nothing in a property outlives by accident.
pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const MICRO: Duration = Duration::from_micros(1);

/// A lease that the property will let run out, in earnest where there is no clock hook.
pub(super) fn brief(case: &Case) -> Duration {
    match case.is_clocked() {
        true => LEASE,
        false => Duration::from_millis(60),
    }
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A limit; 0 is not one and counts as 1.
pub(super) fn n(limit: u32) -> NonZeroU32 {
    NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN)
}

/// Payload made of a value.
pub(super) fn value(value: impl Serialize) -> Payload {
    // The suite serialises numbers, strings and lists of them, which cannot fail.
    Payload::from_value(&value).expect("numbers, strings and lists of them are JSON")
}

/// Payload of exactly this text.
pub(super) fn text(json: impl Into<String>) -> Checked<Payload> {
    Ok(Payload::from_text(json)?)
}

pub(super) fn queue(name: &str) -> Checked<QueueName> {
    Ok(QueueName::new(name)?)
}

pub(super) fn job(kind: &'static str) -> NewJob {
    NewJob::new(kind, value(kind))
}

/// Plain jobs whose inputs are their numbers.
pub(super) fn plain_jobs(count: usize) -> Vec<NewJob> {
    (0..count).map(|i| NewJob::new("plain", value(i))).collect()
}

pub(super) fn entry(body: impl Serialize) -> NewEntry {
    NewEntry::new(EntryKind::Line, value(body))
}

pub(super) fn complete() -> Transition {
    Transition::Complete { output: Some(value("done")) }
}

pub(super) fn fail() -> Transition {
    Transition::Fail { error: value("failed") }
}

pub(super) fn retry(when: When) -> Transition {
    Transition::Retry { when, error: value("again") }
}

pub(super) fn release(when: When) -> Transition {
    Transition::Release { when }
}

pub(super) fn give_up() -> Transition {
    Transition::Cancel { reason: "own".to_owned() }
}

/// This patch, ending the run as well.
pub(super) fn ending(transition: Transition, mut patch: JobPatch) -> JobPatch {
    patch.transition = Some(transition);
    patch
}

/// All transitions, due at once where they have a time.
pub(super) fn transitions() -> [Transition; 5] {
    [complete(), retry(When::Now), release(When::Now), fail(), give_up()]
}

/// A request for jobs of every queue and kind.
pub(super) fn wanted(limit: u32) -> ClaimRequest {
    ClaimRequest::new(Queues::All, "worker", n(limit), LEASE)
}

pub(super) fn wanted_from(queues: &[&str], limit: u32) -> Checked<ClaimRequest> {
    let names = queues.iter().map(|name| queue(name)).collect::<Checked<Vec<_>>>()?;
    let mut request = wanted(limit);
    request.queues = Queues::Only(names);
    Ok(request)
}

pub(super) fn wanted_ids(ids: &[JobId], limit: u32) -> ClaimRequest {
    let mut request = wanted(limit);
    request.filter = Some(JobFilter::ids(ids.iter().copied()));
    request
}

/// A request like this one that is none of its repeats.
pub(super) fn another(request: &ClaimRequest) -> ClaimRequest {
    let mut request = request.clone();
    request.token = uuid::Uuid::now_v7();
    request
}

pub(super) fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

pub(super) fn new_ids(jobs: &[NewJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// The bodies of a job's log, in the order read.
pub(super) fn bodies(job: &Job) -> Vec<String> {
    job.log.iter().map(|entry| entry.body.as_str().to_owned()).collect()
}

pub(super) async fn put(store: &Store, job: &NewJob) -> Checked<JobId> {
    put_all(store, std::slice::from_ref(job)).await?;
    Ok(job.id)
}

/// Inserts jobs that must be new.
pub(super) async fn put_all(store: &Store, jobs: &[NewJob]) -> Checked {
    let answers = store.insert(jobs).await?;
    check_eq!(answers.len(), jobs.len(), "an insert answers for every job");
    for (job, answer) in jobs.iter().zip(answers) {
        check_eq!(answer, queue_core::Inserted::New(job.id), "the insert of a new job");
    }
    Ok(())
}

/// Claims from all queues and kinds.
pub(super) async fn claim(store: &Store, limit: u32) -> Checked<Vec<Job>> {
    Ok(store.claim(&wanted(limit)).await?.jobs)
}

/// Claims the one job that there is to be had first.
pub(super) async fn take(store: &Store) -> Checked<Job> {
    one(claim(store, 1).await?)
}

/// Claims this job.
pub(super) async fn take_id(store: &Store, id: JobId) -> Checked<Job> {
    take_for(store, id, LEASE).await
}

/// Claims this job for this lease.
pub(super) async fn take_for(store: &Store, id: JobId, lease: Duration) -> Checked<Job> {
    let mut request = wanted_ids(&[id], 1);
    request.lease = lease;
    let job = one(store.claim(&request).await?.jobs)?;
    check_eq!(job.id, id, "a claim of this job alone");
    Ok(job)
}

fn one(jobs: Vec<Job>) -> Checked<Job> {
    let count = jobs.len();
    match jobs.into_iter().next() {
        Some(job) if count == 1 => Ok(job),
        _ => Err(Stop::fail(format!("a claim of one due job answered {count} jobs"))),
    }
}

/// Inserts a plain job and claims it.
pub(super) async fn running(store: &Store) -> Checked<Job> {
    let id = put(store, &job("plain")).await?;
    take_id(store, id).await
}

/// Reads a job that must be there, with its log.
pub(super) async fn read(store: &Store, id: JobId) -> Checked<Job> {
    match store.get_one(id).await? {
        Some(job) => Ok(job),
        None => Err(Stop::fail(format!("job {id} is gone"))),
    }
}

pub(super) async fn update(
    store: &Store,
    id: JobId,
    guard: Guard,
    patch: JobPatch,
) -> Checked<Outcome> {
    let answers = store.update_jobs(&[JobUpdate::new(id, guard, patch)]).await?;
    let count = answers.len();
    match answers.into_iter().next() {
        Some(outcome) if count == 1 => Ok(outcome),
        _ => Err(Stop::fail(format!("an update of one job answered {count} outcomes"))),
    }
}

fn applied(outcome: Outcome, what: &str) -> Checked<Ack> {
    match outcome {
        Outcome::Applied(ack) => Ok(ack),
        other => Err(Stop::fail(format!("{what} must be applied, but was answered {other:?}"))),
    }
}

/// An edit without a guard, which must be applied.
pub(super) async fn edit(store: &Store, id: JobId, patch: JobPatch) -> Checked<Ack> {
    applied(update(store, id, Guard::None, patch).await?, "an edit without a guard")
}

/// A write by the holder, which must be applied.
pub(super) async fn write(store: &Store, job: &Job, patch: JobPatch) -> Checked<Ack> {
    let outcome = update(store, job.id, Guard::Fence(job.fence), patch).await?;
    applied(outcome, "a write by the holder")
}

/// The end of a run by its holder, which must be applied.
pub(super) async fn settle(store: &Store, job: &Job, transition: Transition) -> Checked<Ack> {
    write(store, job, JobPatch::transition(transition)).await
}

/// A transition asked for under this job's fence, whatever the answer.
pub(super) async fn try_settle(
    store: &Store,
    job: &Job,
    transition: Transition,
) -> Checked<Outcome> {
    update(store, job.id, Guard::Fence(job.fence), JobPatch::transition(transition)).await
}

/// A heartbeat of one job, whatever the answer.
pub(super) async fn beat(store: &Store, job: &Job, lease: Duration) -> Checked<Outcome> {
    let answers = store.heartbeat(&[Held::new(job.id, job.fence)], lease).await?;
    let count = answers.len();
    match answers.into_iter().next() {
        Some(outcome) if count == 1 => Ok(outcome),
        _ => Err(Stop::fail(format!("a heartbeat of one job answered {count} outcomes"))),
    }
}

/// Puts a record whatever its version, which must be applied.
pub(super) async fn put_record(store: &Store, record: &Record) -> Checked<Ack> {
    applied(store.put_record(record, None).await?, "a put that expects no version")
}

/// Passes over a slot, which must be a new one.
pub(super) async fn skip_slot(
    store: &Store,
    schedule: &str,
    slot: Timestamp,
    error: Option<String>,
) -> Checked {
    let fired = store.fire(&Fire::skip(schedule, slot, error)).await?;
    check_eq!(fired, Fired::Skipped(None), "a slot of {schedule:?} passed over");
    Ok(())
}

pub(super) fn cancelling(reason: &str) -> BulkChange {
    BulkChange::Cancel { reason: reason.to_owned() }
}

pub(super) async fn cancel(store: &Store, id: JobId, reason: &str) -> Checked<BulkOutcome> {
    Ok(store.update_where(&JobFilter::id(id), &cancelling(reason)).await?)
}

pub(super) fn counts(changed: u64, signalled: u64, finished: u64) -> BulkOutcome {
    let mut counts = BulkOutcome::default();
    counts.changed = changed;
    counts.signalled = signalled;
    counts.finished = finished;
    counts
}

/// Reaps until nothing is left to reap.
pub(super) async fn reap_all(store: &Store) -> Checked<Vec<Reaped>> {
    Ok(store.reap(n(1_000)).await?)
}

/// Whether an instant lies in the span in which the store stamped it. With a clock that stands still both
/// ends are the same, and the instant is exact.
pub(super) fn check_time(
    at: Option<Timestamp>,
    from: Timestamp,
    to: Timestamp,
    what: &str,
) -> Checked {
    match at {
        Some(at) if from <= at && at <= to => Ok(()),
        _ => Err(Stop::fail(format!("{what} should be {from} to {to}, but is {at:?}"))),
    }
}

/// That a job reads the same as before.
pub(super) async fn check_unchanged(store: &Store, before: &Job, after_what: &str) -> Checked {
    let now = read(store, before.id).await?;
    check_eq!(now, *before, "job {} must be unchanged after {after_what}", before.id);
    Ok(())
}

/// That nothing is to be had.
pub(super) async fn check_nothing_due(store: &Store, why: &str) -> Checked {
    let got = claim(store, 1_000).await?;
    check!(got.is_empty(), "{why}: nothing should be claimable, but {:?} was", ids(&got));
    Ok(())
}

/// The ways in which a run can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Fail,
    CancelByHolder,
    Retry,
    Release,
    WithdrawnRetry,
    WithdrawnRelease,
    Reap,
    ReapExhausted,
    ReapCancelled,
}

impl End {
    pub(super) const ALL: [End; 10] = [
        End::Complete,
        End::Fail,
        End::CancelByHolder,
        End::Retry,
        End::Release,
        End::WithdrawnRetry,
        End::WithdrawnRelease,
        End::Reap,
        End::ReapExhausted,
        End::ReapCancelled,
    ];

    /// The state in which it leaves the job.
    pub(super) const fn state(self) -> State {
        match self {
            End::Complete => State::Completed,
            End::Fail | End::ReapExhausted => State::Failed,
            End::CancelByHolder
            | End::WithdrawnRetry
            | End::WithdrawnRelease
            | End::ReapCancelled => State::Cancelled,
            End::Retry | End::Release | End::Reap => State::Waiting,
        }
    }

    /// What a job needs to end so.
    pub(super) const fn prepare(self, job: &mut NewJob) {
        if matches!(self, End::ReapExhausted) {
            job.max_crashes = 0;
        }
    }

    /// Ends the run of a job claimed for [`brief`]; `when` is for a retry or release.
    pub(super) async fn make(self, case: &Case<'_>, job: &Job, when: When) -> Checked {
        let store = case.store();
        if matches!(self, End::WithdrawnRetry | End::WithdrawnRelease | End::ReapCancelled) {
            check_eq!(
                cancel(store, job.id, "stop").await?,
                counts(0, 1, 0),
                "a cancel of a running job"
            );
        }
        match self {
            End::Complete => settle(store, job, complete()).await.map(drop)?,
            End::Fail => settle(store, job, fail()).await.map(drop)?,
            End::CancelByHolder => settle(store, job, give_up()).await.map(drop)?,
            End::Retry | End::WithdrawnRetry => settle(store, job, retry(when)).await.map(drop)?,
            End::Release | End::WithdrawnRelease => {
                settle(store, job, release(when)).await.map(drop)?;
            }
            End::Reap | End::ReapExhausted | End::ReapCancelled => {
                case.pass(brief(case)).await?;
                let reaped = reap_all(store).await?;
                check!(
                    reaped.iter().any(|reaped| reaped.id == job.id),
                    "a job whose lease is over must be reaped, but only {reaped:?} were"
                );
            }
        }
        let ended = read(store, job.id).await?;
        check_eq!(ended.state, self.state(), "the state after {self:?}");
        Ok(())
    }
}
