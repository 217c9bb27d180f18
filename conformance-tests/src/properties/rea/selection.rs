//! What filters select, whatever the operation, and reads of unusual size.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    num::NonZeroU32,
};

use queue_core::{
    BulkChange, Guard, Job, JobFilter, JobId, JobPatch, JobQuery, JobUpdate, LogRead, NewJob,
    Order, Outcome, Sort, State, States, TimeRange, Timestamp, When,
};

use super::super::scene::{
    HOUR, MICRO, Store, cancelling, complete, counts, ids, n, new_ids, plain_jobs, put_all, queue,
    release, retry, settle, take_id, wanted, wanted_ids,
};
use crate::{Case, Checked, Stop, check, check_eq};

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Twelve jobs, of which some have ended, that differ in everything a filter can ask for.
async fn furnish(case: &Case<'_>) -> Checked<Vec<Job>> {
    let store = case.store();
    let now = case.now().await?;
    let many: BTreeMap<String, String> =
        (0..12).map(|i| (format!("many {i:02}"), "x".to_owned())).collect();
    let mut most = many.clone();
    most.insert("many 11".to_owned(), "y".to_owned());
    let features: [(&str, &'static str, BTreeMap<String, String>, u64); 12] = [
        ("q", "a", labels([("x", "1"), ("y", "2")]), 0),
        ("q", "a", labels([("x", "1")]), 1),
        ("q", "ab", labels([("y", "2"), ("x", "2")]), 2),
        ("Q", "A", labels([("y", "1"), ("x", "3")]), 3),
        ("other", "a", labels([("a=b", "c")]), 4),
        ("other", "b", labels([("a", "b=c")]), 5),
        ("other", "b", labels([("to", "Me")]), 6),
        ("other", "b", labels([("to", "me"), ("a.b", "dotted")]), 7),
        ("q", "a", many, 8),
        ("q", "a", most, 9),
        ("q", "b", labels([("x", "1"), ("y", "2")]), 10),
        ("other", "ab", labels([]), 11),
    ];
    let mut jobs = plain_jobs(features.len());
    for (job, (name, kind, labels, ago)) in jobs.iter_mut().zip(features) {
        (job.queue, job.kind, job.labels) = (queue(name)?, kind.into(), labels);
        job.when = When::At(now.minus(HOUR).minus(MICRO * ago as u32));
    }
    for some in jobs.chunks(3) {
        put_all(store, some).await?;
        case.pass(MICRO).await?;
    }
    // Ended one after the other, so that there are instants between them.
    for job in [&jobs[1], &jobs[5], &jobs[8]] {
        let held = store.claim(&wanted_ids(&[job.id], 1)).await?.jobs;
        let [held] = &held[..] else { return Err(Stop::fail("a due job was not claimed")) };
        settle(store, held, complete()).await?;
        case.pass(MICRO).await?;
    }
    let gone = JobFilter::ids([jobs[2].id, jobs[10].id]);
    check_eq!(
        store.update_where(&gone, &cancelling("stop")).await?,
        counts(2, 0, 0),
        "a cancel of two waiting jobs"
    );
    present(store, &new_ids(&jobs)).await
}

async fn present(store: &Store, ids: &[JobId]) -> Checked<Vec<Job>> {
    Ok(store.get(ids, LogRead::None).await?.into_iter().flatten().collect())
}

/// What the contract says of a filter, said once more.
fn matches(job: &Job, filter: &JobFilter) -> bool {
    filter.ids.as_ref().is_none_or(|ids| ids.contains(&job.id))
        && filter.queues.as_ref().is_none_or(|queues| queues.contains(&job.queue))
        && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&job.kind))
        && filter.states.contains(job.state)
        && filter.labels.iter().all(|(key, value)| job.labels.get(key) == Some(value))
        && filter.created.contains(Some(job.created_at))
        && filter.run_at.contains(Some(job.run_at))
        && filter.finished.contains(job.finished_at)
}

