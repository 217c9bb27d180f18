//! A job as a store holds it, and the rules that decide about it.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Ack, BulkChange, CancelRequest, Fence, Guard, Job, JobError, JobFilter, JobId, JobPatch, Keep,
    Lane, LogEntry, NewJob, OnConflict, Outcome, Payload, Progress, QueueName, State, Timestamp,
    Transition, TransitionKind, Unique, Version,
    effects::{Given, Operation},
    name::clean_message,
};

/// The settle that a holder made, remembered so that a repeat is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settled {
    /// The fence of the holder.
    pub fence: Fence,
    /// What it asked for.
    pub kind: TransitionKind,
}

impl Settled {
    /// This holder asked for this.
    pub const fn new(fence: Fence, kind: TransitionKind) -> Self {
        Settled { fence, kind }
    }
}

/// The fields of a job that decide its fate. The rules of the contract are its methods, so that stores share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `Job`
pub struct Control {
    pub state: State,
    pub attempt: u32,
    pub crashes: u32,
    pub max_crashes: u32,
    pub keep: Keep,
    pub fence: Fence,
    pub version: Version,
    pub run_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub holder: Option<Arc<str>>,
    pub lease_until: Option<Timestamp>,
    pub cancel: Option<CancelRequest>,
    /// Whether the running job was woken.
    pub wake: bool,
    /// The last settle by a holder.
    pub settled: Option<Settled>,
    pub lane: Option<Lane>,
    /// The lane's slot that the running job holds.
    pub slot: Option<u32>,
    pub unique: Option<Unique>,
    /// How many entries the log has; only the store, which appends, changes it.
    pub log_len: u64,
}

/// What is to be done about an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Apply it, and answer with this request to cancel.
    Apply(Option<CancelRequest>),
    /// Change nothing and answer this.
    Refuse(Outcome),
}

impl Control {
    /// The fields of a job that is inserted now.
    pub fn new(job: &NewJob, now: Timestamp) -> Self {
        Control {
            state: State::Waiting,
            attempt: 0,
            crashes: 0,
            max_crashes: job.max_crashes,
            keep: job.keep,
            fence: Fence::default(),
            version: Version(1),
            run_at: job.when.resolve(now),
            started_at: None,
            finished_at: None,
            holder: None,
            lease_until: None,
            cancel: None,
            wake: false,
            settled: None,
            lane: job.lane.clone(),
            slot: None,
            unique: job.unique.clone(),
            log_len: 0,
        }
    }

    /// Whether this holder holds the job.
    pub fn is_held(&self, fence: Fence) -> bool {
        self.state == State::Running && self.fence == fence
    }

    /// Whether nobody has ever claimed the job.
    pub fn never_started(&self) -> bool {
        self.state == State::Waiting && self.fence.count == 0
    }

    /// Whether the job holds its unique key.
    pub fn holds_key(&self) -> bool {
        self.unique.as_ref().is_some_and(|unique| match unique.on_conflict {
            OnConflict::Return => unique.within.contains(self.state),
            OnConflict::Supersede => self.never_started(),
        })
    }

    /// Whether a new job that asks for the key which this one holds may take it by cancelling this one.
    pub fn yields_to(&self, newcomer: &Unique) -> bool {
        newcomer.on_conflict == OnConflict::Supersede
            && self.never_started()
            && self.unique.as_ref().is_none_or(|unique| {
                unique.on_conflict == OnConflict::Supersede
                    || !unique.within.contains(State::Cancelled)
            })
    }

    /// Decides about an update, in the order `Missing` (by the caller), `Repeated`, `Fenced` or `Conflict`, `Illegal`.
    pub fn judge(&self, guard: Guard, transition: Option<TransitionKind>) -> Judgement {
        let refuse = Judgement::Refuse;
        match guard {
            Guard::None => Judgement::Apply(None),
            Guard::Version(expected) if expected == self.version => Judgement::Apply(None),
            Guard::Version(_) => refuse(Outcome::Conflict { actual: self.version }),
            Guard::Fence(fence) => {
                let own = self.settled.filter(|settled| settled.fence == fence);
                match (own, transition) {
                    (Some(own), Some(kind)) if own.kind == kind => {
                        refuse(Outcome::Repeated(Ack::default()))
                    }
                    (Some(_), _) => refuse(Outcome::Fenced),
                    (None, _) if self.is_held(fence) => Judgement::Apply(self.cancel.clone()),
                    (None, Some(_)) if self.fence == fence => {
                        refuse(Outcome::Illegal { from: self.state })
                    }
                    (None, _) => refuse(Outcome::Fenced),
                }
            }
        }
    }

