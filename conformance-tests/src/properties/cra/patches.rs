//! CRA-2.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use queue_core::{
    Fire, Fired, Guard, Inserted, Job, JobId, JobPatch, JobStoreExt, Lane, NewJob, Outcome,
    Progress, Seq, State, Timestamp, Transition, Unique, When,
};
use tokio::task::JoinSet;

use super::site::{Pace, Site};
use crate::{
    Case, Checked, Stop, check, check_eq,
    properties::scene::{
        HOUR, Store, bodies, complete, ending, entry, fail, job, n, put, put_all, queue, read,
        release, retry, take_for, wanted_ids,
    },
};

/// How many calls of each sort are under way when the process is killed.
const EACH: usize = 8;
/// How many do them.
const STREAMS: usize = 4;
/// After how long whoever reaps finishes what a dead process has left halfway, at the latest.
const LEFT: Duration = Duration::from_secs(10);

/// A call that changes several things.
#[derive(Clone)]
enum Deed {
    /// Fields and log of a job that is held.
    Patch(Box<Job>, Option<Transition>),
    /// A job in the place of another.
    Supersede(JobId, Box<NewJob>),
    /// A slot and its job.
    Fire(Box<Fire>),
    /// The end of a job with a key and a lane in which another one waits.
    Free(Box<Job>, JobId),
}

fn patch(transition: Option<Transition>) -> JobPatch {
    let patch = JobPatch::append((1..=3).map(entry))
        .with_progress(Progress::with_message(50, "half"))
        .with_label("done", "yes");
    match transition {
        Some(transition) => ending(transition, patch),
        None => patch,
    }
}

fn key(number: usize) -> String {
    format!("key {number}")
}

impl Deed {
    async fn of(store: &Store, number: usize) -> Checked<Deed> {
        let kind = ["patched", "superseded", "fired", "free"][number % 4];
        let mut first = job(kind);
        first.queue = queue(kind)?;
        Ok(match number % 4 {
            0 => {
                let id = put(store, &first).await?;
                let held = take_for(store, id, HOUR).await?;
                let later = When::After(HOUR);
                let ends = [
                    None,
                    Some(complete()),
                    Some(retry(later)),
                    Some(fail()),
                    Some(release(later)),
                ];
                Deed::Patch(Box::new(held), ends.into_iter().cycle().nth(number / 4).flatten())
            }
            1 => {
                first.unique = Some(Unique::supersede(key(number)));
                let mut next = job("successor");
                (next.queue, next.unique) = (first.queue.clone(), first.unique.clone());
                Deed::Supersede(put(store, &first).await?, Box::new(next))
            }
            2 => Deed::Fire(Box::new(Fire::new(
                key(number),
                Timestamp::from_micros_saturating(1),
                first,
            ))),
            _ => {
                (first.unique, first.lane) =
                    (Some(Unique::new(key(number))), Some(Lane::new(key(number))));
                let mut next = job("next in the lane");
                (next.queue, next.lane) = (first.queue.clone(), first.lane.clone());
                put_all(store, &[first.clone(), next.clone()]).await?;
                Deed::Free(Box::new(take_for(store, first.id, HOUR).await?), next.id)
            }
        })
    }

