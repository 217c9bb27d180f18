//! REA-2: filters, each alone and together.

use queue_core::{
    ErrorKind, Job, JobFilter, JobId, JobQuery, Sort, State, States, TimeRange, Timestamp,
};

use super::{all_of, ids_of, newest_first, tally_by_hand, two_populations};
use crate::{
    Case, Checked, Rng, check, check_eq,
    properties::{
        scene::{MICRO, Store, n, queue},
        upd::bulk::matches,
    },
};

fn random_range(rng: &mut Rng, times: &[Timestamp]) -> TimeRange {
    let mut range = TimeRange::default();
    // Bounds on, just before and just after instants that occur.
    let bound = |rng: &mut Rng| {
        let at = rng.pick(times).copied().unwrap_or(Timestamp::EPOCH);
        [at, at.plus(MICRO), at.minus(MICRO)][rng.below(3)]
    };
    if rng.below(2) == 0 {
        range.from = Some(bound(rng));
    }
    if rng.below(2) == 0 {
        range.before = Some(bound(rng));
    }
    range
}

/// Any filter.
pub(super) fn any(rng: &mut Rng, jobs: &[Job]) -> Checked<JobFilter> {
    let mut filter = JobFilter::all();
    if rng.below(4) == 0 {
        let mut picked: Vec<JobId> =
            (0..rng.below(12)).filter_map(|_| rng.pick(jobs)).map(|job| job.id).collect();
        picked.push(JobId::new());
        filter.ids = Some(picked);
    }
    if rng.below(3) == 0 {
        let names = [vec![], vec!["even"], vec!["odd", "absent"], vec!["odd", "even"]];
        let names = names[rng.below(4)].iter().map(|name| queue(name));
        filter.queues = Some(names.collect::<Checked<_>>()?);
    }
    if rng.below(3) == 0 {
        let kinds = [vec!["low".into()], vec!["high".into(), "low".into()], vec!["none".into()]];
        filter.kinds = Some(kinds[rng.below(3)].clone());
    }
    if rng.below(2) == 0 {
        filter.states = States::from_bits(rng.below(32) as u8);
    }
    if rng.below(3) == 0 {
        filter.labels.insert("third".into(), rng.below(4).to_string());
    }
    if rng.below(6) == 0 {
        filter.labels.insert("extra".into(), "yes".into());
    }
    let times = |of: fn(&Job) -> Option<Timestamp>| jobs.iter().filter_map(of).collect::<Vec<_>>();
    if rng.below(3) == 0 {
        filter.created = random_range(rng, &times(|job| Some(job.created_at)));
    }
    if rng.below(3) == 0 {
        filter.run_at = random_range(rng, &times(|job| Some(job.run_at)));
    }
    if rng.below(3) == 0 {
        filter.finished = random_range(rng, &times(|job| job.finished_at));
    }
    Ok(filter)
}

