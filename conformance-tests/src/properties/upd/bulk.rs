//! Changes of many jobs at once.
use super::*;

/// Jobs of two queues, two kinds and two labels, in every state.
pub(in crate::properties) async fn population(store: &Store) -> Checked<Vec<JobId>> {
    let mut jobs: Vec<NewJob> = plain_jobs(20);
    for (i, job) in jobs.iter_mut().enumerate() {
        job.queue = queue(if i % 2 == 0 { "even" } else { "odd" })?;
        job.kind = if i % 4 < 2 { "low" } else { "high" }.into();
        job.labels.insert("third".into(), (i % 3).to_string());
        if i % 5 == 0 {
            job.when = When::After(HOUR);
        }
    }
    put_all(store, &jobs).await?;
    for (i, job) in jobs.iter().enumerate() {
        let end = match i % 5 {
            1 => Some(complete()),
            2 => Some(fail()),
            3 => Some(give_up()),
            _ => None,
        };
        if i % 5 != 0 && i % 10 != 9 {
            let held = take_id(store, job.id).await?;
            if let Some(end) = end {
                settle(store, &held, end).await?;
            }
        }
    }
    Ok(jobs.iter().map(|job| job.id).collect())
}

async fn read_all(store: &Store, ids: &[JobId]) -> Checked<Vec<Job>> {
    Ok(store.get(ids, queue_core::LogRead::All).await?.into_iter().flatten().collect())
}

pub(super) async fn bulk_changes(case: &Case<'_>) -> Checked {
    let store = case.store();
    let ids = population(store).await?;
    let later = case.now().await?.plus(Duration::from_secs(60));
    let mut not_due = JobFilter::all();
    not_due.run_at = TimeRange::from(later);
    let mut old = JobFilter::all();
    old.created = TimeRange::before(Timestamp::EPOCH);
    let filters = [
        JobFilter::queue(queue("even")?),
        JobFilter::kind("high").with_states(States::LIVE),
        JobFilter::label("third", "1"),
        not_due,
        old,
        JobFilter::ids(ids[4..9].iter().copied()),
        JobFilter::queue(queue("odd")?).with_label("third", "2").with_states(State::Running),
        JobFilter::all(),
    ];
    let changes = [
        BulkChange::Priority(7),
        BulkChange::Priority(-7),
        BulkChange::Wake,
        BulkChange::Queue(queue("odd")?),
        BulkChange::Queue(queue("even")?),
        cancelling("first"),
        cancelling("second"),
    ];
    // Every filter with every change; the cancels last, or nothing would be left alive.
    let (edits, cancels) = changes.split_at(5);
    let mut rng = case.rng();
    let mut steps = Vec::new();
    for changes in [edits, cancels] {
        let mut pairs: Vec<(&JobFilter, &BulkChange)> =
            filters.iter().flat_map(|filter| changes.iter().map(move |to| (filter, to))).collect();
        rng.shuffle(&mut pairs);
        steps.extend(pairs);
    }
    for (filter, change) in steps {
        let before = read_all(store, &ids).await?;
        let from = case.now().await?;
        let met = store.update_where(filter, change).await?;
        let to = case.now().await?;
        let after = read_all(store, &ids).await?;
        let mut expected = counts(0, 0, 0);
        for (old, new) in before.iter().zip(&after) {
            let matched = matches(old, filter);
            let running = old.state == State::Running;
            let signals = matches!(change, BulkChange::Wake | BulkChange::Cancel { .. });
            if matched {
                *match old.state {
                    state if state.is_final() => &mut expected.finished,
                    State::Running if signals => &mut expected.signalled,
                    _ => &mut expected.changed,
                } += 1;
            }
            let mut want = old.clone();
            if matched && !old.state.is_final() {
                apply_by_hand(&mut want, change, running, new, (from, to))?;
            }
            check_eq!(*new, want, "job {} ({}) after {change:?} of {filter:?}", old.id, old.state);
        }
        check_eq!(met, expected, "the counts of {change:?} of {filter:?}");
    }
    Ok(())
}

/// What the contract says that a bulk change does to a live job; stamps are taken over once they were checked.
fn apply_by_hand(
    job: &mut Job,
    change: &BulkChange,
    running: bool,
    found: &Job,
    (from, to): (Timestamp, Timestamp),
) -> Checked {
    let version = Version(job.version.0 + 1);
    match change {
        BulkChange::Priority(priority) => {
            job.priority = *priority;
            job.version = version;
        }
        BulkChange::Queue(queue) => {
            job.queue = queue.clone();
            job.version = version;
        }
        BulkChange::Wake if !running && job.run_at > to => {
            check_time(Some(found.run_at), from, to, "run_at of a job that was woken")?;
            job.run_at = found.run_at;
            job.version = version;
        }
        BulkChange::Cancel { reason } if job.cancel.is_none() => {
            let at = found.cancel.as_ref().map(|cancel| cancel.at);
            check_time(at, from, to, "the time of the cancel")?;
            job.cancel = at.map(|at| queue_core::CancelRequest::new(reason.clone(), at));
            job.version = version;
            if !running {
                check_time(found.finished_at, from, to, "finished_at of a cancelled job")?;
                job.finished_at = found.finished_at;
                job.state = State::Cancelled;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether a job matches a filter: the contract's words once more.
pub(in crate::properties) fn matches(job: &Job, filter: &JobFilter) -> bool {
    let within = |range: &TimeRange, at: Option<Timestamp>| match at {
        None => range.from.is_none() && range.before.is_none(),
        Some(at) => {
            range.from.is_none_or(|from| at >= from)
                && range.before.is_none_or(|before| at < before)
        }
    };
    filter.states.contains(job.state)
        && filter.ids.as_ref().is_none_or(|ids| ids.contains(&job.id))
        && filter.queues.as_ref().is_none_or(|queues| queues.contains(&job.queue))
        && filter.kinds.as_ref().is_none_or(|kinds| kinds.contains(&job.kind))
        && filter.labels.iter().all(|label| job.labels.iter().any(|own| own == label))
        && within(&filter.created, Some(job.created_at))
        && within(&filter.run_at, Some(job.run_at))
        && within(&filter.finished, job.finished_at)
}