    /// Makes the call. `false`: nobody knows whether it happened.
    async fn make(&self, store: &Store) -> Checked<bool> {
        let done = match self {
            Deed::Patch(held, transition) => {
                let patch = patch(transition.clone());
                let outcome = store.update_one(held.id, Guard::Fence(held.fence), patch).await;
                outcome.map(|outcome| outcome.applied().is_some())
            }
            Deed::Supersede(_, next) => {
                store.insert_one(next).await.map(|inserted| inserted.is_new())
            }
            Deed::Fire(fire) => {
                store.fire(fire).await.map(|fired| matches!(fired, Fired::Enqueued(_)))
            }
            Deed::Free(held, _) => {
                let patch = JobPatch::transition(complete());
                let outcome = store.update_one(held.id, Guard::Fence(held.fence), patch).await;
                outcome.map(|outcome| outcome.applied().is_some())
            }
        };
        match done {
            Ok(true) => Ok(true),
            Ok(false) => Err(Stop::fail("a call that nothing stands against changed nothing")),
            Err(error) if error.effect() == queue_core::Effect::Unknown => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has happened; `None` when it is halfway, in a way that the next reap must finish.
    async fn state(&self, store: &Store) -> Checked<Option<bool>> {
        match self {
            Deed::Patch(held, transition) => {
                let now = read(store, held.id).await?;
                let state = match transition {
                    None => State::Running,
                    Some(Transition::Complete { .. }) => State::Completed,
                    Some(Transition::Fail { .. }) => State::Failed,
                    Some(_) => State::Waiting,
                };
                let parts = [
                    now.progress.is_some(),
                    now.labels.contains_key("done"),
                    bodies(&now) == ["1", "2", "3"],
                    now.log_len == 3,
                    now.log.iter().map(|entry| entry.seq).eq([Seq(1), Seq(2), Seq(3)]),
                    transition.is_none() && !now.labels.is_empty()
                        || now.state == state && transition.is_some(),
                ];
                let all = parts.iter().all(|part| *part);
                check!(
                    all || parts.iter().all(|part| !part) && now.log.is_empty(),
                    "fields and log of one patch are apart after a crash (progress, label, bodies, length, positions, \
                     state: {parts:?}): {now:?}"
                );
                Ok(Some(all))
            }
            Deed::Supersede(old, next) => {
                let (old, next) = (read(store, *old).await?, store.get_one(next.id).await?);
                check!(
                    next.is_none() || old.state == State::Cancelled,
                    "a job and the one in its place are both there: {old:?} {next:?}"
                );
                Ok((next.is_some() == (old.state == State::Cancelled)).then_some(next.is_some()))
            }
            Deed::Fire(fire) => {
                let id = JobId::for_slot(&fire.schedule, fire.slot);
                let stats = store.schedules().await?;
                let stat = stats.iter().find(|stat| stat.schedule == fire.schedule);
                let is_there = store.get_one(id).await?.is_some();
                if let Some(stat) = stat {
                    let counted = (stat.last_slot, stat.last_job, stat.fired, stat.skipped);
                    check_eq!(counted, (fire.slot, Some(id), 1, 0), "slot, job, fired, skipped");
                }
                Ok((stat.is_some() == is_there).then_some(is_there))
            }
            Deed::Free(held, _) => Ok(Some(read(store, held.id).await?.state == State::Completed)),
        }
    }

    /// What follows from whether it has happened.
    async fn check(&self, store: &Store, happened: bool) -> Checked {
        let Deed::Free(held, next) = self else { return Ok(()) };
        let taken = store.claim(&wanted_ids(&[*next], 1)).await?.jobs;
        check_eq!(taken.len(), usize::from(happened), "jobs to be had from the lane of {held:?}");
        let mut rival = job("rival");
        (rival.queue, rival.unique) = (held.queue.clone(), held.unique.clone());
        let inserted = store.insert_one(&rival).await?;
        let expected = match happened {
            true => Inserted::New(rival.id),
            false => Inserted::Existing(held.id),
        };
        check_eq!(inserted, expected, "an insert with the key of a job that has ended: {happened}");
        if !happened {
            let patch = JobPatch::transition(complete());
            let outcome = store.update_one(held.id, Guard::Fence(held.fence), patch).await?;
            check!(matches!(outcome, Outcome::Applied(_)), "the settle repeated: {outcome:?}");
        }
        Ok(())
    }
}

pub(super) async fn never_apart(case: &Case<'_>) -> Checked {
    let mut rng = case.rng();
    let (kills, mut acknowledged, mut lost, mut happened) = (case.times(8), 0, 0, 0);
    for _ in 0..kills {
        let (site, life) = Site::durable(case).await?;
        let mut deeds = Vec::new();
        for number in 0..4 * EACH {
            deeds.push(Deed::of(&life.store, number).await?);
        }
        rng.shuffle(&mut deeds);
        let pace = Pace::default();
        let known: Arc<Mutex<Vec<(Deed, bool)>>> = Arc::default();
        let mut working = JoinSet::new();
        for stream in 0..STREAMS {
            let mine: Vec<Deed> = deeds.iter().skip(stream).step_by(STREAMS).cloned().collect();
            let (store, pace, known) = (life.store.clone(), pace.clone(), known.clone());
            working.spawn(async move {
                for deed in mine {
                    let done = deed.make(&store).await?;
                    known.lock().unwrap_or_else(PoisonError::into_inner).push((deed, done));
                    if !done {
                        break;
                    }
                    pace.acknowledge();
                }
                pace.end();
                Checked::Ok(())
            });
        }
        pace.kill_at(rng.below(2 * EACH), &life.process, &mut rng).await;
        while let Some(ended) = working.join_next().await {
            ended??;
        }
        drop(life);
        let life = site.reopen().await?;
        if case.is_clocked() {
            site.clock().advance(LEFT);
        }
        let known = std::mem::take(&mut *known.lock().unwrap_or_else(PoisonError::into_inner));
        for (deed, done) in known {
            let is_there = finished(case, &life.store, &deed).await?;
            check!(is_there || !done, "what was acknowledged has not happened");
            deed.check(&life.store, is_there).await?;
            acknowledged += usize::from(done);
            lost += usize::from(!done);
            happened += usize::from(is_there && !done);
        }
    }
    case.note(format!(
        "{kills} kills, {acknowledged} calls of several changes acknowledged, {lost} lost, of which {happened} had happened"
    ));
    Ok(())
}

/// Whether it has happened, once whoever reaps has finished what was halfway.
async fn finished(case: &Case<'_>, store: &Store, deed: &Deed) -> Checked<bool> {
    let deadline = Instant::now() + LEFT;
    loop {
        if let Some(happened) = deed.state(store).await? {
            return Ok(happened);
        }
        store.reap(n(1_000)).await?;
        let state = deed.state(store).await?;
        if let Some(happened) = state {
            return Ok(happened);
        }
        check!(
            !case.is_clocked() && Instant::now() < deadline,
            "one of two changes that one call makes together is missing after a crash, and after a reap"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
