//! UPD: guards, transitions and outcomes.

mod many;
mod memory;
mod table;
mod verdicts;

pub(super) mod bulk;

use std::time::Duration;

use queue_core::{
    BulkChange, ErrorKind, Fence, Guard, Job, JobFilter, JobId, JobPatch, JobStoreExt, JobUpdate,
    NewJob, Outcome, Progress, State, States, TimeRange, Timestamp, Transition, TransitionKind,
    Version, When,
};

use super::scene::{
    End, HOUR, LEASE, Store, beat, brief, cancel, cancelling, check_time, check_unchanged, claim,
    complete, counts, edit, ending, entry, fail, give_up, job, plain_jobs, put, put_all, queue,
    read, reap_all, release, retry, running, settle, take_for, take_id, transitions, try_settle,
    update, value, wanted_from, write,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race};

group! {
    "UPD-1", "a write under a stale fence changes nothing" => fences_guard;
    "UPD-2", "N racers who count by version end at the number of their successes" => versions_guard;
    "UPD-3", "a write without a guard is made whatever the state" => unguarded_edits_are_made;
    "UPD-4", "every transition from every state does what the table says" => table::the_table_of_transitions;
    "UPD-5", "outcomes are positional and items independent" => outcomes_are_positional;
    "UPD-6", "a malformed call is Invalid and changes nothing" => malformed_calls_change_nothing;
    "UPD-7", "a final state is final for its holder" => final_states_are_final;
    "UPD-8", "a settle that is repeated is Repeated, and the first output stays" => repeated_settles;
    "UPD-9", "Conflict carries a version that was current during the call" => conflicts_tell_the_version;
    "UPD-10", "a job that is not there is Missing" => missing_jobs;
    "UPD-11", "labels are merged and removed one by one" => labels_are_merged;
    "UPD-12", "update_where changes exactly the matching jobs and counts them" => bulk::bulk_changes;
    "UPD-13", "finished_at is set once" => finished_at_is_set_once;
    "UPD-14", "a settle is remembered until its holder's successor settles" => memory::settles_are_remembered;
    "UPD-15", "a holder is told of a cancel at every write, an editor of the version" => memory::acknowledgements_fit_the_writer;
    "UPD-16", "a settle writes its own fields and undoes no one else's" => memory::settles_write_their_own_fields;
    "UPD-17", "the mark of a wake ends with its run" => memory::a_wake_is_for_one_release;
    "UPD-18", "a bulk change touches one field of every job that it meets" => many::bulk_changes_touch_one_thing;
    "UPD-19", "an item that is too large is its own affair" => many::a_large_item_is_its_own_affair;
    "UPD-20", "a claim made with updates finds what they freed or says so, and is refused with them" => many::claims_ride_along;
    "UPD-21", "an update that could be refused for several reasons is told the first in order, its size last" => verdicts::the_first_that_fits_is_told;
}

fn laden() -> JobPatch {
    JobPatch::append([entry("rejected")])
        .with_progress(Progress::with_message(99, "rejected"))
        .with_label("rejected", "x")
}

async fn fences_guard(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    let other = running(store).await?;
    let stale = [
        ("the fence of another job", other.fence),
        ("the right count with another nonce", Fence::new(held.fence.count, uuid::Uuid::now_v7())),
        ("the right nonce with a smaller count", Fence::new(0, held.fence.nonce)),
        ("the right nonce with a greater count", Fence::new(2, held.fence.nonce)),
        ("the fence of a job never claimed", Fence::default()),
    ];
    for (what, fence) in stale {
        let guard = Guard::Fence(fence);
        let mut patches = vec![laden(), JobPatch::default()];
        patches.extend(transitions().map(|transition| ending(transition, laden())));
        for patch in patches {
            let outcome = update(store, held.id, guard, patch).await?;
            check_eq!(outcome, Outcome::Fenced, "a write under {what}");
            check_unchanged(store, &held, what).await?;
        }
    }
    write(store, &held, JobPatch::append([entry("accepted")])).await?;
    settle(store, &held, complete()).await?;
    check_eq!(read(store, held.id).await?.state, State::Completed, "the state");
    check_unchanged(store, &other, "writes to another job").await
}

