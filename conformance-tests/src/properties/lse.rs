//! LSE: leases, fences and what a lost worker may still do.

mod traces;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use queue_core::{
    Held, Job, JobError, JobFilter, JobId, JobPatch, JobStoreExt, Outcome, Progress, Reaped, State,
    Timestamp, Version, When,
};

use super::scene::{
    LEASE, MICRO, beat, brief, check_nothing_due, check_time, check_unchanged, complete, entry,
    fail, ids, job, n, plain_jobs, put, put_all, read, reap_all, release, retry, running, secs,
    settle, take, take_for, take_id, transitions, try_settle, update, wanted, wanted_ids, write,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race, race::duel};

group! {
    "LSE-1", "a heartbeat extends the lease from now" => heartbeats_extend_from_now;
    "LSE-2", "a heartbeat of a lost claim is Fenced and revives nothing" => lost_claims_are_not_revived;
    "LSE-3", "a lease that is over still belongs to its holder until it is reaped" => expired_holders_may_finish;
    "LSE-4", "a reap takes only leases that are over, the oldest expiry first" => only_expired_leases_are_reaped;
    "LSE-5", "after a re-claim the old holder's every write is Fenced" => zombies_change_nothing;
    "LSE-6", "N reapers reap each job once" => reapers_share;
    "LSE-7", "of a reap and a completion that race exactly one wins" => reap_or_completion;
    "LSE-8", "past max_crashes a job fails" => poison_jobs_fail;
    "LSE-9", "a heartbeat leaves the version alone" => heartbeats_keep_the_version;
    "LSE-10", "a client's clock that is wrong by an hour changes nothing" => client_clocks_do_not_matter;
    "LSE-11", "a fence never repeats across release, retry and reap" => fences_never_repeat;
    "LSE-12", "a heartbeat changes the lease and the progress that it brings, and nothing else" => traces::heartbeats_change_lease_and_progress_alone;
    "LSE-13", "a reap takes and reports leases by their ends, to the microsecond" => traces::reaps_report_in_order;
    "LSE-14", "a reap leaves progress, times, errors and crashes as they were" => traces::reaps_leave_what_was_there;
}

async fn heartbeats_extend_from_now(case: &Case<'_>) -> Checked {
    let store = case.store();
    let (held, other) = (running(store).await?, running(store).await?);
    for (wait, lease) in [(10, 30), (0, 30), (20, 5), (5, 3_600), (1, 1)] {
        if case.is_clocked() {
            case.advance(secs(wait))?;
        }
        let from = case.now().await?;
        let outcome = beat(store, &held, secs(lease)).await?;
        let to = case.now().await?;
        check!(matches!(outcome, Outcome::Applied(_)), "a heartbeat was answered {outcome:?}");
        let until = read(store, held.id).await?.lease_until;
        check_time(until, from.plus(secs(lease)), to.plus(secs(lease)), "lease_until")?;
    }
    check_eq!(read(store, other.id).await?.lease_until, other.lease_until, "another job's lease");
    let mut reporting = Held::new(held.id, held.fence);
    reporting.progress = Some(Progress::with_message(12, "alive"));
    let absent = Held::new(JobId::new(), held.fence);
    let mut stale = Held::new(other.id, held.fence);
    stale.progress = Some(Progress::new(99));
    let outcomes = store.heartbeat(&[absent, stale, reporting], LEASE).await?;
    check!(
        matches!(outcomes[..], [Outcome::Missing, Outcome::Fenced, Outcome::Applied(_)]),
        "a heartbeat of an absent job, a stale fence and a held job was answered {outcomes:?}"
    );
    check_unchanged(store, &other, "a heartbeat under another fence").await?;
    let after = read(store, held.id).await?;
    check_eq!(
        after.progress,
        Some(Progress::with_message(12, "alive")),
        "progress that rides along"
    );
    Ok(())
}

