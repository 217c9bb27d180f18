//! CLM: who gets which job.

mod contention;
mod due;
mod order;
mod reach;
mod repeats;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Fence, Job, JobFilter, JobId, JobPatch, JobStoreExt, Kinds, Lane, LogRead, NewJob, Order,
    Outcome, Seq, State, States, Timestamp, Version, When,
};
use tokio::{
    sync::Barrier,
    time::{Instant, timeout},
};

use self::order::{fresh_id, in_order, scrambled};
use super::scene::{
    HOUR, LEASE, MICRO, Store, another, brief, cancel, check_nothing_due, check_time,
    check_unchanged, claim, complete, entry, fail, give_up, ids, job, n, new_ids, plain_jobs, put,
    put_all, queue, read, reap_all, release, retry, running, secs, settle, take, take_for, take_id,
    try_settle, wanted, wanted_from, wanted_ids, write,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race};

group! {
    "CLM-1", "no job is held twice at a time, and no fence is given twice" => contention::claims_are_exclusive;
    "CLM-2", "a claim never takes more than its limit, contended or not" => contention::limits_are_kept;
    "CLM-3", "one batch comes in FIFO order" => order::fifo_in_a_batch;
    "CLM-4", "batches of one come in FIFO order" => order::fifo_across_batches;
    "CLM-5", "LIFO reverses time and id" => order::lifo;
    "CLM-6", "priority goes before time" => order::priority_first;
    "CLM-7", "no job is claimable before its run_at, and from then on it is" => due_times_are_inclusive;
    "CLM-8", "only jobs of the asked queues and kinds that pass the filter are taken" => only_what_is_asked;
    "CLM-9", "exactly the first jobs are taken, and next_due says when there may be more" => first_jobs_and_next_due;
    "CLM-10", "fence, attempt, version and lease are set as documented" => claims_set_the_documented_fields;
    "CLM-11", "finished jobs are never returned" => finished_jobs_stay_away;
    "CLM-12", "a claim does not wait for what another claimer holds" => contention::claims_do_not_queue_up;
    "CLM-13", "the returned job is the one that get reads, and a repeat returns it again" => claimed_is_what_get_reads;
    "CLM-14", "the log comes along as asked" => the_log_comes_along;
    "CLM-15", "a malformed request is Invalid and takes nothing" => malformed_requests_take_nothing;
    "CLM-16", "claims narrowed by the same filter are exclusive, and who is late is answered that nothing is there" => contention::narrow_claims_are_exclusive;
    "CLM-17", "a repeated claim answers what is held under its token, whatever has become of it" => repeats::repeats_answer_what_is_held;
    "CLM-18", "a token of which nothing is held claims afresh, in the order asked for" => repeats::a_spent_token_claims_afresh;
    "CLM-19", "jobs that a claim may not take never hide those that it may" => reach::crowds_hide_nothing;
    "CLM-20", "a claim may ask for many queues and kinds, for any number of jobs, for ever" => reach::claims_may_ask_for_much;
    "CLM-21", "a filter only narrows a claim" => reach::filters_only_narrow;
    "CLM-22", "next_due is no later than the first waiting job that is asked for, and not now in vain" => due::waiting_jobs_count;
    "CLM-23", "next_due is no later than the end of any lease" => due::leases_count;
    "CLM-24", "a repeated claim that holds fewer jobs than it may says when there may be more" => repeats::repeats_say_when_there_is_more;
    "CLM-25", "claims with one token that run at the same time hold no more than their limit together" => repeats::repeats_beside_the_first_share_its_limit;
}

async fn held(store: &Store) -> Checked<u64> {
    Ok(store.count(&JobFilter::all().with_states(State::Running)).await?)
}

