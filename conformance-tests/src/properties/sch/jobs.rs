//! The job of a slot, and what its schedule keeps.

use queue_core::{
    Fire, Fired, JobId, JobStoreExt, Keep, Lane, NewJob, State, States, Unique, When,
};

use super::super::scene::{check_time, read, secs, skip_slot, value};
use crate::{Case, Checked, Stop, check, check_eq};

pub(super) async fn a_slots_job_is_any_job(case: &Case<'_>) -> Checked {
    let store = case.store();
    let slot = case.now().await?.minus(secs(100));
    let mut job = NewJob::new("scheduled", value("input"));
    job.priority = -7;
    job.keep = Keep::UnlessCompleted;
    job.max_crashes = 9;
    job.labels.insert("for".to_owned(), "me".to_owned());
    job.lane = Some(Lane::new("lane"));
    let mut unique = Unique::supersede("key");
    unique.within = States::LIVE | State::Completed.into();
    job.unique = Some(unique);
    job.when = When::After(secs(50));
    let fire = Fire::new("every minute", slot, job.clone());
    let from = case.now().await?;
    let first = enqueued(store.fire(&fire).await?)?;
    let to = case.now().await?;
    let stored = read(store, first).await?;
    check_eq!(
        (stored.priority, stored.keep, stored.max_crashes),
        (job.priority, job.keep, job.max_crashes),
        "priority, keep and max_crashes of a slot's job"
    );
    check_eq!(
        (&stored.labels, &stored.lane, &stored.unique),
        (&job.labels, &job.lane, &job.unique),
        "labels, lane and key of a slot's job"
    );
    check_time(Some(stored.run_at), from.plus(secs(50)), to.plus(secs(50)), "run_at")?;

    // The next slot supersedes the job of this one, as an insert would.
    let second = enqueued(store.fire(&Fire::new("every minute", slot.plus(secs(60)), job)).await?)?;
    check_eq!(store.state(first).await?, Some(State::Cancelled), "the job that was superseded");
    check_eq!(store.state(second).await?, Some(State::Waiting), "the job that supersedes");
    Ok(())
}

fn enqueued(fired: Fired) -> Checked<JobId> {
    match fired {
        Fired::Enqueued(id) => Ok(id),
        other => Err(Stop::fail(format!("a slot that must be fired was answered {other:?}"))),
    }
}

pub(super) async fn errors_belong_to_slots(case: &Case<'_>) -> Checked {
    let store = case.store();
    let slot = case.now().await?;
    // Later slots first, so that neither slots nor calls are in the order of the names.
    for (i, name) in ["b", "A", "\u{e9}", "C", "a"].into_iter().enumerate() {
        skip_slot(store, name, slot.minus(secs(i as u64)), None).await?;
    }
    let listed: Vec<String> =
        store.schedules().await?.into_iter().map(|stat| stat.schedule).collect();
    check_eq!(listed, ["A", "C", "a", "b", "\u{e9}"], "the schedules, by name");

    let error = |text: &str| Some(text.to_owned());
    skip_slot(store, "b", slot.plus(secs(1)), error("first")).await?;
    for late in [slot.plus(secs(1)), slot] {
        let before = store.schedules().await?;
        for job in [None, Some(NewJob::new("scheduled", value(1)))] {
            let mut fire = Fire::skip("b", late, error("late"));
            if let Some(job) = job {
                fire = Fire::new("b", late, job);
                fire.error = error("late");
            }
            let fired = store.fire(&fire).await?;
            let last_slot = slot.plus(secs(1));
            check_eq!(
                fired,
                Fired::Already { last_slot },
                "a slot that is not later than the last"
            );
        }
        check!(store.schedules().await? == before, "a slot that is Already changed its schedule");
    }
    let mut fire = Fire::new("b", slot.plus(secs(2)), NewJob::new("scheduled", value(1)));
    fire.error = error("fired all the same");
    enqueued(store.fire(&fire).await?)?;
    let stat = store.schedules().await?.into_iter().find(|stat| stat.schedule == "b");
    let kept = stat.and_then(|stat| stat.last_error);
    check_eq!(kept, error("fired all the same"), "the error that came with the last slot fired");
    Ok(())
}