async fn versions_guard(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    let id = put(case.store(), &job("counter")).await?;
    // Two who read the same version, one after the other.
    let other = put(case.store(), &job("edited by two")).await?;
    let seen = Guard::Version(read(case.store(), other).await?.version);
    let by = |who: &str| JobPatch::default().with_label("by", who.to_owned());
    check!(update(case.store(), other, seen, by("one")).await?.is_saved(), "the first edit");
    let second = update(case.store(), other, seen, by("two")).await?;
    check_eq!(second, Outcome::Conflict { actual: Version(2) }, "the second edit of one version");
    let kept = read(case.store(), other).await?;
    check_eq!((&kept.labels["by"][..], kept.version), ("one", Version(2)), "label and version");
    let each = case.times(12);
    let conflicts = race(8, |i| {
        let store = handles[i % 4].clone();
        async move {
            let (mut done, mut conflicts) = (0, 0_usize);
            while done < each {
                let seen = read(&store, id).await?;
                let count: usize = match seen.labels.get("count") {
                    None => 0,
                    Some(count) => count.parse().unwrap_or(usize::MAX / 2),
                };
                let patch = JobPatch::default().with_label("count", (count + 1).to_string());
                tokio::task::yield_now().await;
                match update(&store, id, Guard::Version(seen.version), patch).await? {
                    Outcome::Applied(ack) => {
                        done += 1;
                        let next = Version(seen.version.0 + 1);
                        check_eq!(ack.version, Some(next), "the version acknowledged");
                    }
                    Outcome::Conflict { actual } => {
                        conflicts += 1;
                        check!(
                            actual > seen.version,
                            "a conflict with {actual} at {}",
                            seen.version
                        );
                    }
                    other => return Err(Stop::fail(format!("an edit was answered {other:?}"))),
                }
            }
            Ok(conflicts)
        }
    })
    .await?;
    let job = read(case.store(), id).await?;
    let successes = 8 * each;
    check_eq!(
        job.labels.get("count"),
        Some(&successes.to_string()),
        "the counter after {successes} acknowledged increments ({} conflicts)",
        conflicts.iter().sum::<usize>()
    );
    check_eq!(job.version, Version(1 + successes as u64), "the version after {successes} edits");
    Ok(())
}

async fn unguarded_edits_are_made(case: &Case<'_>) -> Checked {
    let store = case.store();
    for state in State::ALL {
        let job = bring(store, state).await?;
        let patch = JobPatch::append([entry("line")])
            .with_label("a", "b")
            .with_progress(Progress::with_message(40, "by an operator"));
        let ack = edit(store, job.id, patch).await?;
        let after = read(store, job.id).await?;
        let next = Version(job.version.0 + 1);
        check_eq!(ack.version, Some(next), "the version acknowledged for a {state} job");
        check_eq!(after.version, next, "the version of a {state} job");
        check_eq!(after.labels.get("a").map(String::as_str), Some("b"), "a label ({state})");
        let progress = Some(Progress::with_message(40, "by an operator"));
        check_eq!(after.progress, progress, "progress of a {state} job");
        check_eq!(after.log_len, 1, "the entries of a {state} job");
        check_eq!(
            (after.state, after.fence, after.run_at, after.lease_until, after.attempt),
            (job.state, job.fence, job.run_at, job.lease_until, job.attempt),
            "what an edit leaves alone ({state})"
        );
        // Progress by somebody else than the holder counts as an edit; by the holder it does not.
        let ack = edit(store, job.id, JobPatch::progress(Progress::new(41))).await?;
        check_eq!(ack.version, Some(Version(next.0 + 1)), "the version after progress alone");
        if state == State::Running {
            write(store, &job, JobPatch::progress(Progress::new(42))).await?;
            let version = read(store, job.id).await?.version;
            check_eq!(version, Version(next.0 + 1), "the version after progress by the holder");
        }
    }
    Ok(())
}