async fn due_times_are_inclusive(case: &Case<'_>) -> Checked {
    let store = case.store();
    let slack = store.info().capabilities.schedule_slack;
    let delay = if case.is_clocked() { secs(10) } else { Duration::from_millis(300) };
    // Ways in which a job comes to be due later: inserted, released and retried so.
    let mut late = job("inserted late");
    late.when = When::After(delay);
    let released = running(store).await?;
    let retried = running(store).await?;
    put(store, &late).await?;
    settle(store, &released, release(When::After(delay))).await?;
    settle(store, &retried, retry(When::After(delay))).await?;
    let mut never = job("never");
    never.when = When::At(Timestamp::MAX);
    put(store, &never).await?;
    for id in [late.id, released.id, retried.id] {
        let due = read(store, id).await?.run_at;
        if case.is_clocked() {
            let early = store.claim(&wanted_ids(&[id], 1)).await?;
            check!(early.jobs.is_empty(), "a job due in 10 s was claimable at once");
            case.clock()?.set(due.minus(MICRO));
            let early = store.claim(&wanted_ids(&[id], 1)).await?;
            check!(early.jobs.is_empty(), "a job was claimable a microsecond before it is due");
            case.clock()?.set(due);
            case.advance(slack)?;
            take_id(store, id).await?;
            case.clock()?.set(due.minus(delay));
        } else {
            poll_until_due(case, id, due, slack).await?;
        }
    }
    check_nothing_due(store, "a job due at the end of time").await
}

