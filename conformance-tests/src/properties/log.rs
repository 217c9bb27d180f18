//! LOG: the log is a grow-only set that nothing loses, doubles or reorders.

mod entries;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use queue_core::{
    BulkChange, EntryId, EntryKind, Fence, Guard, Job, JobFilter, JobPatch, JobStoreExt, JobUpdate,
    Keep, LogEntry, LogRead, NewEntry, Outcome, Progress, Seq, Version, When,
};

use super::scene::{
    End, HOUR, LEASE, Store, beat, bodies, brief, cancel, check_unchanged, complete, edit, ending,
    entry, job, n, put, queue, read, release, retry, running, settle, take_for, take_id,
    transitions, try_settle, update, value, write,
};
use crate::{Case, Checked, check, check_eq, property::group, race};

group! {
    "LOG-1", "of N appenders with M entries every acknowledged entry is there exactly once" => appenders_lose_nothing;
    "LOG-2", "appending an entry again changes nothing" => a_repeat_changes_nothing;
    "LOG-3", "of two bodies under one id the first stays" => the_first_body_stays;
    "LOG-4", "edits and appends that interleave lose neither" => edits_and_appends_keep_each_other;
    "LOG-5", "a change of fields leaves the log alone" => fields_leave_the_log_alone;
    "LOG-6", "the fields and the log of one patch are never seen apart" => patches_are_seen_whole;
    "LOG-7", "a rejected patch appends nothing" => rejected_patches_append_nothing;
    "LOG-8", "positions run from 1 without gaps and are the read order" => positions_are_the_read_order;
    "LOG-9", "an entry once seen never disappears" => reads_are_monotone;
    "LOG-10", "appending does not bump the version" => appending_keeps_the_version;
    "LOG-11", "the log survives retry, release, reap and re-claim" => the_log_survives_every_end;
    "LOG-12", "1,000 entries and an entry of 1 MiB are kept" => long_logs_are_kept;
    "LOG-13", "a deleted job is Missing and leaves no entries behind" => deletion_takes_the_log;
    "LOG-14", "one entry id on two jobs is two entries" => entry_ids_belong_to_their_job;
    "LOG-15", "entries keep their order and kind, and a read may begin anywhere" => entries::entries_are_stored_as_given;
}

fn positions(job: &Job) -> Vec<u64> {
    job.log.iter().map(|entry| entry.seq.0).collect()
}

/// That positions run from 1 without gaps, in the order read, and are counted.
fn check_positions(job: &Job) -> Checked {
    let expected: Vec<u64> = (1..=job.log.len() as u64).collect();
    check_eq!(positions(job), expected, "the positions in the log of job {}", job.id);
    check_eq!(job.log_len, job.log.len() as u64, "log_len of job {}", job.id);
    Ok(())
}

/// Entries with these bodies, and ids of which every second is smaller than the one before: two never ascend, and three
/// neither ascend nor descend.
fn entries(bodies: std::ops::Range<usize>) -> Vec<NewEntry> {
    let mut ids: Vec<EntryId> = bodies.clone().map(|_| EntryId::new()).collect();
    ids.sort_unstable();
    ids.chunks_exact_mut(2).for_each(<[EntryId]>::reverse);
    ids.into_iter()
        .zip(bodies)
        .map(|(id, body)| NewEntry::with_id(id, EntryKind::Step, value(body)))
        .collect()
}

fn check_log(job: &Job, expected: &[NewEntry], what: &str) -> Checked {
    check_positions(job)?;
    let got: Vec<_> = job.log.iter().map(|e| (e.id, e.kind, e.body.clone())).collect();
    let want: Vec<_> = expected.iter().map(|e| (e.id, e.kind, e.body.clone())).collect();
    check_eq!(got, want, "the log {what}");
    Ok(())
}