/// A new job in this state, as its own holder (or, before it had one, an operator) brings it there.
async fn bring(store: &Store, state: State) -> Checked<Job> {
    let id = put(store, &job("brought")).await?;
    if state == State::Waiting {
        return read(store, id).await;
    }
    let held = take_id(store, id).await?;
    match state {
        State::Waiting | State::Running => {}
        State::Completed => settle(store, &held, complete()).await.map(drop)?,
        State::Failed => settle(store, &held, fail()).await.map(drop)?,
        State::Cancelled => settle(store, &held, give_up()).await.map(drop)?,
    }
    read(store, id).await
}

async fn outcomes_are_positional(case: &Case<'_>) -> Checked {
    let store = case.store();
    for round in 0..case.times(4) {
        let done = running(store).await?;
        settle(store, &done, complete()).await?;
        let waiting = read(store, put(store, &job("waiting")).await?).await?;
        let (fenced, refused, moved) =
            (running(store).await?, running(store).await?, running(store).await?);
        let label = |text: &str| JobPatch::default().with_label("round", text.to_owned());
        let stale = Fence::new(1, uuid::Uuid::now_v7());
        let mut items: Vec<(JobUpdate, String)> = vec![
            (JobUpdate::new(waiting.id, Guard::None, label("edited")), "applied".to_owned()),
            (JobUpdate::new(JobId::new(), Guard::None, label("x")), sketch(&Outcome::Missing)),
            (JobUpdate::held(fenced.id, stale, label("x")), sketch(&Outcome::Fenced)),
            (
                JobUpdate::new(refused.id, Guard::Version(Version(9)), label("x")),
                sketch(&Outcome::Conflict { actual: Version(2) }),
            ),
            (
                JobUpdate::held(done.id, done.fence, ending(complete(), label("x"))),
                "repeated".to_owned(),
            ),
            (
                JobUpdate::held(
                    moved.id,
                    moved.fence,
                    ending(retry(When::After(HOUR)), label("moved")),
                ),
                "applied".to_owned(),
            ),
        ];
        let unheld = put(store, &job("unheld")).await?;
        items.push((
            JobUpdate::held(unheld, Fence::default(), JobPatch::transition(complete())),
            sketch(&Outcome::Illegal { from: State::Waiting }),
        ));
        let mut rng = case.rng();
        (0..=round).for_each(|_| rng.shuffle(&mut items));
        let updates: Vec<JobUpdate> = items.iter().map(|(update, _)| update.clone()).collect();
        let request = wanted_from(&["none"], 1)?;
        // Alone, and in one trip with a claim.
        let outcomes = match round % 2 {
            0 => store.update_jobs(&updates).await?,
            _ => store.update_and_claim(&updates, &request).await?.0,
        };
        let told: Vec<String> = outcomes.iter().map(sketch).collect();
        let expected: Vec<String> = items.into_iter().map(|(_, outcome)| outcome).collect();
        check_eq!(told, expected, "the outcomes of a mixed batch, by position");
        check_eq!(read(store, waiting.id).await?.version, Version(2), "an item that was applied");
        let moved = read(store, moved.id).await?;
        check_eq!((moved.state, moved.labels.len()), (State::Waiting, 1), "another one");
        for before in [&fenced, &refused] {
            check_unchanged(store, before, "an item that was refused").await?;
        }
        cancel(store, waiting.id, "out of the way").await?;
        cancel(store, unheld, "out of the way").await?;
    }
    Ok(())
}

/// An outcome without what an acknowledgement carries.
fn sketch(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied(_) => "applied".to_owned(),
        Outcome::Repeated(_) => "repeated".to_owned(),
        other => format!("{other:?}"),
    }
}