async fn lost_claims_are_not_revived(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("lost")).await?;
    let held = take_for(store, id, brief(case)).await?;
    case.pass(brief(case)).await?;
    check_eq!(reap_all(store).await?.len(), 1, "jobs reaped");
    let lost = read(store, id).await?;
    check_eq!(beat(store, &held, LEASE).await?, Outcome::Fenced, "a heartbeat after a reap");
    check_unchanged(store, &lost, "a heartbeat after a reap").await?;
    let again = take_id(store, id).await?;
    check_eq!(
        beat(store, &held, LEASE * 9).await?,
        Outcome::Fenced,
        "a heartbeat after a re-claim"
    );
    check_unchanged(store, &again, "a heartbeat of the old holder").await?;
    for transition in transitions() {
        let own = running(store).await?;
        settle(store, &own, transition.clone()).await?;
        let ended = read(store, own.id).await?;
        let outcome = beat(store, &own, LEASE).await?;
        check_eq!(outcome, Outcome::Fenced, "a heartbeat after {:?}", transition.kind());
        check_unchanged(store, &ended, "a heartbeat after the end").await?;
        super::scene::cancel(store, own.id, "out of the way").await?;
    }
    Ok(())
}

async fn expired_holders_may_finish(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in transitions() {
        let id = put(store, &job("late")).await?;
        let held = take_for(store, id, brief(case)).await?;
        case.pass(brief(case)).await?;
        if case.is_clocked() {
            case.advance(secs(7_200))?;
        }
        check_nothing_due(store, "a job whose lease is over, before it is reaped").await?;
        write(store, &held, JobPatch::append([entry("late")])).await?;
        let kind = end.kind();
        settle(store, &held, end).await?;
        let ended = read(store, id).await?;
        check_eq!(
            (ended.crashes, ended.log_len),
            (0, 1),
            "crashes and entries after a late {kind:?}"
        );
        super::scene::cancel(store, id, "out of the way").await?;
    }
    let id = put(store, &job("late")).await?;
    let held = take_for(store, id, brief(case)).await?;
    case.pass(brief(case)).await?;
    let outcome = beat(store, &held, LEASE).await?;
    check!(outcome.is_saved(), "a late heartbeat before any reap was answered {outcome:?}");
    check_eq!(reap_all(store).await?, vec![], "jobs reaped after a late heartbeat");
    settle(store, &held, complete()).await.map(drop)
}

async fn only_expired_leases_are_reaped(case: &Case<'_>) -> Checked {
    let store = case.store();
    check_eq!(reap_all(store).await?, vec![], "jobs reaped from an empty store");
    case.clock()?;
    let jobs = plain_jobs(6);
    put_all(store, &jobs).await?;
    // The two that a reap takes of three are neither the oldest nor the newest of them.
    let jobs = [4, 3, 1, 5, 0, 2].map(|at| jobs[at].clone());
    let mut held: Vec<Job> = Vec::new();
    // The first claimed has the longest lease, so that the order of starts says nothing.
    for (i, job) in jobs.iter().enumerate() {
        held.push(take_for(store, job.id, secs(70 - 10 * i as u64)).await?);
        case.advance(MICRO)?;
    }
    // An early start, but a heartbeat since.
    check!(beat(store, &held[5], secs(100)).await?.is_saved(), "a heartbeat");
    put(store, &job("waiting")).await?;
    let ends = |i: usize| held[i].lease_until.unwrap_or(Timestamp::MAX);
    case.clock()?.set(ends(4).minus(MICRO));
    check_eq!(reap_all(store).await?, vec![], "jobs reaped a microsecond before any lease is over");
    case.advance(MICRO)?;
    let reaped = reap_all(store).await?;
    let report = |job: &Job| Reaped::new(job.id, job.queue.clone(), job.fence, State::Waiting, 1);
    check_eq!(reaped, vec![report(&held[4])], "jobs reaped at the very end of the first lease");
    check_eq!(reap_all(store).await?, vec![], "jobs reaped again");
    case.clock()?.set(ends(1));
    let first = store.reap(n(2)).await?;
    check_eq!(first, vec![report(&held[3]), report(&held[2])], "a reap of two of three");
    check_eq!(reap_all(store).await?, vec![report(&held[1])], "the rest");
    for (i, job) in held.iter().enumerate() {
        let expected = if [1, 2, 3, 4].contains(&i) { State::Waiting } else { State::Running };
        let now = read(store, job.id).await?;
        check_eq!(now.state, expected, "the state of job {i}");
        if expected == State::Waiting {
            let fields = (now.attempt, now.crashes, now.version, now.run_at, now.fence);
            let wanted = (0, 1, Version(3), job.run_at, job.fence);
            check_eq!(fields, wanted, "attempt, crashes, version, run_at and fence after a reap");
            check_eq!((now.holder, now.lease_until), (None, None), "holder and lease after a reap");
        }
    }
    // Equal ends: the ids decide.
    let two = [put(store, &job("a")).await?, put(store, &job("b")).await?];
    for id in two.iter().rev() {
        take_for(store, *id, secs(1)).await?;
    }
    case.advance(secs(1))?;
    let reaped: Vec<JobId> = reap_all(store).await?.iter().map(|reaped| reaped.id).collect();
    check_eq!(reaped.get(..2), Some(&two[..]), "the order of leases that end together");
    Ok(())
}