async fn appenders_lose_nothing(case: &Case<'_>) -> Checked {
    let job = running(case.store()).await?;
    let handles = case.handles(4).await?;
    let each = case.times(25);
    let written = race(8, |i| {
        let (store, job) = (handles[i % 4].clone(), job.clone());
        async move {
            let mut mine: Vec<NewEntry> = Vec::new();
            for step in 0..each {
                let batch: Vec<NewEntry> =
                    (0..1 + step % 2).map(|part| entry(format!("{i}/{step}/{part}"))).collect();
                // The holder's steps, and the lines of somebody who watches.
                let guard = if i % 4 == 3 { Guard::None } else { Guard::Fence(job.fence) };
                let outcome =
                    update(&store, job.id, guard, JobPatch::append(batch.clone())).await?;
                check!(
                    matches!(outcome, Outcome::Applied(_)),
                    "an append of entries must be applied, but was answered {outcome:?}"
                );
                mine.extend(batch);
            }
            Ok(mine)
        }
    })
    .await?;
    let stored = read(case.store(), job.id).await?;
    check_positions(&stored)?;
    let acknowledged: BTreeSet<(EntryId, String)> =
        written.iter().flatten().map(|entry| (entry.id, entry.body.as_str().to_owned())).collect();
    let found: BTreeSet<(EntryId, String)> =
        stored.log.iter().map(|entry| (entry.id, entry.body.as_str().to_owned())).collect();
    check_eq!(found.len(), stored.log.len(), "distinct entries among those in the log");
    let lost = acknowledged.difference(&found).count();
    let strange = found.difference(&acknowledged).count();
    check!(
        lost == 0 && strange == 0,
        "of {} acknowledged entries {lost} are lost; {strange} that nobody wrote are there",
        acknowledged.len()
    );
    // Each writer's entries stand in the order in which it wrote them.
    for mine in &written {
        let ids: BTreeSet<EntryId> = mine.iter().map(|entry| entry.id).collect();
        let order: Vec<EntryId> =
            stored.log.iter().map(|entry| entry.id).filter(|id| ids.contains(id)).collect();
        check_eq!(order, mine.iter().map(|e| e.id).collect::<Vec<_>>(), "one writer's entries");
    }
    Ok(())
}

async fn a_repeat_changes_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    let log = entries(0..4);
    write(store, &job, JobPatch::append(log[..3].to_vec())).await?;
    let once = read(store, job.id).await?;
    check_log(&once, &log[..3], "after an append of three")?;
    for guard in [Guard::Fence(job.fence), Guard::None] {
        let outcome = update(store, job.id, guard, JobPatch::append(log[..3].to_vec())).await?;
        check!(outcome.is_saved(), "a repeated append was answered {outcome:?}");
        check_unchanged(store, &once, "a repeated append").await?;
    }
    // A repeat that was batched anew overlaps in part, and out of order.
    let overlap = [log[2].clone(), log[3].clone(), log[0].clone(), log[3].clone()];
    write(store, &job, JobPatch::append(overlap)).await?;
    check_log(&read(store, job.id).await?, &log, "after a repeat that overlaps in part")?;
    let twins = NewEntry::with_id(EntryId::new(), EntryKind::Line, value("twin"));
    write(store, &job, JobPatch::append([twins.clone(), twins.clone()])).await?;
    let mut all = log;
    all.push(twins);
    check_log(&read(store, job.id).await?, &all, "after an id twice in one patch")?;

    let handles = case.handles(4).await?;
    for round in 0..case.times(5) {
        let more = entries(round * 3..round * 3 + 3);
        race(4, |i| {
            let (store, job, more) = (handles[i].clone(), job.clone(), more.clone());
            async move { write(&store, &job, JobPatch::append(more)).await }
        })
        .await?;
        all.extend(more);
        check_log(&read(store, job.id).await?, &all, "after racing appends of the same entries")?;
    }
    Ok(())
}

async fn the_first_body_stays(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    let first = NewEntry::with_id(EntryId::new(), EntryKind::Step, value("first"));
    write(store, &job, JobPatch::append([first.clone()])).await?;
    let before = read(store, job.id).await?;
    check_log(&before, std::slice::from_ref(&first), "after the first body")?;
    case.pass(std::time::Duration::from_millis(2)).await?;
    let second = NewEntry::with_id(first.id, EntryKind::Attempt, value("second"));
    write(store, &job, JobPatch::append([second.clone()])).await?;
    check_unchanged(store, &before, "an append of another body under the same id").await?;
    edit(store, job.id, JobPatch::append([second.clone()])).await?;
    check_unchanged(store, &before, "the same without a guard").await?;
    let third = entry("third");
    write(store, &job, JobPatch::append([second, third.clone()])).await?;
    check_log(&read(store, job.id).await?, &[first, third], "after a batch with a known id")
}

async fn edits_and_appends_keep_each_other(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    for _ in 0..2 {
        race_edits_and_appends(case, &handles, case.times(10)).await?;
    }
    Ok(())
}