/// What each field of a filter can ask for, one condition alone: on, just before and just after instants that occur.
fn alone(jobs: &[Job]) -> Checked<Vec<JobFilter>> {
    let by = |change: &dyn Fn(&mut JobFilter)| {
        let mut filter = JobFilter::all();
        change(&mut filter);
        filter
    };
    let mut all = vec![JobFilter::all(), JobFilter::label("third", "3")];
    all.extend([("third", "0"), ("extra", "yes")].map(|(key, value)| JobFilter::label(key, value)));
    let some: Vec<JobId> = jobs.iter().step_by(7).map(|job| job.id).collect();
    let twice = some.iter().chain([&JobId::new()]).chain(&some).copied().collect();
    all.extend([vec![], some.clone(), twice].map(|ids| by(&|f| f.ids = Some(ids.clone()))));
    for names in [vec![], vec!["even"], vec!["odd", "absent"], vec!["odd", "even", "odd"]] {
        let names = names.into_iter().map(queue).collect::<Checked<Vec<_>>>()?;
        all.push(by(&|f| f.queues = Some(names.clone())));
    }
    for kinds in [vec![], vec!["low"], vec!["high", "low", "high"], vec!["none"]] {
        let kinds: Vec<_> = kinds.into_iter().map(Into::into).collect();
        all.push(by(&|f| f.kinds = Some(kinds.clone())));
    }
    let states = State::ALL.map(States::from).into_iter();
    let states = states.chain([States::NONE, States::LIVE, States::FINAL]);
    all.extend(states.map(|states| JobFilter::all().with_states(states)));
    let created = ranges(jobs.iter().map(|job| job.created_at).collect());
    all.extend(created.iter().map(|range| by(&|f| f.created = *range)));
    let due = ranges(jobs.iter().map(|job| job.run_at).collect());
    all.extend(due.iter().map(|range| by(&|f| f.run_at = *range)));
    let ended = ranges(jobs.iter().filter_map(|job| job.finished_at).collect());
    all.extend(ended.iter().map(|range| by(&|f| f.finished = *range)));
    Ok(all)
}

/// Ranges that begin or end at an instant among these, or a microsecond off.
fn ranges(mut times: Vec<Timestamp>) -> Vec<TimeRange> {
    times.sort_unstable();
    times.dedup();
    let Some(at) = times.get(times.len() / 2).copied() else { return Vec::new() };
    let (first, last) = (times[0], times[times.len() - 1]);
    let near = [at.minus(MICRO), at, at.plus(MICRO)];
    let mut ranges: Vec<TimeRange> = near.map(TimeRange::from).to_vec();
    ranges.extend(near.map(TimeRange::before));
    ranges.extend([
        TimeRange::between(at, at.plus(MICRO)),
        TimeRange::between(at, at),
        TimeRange::between(first, last),
    ]);
    ranges
}

/// That `find`, either way round, and `tally` answer with the jobs that pass. How many do.
async fn check_filter(store: &Store, jobs: &[Job], filter: &JobFilter) -> Checked<usize> {
    let expected = newest_first(jobs.iter().filter(|job| matches(job, filter)).cloned().collect());
    let mut query = JobQuery::new(filter.clone());
    query.limit = n(100);
    let found = store.find(&query).await?;
    check_eq!(ids_of(&found.items), ids_of(&expected), "the jobs that pass {filter:?}");
    check!(found.items == expected, "find and get read different jobs for {filter:?}");
    check_eq!(found.next, None, "the cursor after all jobs that pass {filter:?}");
    query.sort = Sort::OldestFirst;
    let mut oldest = found.items;
    oldest.reverse();
    check_eq!(ids_of(&store.find(&query).await?.items), ids_of(&oldest), "the oldest first");
    let tally = store.tally(filter).await?;
    check_eq!(tally, tally_by_hand(&expected), "the tally of {filter:?}");
    Ok(expected.len())
}

/// Every condition alone, then several at random.
pub(super) async fn mean_what_they_say(case: &Case<'_>) -> Checked {
    let store = case.store();
    let ids = two_populations(case).await?;
    let jobs = all_of(store, &ids).await?;
    for filter in alone(&jobs)? {
        check_filter(store, &jobs, &filter).await?;
    }
    let mut rng = case.rng();
    let mut met = 0;
    for _ in 0..case.times(80) {
        met += check_filter(store, &jobs, &any(&mut rng, &jobs)?).await?;
    }
    check!(met > 0, "no filter met any job");
    let malformed = JobFilter::label("", "x");
    for refused in [
        store.find(&JobQuery::new(malformed.clone())).await.map(drop),
        store.tally(&malformed).await.map(drop),
        store.delete(&malformed, n(1)).await.map(drop),
    ] {
        let kind = refused.map_err(|error| error.kind());
        check_eq!(kind, Err(ErrorKind::Invalid), "a label that no job can have");
    }
    Ok(())
}