/// Filters at the edges of what these jobs have.
fn filters(jobs: &[Job]) -> Checked<Vec<JobFilter>> {
    let all = JobFilter::all;
    let by = |change: &dyn Fn(&mut JobFilter)| {
        let mut filter = all();
        change(&mut filter);
        filter
    };
    let two = [jobs[0].id, jobs[5].id];
    let (here, other, upper) = (queue("q")?, queue("other")?, queue("Q")?);
    let ended = jobs[5].finished_at.ok_or_else(|| Stop::fail("a completed job has no end"))?;
    let (created, due) = (jobs[4].created_at, jobs[4].run_at);
    let labelled = |pairs: &[(&str, &str)]| {
        pairs.iter().fold(all(), |filter, (key, value)| filter.with_label(*key, *value))
    };
    let many = (0..12).fold(all(), |filter, i| filter.with_label(format!("many {i:02}"), "x"));
    Ok(vec![
        by(&|f| f.ids = Some(vec![])),
        by(&|f| f.queues = Some(vec![])),
        by(&|f| f.kinds = Some(vec![])),
        all().with_states(States::NONE),
        JobFilter::ids([two[0], two[1], two[0]]),
        JobFilter::ids(two).with_states(State::Waiting),
        by(&|f| (f.ids, f.kinds) = (Some(two.to_vec()), Some(vec!["b".into()]))),
        by(&|f| (f.ids, f.queues) = (Some(two.to_vec()), Some(vec![here.clone()]))),
        JobFilter::ids(two).with_label("x", "1"),
        by(&|f| f.queues = Some(vec![here.clone(), here.clone()])),
        by(&|f| f.queues = Some(vec![upper.clone()])),
        by(&|f| f.queues = Some(vec![other.clone(), here.clone()])).with_states(State::Completed),
        JobFilter::kind("a"),
        by(&|f| f.kinds = Some(vec!["b".into(), "A".into(), "b".into()])),
        labelled(&[("x", "1"), ("y", "2")]),
        labelled(&[("x", "2")]),
        labelled(&[("a=b", "c")]),
        labelled(&[("a", "b=c")]),
        labelled(&[("to", "me")]),
        labelled(&[("a.b", "dotted")]),
        labelled(&[("a", "dotted")]),
        many,
        all().with_states(State::Waiting),
        all().with_states(State::Cancelled),
        by(&|f| f.created = TimeRange::before(created)),
        by(&|f| f.created = TimeRange::from(created)),
        by(&|f| f.created = TimeRange::between(created, jobs[7].created_at)),
        by(&|f| f.run_at = TimeRange::before(due)),
        by(&|f| f.run_at = TimeRange::from(due)),
        by(&|f| f.run_at = TimeRange::between(due, jobs[2].run_at)),
        by(&|f| f.finished = TimeRange::before(ended)),
        by(&|f| f.finished = TimeRange::from(ended)),
        by(&|f| f.finished = TimeRange::before(Timestamp::MAX)),
        by(&|f| f.finished = TimeRange::from(Timestamp::MIN)),
        by(&|f| {
            f.finished = TimeRange::from(ended);
            f.created = TimeRange::before(created);
        }),
    ])
}

pub(super) async fn operations_agree(case: &Case<'_>) -> Checked {
    let store = case.store();
    let everything = NonZeroU32::MAX;
    let number = filters(&furnish(case).await?)?.len();
    store.delete(&JobFilter::all(), everything).await?;
    for round in 0..number {
        let jobs = furnish(case).await?;
        let all = ids(&jobs);
        let filter = filters(&jobs)?.swap_remove(round);
        let expected: BTreeSet<JobId> =
            jobs.iter().filter(|job| matches(job, &filter)).map(|job| job.id).collect();
        let set = |ids: Vec<JobId>| ids.into_iter().collect::<BTreeSet<_>>();

        let page = store.find(&JobQuery::new(filter.clone())).await?.items;
        check_eq!(page.len(), expected.len(), "jobs on a page of {filter:?}");
        check_eq!(set(ids(&page)), expected, "the jobs on a page of {filter:?}");
        let tallies = store.tally(&filter).await?;
        let count: u64 = tallies.iter().map(|tally| tally.count).sum();
        check_eq!(count, expected.len() as u64, "jobs counted by {filter:?}");

        let mut request = wanted(100);
        request.filter = Some(filter.clone());
        let claimed = store.claim(&request).await?.jobs;
        let waiting: BTreeSet<JobId> = jobs
            .iter()
            .filter(|job| job.state == State::Waiting && expected.contains(&job.id))
            .map(|job| job.id)
            .collect();
        check_eq!(set(ids(&claimed)), waiting, "the jobs that a claim takes by {filter:?}");
        for job in &claimed {
            settle(store, job, release(When::At(job.run_at))).await?;
        }

        let met = store.update_where(&filter, &BulkChange::Priority(7)).await?;
        let live = waiting.len() as u64;
        let ended = expected.len() as u64 - live;
        check_eq!(met, counts(live, 0, ended), "what a bulk change of {filter:?} met");
        let changed = present(store, &all).await?.into_iter().filter(|job| job.priority == 7);
        check_eq!(
            changed.map(|job| job.id).collect::<BTreeSet<_>>(),
            waiting,
            "the jobs that a bulk change of {filter:?} changed"
        );

        let deleted = store.delete(&filter, everything).await?;
        check_eq!(deleted, expected.len() as u64, "jobs deleted by {filter:?}");
        let left = set(ids(&present(store, &all).await?));
        let kept: BTreeSet<JobId> =
            all.iter().copied().filter(|id| !expected.contains(id)).collect();
        check_eq!(left, kept, "the jobs that a deletion of {filter:?} left");
        store.delete(&JobFilter::all(), everything).await?;
    }
    Ok(())
}

