//! Everything that a holder of a job can write.

use std::{num::NonZeroU32, time::Duration};

use queue::{
    Job, JobStore, Outcome, Payload, QueueName, Result,
    core::{
        ClaimRequest, EntryKind, Held, JobPatch, JobUpdate, NewEntry, Progress, Queues, Transition,
        When,
    },
};
use serde::{Deserialize, Serialize};

/// A kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attempt {
    Append,
    Progress,
    Labels,
    Heartbeat,
    Complete,
    Retry,
    Release,
    Fail,
    Cancel,
    CompleteAndClaim,
}

impl Attempt {
    pub const ALL: [Attempt; 10] = [
        Attempt::Append,
        Attempt::Progress,
        Attempt::Labels,
        Attempt::Heartbeat,
        Attempt::Complete,
        Attempt::Retry,
        Attempt::Release,
        Attempt::Fail,
        Attempt::Cancel,
        Attempt::CompleteAndClaim,
    ];

    /// The change, if it is one of a job.
    fn patch(self, from: &str) -> Result<Option<JobPatch>> {
        let text = Payload::from_value(from)?;
        let entry = NewEntry::new(EntryKind::Line, text.clone());
        let transition = match self {
            Attempt::Heartbeat => return Ok(None),
            Attempt::Append => return Ok(Some(JobPatch::append([entry]))),
            Attempt::Progress => {
                return Ok(Some(JobPatch::progress(Progress::with_message(98, from))));
            }
            Attempt::Labels => return Ok(Some(JobPatch::default().with_label("from", from))),
            Attempt::Complete | Attempt::CompleteAndClaim => {
                Transition::Complete { output: Some(text) }
            }
            Attempt::Retry => Transition::Retry { when: When::Now, error: text },
            Attempt::Release => Transition::Release { when: When::Now },
            Attempt::Fail => Transition::Fail { error: text },
            Attempt::Cancel => Transition::Cancel { reason: from.to_owned() },
        };
        Ok(Some(JobPatch::transition(transition).with_log([entry])))
    }
}

/// Tries everything, as the holder that this copy of the job names.
pub async fn attempt_all(
    store: &dyn JobStore,
    job: &Job,
    from: &str,
) -> Result<Vec<(Attempt, Outcome)>> {
    let mut outcomes = Vec::new();
    for attempt in Attempt::ALL {
        let outcome = match attempt.patch(from)? {
            None => {
                let mut held = Held::new(job.id, job.fence);
                held.progress = Some(Progress::with_message(97, from));
                store.heartbeat(&[held], Duration::from_secs(60)).await?.remove(0)
            }
            Some(patch) => {
                let update = JobUpdate::held(job.id, job.fence, patch);
                match attempt {
                    Attempt::CompleteAndClaim => {
                        store.update_and_claim(&[update], &nothing()?).await?.0.remove(0)
                    }
                    _ => store.update_jobs(&[update]).await?.remove(0),
                }
            }
        };
        outcomes.push((attempt, outcome));
    }
    Ok(outcomes)
}

/// A claim that finds no job.
fn nothing() -> Result<ClaimRequest> {
    let queues = Queues::Only(vec![QueueName::new("without-jobs")?]);
    Ok(ClaimRequest::new(queues, "zombie", NonZeroU32::MIN, Duration::from_secs(60)))
}