async fn malformed_calls_change_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let (one, two) = (running(store).await?, running(store).await?);
    let good = JobUpdate::held(two.id, two.fence, JobPatch::append([entry("good")]));
    let line = || JobPatch::append([entry("line")]);
    let mut too_far = Progress::new(0);
    too_far.percent = 101;
    let bad = |patch| vec![good.clone(), JobUpdate::new(one.id, Guard::None, patch)];
    let calls = [
        (
            "one job twice",
            vec![
                JobUpdate::held(one.id, one.fence, line()),
                good.clone(),
                JobUpdate::new(one.id, Guard::None, line()),
            ],
        ),
        ("a transition without a fence", bad(JobPatch::transition(complete()))),
        ("progress of 101 percent", bad(JobPatch::progress(too_far.clone()))),
        ("an empty label", bad(JobPatch::default().with_label("", "x"))),
        ("a label value of 257 bytes", bad(JobPatch::default().with_label("a", "x".repeat(257)))),
        ("a NUL in a label", bad(JobPatch::default().without_label("a\0"))),
    ];
    let request = wanted_from(&["default"], 5)?;
    put(store, &job("waiting")).await?;
    for (what, call) in calls {
        let alone = store.update_jobs(&call).await;
        check_eq!(alone.map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{what}");
        let with_claim = store.update_and_claim(&call, &request).await;
        check!(
            matches!(&with_claim, Err(error) if error.kind() == ErrorKind::Invalid),
            "{what}, with a claim: {with_claim:?}"
        );
        check_unchanged(store, &one, what).await?;
        check_unchanged(store, &two, what).await?;
    }
    let twice =
        [queue_core::Held::new(one.id, one.fence), queue_core::Held::new(one.id, one.fence)];
    let answer = store.heartbeat(&twice, HOUR).await;
    check_eq!(
        answer.map_err(|e| e.kind()),
        Err(ErrorKind::Invalid),
        "a heartbeat of one job twice"
    );
    let mut boasting = twice[0].clone();
    boasting.progress = Some(too_far.clone());
    let answer = store.heartbeat(&[boasting], HOUR).await;
    check_eq!(answer.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "a heartbeat of 101 percent");
    let answer = store.heartbeat(&twice[..1], Duration::ZERO).await;
    check_eq!(answer.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "a heartbeat for no time");
    let mut nothing = request.clone();
    nothing.lease = Duration::ZERO;
    let answer = store.update_and_claim(std::slice::from_ref(&good), &nothing).await;
    check!(answer.is_err(), "a claim for no time was answered {answer:?}");
    check_unchanged(store, &one, "a malformed heartbeat").await?;
    check_unchanged(store, &two, "updates that came with a malformed claim").await?;
    check_eq!(
        store.claim(&request).await?.jobs.len(),
        1,
        "jobs that malformed calls left to claim"
    );
    Ok(())
}

async fn final_states_are_final(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in [State::Completed, State::Failed, State::Cancelled] {
        let ended = bring(store, end).await?;
        let own = match end {
            State::Completed => TransitionKind::Complete,
            State::Failed => TransitionKind::Fail,
            _ => TransitionKind::Cancel,
        };
        for transition in transitions().into_iter().filter(|t| t.kind() != own) {
            let outcome = try_settle(store, &ended, transition.clone()).await?;
            check_eq!(outcome, Outcome::Fenced, "{:?} of a {end} job", transition.kind());
        }
        let patch = update(store, ended.id, Guard::Fence(ended.fence), laden()).await?;
        check_eq!(patch, Outcome::Fenced, "a write by the holder of a {end} job");
        check_eq!(beat(store, &ended, HOUR).await?, Outcome::Fenced, "a heartbeat of a {end} job");
        let changes = [
            cancelling("too late"),
            BulkChange::Wake,
            BulkChange::Priority(9),
            BulkChange::Queue(queue("elsewhere")?),
        ];
        for change in changes {
            let met = store.update_where(&JobFilter::id(ended.id), &change).await?;
            check_eq!(met, counts(0, 0, 1), "{change:?} of a {end} job");
        }
        if case.is_clocked() {
            case.advance(LEASE + HOUR)?;
        }
        reap_all(store).await?;
        let got = claim(store, 10).await?;
        check!(got.is_empty(), "a {end} job was claimed");
        check_unchanged(store, &ended, "all that may befall a finished job").await?;
    }
    Ok(())
}