/// More than a page, a parameter list or a batch is likely to hold.
const MANY: usize = 1_100;

pub(super) async fn many_at_once(case: &Case<'_>) -> Checked {
    let store = case.store();
    let jobs = plain_jobs(MANY);
    put_all(store, &jobs).await?;
    let all = new_ids(&jobs);
    let mut doubled = all.clone();
    doubled.extend(&all);
    let read = store.get(&doubled, LogRead::None).await?;
    let found: Vec<Option<JobId>> = read.iter().map(|job| job.as_ref().map(|job| job.id)).collect();
    check!(
        found.iter().copied().eq(doubled.iter().copied().map(Some)),
        "{} ids, each twice, were answered {} times, {} of them by no job",
        MANY,
        found.len(),
        found.iter().filter(|id| id.is_none()).count()
    );
    let filter = JobFilter::ids(doubled.iter().copied());
    let count = |tallies: Vec<queue_core::Tally>| -> u64 { tallies.iter().map(|t| t.count).sum() };
    check_eq!(count(store.tally(&filter).await?), MANY as u64, "jobs counted by {MANY} ids");
    let mut twice = JobFilter::all();
    twice.queues = Some(vec![queue("default")?, queue("default")?]);
    check_eq!(count(store.tally(&twice).await?), MANY as u64, "jobs of a queue named twice");

    let mut query = JobQuery::new(filter.clone());
    (query.offset, query.limit) = (MANY as u64 - 1, n(10));
    let last = store.find(&query).await?;
    check_eq!((last.items.len(), last.next), (1, None), "the page that begins with the last job");
    for offset in [MANY as u64, u64::from(u32::MAX) + 1, i64::MAX as u64, u64::MAX] {
        query.offset = offset;
        let page = store.find(&query).await?;
        check_eq!((page.items.len(), page.next), (0, None), "the page at the offset {offset}");
    }

    let updates: Vec<JobUpdate> = all
        .iter()
        .map(|id| JobUpdate::new(*id, Guard::None, JobPatch::default().with_label("seen", "yes")))
        .collect();
    let outcomes = store.update_jobs(&updates).await?;
    let made = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Applied(_))).count();
    check_eq!((outcomes.len(), made), (MANY, MANY), "updates answered and made in one call");
    let seen = JobFilter::label("seen", "yes");
    let met = store.update_where(&seen, &BulkChange::Priority(i16::MIN)).await?;
    check_eq!(met, counts(MANY as u64, 0, 0), "what a bulk change met");
    let first = store.get(&all[..1], LogRead::None).await?.into_iter().flatten().next();
    check_eq!(first.map(|job| job.priority), Some(i16::MIN), "the least priority");
    let two = JobFilter::ids([all[0], all[0], all[1]]);
    check_eq!(store.delete(&two, n(2)).await?, 2, "two jobs deleted, one of which is named twice");
    let deleted = store.delete(&filter, NonZeroU32::MAX).await?;
    check_eq!(deleted, MANY as u64 - 2, "jobs deleted by {MANY} ids, each twice");
    Ok(())
}

/// Ids whose first bits differ, as those minted elsewhere may.
fn wide_ids() -> Vec<JobId> {
    [0xff, 0x7f, 0x01, 0x80, 0x00, 0xa0]
        .into_iter()
        .enumerate()
        .map(|(i, first)| {
            let mut bytes = [u8::try_from(i).unwrap_or(0); 16];
            (bytes[0], bytes[15]) = (first, 0xff - first);
            JobId::from_uuid(uuid::Uuid::from_bytes(bytes))
        })
        .collect()
}

