//! REA: what reads answer.

mod filters;
mod selection;

use std::{collections::BTreeMap, time::Duration};

use queue_core::{
    Cursor, ErrorKind, Inserted, Job, JobFilter, JobId, JobPatch, JobQuery, JobStoreExt, LogRead,
    NewJob, Outcome, Record, Seq, Sort, State, Tally, Timestamp, When,
};

use super::{
    scene::{
        HOUR, Store, beat, cancel, complete, edit, entry, ids, job, n, new_ids, plain_jobs,
        put_all, put_record, read, running, settle, take_id, value, wanted_ids, write,
    },
    upd::bulk::population,
};
use crate::{Case, Checked, check, check_eq, property::group};

group! {
    "REA-1", "get answers by position" => get_is_positional;
    "REA-2", "find and tally agree with any filter" => filters::mean_what_they_say;
    "REA-3", "a walk by cursor shows every job that exists throughout exactly once" => walks_are_complete;
    "REA-4", "a cursor survives the deletion of its job" => cursors_need_no_job;
    "REA-5", "tally counts what find finds" => tally_equals_find;
    "REA-6", "a read returns the part of the log that it asks for" => logs_on_demand;
    "REA-7", "what was written is read, through the same handle and another" => reads_see_writes;
    "REA-8", "pages keep to their limit and offset, and the last one says so" => pages_and_limits;
    "REA-9", "every operation selects the same jobs by a filter" => selection::operations_agree;
    "REA-10", "reads and changes take any number of ids and any offset" => selection::many_at_once;
    "REA-11", "ids break ties byte by byte" => selection::ids_break_ties;
    "REA-12", "pages and deletions go by the time of insertion first" => selection::time_goes_before_ids;
}

async fn get_is_positional(case: &Case<'_>) -> Checked {
    let store = case.store();
    let jobs = plain_jobs(20);
    put_all(store, &jobs).await?;
    let held = take_id(store, jobs[3].id).await?;
    write(store, &held, JobPatch::append([entry(1), entry(2)])).await?;
    let mut asked: Vec<(JobId, Option<usize>)> =
        jobs.iter().enumerate().map(|(i, job)| (job.id, Some(i))).collect();
    // Absent ids, and one twice.
    asked.extend((0..5).map(|_| (JobId::new(), None)));
    asked.extend([(jobs[3].id, Some(3)), (JobId::from_uuid(uuid::Uuid::nil()), None)]);
    case.rng().shuffle(&mut asked);
    for log in [LogRead::None, LogRead::All] {
        let ids: Vec<JobId> = asked.iter().map(|(id, _)| *id).collect();
        let found = store.get(&ids, log).await?;
        check_eq!(found.len(), asked.len(), "answers");
        for (place, ((id, number), job)) in asked.iter().zip(found).enumerate() {
            let answer = job.as_ref().map(|job| (job.id, job.input.clone()));
            let expected = number.map(|number| (*id, value(number)));
            check_eq!(answer, expected, "the answer at place {place}");
            let with_log = job.is_some_and(|job| job.log.len() == 2);
            check_eq!(
                with_log,
                *number == Some(3) && log == LogRead::All,
                "the log at place {place}"
            );
        }
    }
    Ok(())
}

/// Every job, straight from `get`.
async fn all_of(store: &Store, ids: &[JobId]) -> Checked<Vec<Job>> {
    Ok(store.get(ids, LogRead::None).await?.into_iter().flatten().collect())
}

fn newest_first(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort_by_key(|job| std::cmp::Reverse((job.created_at, job.id)));
    jobs
}

/// Two populations at different times, with a second label on some.
async fn two_populations(case: &Case<'_>) -> Checked<Vec<JobId>> {
    let mut ids = population(case.store()).await?;
    case.pass(Duration::from_millis(5)).await?;
    ids.extend(population(case.store()).await?);
    for id in ids.iter().step_by(3) {
        edit(case.store(), *id, JobPatch::default().with_label("extra", "yes")).await?;
    }
    Ok(ids)
}