async fn repeated_settles(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    let with = |output: &str| Transition::Complete { output: Some(value(output)) };
    let log = [entry("last")];
    let patch = JobPatch::transition(with("first")).with_log(log.clone());
    write(store, &held, patch.clone()).await?;
    let ended = read(store, held.id).await?;
    let again = [patch, JobPatch::transition(with("second")).with_log([entry("new")])];
    for patch in again {
        let outcome = update(store, held.id, Guard::Fence(held.fence), patch).await?;
        check!(matches!(outcome, Outcome::Repeated(_)), "a repeat was answered {outcome:?}");
        check_unchanged(store, &ended, "a repeated completion").await?;
    }
    // A run that goes on with others: the repeat is known until the next holder ends its own.
    let first = running(store).await?;
    settle(store, &first, retry(When::Now)).await?;
    let second = take_id(store, first.id).await?;
    let outcome = try_settle(store, &first, retry(When::After(HOUR))).await?;
    check!(
        matches!(outcome, Outcome::Repeated(_)),
        "a repeated retry of a job that was claimed since was answered {outcome:?}"
    );
    let outcome = try_settle(store, &first, complete()).await?;
    check_eq!(outcome, Outcome::Fenced, "another end by the first holder");
    check_unchanged(store, &second, "repeats by the first holder").await?;
    settle(store, &second, retry(When::Now)).await?;
    let outcome = try_settle(store, &first, retry(When::Now)).await?;
    check_eq!(outcome, Outcome::Fenced, "a repeat by the first holder after the second's own end");
    let outcome = try_settle(store, &second, retry(When::Now)).await?;
    check!(matches!(outcome, Outcome::Repeated(_)), "the second's repeat was answered {outcome:?}");
    // Two copies of one settle, at once: one is applied.
    let handles = case.handles(2).await?;
    for _ in 0..case.times(8) {
        let held = running(store).await?;
        let outcomes = race(4, |i| {
            let (store, held) = (handles[i % 2].clone(), held.clone());
            async move { try_settle(&store, &held, release(When::After(HOUR))).await }
        })
        .await?;
        let applied = outcomes.iter().filter(|outcome| outcome.applied().is_some()).count();
        check_eq!(applied, 1, "Applied among copies of one settle: {outcomes:?}");
        check!(outcomes.iter().all(Outcome::is_saved), "copies of one settle: {outcomes:?}");
        check_eq!(
            read(store, held.id).await?.attempt,
            0,
            "the attempt after copies of one release"
        );
    }
    Ok(())
}

async fn conflicts_tell_the_version(case: &Case<'_>) -> Checked {
    let store = case.store();
    let id = put(store, &job("edited")).await?;
    for version in 1..5 {
        for wrong in [0, version - 1, version + 1, version + 1_000_000] {
            let outcome = update(store, id, Guard::Version(Version(wrong)), laden()).await?;
            let expected = Outcome::Conflict { actual: Version(version) };
            check_eq!(outcome, expected, "an edit of version {version} that expects {wrong}");
        }
        edit(store, id, JobPatch::default().with_label("a", version.to_string())).await?;
    }
    let handles = case.handles(4).await?;
    let each = case.times(10);
    race(4, |i| {
        let store = handles[i].clone();
        async move {
            for step in 0..each {
                if i < 2 {
                    edit(
                        &store,
                        id,
                        JobPatch::default().with_label(format!("{i}"), step.to_string()),
                    )
                    .await?;
                    continue;
                }
                let before = read(&store, id).await?.version;
                let outcome = update(&store, id, Guard::Version(Version(0)), laden()).await?;
                let after = read(&store, id).await?.version;
                let Outcome::Conflict { actual } = outcome else {
                    return Err(Stop::fail(format!(
                        "an edit of version 0 was answered {outcome:?}"
                    )));
                };
                check!(
                    before <= actual && actual <= after,
                    "a conflict told version {actual}, but it went from {before} to {after}"
                );
            }
            Ok(())
        }
    })
    .await?;
    Ok(())
}