async fn poll_until_due(case: &Case<'_>, id: JobId, due: Timestamp, slack: Duration) -> Checked {
    loop {
        let before = case.now().await?;
        let got = case.store().claim(&wanted_ids(&[id], 1)).await?.jobs;
        let after = case.now().await?;
        match got.is_empty() {
            false => {
                check!(due <= after, "a job due at {due} was claimable at {after}");
                return Ok(());
            }
            true => {
                check!(
                    before < due.plus(slack),
                    "a job due at {due} was not claimable at {before}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn only_what_is_asked(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut jobs = Vec::new();
    // The names share prefixes and differ in case, and one is another's pattern.
    for name in ["a", "A", "ab", "a%", "_", "default"] {
        for kind in ["mail", "Mail", "mail2"] {
            let mut job = job(kind);
            job.queue = queue(name)?;
            job.labels.insert("of".into(), name.into());
            jobs.push(job);
        }
    }
    case.rng().shuffle(&mut jobs);
    put_all(store, &jobs).await?;
    let expected = |wants: &dyn Fn(&NewJob) -> bool| {
        let picked: Vec<NewJob> = jobs.iter().filter(|job| wants(job)).cloned().collect();
        let mut ids = new_ids(&picked);
        ids.sort_unstable();
        ids
    };
    let all = wanted_from(&[], 1_000)?;
    let mut by_kind = wanted_from(&["_", "A", "default"], 1_000)?;
    by_kind.kinds = Kinds::Only(vec!["Mail".into(), "unknown".into()]);
    let mut no_kind = wanted(1_000);
    no_kind.kinds = Kinds::Only(Vec::new());
    let mut by_label = wanted(1_000);
    by_label.filter = Some(JobFilter::label("of", "a%"));
    let picked = [jobs[3].id, jobs[7].id, JobId::new()];
    let mut by_filter = wanted(1_000);
    by_filter.filter = Some(JobFilter::ids(picked).with_states(State::Running));
    let requests = [
        ("no queue", all, expected(&|_| false)),
        ("no kind", no_kind, expected(&|_| false)),
        ("an empty queue", wanted_from(&["empty"], 1_000)?, expected(&|_| false)),
        ("a filter that no waiting job passes", by_filter, expected(&|_| false)),
        ("one queue", wanted_from(&["a"], 1_000)?, expected(&|job| job.queue.as_str() == "a")),
        (
            "one queue named twice, and an empty one",
            wanted_from(&["ab", "empty", "ab"], 1_000)?,
            expected(&|job| job.queue.as_str() == "ab"),
        ),
        (
            "three queues and one kind",
            by_kind,
            expected(&|job| {
                ["_", "A", "default"].contains(&job.queue.as_str()) && job.kind == "Mail"
            }),
        ),
        ("a label", by_label, expected(&|job| job.queue.as_str() == "a%")),
    ];
    for (what, request, expected) in requests {
        let taken = store.claim(&request).await?.jobs;
        let mut got = ids(&taken);
        got.sort_unstable();
        check_eq!(got, expected, "what a claim of {what} takes");
        for job in taken {
            settle(store, &job, release(When::Now)).await?;
        }
    }
    let mut got = ids(&store.claim(&wanted_ids(&picked, 1_000)).await?.jobs);
    got.sort_unstable();
    let mut two = picked[..2].to_vec();
    two.sort_unstable();
    check_eq!(got, two, "what a claim by ids takes");
    check_eq!(claim(store, 1_000).await?.len(), jobs.len() - 2, "what a claim of everything takes");
    Ok(())
}

async fn first_jobs_and_next_due(case: &Case<'_>) -> Checked {
    let store = case.store();
    check_later(case, store.claim(&wanted(1)).await?.next_due, None, "of an empty store").await?;

    let jobs = scrambled(case, 12, &[0, 1]);
    put_all(store, &jobs).await?;
    let order = in_order(&jobs, Order::Fifo);
    for (batch, expected) in order.chunks(5).enumerate() {
        let claimed = store.claim(&wanted(5)).await?;
        check_eq!(ids(&claimed.jobs), expected, "batch {batch} of 5 without concurrent writes");
        match expected.len() {
            5 => check_eq!(claimed.next_due, None, "next_due when the limit came back"),
            _ => check_later(case, claimed.next_due, Some(LEASE), "with leases running").await?,
        }
    }
    for id in order {
        let job = read(store, id).await?;
        settle(store, &job, complete()).await?;
    }

    // The next job due; jobs of other queues and kinds do not count, nor do those behind a full lane.
    let mut later = job("later");
    later.when = When::After(secs(5));
    let mut sooner = job("sooner");
    sooner.queue = queue("elsewhere")?;
    sooner.when = When::After(secs(3));
    put_all(store, &[later.clone(), sooner.clone()]).await?;
    let mut here = wanted_from(&["default"], 3)?;
    let next = store.claim(&here).await?.next_due;
    check_later(case, next, Some(secs(5)), "with a job due in 5 s").await?;
    here.kinds = Kinds::Only(vec!["other".into()]);
    let next = store.claim(&another(&here)).await?.next_due;
    check_later(case, next, None, "with no job of the kind").await?;
    let next = store.claim(&wanted(3)).await?.next_due;
    check_later(case, next, Some(secs(3)), "with a job of another queue due in 3 s").await?;
    let mut due_elsewhere = job("due");
    due_elsewhere.queue = queue("elsewhere")?;
    put(store, &due_elsewhere).await?;
    here.kinds = Kinds::All;
    let next = store.claim(&another(&here)).await?.next_due;
    check_later(case, next, Some(secs(5)), "with a due job in another queue").await?;
    let in_lane = |kind| {
        let mut job = job(kind);
        job.lane = Some(Lane::new("full"));
        job
    };
    put_all(store, &[in_lane("first"), in_lane("second")]).await?;
    let claimed = store.claim(&another(&here)).await?;
    check_eq!(claimed.jobs.len(), 1, "jobs claimed of a lane of one");
    check_later(case, claimed.next_due, Some(secs(5)), "with a due job behind a full lane").await?;
    if case.is_clocked() {
        case.advance(secs(29))?;
        let rest = store.claim(&wanted(10)).await?;
        check_eq!(rest.jobs.len(), 3, "the jobs that fell due meanwhile");
        check_later(case, rest.next_due, Some(secs(1)), "with a lease that ends in 1 s").await?;
        case.advance(secs(1))?;
        let now = case.now().await?;
        let next = store.claim(&wanted(10)).await?.next_due;
        check!(
            next.is_some_and(|next| next <= now),
            "next_due with a lease that is over should be now ({now}), but is {next:?}"
        );
        reap_all(store).await?;
    }
    contention::passed_over_under_contention(case).await
}

/// That `next_due` lies after now, and no later than `latest` from now; `None` where nothing is to come.
async fn check_later(
    case: &Case<'_>,
    next_due: Option<Timestamp>,
    latest: Option<Duration>,
    what: &str,
) -> Checked {
    let now = case.now().await?;
    if let Some(latest) = latest {
        check!(
            next_due.is_some_and(|next| next <= now.plus(latest)),
            "next_due {what} should be at most {latest:?} from now ({now}), but is {next_due:?}"
        );
    }
    // Without the clock hook `now` was read after the claim.
    if case.is_clocked() {
        check!(
            next_due.is_none_or(|next| next > now),
            "next_due {what} should be later than now ({now}), but is {next_due:?}"
        );
    }
    Ok(())
}

async fn claims_set_the_documented_fields(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("plain")).await?;
    let before = read(store, id).await?;
    // What ended the previous run; then attempt, crashes and version of the claim after it.
    let runs = [("insert", 1, 0, 2), ("retry", 2, 0, 4), ("release", 2, 0, 6), ("reap", 2, 1, 8)];
    for (count, (after, attempt, crashes, version)) in (1..).zip(runs) {
        let mut request = wanted_ids(&[id], 1);
        request.holder = format!("holder {count}").into();
        request.lease = brief(case);
        let from = case.now().await?;
        let jobs = store.claim(&request).await?.jobs;
        let to = case.now().await?;
        let [job] = &jobs[..] else {
            return Err(Stop::fail(format!("after {after}, a claim took {} jobs", jobs.len())));
        };
        check_eq!(job.state, State::Running, "state after {after}");
        check_eq!(job.fence, Fence::new(count, request.token), "fence after {after}");
        check_eq!(job.attempt, attempt, "attempt after {after}");
        check_eq!(job.crashes, crashes, "crashes after {after}");
        check_eq!(job.version, Version(version), "version after {after}");
        check_eq!(job.holder.as_deref(), Some(&*request.holder), "holder after {after}");
        check_time(
            job.lease_until,
            from.plus(request.lease),
            to.plus(request.lease),
            "lease_until",
        )?;
        check_time(job.started_at, from, to, "started_at")?;
        check_eq!(
            (job.created_at, job.finished_at),
            (before.created_at, None),
            "created, finished"
        );
        let stored = read(store, id).await?;
        check_eq!(job.run_at, stored.run_at, "run_at is not the claim's to set");
        // Its answer was lost: the same token finds the job that it holds.
        let again = store.claim(&request).await?.jobs;
        check_eq!(again, jobs, "a repeat of the claim after {after}");
        check_unchanged(store, &stored, "a repeat of its claim").await?;
        match count {
            1 => {
                check_eq!(job.run_at, before.run_at, "run_at after the first claim");
                case.pass(Duration::from_millis(3)).await?;
                settle(store, job, retry(When::Now)).await?;
            }
            2 => settle(store, job, release(When::Now)).await.map(drop)?,
            3 => {
                case.pass(brief(case)).await?;
                reap_all(store).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn finished_jobs_stay_away(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut finished = Vec::new();
    for end in [complete(), fail(), give_up()] {
        let job = running(store).await?;
        settle(store, &job, end).await?;
        finished.push(job.id);
    }
    let waiting = put(store, &job("cancelled while waiting")).await?;
    cancel(store, waiting, "stop").await?;
    let mut later = job("cancelled before it was due");
    later.when = When::After(secs(1));
    put(store, &later).await?;
    cancel(store, later.id, "stop").await?;
    finished.extend([waiting, later.id]);
    if case.is_clocked() {
        case.advance(HOUR)?;
    }
    check_nothing_due(store, "finished jobs").await?;
    let mut by_id = wanted_ids(&finished, 10);
    if let Some(filter) = &mut by_id.filter {
        filter.states = States::ALL;
    }
    let got = store.claim(&by_id).await?;
    check!(got.jobs.is_empty(), "finished jobs were claimed by id: {:?}", ids(&got.jobs));
    check_later(case, got.next_due, None, "with finished jobs only").await?;
    reap_all(store).await?;
    check_nothing_due(store, "finished jobs after a reap").await
}

async fn claimed_is_what_get_reads(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut rich = job("rich");
    rich.labels.insert("a".into(), "b".into());
    rich.lane = Some(Lane::with_limit("lane", n(2)));
    rich.unique = Some(queue_core::Unique::new("key"));
    rich.priority = 3;
    put_all(store, &[rich.clone(), job("plain"), job("other")]).await?;
    let once = take_id(store, rich.id).await?;
    let patch = JobPatch::append([entry(1), entry(2)])
        .with_progress(queue_core::Progress::with_message(7, "on its way"));
    write(store, &once, patch).await?;
    settle(store, &once, retry(When::Now)).await?;

    let request = wanted(2);
    let claimed = store.claim(&request).await?.jobs;
    check_eq!(claimed.len(), 2, "jobs claimed");
    check_eq!(claimed[0].id, rich.id, "the first job claimed");
    for job in &claimed {
        check_eq!(
            *job,
            read(store, job.id).await?,
            "the job claimed, against the one that get reads"
        );
    }
    // The answer was lost: the same token finds the same jobs, and takes no more.
    for handle in case.handles(2).await? {
        let again = handle.claim(&request).await?.jobs;
        check_eq!(again, claimed, "a repeat of the claim");
    }
    settle(store, &claimed[0], complete()).await?;
    let again = store.claim(&request).await?.jobs;
    check_eq!(again, claimed[1..].to_vec(), "a repeat when one job has ended since");
    check_eq!(held(store).await?, 1, "jobs running after the repeats");
    let outcome = try_settle(store, &again[0], complete()).await?;
    check!(matches!(outcome, Outcome::Applied(_)), "a job kept by a repeat is held: {outcome:?}");
    let last = take(store).await?;
    check_eq!(last.attempt, 1, "the attempt of the job that the repeats left alone");
    Ok(())
}

async fn the_log_comes_along(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("plain")).await?;
    let mut expected: BTreeMap<u64, String> = BTreeMap::new();
    for attempt in 0..4_u64 {
        let reads =
            [LogRead::All, LogRead::None, LogRead::After(Seq(attempt)), LogRead::After(Seq(99))];
        for log in reads {
            let mut request = wanted_ids(&[id], 1);
            request.log = log;
            let jobs = store.claim(&request).await?.jobs;
            let [job] = &jobs[..] else {
                return Err(Stop::fail(format!("a claim took {} jobs of 1", jobs.len())));
            };
            let after = log.after().map_or(u64::MAX, |seq| seq.0);
            let wanted: Vec<(u64, String)> = expected
                .iter()
                .filter(|(seq, _)| **seq > after)
                .map(|(seq, body)| (*seq, body.clone()))
                .collect();
            let got: Vec<(u64, String)> =
                job.log.iter().map(|entry| (entry.seq.0, entry.body.as_str().to_owned())).collect();
            check_eq!(got, wanted, "the log that comes with a claim for {log:?}");
            check_eq!(job.log_len, expected.len() as u64, "log_len with {log:?}");
            settle(store, job, release(When::Now)).await?;
        }
        let job = take_for(store, id, LEASE).await?;
        let seq = expected.len() as u64;
        let patch = JobPatch::append([entry(seq), entry(seq + 1)]);
        write(store, &job, patch).await?;
        expected.insert(seq + 1, seq.to_string());
        expected.insert(seq + 2, (seq + 1).to_string());
        settle(store, &job, retry(When::Now)).await?;
    }
    Ok(())
}

async fn malformed_requests_take_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    put_all(store, &plain_jobs(3)).await?;
    let with = |spoil: &dyn Fn(&mut queue_core::ClaimRequest)| {
        let mut request = wanted(3);
        spoil(&mut request);
        request
    };
    let label = || JobFilter::label("tenant", "a\u{7}");
    let requests = [
        ("a lease of nothing", with(&|request| request.lease = Duration::ZERO)),
        ("a holder without a name", with(&|request| request.holder = "".into())),
        ("a NUL in the holder", with(&|request| request.holder = "a\0".into())),
        ("a NUL in a kind", with(&|request| request.kinds = Kinds::Only(vec!["a\0".into()]))),
        ("an empty kind", with(&|request| request.kinds = Kinds::Only(vec!["".into()]))),
        ("a label that no job can have", with(&|request| request.filter = Some(label()))),
    ];
    for (what, request) in requests {
        let answer = store.claim(&request).await;
        check!(
            matches!(&answer, Err(error) if error.kind() == queue_core::ErrorKind::Invalid),
            "a claim with {what} was answered {answer:?}"
        );
        check_eq!(held(store).await?, 0, "jobs held after a claim with {what}");
    }
    check_eq!(claim(store, 3).await?.len(), 3, "jobs that a sound claim takes afterwards");
    Ok(())
}
