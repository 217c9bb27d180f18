//! LAN: at most so many of a key run at once, and the latest of a key replaces the earlier ones.

mod slots;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use queue_core::{
    Inserted, Job, JobFilter, JobId, JobStoreExt, Keep, Lane, NewJob, Order, State, Timestamp,
    Unique, When,
};

use super::scene::{
    End, HOUR, Store, another, brief, cancel, claim, complete, ids, job, n, new_ids, put, put_all,
    queue, read, release, retry, settle, take_for, take_id, wanted, wanted_ids,
};
use crate::{Case, Checked, check, check_eq, property::group, race};

group! {
    "LAN-1", "never more than the limit of a key run at once" => limits_hold_under_contention;
    "LAN-2", "a claim fills its batch with other keys" => batches_fill_with_other_keys;
    "LAN-3", "a lane is free again after every end of a run" => every_end_frees_the_lane;
    "LAN-4", "a job that waits for its retry does not hold its lane" => backoff_holds_no_lane;
    "LAN-5", "within a key the order is that of the request" => order_within_a_key;
    "LAN-6", "supersede cancels exactly the never-started job of its key, in the insert itself" => supersede;
    "LAN-7", "a job starts while a slot below its own limit is free" => slots::every_job_has_its_own_limit;
    "LAN-8", "a running job keeps its slot, whatever is done to it" => slots::a_running_job_keeps_its_slot;
}

fn laned(kind: &'static str, key: &str, limit: u32) -> NewJob {
    let mut job = job(kind);
    job.lane = Some(Lane::with_limit(key, n(limit)));
    job
}

