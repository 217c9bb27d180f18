//! Heartbeats.

use std::time::Duration;

use queue_core::{
    Ack, Effect, Error, ErrorKind, Guard, Held, JobId, Judgement, Outcome, Result, Row, Timestamp,
    clean_progress,
};

use crate::{
    batch::{self, Statement, Verdict},
    cas,
    change::Change,
    connect::Db,
    error::{STORE, contention},
    reply,
    update::{STATEMENT_BYTES, held_filter, held_row},
};

/// How long it waits for a job that a transaction has written: less would be too little for a server that is busy.
const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(10);

/// How a heartbeat changes a job.
fn beat(row: &Row, held: &Held, lease: Duration, now: Timestamp) -> Change {
    let mut after = row.clone();
    after.control.heartbeat(lease, now);
    if let Some(progress) = &held.progress {
        after.progress = Some(clean_progress(progress));
    }
    let mut change = Change::between(row, &after);
    change.set.insert("lease_until", now.plus(lease).as_micros());
    change
}

/// The same without a look before.
fn unseen(held: &Held, lease: Duration, now: Timestamp) -> Statement {
    Statement {
        filter: held_filter(&held.id, held.fence),
        update: beat(&held_row(held.fence), held, lease, now).into_update(),
        bytes: STATEMENT_BYTES,
    }
}

/// Renews leases. One trip unless some were lost or are to be cancelled, or a transaction has written one of the jobs.
pub(crate) async fn heartbeat(db: &Db, held: &[Held], lease: Duration) -> Result<Vec<Outcome>> {
    let now = db.now().await?;
    // Workers send the next one after a third of the lease. The command that is held up and those that follow it, one
    // for each job, take no longer than that: a job is renewed in time whatever becomes of its neighbours.
    let limit = (lease / 6).clamp(LEAST, MOST);
    let statements = held.iter().map(|held| unseen(held, lease, now)).collect();
    let verdicts = batch::run_within(db, statements, limit).await?;
    let mut outcomes: Vec<Option<Outcome>> = verdicts
        .iter()
        .map(|verdict| (*verdict == Verdict::Applied).then(|| Outcome::Applied(Ack::holder(None))))
        .collect();
    let mut blocked: Vec<bool> = verdicts.iter().map(|it| *it == Verdict::Blocked).collect();
    // Progress for which a document has no room is not worth a lease.
    let mut full: Vec<bool> = verdicts.iter().map(|it| *it == Verdict::TooLarge).collect();
    for round in 0..cas::ROUNDS {
        let open: Vec<usize> =
            (0..held.len()).filter(|i| outcomes[*i].is_none() && !blocked[*i]).collect();
        if open.is_empty() {
            break;
        }
        if round > 0 {
            reply::pause(round).await;
        }
        let ids: Vec<JobId> = open.iter().map(|index| held[*index].id).collect();
        let loaded = cas::load(db, &ids).await?;
        let (mut sent, mut statements) = (Vec::new(), Vec::new());
        for index in open {
            let mut held = held[index].clone();
            let Some(stored) = loaded.get(&held.id) else {
                outcomes[index] = Some(Outcome::Missing);
                continue;
            };
            match stored.row.control.judge(Guard::Fence(held.fence), None) {
                Judgement::Refuse(outcome) => outcomes[index] = Some(outcome),
                Judgement::Apply(cancel) => {
                    held.progress.take_if(|_| full[index]);
                    sent.push((index, Ack::holder(cancel)));
                    let change = beat(&stored.row, &held, lease, now);
                    statements.push(cas::guarded(stored, change, STATEMENT_BYTES));
                }
            }
        }
        let verdicts = batch::run_within(db, statements, limit).await?;
        for ((index, ack), verdict) in sent.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Applied => outcomes[index] = Some(Outcome::Applied(ack)),
                Verdict::Blocked => blocked[index] = true,
                Verdict::TooLarge => full[index] = true,
                Verdict::NotMatched | Verdict::Taken | Verdict::Doubtful => {}
            }
        }
    }
    if blocked.contains(&true) {
        let message = "a transaction that is under way has written one of the jobs";
        let error = Error::new(ErrorKind::Timeout, message);
        return Err(error.with_effect(Effect::Unknown).with_store(STORE));
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(contention)).collect()
}