async fn zombies_change_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let handles = case.handles(2).await?;
    let id = put(store, &job("taken over")).await?;
    let zombie = take_for(store, id, brief(case)).await?;
    write(store, &zombie, JobPatch::append([entry("alive")])).await?;
    case.pass(brief(case)).await?;
    reap_all(store).await?;
    // The same holder's name, as a worker that was restarted has it.
    let heir = take_for(&handles[1], id, LEASE).await?;
    check!(zombie.holder == heir.holder && zombie.fence != heir.fence, "the fence is another one");
    for store in &handles {
        for transition in transitions() {
            let kind = transition.kind();
            let outcome = try_settle(store, &zombie, transition).await?;
            check_eq!(outcome, Outcome::Fenced, "{kind:?} by the old holder");
        }
        let patch = JobPatch::append([entry("undead")])
            .with_progress(Progress::new(1))
            .with_label("undead", "x");
        let outcome = update(store, id, queue_core::Guard::Fence(zombie.fence), patch).await?;
        check_eq!(outcome, Outcome::Fenced, "an append by the old holder");
        check_eq!(
            beat(store, &zombie, LEASE * 2).await?,
            Outcome::Fenced,
            "a heartbeat of the old holder"
        );
        check_unchanged(store, &heir, "all that the old holder tried").await?;
    }
    settle(store, &heir, complete()).await?;
    let ended = read(store, id).await?;
    check_eq!(ended.state, State::Completed, "the state after the new holder completed");
    for transition in transitions() {
        let outcome = try_settle(store, &zombie, transition).await?;
        check_eq!(outcome, Outcome::Fenced, "the old holder, after the new one's end");
    }
    check_unchanged(store, &ended, "the old holder's writes after the end").await
}

async fn reapers_share(case: &Case<'_>) -> Checked {
    let handles = case.handles(3).await?;
    for round in 0..case.times(3) {
        let jobs = plain_jobs(20);
        put_all(case.store(), &jobs).await?;
        let mut request = wanted(20);
        request.lease = brief(case);
        let held = case.store().claim(&request).await?.jobs;
        check_eq!(held.len(), 20, "jobs held");
        case.pass(brief(case)).await?;
        let reaped = race(6, |i| {
            let store = handles[i % 3].clone();
            async move {
                let mut mine = Vec::new();
                loop {
                    let some = store.reap(n(4)).await?;
                    if some.is_empty() {
                        return Ok(mine);
                    }
                    check!(some.len() <= 4, "a reap of 4 answered {} jobs", some.len());
                    mine.extend(some);
                    tokio::task::yield_now().await;
                }
            }
        })
        .await?;
        let mut times: BTreeMap<JobId, u32> = BTreeMap::new();
        for reaped in reaped.into_iter().flatten() {
            *times.entry(reaped.id).or_default() += 1;
        }
        // A reaper may pass over a job that another is reaping, but not both.
        check_eq!(reap_all(case.store()).await?.len(), 0, "jobs that six reapers left");
        let expected: BTreeMap<JobId, u32> = jobs.iter().map(|job| (job.id, 1)).collect();
        check_eq!(times, expected, "how often each job was reaped, by the answers");
        for job in
            case.store().get(&ids(&held), queue_core::LogRead::None).await?.into_iter().flatten()
        {
            check_eq!((job.crashes, job.state), (1, State::Waiting), "crashes after round {round}");
        }
        check_eq!(case.store().delete(&JobFilter::all(), n(1_000)).await?, 20, "jobs cleared away");
    }
    Ok(())
}