async fn limits_hold_under_contention(case: &Case<'_>) -> Checked {
    let lanes: [(&str, u32); 3] = [("one", 1), ("two", 2), ("three", 3)];
    let store = case.store();
    // A batch that could take them all, from one caller and without a race.
    for (kind, limit) in lanes {
        let jobs: Vec<NewJob> = (0..5).map(|_| laned(kind, kind, limit)).collect();
        put_all(store, &jobs).await?;
    }
    let first = claim(store, 100).await?;
    for (kind, limit) in lanes {
        let taken = first.iter().filter(|job| job.kind == kind).count();
        check_eq!(taken, limit as usize, "jobs that one claim takes of a lane of {limit}");
    }
    check_eq!(claim(store, 100).await?.len(), 0, "jobs that a further claim takes of full lanes");
    for job in first {
        settle(store, &job, complete()).await?;
    }

    let handles = case.handles(3).await?;
    let extra: Vec<NewJob> = (0..case.times(10))
        .flat_map(|_| lanes.map(|(kind, limit)| laned(kind, kind, limit)))
        .collect();
    put_all(store, &extra).await?;
    let left = Arc::new(AtomicUsize::new(extra.len() + 9));
    let running: Arc<Mutex<Held>> = Arc::default();
    race(6, |i| {
        let (store, left, running) = (handles[i % 3].clone(), left.clone(), running.clone());
        async move {
            let mut kept: Vec<Job> = Vec::new();
            while left.load(Ordering::SeqCst) > 0 {
                // Some from the other end, so that not all reach for the same jobs.
                let mut request = wanted(1 + i as u32 % 4);
                request.order = if i % 2 == 0 { Order::Fifo } else { Order::Lifo };
                let taken = store.claim(&request).await?.jobs;
                for job in &taken {
                    locked(&running).sign_on(job)?;
                }
                if let Some(job) = taken.first() {
                    let held = JobFilter::kind(job.kind.clone()).with_states(State::Running);
                    let (held, limit) = (store.count(&held).await?, limit_of(job));
                    let limit = u64::from(limit);
                    check!(held <= limit, "{held} jobs of a lane of {limit} are running");
                }
                // What was taken is kept through the next claim, so that a slot is held for a while.
                for job in std::mem::replace(&mut kept, taken) {
                    locked(&running).sign_off(&job);
                    settle(&store, &job, complete()).await?;
                    left.fetch_sub(1, Ordering::SeqCst);
                }
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    })
    .await?;
    Ok(())
}

fn limit_of(job: &Job) -> u32 {
    job.lane.as_ref().map_or(u32::MAX, |lane| lane.limit.get())
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many jobs of each kind are held for certain: signed on after the claim was answered, signed off before
/// the end is asked for.
#[derive(Default)]
struct Held(BTreeMap<String, u32>);

impl Held {
    fn sign_on(&mut self, job: &Job) -> Checked {
        let (now, limit) = (self.0.entry(job.kind.to_string()).or_default(), limit_of(job));
        *now += 1;
        check!(*now <= limit, "{now} jobs of a lane of {limit} were held at once");
        Ok(())
    }

    fn sign_off(&mut self, job: &Job) {
        if let Some(now) = self.0.get_mut(job.kind.as_ref()) {
            *now -= 1;
        }
    }
}

async fn batches_fill_with_other_keys(case: &Case<'_>) -> Checked {
    let store = case.store();
    // The head of the queue is one key's; what can run stands behind it, in another queue as well.
    let mut jobs: Vec<NewJob> = (0..30).map(|_| laned("a", "a", 2)).collect();
    let mut elsewhere = laned("a", "a", 2);
    elsewhere.queue = queue("elsewhere")?;
    let rest = [laned("b", "b", 1), laned("b", "b", 1), job("plain"), laned("c", "c", 9)];
    jobs.extend(rest.iter().cloned());
    jobs.push(elsewhere);
    put_all(store, &jobs).await?;
    let expected = vec![jobs[0].id, jobs[1].id, rest[0].id, rest[2].id];
    let taken = claim(store, 4).await?;
    check_eq!(ids(&taken), expected, "a claim of 4 behind a lane of 2 with 30 jobs");
    let taken = claim(store, 4).await?;
    check_eq!(ids(&taken), vec![rest[3].id], "the next claim of 4, with two lanes full");
    check_eq!(claim(store, 4).await?.len(), 0, "the third, with nothing but full lanes");
    // The key is shared by all queues.
    settle(store, &read(store, jobs[0].id).await?, complete()).await?;
    let mut there = wanted(4);
    there.queues = queue("elsewhere")?.into();
    let taken = store.claim(&there).await?.jobs;
    check_eq!(ids(&taken), vec![jobs[34].id], "a job of another queue, once a slot is free");
    check_eq!(claim(store, 4).await?.len(), 0, "a claim once that queue has the slot");
    Ok(())
}

async fn every_end_frees_the_lane(case: &Case<'_>) -> Checked {
    let store = case.store();
    for keep in [Keep::Always, Keep::UnlessCompleted] {
        for end in End::ALL {
            if keep == Keep::UnlessCompleted && end != End::Complete {
                continue;
            }
            let key = format!("{keep:?}-{end:?}");
            let (mut first, second) = (laned("first", &key, 1), laned("second", &key, 1));
            first.keep = keep;
            end.prepare(&mut first);
            put_all(store, &[first.clone(), second.clone()]).await?;
            let held = take_for(store, first.id, brief(case)).await?;
            let behind = store.claim(&wanted_ids(&[second.id], 1)).await?;
            check!(behind.jobs.is_empty(), "a job behind a full lane was claimed");
            match keep {
                Keep::Always => end.make(case, &held, When::After(HOUR)).await?,
                Keep::UnlessCompleted => settle(store, &held, complete()).await.map(drop)?,
            }
            let next = store.claim(&wanted_ids(&[second.id], 1)).await?.jobs;
            check_eq!(
                ids(&next),
                vec![second.id],
                "what can be claimed once {end:?} freed the lane"
            );
            // And it is held anew: no slot came twice.
            let third = laned("third", &key, 1);
            put(store, &third).await?;
            let behind = store.claim(&wanted_ids(&[third.id, first.id], 2)).await?;
            check!(behind.jobs.is_empty(), "two jobs of a lane of 1 run after {end:?}");
            cancel(store, third.id, "out of the way").await?;
        }
    }
    // A cancel of a job that waits in a full lane frees nothing.
    let (first, second, third) = (laned("x", "key", 1), laned("x", "key", 1), laned("x", "key", 1));
    put_all(store, &[first.clone(), second.clone(), third.clone()]).await?;
    take_id(store, first.id).await?;
    cancel(store, second.id, "stop").await?;
    store.delete(&JobFilter::id(second.id), n(1)).await?;
    let behind = store.claim(&wanted_ids(&[third.id], 1)).await?;
    check!(behind.jobs.is_empty(), "the end of a waiting job freed the lane of a running one");
    Ok(())
}

async fn backoff_holds_no_lane(case: &Case<'_>) -> Checked {
    let store = case.store();
    let (first, second) = (laned("first", "key", 1), laned("second", "key", 1));
    put_all(store, &[first.clone(), second.clone()]).await?;
    let held = take_id(store, first.id).await?;
    settle(store, &held, retry(When::After(HOUR))).await?;
    let other = claim(store, 5).await?;
    check_eq!(ids(&other), vec![second.id], "what runs while the first waits for its retry");
    if case.is_clocked() {
        case.advance(HOUR)?;
        check!(claim(store, 5).await?.is_empty(), "the retry must wait for the lane that it left");
    }
    settle(store, &other[0], release(When::After(HOUR))).await?;
    store.wake(first.id).await?;
    let again = claim(store, 5).await?;
    check_eq!(ids(&again), vec![first.id], "the retry, once the lane is free");
    check_eq!(again[0].attempt, 2, "its attempt");
    Ok(())
}

async fn order_within_a_key(case: &Case<'_>) -> Checked {
    let store = case.store();
    for order in [Order::Fifo, Order::Lifo] {
        let mut jobs: Vec<NewJob> = (0..6).map(|_| laned("laned", "key", 2)).collect();
        jobs[4].priority = 1;
        // One instant for all, so that the ids decide.
        jobs.iter_mut().for_each(|job| job.when = When::At(Timestamp::EPOCH));
        case.rng().shuffle(&mut jobs);
        put_all(store, &jobs).await?;
        jobs.sort_by_key(|job| job.id);
        if order == Order::Lifo {
            jobs.reverse();
        }
        jobs.sort_by_key(|job| -job.priority);
        let mut request = wanted(5);
        request.order = order;
        let mut came: Vec<JobId> = Vec::new();
        while came.len() < jobs.len() {
            let taken = store.claim(&another(&request)).await?.jobs;
            check_eq!(taken.len(), 2, "jobs that a claim takes of a lane of 2");
            came.extend(ids(&taken));
            for job in taken {
                settle(store, &job, complete()).await?;
            }
        }
        check_eq!(came, new_ids(&jobs), "the order ({order:?}) within a key");
    }
    Ok(())
}

fn superseding(kind: &'static str, key: &str) -> NewJob {
    let mut job = job(kind);
    job.unique = Some(Unique::supersede(key));
    job.lane = Some(Lane::new(format!("lane of {key}")));
    job
}

async fn supersede(case: &Case<'_>) -> Checked {
    let store = case.store();
    supersede_by_state(case).await?;
    // Of racing newcomers each replaces the one before; at no time do two of them wait.
    let handles = case.handles(4).await?;
    for round in 0..case.times(4) {
        let key = format!("raced-{round}");
        let left = Arc::new(AtomicUsize::new(4));
        race(5, |i| {
            let (store, key, left) = (handles[i % 4].clone(), key.clone(), left.clone());
            async move {
                if i == 4 {
                    return watch_waiting(&store, &key, &left).await;
                }
                for _ in 0..4 {
                    let mut new = superseding("racing", &key);
                    new.queue = queue(&key)?;
                    let answer = store.insert_one(&new).await;
                    if answer.is_err() {
                        left.fetch_sub(1, Ordering::SeqCst);
                    }
                    check_eq!(answer?, Inserted::New(new.id), "a newcomer that supersedes");
                }
                left.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .await?;
        let waiting = store.count(&by_queue(&key, State::Waiting)).await?;
        let cancelled = store.count(&by_queue(&key, State::Cancelled)).await?;
        check_eq!((waiting, cancelled), (1, 15), "waiting and cancelled, of 16 that superseded");
    }
    Ok(())
}

fn by_queue(key: &str, state: State) -> JobFilter {
    let mut filter = JobFilter::all().with_states(state);
    // A key that names a queue was checked when the queue was made of it.
    filter.queues = Some(queue(key).into_iter().collect());
    filter
}

async fn watch_waiting(store: &Store, key: &str, left: &AtomicUsize) -> Checked {
    loop {
        let last = left.load(Ordering::SeqCst) == 0;
        let waiting = store.count(&by_queue(key, State::Waiting)).await?;
        check!(waiting <= 1, "{waiting} jobs of one superseding key wait at once");
        if last {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

async fn supersede_by_state(case: &Case<'_>) -> Checked {
    let store = case.store();
    let answer = async |new: &NewJob| -> Checked<Inserted> { Ok(store.insert_one(new).await?) };
    // Never started: replaced. A job of another key is not.
    let (first, second, other) = (
        superseding("first", "key"),
        superseding("second", "key"),
        superseding("other", "other key"),
    );
    put_all(store, &[first.clone(), other.clone()]).await?;
    check_eq!(answer(&second).await?, Inserted::New(second.id), "a newcomer that supersedes");
    let replaced = read(store, first.id).await?;
    check_eq!(replaced.state, State::Cancelled, "the state of a superseded job");
    check!(replaced.finished_at.is_some() && replaced.cancel.is_some(), "it says when and why");
    let reason = replaced.cancel.map(|cancel| cancel.reason);
    check_eq!(reason, Some(format!("superseded by job {}", second.id)), "the reason");
    check_eq!(read(store, other.id).await?.state, State::Waiting, "a job of another key");
    check_eq!(answer(&second).await?, Inserted::Existing(second.id), "a repeat of the newcomer");
    check_eq!(read(store, second.id).await?.state, State::Waiting, "it does not supersede itself");
    check_eq!(
        answer(&first).await?,
        Inserted::Existing(first.id),
        "a repeat of the superseded job"
    );
    check_eq!(read(store, second.id).await?.state, State::Waiting, "which supersedes no one");

    // Started: it stays, in every state that it may reach, and is no conflict.
    for end in [None, Some(retry(When::Now)), Some(release(When::After(HOUR))), Some(complete())] {
        let key = format!("started-{:?}", end.as_ref().map(queue_core::Transition::kind));
        let old = superseding("old", &key);
        put(store, &old).await?;
        let held = take_id(store, old.id).await?;
        if let Some(end) = end {
            settle(store, &held, end).await?;
        }
        let before = read(store, old.id).await?;
        let newcomers = [superseding("new", &key), superseding("newer", &key)];
        for new in &newcomers {
            check_eq!(answer(new).await?, Inserted::New(new.id), "a newcomer ({key})");
        }
        super::scene::check_unchanged(store, &before, "newcomers of its key").await?;
        let state = read(store, newcomers[0].id).await?.state;
        check_eq!(state, State::Cancelled, "the earlier newcomer, which never started ({key})");
    }

    // A scheduled job that never started is replaced; one that keeps its key when cancelled is not.
    let mut later = superseding("later", "later");
    later.when = When::After(HOUR);
    put(store, &later).await?;
    put(store, &superseding("now", "later")).await?;
    check_eq!(read(store, later.id).await?.state, State::Cancelled, "a job not yet due");
    let mut holder = job("returns");
    holder.unique = Some(Unique::new("plain key"));
    put(store, &holder).await?;
    let heir = superseding("heir", "plain key");
    check_eq!(answer(&heir).await?, Inserted::New(heir.id), "an heir of a plain key");
    check_eq!(read(store, holder.id).await?.state, State::Cancelled, "its former holder");
    let mut returning = job("returning");
    returning.unique = Some(Unique::new("plain key"));
    let expected = Inserted::Existing(heir.id);
    check_eq!(answer(&returning).await?, expected, "a newcomer that does not supersede");
    let mut sticky = job("sticky");
    let mut unique = Unique::new("sticky key");
    unique.within = queue_core::States::ALL;
    sticky.unique = Some(unique);
    put(store, &sticky).await?;
    let answer = answer(&superseding("heir", "sticky key")).await?;
    check_eq!(
        answer,
        Inserted::Existing(sticky.id),
        "an heir of a key that a cancel does not free"
    );
    check_eq!(read(store, sticky.id).await?.state, State::Waiting, "its holder");
    Ok(())
}