async fn race_edits_and_appends(case: &Case<'_>, handles: &[Store], each: usize) -> Checked {
    let job = running(case.store()).await?;
    race(5, |i| {
        let (store, job) = (handles[i % 4].clone(), job.clone());
        async move {
            for step in 0..each {
                // Not in step with the others: each might undo in time what another one does wrong.
                for _ in 0..step % (i + 2) {
                    tokio::task::yield_now().await;
                }
                match i {
                    0 | 1 => {
                        let body = format!("{i}/{step}");
                        write(&store, &job, JobPatch::append([entry(body)])).await?;
                    }
                    2 => {
                        let patch = JobPatch::default().with_label(format!("edit-{step}"), "x");
                        edit(&store, job.id, patch).await?;
                    }
                    3 => {
                        let percent = u8::try_from(step % 101).unwrap_or(100);
                        let patch = JobPatch::progress(Progress::new(percent))
                            .with_label(format!("held-{step}"), "x");
                        write(&store, &job, patch).await?;
                    }
                    _ => {
                        let outcome = beat(&store, &job, LEASE).await?;
                        check!(outcome.is_saved(), "a heartbeat was answered {outcome:?}");
                        let priority = BulkChange::Priority(i16::try_from(step).unwrap_or(0));
                        store.update_where(&JobFilter::id(job.id), &priority).await?;
                    }
                }
            }
            Ok(())
        }
    })
    .await?;
    let stored = read(case.store(), job.id).await?;
    check_positions(&stored)?;
    check_eq!(stored.log.len(), 2 * each, "entries appended while fields were edited");
    check_eq!(stored.labels.len(), 2 * each, "labels set while entries were appended");
    let last = u8::try_from((each - 1) % 101).unwrap_or(100);
    check_eq!(stored.progress, Some(Progress::new(last)), "the last progress");
    check_eq!(stored.priority, i16::try_from(each - 1).unwrap_or(0), "the last priority");
    // The claim's 2, one for each edit of a label or the priority; appends and heartbeats add none.
    check_eq!(stored.version, Version(2 + 3 * each as u64), "the version after all edits");
    Ok(())
}

async fn fields_leave_the_log_alone(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    let log = entries(0..3);
    write(store, &job, JobPatch::append(log.clone())).await?;
    let by_id = JobFilter::id(job.id);
    let same = async |what: &str| check_log(&read(store, job.id).await?, &log, what);
    edit(store, job.id, JobPatch::default().with_label("a", "b")).await?;
    same("after an edit of labels").await?;
    write(store, &job, JobPatch::progress(Progress::with_message(5, "five"))).await?;
    same("after progress").await?;
    check!(beat(store, &job, LEASE).await?.is_saved(), "a heartbeat by the holder");
    same("after a heartbeat").await?;
    for change in [BulkChange::Priority(4), BulkChange::Wake, BulkChange::Queue(queue("other")?)] {
        store.update_where(&by_id, &change).await?;
        same(&format!("after {change:?}")).await?;
    }
    let version = read(store, job.id).await?.version;
    let patch = JobPatch::default().without_label("a");
    check!(update(store, job.id, Guard::Version(version), patch).await?.is_saved(), "an edit");
    same("after an edit guarded by the version").await?;
    for transition in transitions() {
        let kind = transition.kind();
        let next = super::scene::running(store).await?;
        write(store, &next, JobPatch::append(log.clone())).await?;
        settle(store, &next, transition).await?;
        let ended = read(store, next.id).await?;
        check_log(&ended, &log, &format!("after {kind:?} without entries of its own"))?;
        cancel(store, next.id, "done with").await?;
    }
    same("after other jobs with the same entry ids").await
}

async fn patches_are_seen_whole(case: &Case<'_>) -> Checked {
    let handles = case.handles(3).await?;
    let job = running(case.store()).await?;
    let steps = 60.min(case.times(40));
    let done = Arc::new(AtomicBool::new(false));
    let seen = race(3, |i| {
        let (store, job, done) = (handles[i].clone(), job.clone(), done.clone());
        async move {
            match i {
                0 => {
                    let written = write_in_step(&store, &job, steps).await;
                    done.store(true, Ordering::SeqCst);
                    written.map(|()| 0)
                }
                _ => watch_steps(&store, &job, &done).await,
            }
        }
    })
    .await?;
    check!(seen[1] + seen[2] > 0, "the readers saw nothing");
    // A settle with its entries is one patch as well.
    let last = read(case.store(), job.id).await?;
    let patch = JobPatch::transition(retry(When::Now)).with_log([entry("the end")]);
    write(case.store(), &job, patch).await?;
    let ended = read(case.store(), job.id).await?;
    check_eq!(ended.log_len, last.log_len + 1, "entries after a settle that brings one");
    check_positions(&ended)
}