async fn reap_or_completion(case: &Case<'_>) -> Checked {
    let handles = case.handles(2).await?;
    for round in 0..case.times(12) {
        let id = put(case.store(), &job("contested")).await?;
        let held = take_for(case.store(), id, brief(case)).await?;
        case.pass(brief(case)).await?;
        let (holder, reaper) = (handles[round % 2].clone(), handles[(round + 1) % 2].clone());
        let own = held.clone();
        let (outcome, reaped) =
            duel(round, async move { try_settle(&holder, &own, complete()).await }, async move {
                reap_all(&reaper).await
            })
            .await?;
        let reaped = reaped.iter().any(|reaped| reaped.id == id);
        let after = read(case.store(), id).await?;
        let story = (&outcome, reaped, after.state, after.crashes);
        let told = matches!(
            story,
            (Outcome::Applied(_), false, State::Completed, 0)
                | (Outcome::Illegal { from: State::Waiting }, true, State::Waiting, 1)
        );
        check!(told, "completion, reaped, state, crashes: {story:?}: not exactly one won");
        super::scene::cancel(case.store(), id, "out of the way").await?;
    }
    Ok(())
}

async fn poison_jobs_fail(case: &Case<'_>) -> Checked {
    let store = case.store();
    for survives in [0, 1, 3] {
        let mut poison = job("poison");
        poison.max_crashes = survives;
        put(store, &poison).await?;
        for crash in 1..=survives + 1 {
            let held = take_for(store, poison.id, brief(case)).await?;
            case.pass(brief(case)).await?;
            let from = case.now().await?;
            let reaped = reap_all(store).await?;
            let to = case.now().await?;
            let last = crash > survives;
            let state = if last { State::Failed } else { State::Waiting };
            let expected = Reaped::new(held.id, held.queue.clone(), held.fence, state, crash);
            check_eq!(reaped, vec![expected], "crash {crash} of a job that survives {survives}");
            let after = read(store, held.id).await?;
            check_eq!((after.state, after.crashes), (state, crash), "state and crashes");
            check_eq!(after.attempt, 0, "the attempts that crashes leave");
            if last {
                check_time(after.finished_at, from, to, "finished_at")?;
                let Some(error) = &after.error else {
                    return Err(Stop::fail("a job that crashed too often has no error"));
                };
                let error: JobError = error.to()?;
                check_eq!(error.name, "crashed", "the name of the error");
                check!(
                    error.is_final,
                    "the error of a job that crashed too often is final: {error:?}"
                );
            } else {
                check_eq!((after.error, after.finished_at), (None, None), "error and finished_at");
            }
        }
        check_nothing_due(store, "a job that crashed too often").await?;
    }
    // Failures and releases are no crashes.
    let mut frail = job("frail");
    frail.max_crashes = 0;
    put(store, &frail).await?;
    for end in [retry(When::Now), release(When::Now), retry(When::Now), fail()] {
        settle(store, &take(store).await?, end).await?;
    }
    check_eq!(read(store, frail.id).await?.crashes, 0, "crashes of a job that only failed");
    Ok(())
}

