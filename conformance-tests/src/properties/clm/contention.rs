//! Many claimers at once.
use super::*;

/// Who holds what by the answers received so far. A holder signs off before it asks for its end, so what two
/// have signed for at a time was held by two.
#[derive(Default)]
struct Ledger {
    held: HashMap<JobId, usize>,
    fences: BTreeSet<(JobId, u64)>,
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn sign(&mut self, job: &Job, who: usize) -> Checked {
        if let Some(other) = self.held.insert(job.id, who) {
            return Err(Stop::fail(format!(
                "job {} was given to claimer {who} while claimer {other} held it",
                job.id
            )));
        }
        check!(
            self.fences.insert((job.id, job.fence.count)),
            "claim {} of job {} was given to two claimers",
            job.fence.count,
            job.id
        );
        Ok(())
    }
}

pub(super) async fn claims_are_exclusive(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    for _ in 0..case.times(2) {
        let jobs = plain_jobs(50);
        put_all(case.store(), &jobs).await?;
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let left = Arc::new(AtomicUsize::new(jobs.len()));
        race(8, |who| {
            let (store, ledger, left) = (handles[who % 4].clone(), ledger.clone(), left.clone());
            async move {
                while left.load(Ordering::SeqCst) > 0 {
                    let taken = claim(&store, 1 + who as u32 % 3).await?;
                    for job in &taken {
                        locked(&ledger).sign(job, who)?;
                    }
                    for job in taken {
                        locked(&ledger).held.remove(&job.id);
                        // Every third job goes round once more.
                        let again =
                            job.fence.count == 1 && job.id.as_uuid().as_bytes()[15] % 3 == 0;
                        let end = if again { release(When::Now) } else { complete() };
                        settle(&store, &job, end).await?;
                        left.fetch_sub(usize::from(!again), Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        })
        .await?;
        let stored = case.store().get(&new_ids(&jobs), LogRead::None).await?;
        let ledger = locked(&ledger);
        for job in stored.into_iter().flatten() {
            let given = ledger.fences.iter().filter(|(id, _)| *id == job.id).count() as u64;
            check_eq!(job.state, State::Completed, "the state of job {}", job.id);
            check_eq!(
                job.fence.count,
                given,
                "claims counted against claims answered, job {}",
                job.id
            );
        }
    }
    Ok(())
}

pub(super) async fn narrow_claims_are_exclusive(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    for round in 0..case.times(4) {
        let mut jobs = plain_jobs(4);
        for (index, job) in jobs.iter_mut().enumerate() {
            job.labels.insert("wanted".to_owned(), format!("{round}-{index}"));
        }
        put_all(case.store(), &jobs).await?;
        for job in &jobs {
            // Each names the same job, as precisely as can be.
            let mut by_everything = JobFilter::ids([job.id]);
            by_everything.queues = Some(vec![job.queue.clone()]);
            by_everything.kinds = Some(vec![job.kind.clone()]);
            by_everything.labels = job.labels.clone();
            let mut by_label = JobFilter::all();
            by_label.labels = job.labels.clone();
            for filter in [JobFilter::ids([job.id]), by_label, by_everything] {
                let winners = race(8, |who| {
                    let (store, filter) = (handles[who % 4].clone(), filter.clone());
                    let kind = job.kind.clone();
                    async move {
                        let mut request = wanted(1 + who as u32 % 2);
                        request.filter = Some(filter);
                        if who % 2 == 0 {
                            request.kinds = Kinds::Only(vec![kind]);
                        }
                        Ok(store.claim(&request).await?.jobs)
                    }
                })
                .await?;
                let taken: Vec<Job> = winners.into_iter().flatten().collect();
                check_eq!(taken.len(), 1, "claims that were given the one job of {filter:?}");
                check_eq!(taken[0].id, job.id, "the job taken by {filter:?}");
                settle(case.store(), &taken[0], release(When::Now)).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn limits_are_kept(case: &Case<'_>) -> Checked {
    let store = case.store();
    put_all(store, &plain_jobs(20)).await?;
    for limit in [1, 2, 7, 9] {
        let got = claim(store, limit).await?;
        check_eq!(got.len(), limit as usize, "jobs for a claim of {limit}, with as many waiting");
    }
    check_eq!(claim(store, 5).await?.len(), 1, "jobs for a claim of 5, with one waiting");
    check_eq!(held(store).await?, 20, "jobs running after claims of 1, 2, 7, 9 and 5 of 20");

    let handles = case.handles(4).await?;
    for _ in 0..case.times(3) {
        put_all(store, &plain_jobs(30)).await?;
        let answers = race(8, |i| {
            let store = handles[i % 4].clone();
            async move {
                let request = wanted(3);
                Ok((request.token, store.claim(&request).await?.jobs))
            }
        })
        .await?;
        let mut query = queue_core::JobQuery::new(JobFilter::all().with_states(State::Running));
        query.limit = n(1_000);
        let running = store.find(&query).await?.items;
        for (token, jobs) in answers {
            check!(jobs.len() <= 3, "a contended claim of 3 answered {} jobs", jobs.len());
            let under_token = running.iter().filter(|job| job.fence.nonce == token).count();
            check_eq!(under_token, jobs.len(), "jobs held under a claim against jobs it answered");
        }
    }
    Ok(())
}

pub(super) async fn passed_over_under_contention(case: &Case<'_>) -> Checked {
    let handles = case.handles(3).await?;
    for round in 0..case.times(4) {
        let name = format!("contended-{round}");
        let mut jobs = plain_jobs(30);
        for job in &mut jobs {
            job.queue = queue(&name)?;
        }
        put_all(case.store(), &jobs).await?;
        race(6, |i| {
            let (store, name) = (handles[i % 3].clone(), name.clone());
            async move {
                loop {
                    let request = wanted_from(&[&name], 4)?;
                    let claimed = store.claim(&request).await?;
                    let now = store.ping().await?;
                    if claimed.jobs.len() < 4 && claimed.next_due.is_none_or(|due| due > now) {
                        let mut left = JobFilter::queue(queue(&name)?);
                        left.states = State::Waiting.into();
                        let left = store.count(&left).await?;
                        check_eq!(
                            left,
                            0,
                            "jobs still waiting after a claim of 4 answered {} and next_due {:?} (now {now})",
                            claimed.jobs.len(),
                            claimed.next_due
                        );
                        return Ok(());
                    }
                    tokio::task::yield_now().await;
                }
            }
        })
        .await?;
    }
    Ok(())
}

pub(super) async fn claims_do_not_queue_up(case: &Case<'_>) -> Checked {
    const PATIENCE: Duration = Duration::from_secs(8);
    let store = case.store();
    let mut laned = job("laned");
    laned.lane = Some(Lane::new("lane"));
    put_all(store, &[laned.clone(), job("plain"), fresh_id(&laned), job("plain")]).await?;
    let first = claim(store, 2).await?;
    check_eq!(first.len(), 2, "jobs of the first claimer");
    let sibling = &case.handles(2).await?[1];
    let second = timeout(PATIENCE, claim(sibling, 2));
    let second =
        second.await.map_err(|_| Stop::fail("a claim waited for the holder of other jobs"))??;
    check_eq!(second.len(), 1, "jobs of the second claimer while the first holds its own");
    for job in first.into_iter().chain(second) {
        settle(store, &job, complete()).await?;
    }
    settle(store, &take(store).await?, complete()).await?;

    // Each claimer keeps its job until all have one: where one waits for another, nobody gets there.
    let handles = case.handles(4).await?;
    for _ in 0..case.times(2) {
        let claimers = 12;
        put_all(store, &plain_jobs(claimers)).await?;
        let all_served = Arc::new(Barrier::new(claimers));
        race(claimers, |i| {
            let (store, all_served) = (handles[i % 4].clone(), all_served.clone());
            async move {
                let deadline = Instant::now() + PATIENCE;
                let job = loop {
                    match claim(&store, 1).await?.pop() {
                        Some(job) => break job,
                        None if Instant::now() > deadline => {
                            return Err(Stop::fail(
                                "a claimer got none of as many jobs as claimers",
                            ));
                        }
                        None => tokio::task::yield_now().await,
                    }
                };
                timeout(PATIENCE, all_served.wait())
                    .await
                    .map_err(|_| Stop::fail("a claim waited for jobs that other claimers hold"))?;
                settle(&store, &job, complete()).await
            }
        })
        .await?;
    }
    Ok(())
}
