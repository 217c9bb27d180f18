//! Few jobs, many appenders and readers: repeats, other bodies, stale fences, edits between.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use queue_core::{
    EntryKind, Fence, Guard, JobId, JobPatch, JobUpdate, LogRead, NewEntry, Seq, Uuid, When,
    spec::{Answer, Op},
};

use super::super::scene::{Store, entry, plain_jobs, release, secs, value, wanted_ids};
use super::{done, judge, locked, recorded, strange};
use crate::{Case, Checked, Rng, history::check_logs, race};

const JOBS: usize = 4;
const APPENDERS: usize = 8;
const HANDLES: usize = 4;
/// The calls of each appender in a round: about 300 appends with 600 entries for each job.
const CALLS: usize = 140;
const ROUNDS: usize = 1;

/// The jobs of a round, with the fences under which they are held.
type Fences = Arc<Mutex<HashMap<JobId, Fence>>>;

pub(super) async fn logs_only_grow(case: &Case<'_>) -> Checked {
    let (recorder, handles) = recorded(case, HANDLES).await?;
    let mut rng = case.rng();
    for _ in 0..case.times(ROUNDS) {
        let jobs = plain_jobs(JOBS);
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        done(&handles[0], Op::Insert(jobs)).await?;
        let fences: Fences = Arc::default();
        for id in &ids {
            take(&handles[0], *id, &fences).await?;
        }
        let seed = rng.next_u64();
        race(APPENDERS, |who| {
            let store = handles[who % HANDLES].clone();
            let appender = Appender {
                who,
                rng: Rng::new(seed ^ (who as u64) << 32),
                ids: ids.clone(),
                fences: fences.clone(),
                mine: Vec::new(),
                seen: HashMap::new(),
            };
            async move { appender.append(&store).await }
        })
        .await?;
        for store in &handles {
            done(store, Op::Get(ids.clone(), LogRead::All)).await?;
        }
        // Out of the way of the rounds that come.
        for id in &ids {
            let Some(fence) = locked(&fences).get(id).copied() else { continue };
            let later = release(When::After(secs(1_000_000)));
            let update = JobUpdate::held(*id, fence, JobPatch::transition(later));
            done(&handles[0], Op::Update(vec![update])).await?;
        }
    }
    judge(case, recorder.take(), check_logs)
}

/// Claims a job, with its log, if it is to be had.
async fn take(store: &Store, id: JobId, fences: &Fences) -> Checked {
    let answer = done(store, Op::Claim(wanted_ids(&[id], 1))).await?;
    let Answer::Claimed(claimed) = answer else { return Err(strange(&answer)) };
    if let Some(job) = claimed.jobs.first() {
        locked(fences).insert(id, job.fence);
    }
    Ok(())
}

struct Appender {
    who: usize,
    rng: Rng,
    ids: Vec<JobId>,
    fences: Fences,
    /// What it has appended, for repeats.
    mine: Vec<(JobId, NewEntry)>,
    /// The length of each log as it last read it.
    seen: HashMap<JobId, Seq>,
}

impl Appender {
    async fn append(mut self, store: &Store) -> Checked {
        for step in 0..CALLS {
            match self.rng.below(100) {
                0..70 => {
                    let updates = self.updates(step);
                    done(store, Op::Update(updates)).await?;
                }
                70..75 => self.repeat(store).await?,
                75..78 if self.who == 0 => self.hand_over(store, step).await?,
                _ => self.read(store).await?,
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn job(&mut self) -> JobId {
        self.ids[self.rng.below(self.ids.len())]
    }

    /// New entries for one job or two.
    fn updates(&mut self, step: usize) -> Vec<JobUpdate> {
        let mut updates: Vec<JobUpdate> = Vec::new();
        for part in 0..1 + self.rng.below(2) {
            let id = self.job();
            if updates.iter().any(|update| update.id == id) {
                continue;
            }
            let body = |line| format!("{}/{step}/{part}/{line}", self.who);
            let entries: Vec<NewEntry> = (0..1 + step % 3).map(|line| entry(body(line))).collect();
            self.mine.extend(entries.iter().map(|entry| (id, entry.clone())));
            let mut patch = JobPatch::append(entries);
            let guard = match self.rng.below(20) {
                // Of a run that never was: refused.
                0 => Guard::Fence(Fence::new(1, Uuid::now_v7())),
                1 => Guard::Version(queue_core::Version(1_000_000)),
                2..12 => locked(&self.fences).get(&id).map_or(Guard::None, |f| Guard::Fence(*f)),
                12 => {
                    patch = patch.with_label("by", self.who.to_string());
                    Guard::None
                }
                _ => Guard::None,
            };
            updates.push(JobUpdate::new(id, guard, patch));
        }
        updates
    }

    /// An entry once more, perhaps with another body, and a new one after it.
    async fn repeat(&mut self, store: &Store) -> Checked {
        let at = self.rng.below(self.mine.len());
        let Some((id, mut again)) = self.mine.get(at).cloned() else { return Ok(()) };
        if self.rng.below(2) == 0 {
            again = NewEntry::with_id(again.id, EntryKind::Line, value("another body"));
        }
        let patch = JobPatch::append([again, entry("after a repeat")]);
        done(store, Op::Update(vec![JobUpdate::new(id, Guard::None, patch)])).await?;
        Ok(())
    }

    /// The run ends with a last entry, and another one begins: fences that others have are stale.
    async fn hand_over(&mut self, store: &Store, step: usize) -> Checked {
        let id = self.job();
        let fence = locked(&self.fences).get(&id).copied();
        let Some(fence) = fence else { return Ok(()) };
        let mut patch = JobPatch::append([entry(format!("handed over in step {step}"))]);
        patch.transition = Some(release(When::Now));
        done(store, Op::Update(vec![JobUpdate::held(id, fence, patch)])).await?;
        take(store, id, &self.fences).await
    }

    async fn read(&mut self, store: &Store) -> Checked {
        let id = self.job();
        let whole = self.rng.below(6) == 0;
        let log = match self.seen.get(&id) {
            Some(seen) if !whole => LogRead::After(*seen),
            _ => LogRead::All,
        };
        let answer = done(store, Op::Get(vec![id], log)).await?;
        let Answer::Jobs(jobs) = answer else { return Err(strange(&answer)) };
        for job in jobs.into_iter().flatten() {
            self.seen.insert(id, Seq(job.log_len));
        }
        Ok(())
    }
}