/// A page for page of two jobs, and all that they show.
async fn walk(store: &Store, sort: Sort, at_most: usize) -> Checked<Vec<JobId>> {
    let mut query = JobQuery::new(JobFilter::all());
    (query.sort, query.limit) = (sort, n(2));
    let mut walked = Vec::new();
    loop {
        let page = store.find(&query).await?;
        walked.extend(ids(&page.items));
        query.after = page.next;
        if query.after.is_none() || walked.len() > at_most {
            return Ok(walked);
        }
    }
}

pub(super) async fn time_goes_before_ids(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut jobs = plain_jobs(7);
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    for job in &jobs {
        put_all(store, std::slice::from_ref(job)).await?;
        case.pass(MICRO).await?;
    }
    let stored = present(store, &new_ids(&jobs)).await?;
    let mut places: Vec<(Timestamp, JobId)> =
        stored.iter().map(|job| (job.created_at, job.id)).collect();
    places.sort_unstable();
    let mut expected: Vec<JobId> = places.into_iter().map(|place| place.1).collect();
    check!(
        !case.is_clocked() || expected == new_ids(&jobs),
        "jobs inserted a microsecond apart are not dated so"
    );
    for sort in [Sort::OldestFirst, Sort::NewestFirst] {
        let walked = walk(store, sort, expected.len()).await?;
        check_eq!(walked, expected, "a walk with {sort:?} over jobs whose ids descend with time");
        expected.reverse();
    }
    // Neither what became of a job nor when it ended changes its turn.
    for id in [expected[2], expected[1]] {
        let held = take_id(store, id).await?;
        case.pass(MICRO).await?;
        settle(store, &held, complete()).await?;
    }
    let held = take_id(store, expected[0]).await?;
    settle(store, &held, retry(When::After(HOUR))).await?;
    for (place, id) in expected.iter().enumerate() {
        check_eq!(store.delete(&JobFilter::all(), n(1)).await?, 1, "one job deleted");
        let left = ids(&present(store, &expected).await?);
        check!(
            !left.contains(id) && left.len() == expected.len() - 1 - place,
            "deletion {place} took another job than the oldest"
        );
    }
    Ok(())
}

pub(super) async fn ids_break_ties(case: &Case<'_>) -> Checked {
    let store = case.store();
    let due = When::At(case.now().await?.minus(HOUR));
    let make = || -> Vec<NewJob> {
        let mut jobs = plain_jobs(wide_ids().len());
        for (job, id) in jobs.iter_mut().zip(wide_ids()) {
            (job.id, job.when) = (id, due);
        }
        jobs
    };
    put_all(store, &make()).await?;
    let mut ascending = wide_ids();
    ascending.sort_unstable();
    let descending: Vec<JobId> = ascending.iter().rev().copied().collect();
    for (order, expected) in [(Order::Fifo, &ascending), (Order::Lifo, &descending)] {
        let mut request = wanted(9);
        request.order = order;
        let jobs = store.claim(&request).await?.jobs;
        check_eq!(&ids(&jobs), expected, "a {order:?} claim of jobs due at one instant");
        for job in &jobs {
            settle(store, job, release(due)).await?;
        }
    }
    // One call may stamp its jobs at more than one instant, where the clock runs.
    let mut places: Vec<(Timestamp, JobId)> =
        present(store, &ascending).await?.into_iter().map(|job| (job.created_at, job.id)).collect();
    places.sort_unstable();
    let mut oldest: Vec<JobId> = places.into_iter().map(|place| place.1).collect();
    for sort in [Sort::OldestFirst, Sort::NewestFirst] {
        let walked = walk(store, sort, oldest.len()).await?;
        check_eq!(walked, oldest, "a walk with {sort:?} over jobs inserted at one instant");
        oldest.reverse();
    }
    for (i, id) in oldest.iter().enumerate() {
        check_eq!(store.delete(&JobFilter::all(), n(1)).await?, 1, "one job deleted");
        let left: HashSet<JobId> = ids(&present(store, &ascending).await?).into_iter().collect();
        check!(!left.contains(id) && left.len() == oldest.len() - 1 - i, "the oldest goes first");
    }
    Ok(())
}