    /// Takes a waiting job.
    pub fn claim(&mut self, claim: &Claim, slot: Option<u32>) {
        let given = Given {
            token: claim.token,
            holder: Some(claim.holder.clone()),
            lease_until: claim.now.plus(claim.lease),
            slot,
            ..Given::at(claim.now)
        };
        self.apply(Operation::Claim, given);
    }

    /// Renews the lease of a held job.
    pub fn heartbeat(&mut self, lease: Duration, now: Timestamp) {
        self.apply(Operation::Heartbeat, Given { lease_until: now.plus(lease), ..Given::at(now) });
    }

    /// Ends the run of a held job.
    pub fn settle(&mut self, transition: &Transition, now: Timestamp) {
        let operation = match transition {
            Transition::Complete { .. } => Operation::Complete,
            Transition::Fail { .. } => Operation::Fail,
            Transition::Cancel { .. } => Operation::CancelByHolder,
            Transition::Retry { .. } | Transition::Release { .. } if self.cancel.is_some() => {
                Operation::Withdraw
            }
            Transition::Retry { .. } => Operation::Retry,
            Transition::Release { .. } if self.wake => Operation::ReleaseWoken,
            Transition::Release { .. } => Operation::Release,
        };
        let mut given = Given::at(now);
        given.settled = Some(Settled::new(self.fence, transition.kind()));
        match transition {
            Transition::Retry { when, .. } | Transition::Release { when } => {
                given.run_at = when.resolve(now);
            }
            Transition::Cancel { reason } => given.reason = Some(clean_message(reason)),
            Transition::Complete { .. } | Transition::Fail { .. } => {}
        }
        self.apply(operation, given);
    }

    /// Whether the write that brought the job here deletes it as well.
    pub fn is_dropped(&self) -> bool {
        self.state == State::Completed && self.keep == Keep::UnlessCompleted
    }

    /// Whether the lease of a running job is over: at the very end of the lease it is.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.state == State::Running && self.lease_until.is_some_and(|until| until <= now)
    }

    /// Takes an expired job from its holder. Returns the error of a job that crashed too often.
    pub fn reap(&mut self, now: Timestamp) -> Option<JobError> {
        let operation = if self.cancel.is_some() {
            Operation::ReapCancelled
        } else if self.crashes >= self.max_crashes {
            Operation::ReapExhausted
        } else {
            Operation::Reap
        };
        let attempt = self.attempt;
        self.apply(operation, Given::at(now));
        (operation == Operation::ReapExhausted).then(|| JobError::crashed(self.crashes, attempt))
    }

    /// The operation that a bulk change is on this job. `None`: it is counted but not touched.
    pub fn bulk_operation(&self, change: &BulkChange, now: Timestamp) -> Option<Operation> {
        match (change, self.state) {
            (BulkChange::Cancel { .. }, State::Waiting) => Some(Operation::CancelWaiting),
            (BulkChange::Cancel { .. }, State::Running) => {
                self.cancel.is_none().then_some(Operation::CancelRunning)
            }
            (BulkChange::Wake, State::Waiting) => {
                (self.run_at > now).then_some(Operation::WakeWaiting)
            }
            (BulkChange::Wake, State::Running) => Some(Operation::WakeRunning),
            (BulkChange::Priority(_) | BulkChange::Queue(_), State::Waiting | State::Running) => {
                Some(Operation::Edit)
            }
            (_, State::Completed | State::Failed | State::Cancelled) => None,
        }
    }

    /// Cancels a waiting job, or marks a running one that has no mark yet.
    pub fn cancel(&mut self, reason: &str, now: Timestamp) {
        let change = BulkChange::Cancel { reason: clean_message(reason) };
        if let Some(operation) = self.bulk_operation(&change, now) {
            let BulkChange::Cancel { reason } = change else { return };
            self.apply(operation, Given { reason: Some(reason), ..Given::at(now) });
        }
    }
}

/// What a claim writes into the jobs it takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The request's token.
    pub token: Uuid,
    /// The name of the holder.
    pub holder: Arc<str>,
    /// How long the job is held.
    pub lease: Duration,
    /// The store's now.
    pub now: Timestamp,
}

impl Claim {
    /// What this request writes at this time.
    pub fn of(request: &crate::ClaimRequest, now: Timestamp) -> Self {
        Claim { token: request.token, holder: request.holder.clone(), lease: request.lease, now }
    }
}

/// A job as a store holds it, without its log.
///
/// To read one back from storage, make it with [`Row::new`] of any job and set all of its fields; [`Control`] can be stored by
/// `serde` as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `Job`
pub struct Row {
    pub id: JobId,
    pub queue: QueueName,
    pub kind: Cow<'static, str>,
    pub input: Payload,
    pub priority: i16,
    pub labels: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub progress: Option<Progress>,
    pub output: Option<Payload>,
    pub error: Option<Payload>,
    pub control: Control,
}