async fn missing_jobs(case: &Case<'_>) -> Checked {
    let store = case.store();
    running(store).await?;
    let absent = JobId::new();
    let fence = Fence::new(1, uuid::Uuid::now_v7());
    for guard in
        [Guard::None, Guard::Version(Version(1)), Guard::Version(Version(0)), Guard::Fence(fence)]
    {
        let outcome = update(store, absent, guard, laden()).await?;
        check_eq!(outcome, Outcome::Missing, "a write under {guard:?} to a job that never was");
    }
    for transition in transitions() {
        let outcome = update(store, absent, Guard::Fence(fence), JobPatch::transition(transition));
        check_eq!(outcome.await?, Outcome::Missing, "the end of a job that never was");
    }
    let held = queue_core::Held::new(absent, fence);
    let answer = store.heartbeat(&[held], HOUR).await?;
    check_eq!(answer, vec![Outcome::Missing], "a heartbeat of a job that never was");
    check_eq!(store.get_one(absent).await?, None, "a job that never was, after all that");
    let met = store.update_where(&JobFilter::id(absent), &cancelling("x")).await?;
    check_eq!(met, counts(0, 0, 0), "a cancel of a job that never was");
    Ok(())
}

async fn labels_are_merged(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut new = job("labelled");
    new.labels = [("a", "1"), ("b", "2"), ("c", "3")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    put(store, &new).await?;
    let held = take_id(store, new.id).await?;
    let found = async |key: &str, value: &str| -> Checked<bool> {
        Ok(store.count(&JobFilter::label(key, value)).await? == 1)
    };
    let shown = |job: &Job| {
        job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let patch = JobPatch::default().with_label("b", "two").with_label("d", "4").without_label("a");
    edit(store, new.id, patch).await?;
    check_eq!(shown(&read(store, new.id).await?), "b=two c=3 d=4", "set, change and remove");
    check!(found("b", "two").await? && found("d", "4").await?, "jobs are found by new labels");
    check!(!found("a", "1").await? && !found("b", "2").await?, "jobs are not found by old labels");
    write(store, &held, JobPatch::default().without_label("c").without_label("absent")).await?;
    let stored = read(store, new.id).await?;
    check_eq!(shown(&stored), "b=two d=4", "a removal by the holder");
    check_eq!(stored.version, Version(4), "the version: insert, claim, two edits");
    let patch = ending(complete(), JobPatch::default().with_label("e", "5"));
    write(store, &held, patch).await?;
    let stored = read(store, new.id).await?;
    check_eq!(shown(&stored), "b=two d=4 e=5", "labels that come with the end");
    check_eq!(stored.version, Version(5), "the version after an end with labels");
    let both = JobFilter::label("d", "4").with_label("e", "5");
    check_eq!(store.count(&both).await?, 1, "jobs found by two labels");
    check_eq!(store.count(&both.with_label("b", "2")).await?, 0, "jobs found when one differs");
    Ok(())
}

async fn finished_at_is_set_once(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in End::ALL {
        let mut new = job("ending");
        end.prepare(&mut new);
        put(store, &new).await?;
        let held = take_for(store, new.id, brief(case)).await?;
        let start = case.now().await?;
        case.pass(Duration::from_millis(2)).await?;
        end.make(case, &held, When::After(HOUR)).await?;
        let to = case.now().await?;
        let ended = read(store, new.id).await?;
        if !end.state().is_final() {
            check_eq!(ended.finished_at, None, "finished_at after {end:?}");
            cancel(store, new.id, "out of the way").await?;
            continue;
        }
        check_time(ended.finished_at, start.plus(Duration::from_millis(1)), to, "finished_at")?;
        case.pass(Duration::from_millis(2)).await?;
        for transition in transitions() {
            let outcome = try_settle(store, &held, transition).await?;
            check!(outcome.applied().is_none(), "an end after {end:?} was answered {outcome:?}");
        }
        cancel(store, new.id, "too late").await?;
        edit(store, new.id, JobPatch::append([entry("late")]).with_label("late", "x")).await?;
        reap_all(store).await?;
        let after = read(store, new.id).await?;
        check_eq!(after.finished_at, ended.finished_at, "finished_at later on, after {end:?}");
        check_eq!(after.cancel, ended.cancel, "the cancel mark later on, after {end:?}");
    }
    Ok(())
}
