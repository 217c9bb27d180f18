//! What the workers of a storm were told.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use queue_core::{
    EntryId, Error, ErrorKind, Fence, Job, JobFilter, JobId, LogRead, Payload, State, Timestamp,
    Uuid, Version,
};

use super::super::scene::Store;
use crate::{Checked, Fault, check, check_eq};

pub(super) const PREFIX: &str = "storm/";

/// How many kinds of call a worker makes.
const KINDS: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) operations: usize,
    pub(super) answered: usize,
    pub(super) errors: usize,
    pub(super) unknown: usize,
    pub(super) repeated: usize,
}

/// What there must be when all is over.
#[derive(Debug, Default)]
pub(super) struct Told {
    counts: Counts,
    /// The kinds of call that were made while the fault was there.
    met: BTreeSet<&'static str>,
    pub(super) inserted: HashSet<JobId>,
    pub(super) held: HashMap<JobId, Fence>,
    pub(super) ends: HashMap<JobId, State>,
    pub(super) entries: HashMap<JobId, Vec<EntryId>>,
    /// What was refused with the word that nothing was changed, and never asked for again.
    pub(super) refused_jobs: Vec<JobId>,
    pub(super) refused_entries: HashSet<EntryId>,
    /// Claims that may have been made later than anybody asked for their answer.
    pub(super) late_tokens: HashSet<Uuid>,
    pub(super) taken_late: HashSet<JobId>,
    pub(super) fired: HashMap<String, (u64, Timestamp)>,
    pub(super) records: HashMap<String, (Version, Payload)>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    fault: Fault,
    is_mended: AtomicBool,
    told: Mutex<Told>,
}

impl Ledger {
    pub(super) fn new(fault: Fault) -> Self {
        Ledger { fault, is_mended: AtomicBool::new(true), told: Mutex::default() }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> Counts {
        self.told().counts
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.told().counts);
    }

    /// A call of this kind is made.
    pub(super) fn call(&self, what: &'static str) {
        let is_mended = self.is_mended();
        let mut told = self.told();
        told.counts.operations += 1;
        if !is_mended {
            told.met.insert(what);
        }
    }

    /// Whether the fault was there for every kind of call.
    pub(super) fn has_met_all(&self) -> bool {
        self.told().met.len() >= KINDS
    }

    /// Whether the fault is over, and errors must end.
    pub(super) fn set_mended(&self, is_mended: bool) {
        self.is_mended.store(is_mended, Ordering::SeqCst);
    }

    pub(super) fn is_mended(&self) -> bool {
        self.is_mended.load(Ordering::SeqCst)
    }

    /// Whether this is an error that such a fault may cause.
    pub(super) fn check_error(&self, what: &str, error: &Error) -> Checked {
        let is_fit = match self.fault {
            Fault::Full => !matches!(
                error.kind(),
                ErrorKind::Invalid
                    | ErrorKind::Corrupt
                    | ErrorKind::Config
                    | ErrorKind::Unsupported
            ),
            _ => error.is_transient(),
        };
        check!(
            is_fit,
            "{what} while the store was `{}` answered the error `{error}` ({:?}), which says that it would fail for ever",
            self.fault,
            error.kind()
        );
        Ok(())
    }

    /// That everything that was acknowledged is there, once.
    pub(super) async fn settle_up(&self, store: &Store) -> Checked {
        let told = std::mem::take(&mut *self.told());
        let checked = self.compare(store, &told).await;
        *self.told() = told;
        checked
    }

    async fn compare(&self, store: &Store, told: &Told) -> Checked {
        let during = format!("after a storm in which the store was `{}`", self.fault);
        let ids: Vec<JobId> = told.inserted.iter().copied().collect();
        for part in ids.chunks(100) {
            let jobs = patiently(|| store.get(part, LogRead::All)).await?;
            check_eq!(jobs.len(), part.len(), "answers of a get");
            for (id, job) in part.iter().zip(jobs) {
                let Some(job) = job else {
                    return Err(crate::Stop::fail(format!(
                        "job {id}, whose insert was acknowledged, is gone {during}"
                    )));
                };
                check_job(told, &job, &during)?;
            }
        }
        for part in told.refused_jobs.chunks(100) {
            let there = patiently(|| store.get(part, LogRead::None)).await?;
            check!(
                there.iter().all(Option::is_none),
                "{during} there are jobs whose insert failed with Effect::None, which says that nothing was changed"
            );
        }
        let count = |queue: &str| {
            let filter = JobFilter::queue(super::super::scene::queue(queue)?);
            Ok::<_, crate::Stop>(async move {
                let tallies = patiently(|| store.tally(&filter)).await?;
                Ok::<u64, queue_core::Error>(tallies.iter().map(|tally| tally.count).sum())
            })
        };
        check_eq!(count("storm")?.await?, ids.len() as u64, "jobs inserted, {during}");
        let fired: u64 = told.fired.values().map(|(count, _)| count).sum();
        check_eq!(count("fired")?.await?, fired, "jobs of slots, {during}");
        for stat in patiently(|| store.schedules()).await? {
            let known = told.fired.get(&stat.schedule).copied();
            check_eq!(
                Some((stat.fired, stat.last_slot)),
                known,
                "slots of {} {during}",
                stat.schedule
            );
        }
        let records = patiently(|| store.records(PREFIX)).await?;
        check_eq!(records.len(), told.records.len(), "records {during}");
        for record in records {
            let known = told.records.get(&record.key).cloned();
            let found = record.body.map(|body| (record.version, body));
            check_eq!(found, known, "the record {} {during}", record.key);
        }
        Ok(())
    }
}

/// How often a reading of what is there is tried: the store of a storm gives its calls little time, and a busy machine may
/// take it.
const READINGS: usize = 20;

/// A call that only reads, made again while its trouble is of a passing kind.
async fn patiently<T, Fut>(call: impl Fn() -> Fut) -> queue_core::Result<T>
where
    Fut: Future<Output = queue_core::Result<T>>,
{
    for _ in 1..READINGS {
        match call().await {
            Err(error) if error.is_transient() => {}
            answer => return answer,
        }
    }
    call().await
}

fn check_job(told: &Told, job: &Job, during: &str) -> Checked {
    let id = job.id;
    let late = told.taken_late.contains(&id);
    if let Some(end) = told.ends.get(&id) {
        check_eq!(job.state, *end, "the state of job {id}, which was acknowledged, {during}");
    } else {
        check!(late, "job {id} was never ended, and is {:?} {during}", job.state);
    }
    let log: Vec<EntryId> = job.log.iter().map(|entry| entry.id).collect();
    let known = told.entries.get(&id).cloned().unwrap_or_default();
    check_eq!(log, known, "the log of job {id}, entry by entry as acknowledged, {during}");
    check!(
        !log.iter().any(|entry| told.refused_entries.contains(entry)),
        "the log of job {id} has an entry whose append failed with Effect::None {during}"
    );
    let seqs: Vec<u64> = job.log.iter().map(|entry| entry.seq.0).collect();
    check_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "its positions {during}");
    check!(late || job.crashes == 0, "job {id} crashed {} times {during}", job.crashes);
    Ok(())
}
