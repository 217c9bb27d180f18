//! The order in which jobs are claimed.
use super::*;

/// Jobs whose order of insertion, of ids, of times and of priorities have nothing to do with each other.
pub(super) fn scrambled(case: &Case<'_>, count: usize, priorities: &[i16]) -> Vec<NewJob> {
    let mut rng = case.rng();
    let mut jobs = plain_jobs(count);
    for job in &mut jobs {
        // Few instants, so that many are equal and the id decides.
        let micros = 1_000_000_000_000_000 + rng.below(count / 3) as i64;
        job.when = When::At(Timestamp::from_micros_saturating(micros));
        job.priority = rng.pick(priorities).copied().unwrap_or_default();
    }
    rng.shuffle(&mut jobs);
    jobs
}

pub(super) fn in_order(jobs: &[NewJob], order: Order) -> Vec<JobId> {
    let mut sorted: Vec<&NewJob> = jobs.iter().collect();
    sorted.sort_by(|a, b| {
        let at = |job: &NewJob| job.when.resolve(Timestamp::MIN);
        let by_time = (at(a), a.id).cmp(&(at(b), b.id));
        let by_time = if order == Order::Lifo { by_time.reverse() } else { by_time };
        b.priority.cmp(&a.priority).then(by_time)
    });
    sorted.into_iter().map(|job| job.id).collect()
}

/// Claims all of these jobs in batches of this size, and checks the order in which they come.
async fn check_order(case: &Case<'_>, jobs: &[NewJob], order: Order, batch: u32) -> Checked {
    let store = case.store();
    put_all(store, jobs).await?;
    let mut came = Vec::new();
    while came.len() < jobs.len() {
        let mut request = wanted(batch);
        request.order = order;
        let taken = store.claim(&request).await?.jobs;
        check!(!taken.is_empty(), "only {} of {} due jobs were claimable", came.len(), jobs.len());
        came.extend(ids(&taken));
    }
    check_eq!(came, in_order(jobs, order), "the order ({order:?}) in batches of {batch}");
    Ok(())
}

pub(super) async fn fifo_in_a_batch(case: &Case<'_>) -> Checked {
    check_order(case, &scrambled(case, 30, &[0]), Order::Fifo, 30).await
}

pub(super) async fn fifo_across_batches(case: &Case<'_>) -> Checked {
    check_order(case, &scrambled(case, 30, &[0]), Order::Fifo, 1).await
}

pub(super) async fn lifo(case: &Case<'_>) -> Checked {
    check_order(case, &scrambled(case, 24, &[0]), Order::Lifo, 24).await?;
    check_order(
        case,
        &scrambled(case, 24, &[0])[..12].iter().map(fresh_id).collect::<Vec<_>>(),
        Order::Lifo,
        1,
    )
    .await
}

pub(super) fn fresh_id(job: &NewJob) -> NewJob {
    let mut fresh = job.clone();
    fresh.id = JobId::new();
    fresh
}

pub(super) async fn priority_first(case: &Case<'_>) -> Checked {
    let priorities = [i16::MIN, -300, -1, 0, 1, 2, 10, 300, i16::MAX];
    for order in [Order::Fifo, Order::Lifo] {
        for batch in [40, 3] {
            let jobs: Vec<NewJob> = scrambled(case, 40, &priorities).iter().map(fresh_id).collect();
            check_order(case, &jobs, order, batch).await?;
        }
    }
    Ok(())
}