impl Row {
    /// The row of a job that is inserted now.
    pub fn new(job: &NewJob, now: Timestamp) -> Self {
        Row {
            id: job.id,
            queue: job.queue.clone(),
            kind: job.kind.clone(),
            input: job.input.clone(),
            priority: job.priority,
            labels: job.labels.clone(),
            created_at: now,
            progress: None,
            output: None,
            error: None,
            control: Control::new(job, now),
        }
    }

    /// The job as users read it, with these log entries.
    pub fn into_job(self, log: Vec<LogEntry>) -> Job {
        let control = self.control;
        Job {
            id: self.id,
            queue: self.queue,
            kind: self.kind,
            input: self.input,
            priority: self.priority,
            labels: self.labels,
            unique: control.unique,
            lane: control.lane,
            keep: control.keep,
            state: control.state,
            attempt: control.attempt,
            crashes: control.crashes,
            max_crashes: control.max_crashes,
            fence: control.fence,
            version: control.version,
            created_at: self.created_at,
            run_at: control.run_at,
            started_at: control.started_at,
            finished_at: control.finished_at,
            holder: control.holder,
            lease_until: control.lease_until,
            progress: self.progress,
            output: self.output,
            error: self.error,
            cancel: control.cancel,
            log_len: control.log_len,
            log,
        }
    }

    /// Whether the job matches the filter.
    pub fn matches(&self, filter: &JobFilter) -> bool {
        filter.states.contains(self.control.state)
            && filter.ids.as_ref().is_none_or(|ids| ids.contains(&self.id))
            && filter.queues.as_ref().is_none_or(|queues| queues.contains(&self.queue))
            && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&self.kind))
            && filter.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && filter.created.contains(Some(self.created_at))
            && filter.run_at.contains(Some(self.control.run_at))
            && filter.finished.contains(self.control.finished_at)
    }

    /// Applies a patch that was judged [`Judgement::Apply`], its log aside, and answers it.
    ///
    /// The store appends the log itself and raises [`Control::log_len`] by one for each entry that was not there;
    /// where [`Control::is_dropped`] says so now, it deletes the job instead. Whether the patch is too large
    /// ([`JobPatch::largest_payload`]) is asked between the judgement and this.
    pub fn patch(
        &mut self,
        guard: Guard,
        patch: &JobPatch,
        cancel: Option<CancelRequest>,
        now: Timestamp,
    ) -> Ack {
        let holder = matches!(guard, Guard::Fence(_));
        if let Some(progress) = &patch.progress {
            self.progress = Some(clean_progress(progress));
        }
        for (key, value) in &patch.labels {
            match value {
                Some(value) => self.labels.insert(key.clone(), value.clone()),
                None => self.labels.remove(key),
            };
        }
        match &patch.transition {
            Some(transition) => {
                self.control.settle(transition, now);
                match transition {
                    Transition::Complete { output } => {
                        self.output.clone_from(output);
                        self.error = None;
                    }
                    Transition::Retry { error, .. } | Transition::Fail { error } => {
                        self.error = Some(error.clone());
                    }
                    Transition::Release { .. } | Transition::Cancel { .. } => {}
                }
            }
            None if patch.is_edit(holder) => {
                self.control.apply(Operation::Edit, Given::at(now));
            }
            None => {}
        }
        match holder {
            true => Ack::holder(cancel),
            false => Ack::editor(self.control.version),
        }
    }

    /// Takes an expired job from its holder.
    pub fn reap(&mut self, now: Timestamp) {
        if let Some(error) = self.control.reap(now) {
            self.error = Some(error.to_payload());
        }
    }

    /// Makes a bulk change that [`Control::bulk_operation`] called an operation.
    pub fn change(&mut self, operation: Operation, change: &BulkChange, now: Timestamp) {
        let mut given = Given::at(now);
        match change {
            BulkChange::Cancel { reason } => given.reason = Some(clean_message(reason)),
            BulkChange::Priority(priority) => self.priority = *priority,
            BulkChange::Queue(queue) => self.queue = queue.clone(),
            BulkChange::Wake => {}
        }
        self.control.apply(operation, given);
    }
}

impl JobPatch {
    /// Whether the patch, without a transition, bumps the version: a change of labels does, and
    /// progress does unless the holder reports it. Appending does not.
    pub fn is_edit(&self, by_holder: bool) -> bool {
        !self.labels.is_empty() || (self.progress.is_some() && !by_holder)
    }
}

/// Progress as it is stored: the message made storable.
pub fn clean_progress(progress: &Progress) -> Progress {
    Progress { percent: progress.percent, message: progress.message.as_deref().map(clean_message) }
}