async fn heartbeats_keep_the_version(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    for percent in 1..4 {
        let mut beat = Held::new(held.id, held.fence);
        beat.progress = (percent > 1).then(|| Progress::new(percent));
        let outcomes = store.heartbeat(&[beat], LEASE * 2).await?;
        check!(outcomes.iter().all(Outcome::is_saved), "a heartbeat was answered {outcomes:?}");
        let mut expected = held.clone();
        let now = read(store, held.id).await?;
        check!(now.lease_until > held.lease_until, "the lease is longer than before");
        expected.lease_until = now.lease_until;
        expected.progress = (percent > 1).then(|| Progress::new(percent));
        check_eq!(now, expected, "a job after a heartbeat");
    }
    // An editor who read before the heartbeats does not conflict with them.
    let patch = JobPatch::default().with_label("a", "b");
    let outcome =
        store.update_one(held.id, queue_core::Guard::Version(held.version), patch).await?;
    check!(outcome.is_saved(), "an edit under the version before the heartbeats: {outcome:?}");
    Ok(())
}

async fn client_clocks_do_not_matter(case: &Case<'_>) -> Checked {
    let store = case.store();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let machine = Timestamp::EPOCH.plus(since);
    // This process's own clock is the client's; the store's is set apart from it.
    for storetime in
        [machine.minus(secs(3_600)), machine.plus(secs(3_600)), machine.plus(secs(7_200))]
    {
        case.clock()?.set(storetime);
        let mut late = job("late");
        late.when = When::After(secs(60));
        put_all(store, &[late.clone(), job("now")]).await?;
        check_eq!(store.ping().await?, storetime, "the store's clock");
        let request = wanted(5);
        let held = store.claim(&request).await?;
        check_eq!(held.jobs.len(), 1, "jobs due at {storetime}");
        let job = &held.jobs[0];
        check_eq!(job.created_at, storetime, "created_at");
        check_eq!(job.lease_until, Some(storetime.plus(LEASE)), "lease_until");
        check_eq!(held.next_due, Some(storetime.plus(LEASE)), "next_due");
        check_eq!(reap_all(store).await?, vec![], "jobs reaped while the lease runs");
        case.advance(LEASE)?;
        check!(beat(store, job, LEASE).await?.is_saved(), "a heartbeat at the end of the lease");
        case.advance(LEASE)?;
        check_eq!(
            store.claim(&wanted_ids(&[late.id], 1)).await?.jobs.len(),
            1,
            "jobs due in a minute"
        );
        check_eq!(reap_all(store).await?.len(), 1, "jobs reaped at the end of the lease");
        check_eq!(store.delete(&JobFilter::id(job.id), n(9)).await?, 1, "jobs cleared away");
        let late = read(store, late.id).await?;
        settle(store, &late, complete()).await?;
    }
    Ok(())
}

async fn fences_never_repeat(case: &Case<'_>) -> Checked {
    let store = case.store();
    case.clock()?;
    let mut walker = job("walker");
    walker.max_crashes = u32::MAX;
    put(store, &walker).await?;
    let mut rng = case.rng();
    let mut given = BTreeSet::new();
    for step in 1..=case.times(60) as u64 {
        let request = wanted_ids(&[walker.id], 1);
        let jobs = store.claim(&request).await?.jobs;
        let [held] = &jobs[..] else {
            return Err(Stop::fail(format!("step {step}: a claim took {} jobs", jobs.len())));
        };
        check_eq!(held.fence.count, step, "the count of claim {step}");
        check_eq!(held.fence.nonce, request.token, "the nonce of claim {step}");
        check!(given.insert(held.fence), "step {step}: the fence {} was given before", held.fence);
        match rng.below(4) {
            0 => settle(store, held, retry(When::Now)).await.map(drop)?,
            1 => settle(store, held, release(When::Now)).await.map(drop)?,
            2 => {
                beat(store, held, Duration::from_millis(1)).await?.is_saved();
                case.advance(Duration::from_millis(1))?;
                check_eq!(reap_all(store).await?.len(), 1, "jobs reaped in step {step}");
            }
            _ => {
                store.wake(walker.id).await?;
                settle(store, held, release(When::After(LEASE))).await?;
            }
        }
        check_eq!(read(store, walker.id).await?.fence, held.fence, "the fence between claims");
    }
    Ok(())
}