/// Writes progress, a label and an entry with the same number, in one patch each.
async fn write_in_step(store: &Store, job: &Job, steps: usize) -> Checked {
    for step in 1..=steps {
        let percent = u8::try_from(step).unwrap_or(100);
        let patch = JobPatch::append([entry(step)])
            .with_progress(Progress::new(percent))
            .with_label("step", step.to_string());
        write(store, job, patch).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Reads until the writer is done; what stands side by side must carry the same number.
async fn watch_steps(store: &Store, job: &Job, done: &AtomicBool) -> Checked<usize> {
    let mut reads = 0;
    loop {
        let last = done.load(Ordering::SeqCst);
        let seen = read(store, job.id).await?;
        let entries = seen.log.len();
        let percent = seen.progress.as_ref().map_or(0, |progress| usize::from(progress.percent));
        let label = seen.labels.get("step").map_or("0", String::as_str);
        check!(
            entries == percent && label == entries.to_string() && seen.log_len == entries as u64,
            "one patch was seen in parts: progress {percent}, label {label}, {entries} entries, log_len {}",
            seen.log_len
        );
        reads += 1;
        if last {
            return Ok(reads);
        }
        tokio::task::yield_now().await;
    }
}

async fn rejected_patches_append_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    write(store, &job, JobPatch::append(entries(0..2))).await?;
    let laden = || {
        JobPatch::append([entry("rejected")])
            .with_progress(Progress::new(99))
            .with_label("rejected", "x")
    };
    let laden_settle = || ending(complete(), laden());
    let before = read(store, job.id).await?;
    let stale = Fence::new(job.fence.count, uuid::Uuid::now_v7());
    let wrong = Version(before.version.0 + 1);
    let rejected = [
        ("a stale fence", Guard::Fence(stale), laden()),
        ("a stale fence and a transition", Guard::Fence(stale), laden_settle()),
        ("a wrong version", Guard::Version(wrong), laden()),
    ];
    for (what, guard, patch) in rejected {
        let outcome = update(store, job.id, guard, patch).await?;
        check!(!outcome.is_saved(), "{what} must be refused, but was answered {outcome:?}");
        check_unchanged(store, &before, what).await?;
    }
    let both =
        [JobUpdate::held(job.id, job.fence, laden()), JobUpdate::new(job.id, Guard::None, laden())];
    check!(store.update_jobs(&both).await.is_err(), "one job twice in a call is Invalid");
    check_unchanged(store, &before, "a malformed call").await?;

    settle(store, &job, retry(When::Now)).await?;
    let retried = read(store, job.id).await?;
    let repeated = ending(retry(When::Now), laden());
    for (what, patch) in [
        ("a write after the end of the run", laden()),
        ("a second end of the run", laden_settle()),
        ("a repeated end that brings new entries", repeated),
    ] {
        let outcome = update(store, job.id, Guard::Fence(job.fence), patch).await?;
        check!(outcome.applied().is_none(), "{what} was answered {outcome:?}");
        check_unchanged(store, &retried, what).await?;
    }
    let unclaimed = put(store, &super::scene::job("unclaimed")).await?;
    let before = read(store, unclaimed).await?;
    let outcome = update(store, unclaimed, Guard::Fence(Fence::default()), laden_settle()).await?;
    check!(!outcome.is_saved(), "the end of a run that never began was answered {outcome:?}");
    check_unchanged(store, &before, "the end of a run that never began").await
}

async fn positions_are_the_read_order(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    let log = entries(0..9);
    for part in [0..1, 1..4, 4..9] {
        write(store, &job, JobPatch::append(log[part].to_vec())).await?;
    }
    check_log(&read(store, job.id).await?, &log, "in the order of appending")?;
    // A repeat takes no position, and what comes with it the next one.
    let mut log = log;
    log.push(entry("next"));
    let batch = [log[8].clone(), log[9].clone(), log[0].clone()];
    write(store, &job, JobPatch::append(batch)).await?;
    check_log(&read(store, job.id).await?, &log, "after a repeat that brings one more")?;
    let handles = case.handles(4).await?;
    race(4, |i| {
        let (store, job) = (handles[i].clone(), job.clone());
        async move {
            for step in 0..6 {
                let batch = [entry((i, step, 0)), entry((i, step, 1)), entry((i, step, 2))];
                write(&store, &job, JobPatch::append(batch)).await?;
            }
            Ok(())
        }
    })
    .await?;
    let all = read(store, job.id).await?;
    check_eq!(all.log.len(), 10 + 72, "entries in all");
    check_positions(&all)?;
    for batch in all.log[10..].chunks(3) {
        let same = |entry: &LogEntry| {
            entry.body.as_str().rsplit_once(',').map(|(batch, _)| batch.to_owned())
        };
        check!(
            batch.iter().all(|entry| same(entry) == same(&batch[0])),
            "the entries of one patch stand apart: {batch:?}"
        );
    }
    for after in [0, 1, 8, 40, 80, 81, 82, u64::MAX / 2] {
        let rest = store.log_after(job.id, Seq(after)).await?.unwrap_or_default();
        let skip = usize::try_from(after).unwrap_or(usize::MAX).min(all.log.len());
        check_eq!(rest, all.log[skip..].to_vec(), "the entries after {after}");
    }
    Ok(())
}

async fn reads_are_monotone(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    let job = running(case.store()).await?;
    let each = case.times(20);
    let done = Arc::new(AtomicBool::new(false));
    race(4, |i| {
        let (store, job, done) = (handles[i].clone(), job.clone(), done.clone());
        async move {
            if i < 2 {
                for step in 0..each {
                    write(&store, &job, JobPatch::append([entry((i, step))])).await?;
                }
                done.store(true, Ordering::SeqCst);
                return Ok(());
            }
            let mut known: Vec<LogEntry> = Vec::new();
            // Some more reads once nothing grows, or growth would hide what is taken back.
            let mut quiet = 0;
            loop {
                quiet += usize::from(done.load(Ordering::SeqCst));
                let seen = read(&store, job.id).await?.log;
                check!(
                    seen.starts_with(&known),
                    "of {} entries seen before, {} are there in their places",
                    known.len(),
                    known.iter().zip(&seen).filter(|(old, new)| old == new).count()
                );
                known = seen;
                if quiet > 8 {
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await?;
    check_eq!(read(case.store(), job.id).await?.log.len(), 2 * each, "entries in the end");
    Ok(())
}

async fn appending_keeps_the_version(case: &Case<'_>) -> Checked {
    let store = case.store();
    let waiting = put(store, &job("waiting")).await?;
    let held = running(store).await?;
    let done = running(store).await?;
    settle(store, &done, complete()).await?;
    for (id, fence) in [(waiting, None), (held.id, Some(held.fence)), (done.id, None)] {
        let before = read(store, id).await?.version;
        let ack = edit(store, id, JobPatch::append([entry(1)])).await?;
        check_eq!(ack.version, Some(before), "the version acknowledged to an editor who appends");
        if let Some(fence) = fence {
            let patch = JobPatch::append([entry(2)]);
            let outcome = update(store, id, Guard::Fence(fence), patch).await?;
            check!(outcome.is_saved(), "an append by the holder was answered {outcome:?}");
        }
        let patch = JobPatch::append([entry(3)]);
        let outcome = update(store, id, Guard::Version(before), patch).await?;
        check!(outcome.is_saved(), "an append under the version was answered {outcome:?}");
        let after = read(store, id).await?;
        check_eq!(after.version, before, "the version after appends");
        check!(after.log_len >= 2, "the entries are there");
    }
    Ok(())
}

async fn the_log_survives_every_end(case: &Case<'_>) -> Checked {
    let store = case.store();
    for end in End::ALL {
        let mut new = job("ending");
        end.prepare(&mut new);
        put(store, &new).await?;
        let mut log = entries(0..2);
        let held = take_for(store, new.id, brief(case)).await?;
        write(store, &held, JobPatch::append(log.clone())).await?;
        end.make(case, &held, When::Now).await?;
        check_log(&read(store, new.id).await?, &log, &format!("after {end:?}"))?;
        if end.state().is_final() {
            continue;
        }
        let again = take_id(store, new.id).await?;
        check_log(&again, &log, &format!("with the claim after {end:?}"))?;
        log.push(entry("one more"));
        write(store, &again, JobPatch::append([log[2].clone()])).await?;
        let by_zombie = JobPatch::append([entry("of the old holder")]);
        let outcome = update(store, new.id, Guard::Fence(held.fence), by_zombie).await?;
        check_eq!(outcome, Outcome::Fenced, "an append of the old holder");
        settle(store, &again, complete()).await?;
        check_log(&read(store, new.id).await?, &log, &format!("in the end, after {end:?}"))?;
    }
    Ok(())
}

async fn long_logs_are_kept(case: &Case<'_>) -> Checked {
    let store = case.store();
    let job = running(store).await?;
    let log = entries(0..1_000);
    for batch in log.chunks(125) {
        write(store, &job, JobPatch::append(batch.to_vec())).await?;
    }
    check_log(&read(store, job.id).await?, &log, "of 1,000 entries")?;
    let rest = store.log_after(job.id, Seq(990)).await?.unwrap_or_default();
    check_eq!(rest.len(), 10, "the entries after 990 of 1,000");
    let large = entry("x".repeat(1024 * 1024 - 2));
    write(store, &job, JobPatch::append([large.clone()])).await?;
    let rest = store.log_after(job.id, Seq(1_000)).await?.unwrap_or_default();
    check_eq!(rest.len(), 1, "the entries after 1,000 of 1,001");
    check!(rest[0].body == large.body, "an entry of 1 MiB came back otherwise");
    settle(store, &job, release(When::Now)).await?;
    let again = take_id(store, job.id).await?;
    check_eq!((again.log.len(), again.log_len), (1_001, 1_001), "entries with the next claim");
    Ok(())
}

async fn deletion_takes_the_log(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut kept = job("deleted later");
    kept.labels.insert("a".into(), "b".into());
    let mut dropped = job("deleted when completed");
    dropped.keep = Keep::UnlessCompleted;
    for new in [kept, dropped] {
        put(store, &new).await?;
        let held = take_id(store, new.id).await?;
        let log = entries(0..3);
        write(store, &held, JobPatch::append(log.clone())).await?;
        settle(store, &held, complete()).await?;
        if new.keep == Keep::Always {
            check_eq!(store.delete(&JobFilter::id(new.id), n(5)).await?, 1, "jobs deleted");
        }
        check_eq!(store.get(&[new.id], LogRead::All).await?, vec![None], "a deleted job");
        for guard in [Guard::None, Guard::Fence(held.fence), Guard::Version(held.version)] {
            let outcome = update(store, new.id, guard, JobPatch::append([entry("late")])).await?;
            check_eq!(outcome, Outcome::Missing, "an append to a deleted job under {guard:?}");
        }
        check_eq!(try_settle(store, &held, complete()).await?, Outcome::Missing, "a late settle");
        check_eq!(beat(store, &held, HOUR).await?, Outcome::Missing, "a late heartbeat");
        // What was left behind would show up under the same id.
        put(store, &new).await?;
        let reborn = read(store, new.id).await?;
        check_eq!(
            (bodies(&reborn), reborn.log_len),
            (vec![], 0),
            "the log of a new job of that id"
        );
        edit(store, new.id, JobPatch::append([log[2].clone()])).await?;
        check_log(
            &read(store, new.id).await?,
            &log[2..],
            "of the new job, with an entry id of the old",
        )?;
        cancel(store, new.id, "done with").await?;
    }
    Ok(())
}

async fn entry_ids_belong_to_their_job(case: &Case<'_>) -> Checked {
    let store = case.store();
    let (one, two) = (running(store).await?, running(store).await?);
    let id = EntryId::new();
    let with = |body: &str| NewEntry::with_id(id, EntryKind::Line, value(body));
    let (first, second) = (with("first"), with("second"));
    let updates = [
        JobUpdate::held(one.id, one.fence, JobPatch::append([first.clone()])),
        JobUpdate::held(two.id, two.fence, JobPatch::append([second.clone()])),
    ];
    let outcomes = store.update_jobs(&updates).await?;
    check!(outcomes.iter().all(Outcome::is_saved), "the appends were answered {outcomes:?}");
    check_log(&read(store, one.id).await?, std::slice::from_ref(&first), "of the first job")?;
    check_log(&read(store, two.id).await?, &[second], "of the second job")?;
    let waiting = put(store, &job("third")).await?;
    edit(store, waiting, JobPatch::append([first.clone()])).await?;
    check_log(&read(store, waiting).await?, &[first], "of the third job")
}