fn ids_of(jobs: &[Job]) -> Vec<JobId> {
    ids(jobs)
}

fn tally_by_hand(jobs: &[Job]) -> Vec<Tally> {
    let mut counts = BTreeMap::new();
    for job in jobs {
        *counts.entry((job.queue.clone(), job.state)).or_insert(0) += 1;
    }
    counts.into_iter().map(|((queue, state), count)| Tally::new(queue, state, count)).collect()
}

async fn walks_are_complete(case: &Case<'_>) -> Checked {
    for sort in [Sort::NewestFirst, Sort::OldestFirst] {
        let case = case.fresh().await?;
        walk(&case, sort).await?;
    }
    Ok(())
}

/// Walks while jobs come and go between the pages.
async fn walk(case: &Case<'_>, sort: Sort) -> Checked {
    let store = case.store();
    let mut rng = case.rng();
    let mut there: Vec<JobId> = Vec::new();
    for _ in 0..4 {
        let mut batch = plain_jobs(10);
        rng.shuffle(&mut batch);
        put_all(store, &batch).await?;
        there.extend(new_ids(&batch));
        case.pass(Duration::from_millis(2)).await?;
    }
    let mut lasting = there.clone();
    let mut query = JobQuery::new(JobFilter::all());
    (query.sort, query.limit) = (sort, n(7));
    let mut seen: Vec<(Timestamp, JobId)> = Vec::new();
    let mut pages = 0;
    loop {
        let page = store.find(&query).await?;
        check!(page.items.len() <= 7, "a page of 7 has {} jobs", page.items.len());
        seen.extend(page.items.iter().map(|job| (job.created_at, job.id)));
        // The cursor's own job goes every second time, and a random other one always; two come.
        let own = page.items.last().map(|job| job.id);
        let other = rng.pick(&there).copied().filter(|id| Some(*id) != own);
        for id in own.filter(|_| pages % 2 == 1).into_iter().chain(other) {
            store.delete(&JobFilter::id(id), n(1)).await?;
            lasting.retain(|other| *other != id);
        }
        put_all(store, &plain_jobs(2)).await?;
        pages += 1;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
        check!(seen.len() <= 200, "the walk does not end");
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sort == Sort::NewestFirst {
        sorted.reverse();
    }
    check_eq!(seen, sorted, "the walk is in order and shows nothing twice");
    for id in lasting {
        check!(
            seen.iter().any(|(_, other)| *other == id),
            "job {id} existed throughout, and the walk did not show it"
        );
    }
    Ok(())
}

async fn cursors_need_no_job(case: &Case<'_>) -> Checked {
    let store = case.store();
    let jobs = plain_jobs(9);
    put_all(store, &jobs).await?;
    for (sort, expected) in [
        (Sort::OldestFirst, new_ids(&jobs)),
        (Sort::NewestFirst, new_ids(&jobs).into_iter().rev().collect::<Vec<_>>()),
    ] {
        let mut query = JobQuery::new(JobFilter::all());
        (query.sort, query.limit) = (sort, n(4));
        let first = store.find(&query).await?;
        check_eq!(ids_of(&first.items), expected[..4].to_vec(), "the first page ({sort:?})");
        query.after = first.next;
        let second = store.find(&query).await?;
        check_eq!(ids_of(&second.items), expected[4..8].to_vec(), "the second page ({sort:?})");
        check_eq!(
            first.next,
            first.items.last().map(Cursor::of),
            "the cursor is its last job's place"
        );
    }
    // The cursor's job is deleted, or moves out of the filter: the place stays.
    let mut query = JobQuery::new(JobFilter::all().with_states(State::Waiting));
    (query.sort, query.limit) = (Sort::OldestFirst, n(3));
    let first = store.find(&query).await?;
    store.delete(&JobFilter::id(jobs[2].id), n(1)).await?;
    query.after = first.next;
    let second = store.find(&query).await?;
    check_eq!(
        ids_of(&second.items),
        new_ids(&jobs[3..6]),
        "after the deletion of the cursor's job"
    );
    cancel(store, jobs[5].id, "stop").await?;
    query.after = second.next;
    let third = store.find(&query).await?;
    check_eq!(ids_of(&third.items), new_ids(&jobs[6..9]), "after the cursor's job left the filter");
    check_eq!(third.next, None, "the cursor after the last page");
    Ok(())
}

async fn tally_equals_find(case: &Case<'_>) -> Checked {
    let store = case.store();
    check_eq!(store.tally(&JobFilter::all()).await?, vec![], "the tally of an empty store");
    let ids = two_populations(case).await?;
    let mut rng = case.rng();
    for _ in 0..10 {
        let jobs = all_of(store, &ids).await?;
        check_eq!(store.tally(&JobFilter::all()).await?, tally_by_hand(&jobs), "the tally of all");
        let mut query = JobQuery::new(JobFilter::all());
        query.limit = n(1_000);
        let found = store.find(&query).await?.items;
        check_eq!(tally_by_hand(&found), tally_by_hand(&jobs), "the tally of what find finds");
        query.filter = filters::any(&mut rng, &jobs)?;
        let found = store.find(&query).await?.items;
        let tally = store.tally(&query.filter).await?;
        check_eq!(tally, tally_by_hand(&found), "the tally of what passes {:?}", query.filter);
        // Something changes.
        if let Some(job) = rng.pick(&jobs) {
            match job.state {
                State::Waiting => drop(cancel(store, job.id, "stop").await?),
                State::Running => drop(settle(store, job, complete()).await?),
                _ => drop(store.delete(&JobFilter::id(job.id), n(1)).await?),
            }
        }
    }
    Ok(())
}

async fn logs_on_demand(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    write(store, &held, JobPatch::append((0..5).map(entry))).await?;
    let page = store.find(&JobQuery::new(JobFilter::all())).await?;
    check_eq!(page.items.len(), 1, "jobs found");
    check_eq!(
        (page.items[0].log.len(), page.items[0].log_len),
        (0, 5),
        "entries that find returns"
    );
    let reads = [
        (LogRead::None, vec![]),
        (LogRead::All, vec![1, 2, 3, 4, 5]),
        (LogRead::After(Seq(0)), vec![1, 2, 3, 4, 5]),
        (LogRead::After(Seq(3)), vec![4, 5]),
        (LogRead::After(Seq(5)), vec![]),
        (LogRead::After(Seq(500)), vec![]),
    ];
    for (log, expected) in reads {
        let found = store.get(&[held.id], log).await?;
        let job = found.into_iter().flatten().next();
        let positions = job.as_ref().map(|job| job.log.iter().map(|e| e.seq.0).collect::<Vec<_>>());
        check_eq!(positions, Some(expected), "the positions that get returns for {log:?}");
        check_eq!(job.map(|job| job.log_len), Some(5), "log_len for {log:?}");
    }
    Ok(())
}

async fn reads_see_writes(case: &Case<'_>) -> Checked {
    let handles = case.handles(3).await?;
    for round in 0..case.times(6) {
        let writer = &handles[round % 3];
        let mut new: NewJob = job("read at once");
        new.labels.insert("round".into(), round.to_string());
        new.when = When::After(HOUR);
        let answer = writer.insert_one(&new).await?;
        check_eq!(answer, Inserted::New(new.id), "an insert");
        let seen = async |what: &str, is: &(dyn Fn(&Job) -> bool + Sync)| -> Checked {
            for (i, reader) in handles.iter().enumerate() {
                let job = read(reader, new.id).await?;
                check!(is(&job), "handle {i} does not read {what}: {job:?}");
                let filter = JobFilter::label("round", round.to_string());
                let found = reader.find(&JobQuery::new(filter.clone())).await?.items;
                check!(found.len() == 1 && is(&found[0]), "handle {i} does not find {what}");
                let tally = reader.tally(&filter).await?;
                let expected = vec![Tally::new(job.queue.clone(), job.state, 1)];
                check_eq!(tally, expected, "the tally of handle {i} after {what}");
            }
            Ok(())
        };
        seen("the insert", &|job| job.state == State::Waiting).await?;
        writer.wake(new.id).await?;
        seen("the wake", &|job| job.version.0 == 2).await?;
        // Claimed through another handle than the one that made it due.
        let claimer = &handles[(round + 1) % 3];
        let held = claimer.claim(&wanted_ids(&[new.id], 1)).await?.jobs.pop();
        let Some(held) = held else {
            return Err(crate::Stop::fail(
                "a job made due through one handle is not due in another",
            ));
        };
        seen("the claim", &|job| job.state == State::Running && job.fence == held.fence).await?;
        write(writer, &held, JobPatch::append([entry(round)])).await?;
        seen("the append", &|job| job.log_len == 1).await?;
        let before = held.lease_until;
        let outcome = beat(writer, &held, HOUR).await?;
        check!(matches!(outcome, Outcome::Applied(_)), "a heartbeat was answered {outcome:?}");
        seen("the heartbeat", &|job| job.lease_until > before).await?;
        cancel(writer, new.id, "stop").await?;
        seen("the cancel", &|job| job.cancel.is_some()).await?;
        settle(claimer, &held, complete()).await?;
        seen("the end", &|job| job.state == State::Completed).await?;
        put_record(writer, &Record::new(format!("round/{round}"), value(round))).await?;
        for reader in &handles {
            let records = reader.records("round/").await?;
            check_eq!(records.len(), round + 1, "records read");
        }
        writer.delete(&JobFilter::id(new.id), n(1)).await?;
        for reader in &handles {
            check_eq!(reader.get_one(new.id).await?, None, "a job that was deleted");
        }
    }
    Ok(())
}

async fn pages_and_limits(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut query = JobQuery::new(JobFilter::all());
    let empty = store.find(&query).await?;
    check_eq!((empty.items.len(), empty.next), (0, None), "a page of an empty store");
    let jobs = plain_jobs(1_001);
    put_all(store, &jobs).await?;
    query.sort = Sort::OldestFirst;
    for (limit, offset, expected, more) in [
        (1_000, 0, 0..1_000, true),
        (1_000, 1, 1..1_001, false),
        (10, 991, 991..1_001, false),
        (10, 990, 990..1_000, true),
        (50, 1_000, 1_000..1_001, false),
        (50, 1_001, 0..0, false),
        (50, u64::from(u32::MAX), 0..0, false),
        (1, 0, 0..1, true),
    ] {
        (query.limit, query.offset) = (n(limit), offset);
        let page = store.find(&query).await?;
        let wanted = new_ids(&jobs[expected]);
        check!(
            ids_of(&page.items) == wanted,
            "a page of {limit} from {offset} has {} jobs, from {:?}",
            page.items.len(),
            page.items.first().map(|job| job.id)
        );
        check_eq!(
            page.next.is_some(),
            more,
            "whether more follows on a page of {limit} from {offset}"
        );
    }
    // Offset counts from the cursor.
    (query.limit, query.offset) = (n(5), 0);
    query.after = store.find(&query).await?.next;
    query.offset = 2;
    let page = store.find(&query).await?;
    check_eq!(ids_of(&page.items), new_ids(&jobs[7..12]), "an offset of 2 after a cursor");
    query.limit = n(1_001);
    let answer = store.find(&query).await;
    check_eq!(answer.map_err(|e| e.kind()), Err(ErrorKind::Invalid), "a page of 1,001");
    Ok(())
}
