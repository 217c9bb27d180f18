//! SCH: a slot of a schedule fires once, ever.

mod jobs;

use queue_core::{
    Effect, ErrorKind, Fire, Fired, JobFilter, JobId, JobStoreExt, NewJob, ScheduleStat, Timestamp,
    Unique, When,
};

use super::scene::{
    HOUR, Store, check_unchanged, complete, job, n, put, queue, read, secs, settle, skip_slot,
    take_id, value,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race};

group! {
    "SCH-1", "of N racers that fire one slot one enqueues its job" => one_job_per_slot;
    "SCH-2", "a slot that is not later than the last is Already, and changes nothing" => slots_only_move_forward;
    "SCH-3", "statistics are exact and monotone" => statistics_are_exact;
    "SCH-4", "firing again after a lost answer makes no second job" => a_repeat_makes_no_second_job;
    "SCH-5", "schedules do not meet" => schedules_are_independent;
    "SCH-6", "a slot whose job is gone is not fired again" => pruned_slots_stay_fired;
    "SCH-7", "the job of a slot is inserted as any other" => jobs::a_slots_job_is_any_job;
    "SCH-8", "a slot that is Already leaves no error, and schedules are listed by name" => jobs::errors_belong_to_slots;
}

/// The `i`-th slot: apart by a microsecond, as no schedule is and every store must tell.
fn slot(i: u64) -> Timestamp {
    crate::start().plus(std::time::Duration::from_micros(i))
}

fn fire(schedule: &str, i: u64) -> Fire {
    Fire::new(schedule, slot(i), job("scheduled"))
}

async fn stat(store: &Store, schedule: &str) -> Checked<ScheduleStat> {
    let stats = store.schedules().await?;
    match stats.into_iter().find(|stat| stat.schedule == schedule) {
        Some(stat) => Ok(stat),
        None => Err(Stop::fail(format!("schedule {schedule} is not listed"))),
    }
}

async fn jobs(store: &Store) -> Checked<u64> {
    Ok(store.count(&JobFilter::all()).await?)
}

async fn one_job_per_slot(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    let rounds = case.times(12) as u64;
    for i in 1..=rounds {
        let answers = race(6, |racer| {
            let store = handles[racer % 4].clone();
            async move { Ok(store.fire(&fire("nightly", i)).await?) }
        })
        .await?;
        let expected = JobId::for_slot("nightly", slot(i));
        let enqueued = answers.iter().filter(|fired| **fired == Fired::Enqueued(expected)).count();
        let already =
            answers.iter().filter(|fired| **fired == Fired::Already { last_slot: slot(i) }).count();
        check_eq!((enqueued, already), (1, 5), "Enqueued and Already among {answers:?}");
        check_eq!(jobs(case.store()).await?, i, "jobs after {i} slots");
    }
    let stat = stat(case.store(), "nightly").await?;
    check_eq!((stat.fired, stat.skipped), (rounds, 0), "fired and skipped");
    Ok(())
}

async fn slots_only_move_forward(case: &Case<'_>) -> Checked {
    let store = case.store();
    let enqueued = |i| Fired::Enqueued(JobId::for_slot("s", slot(i)));
    check_eq!(store.fire(&fire("s", 5)).await?, enqueued(5), "the first slot");
    let before = stat(store, "s").await?;
    for old in [5, 4, 0] {
        let answers = [
            store.fire(&fire("s", old)).await?,
            store.fire(&Fire::skip("s", slot(old), None)).await?,
        ];
        for answer in answers {
            check_eq!(answer, Fired::Already { last_slot: slot(5) }, "slot {old} after slot 5");
        }
        check_eq!(stat(store, "s").await?, before, "the statistics");
        check_eq!(jobs(store).await?, 1, "jobs");
    }
    check_eq!(store.fire(&fire("s", 6)).await?, enqueued(6), "the next slot");
    check_eq!(store.fire(&Fire::skip("s", slot(9), None)).await?, Fired::Skipped(None), "a skip");
    let passed = store.fire(&fire("s", 9)).await?;
    check_eq!(passed, Fired::Already { last_slot: slot(9) }, "a slot that was passed over");
    // Slots are the caller's: the store's clock has no say.
    let far = Fire::new("s", Timestamp::MAX, job("scheduled"));
    let expected = Fired::Enqueued(JobId::for_slot("s", Timestamp::MAX));
    check_eq!(store.fire(&far).await?, expected, "the last slot of all");
    let ancient = Fire::new("ancient", Timestamp::MIN, job("scheduled"));
    let expected = Fired::Enqueued(JobId::for_slot("ancient", Timestamp::MIN));
    check_eq!(store.fire(&ancient).await?, expected, "the first slot of all");
    Ok(())
}

async fn statistics_are_exact(case: &Case<'_>) -> Checked {
    let store = case.store();
    check_eq!(store.schedules().await?, vec![], "schedules of an empty store");
    let mut expected = ScheduleStat::new("s".to_owned(), slot(1));
    let keyed = |i| {
        let mut job: NewJob = job("scheduled");
        job.unique = Some(Unique::new("one at a time"));
        Fire::new("s", slot(i), job)
    };
    let id = |i| JobId::for_slot("s", slot(i));
    let failed = |i, why: &str| Fire::skip("s", slot(i), Some(why.to_owned()));
    let mut told = keyed(7);
    told.error = Some("late".to_owned());
    // Each slot, its answer, and what is known afterwards: fired, skipped, last job, last error.
    let story = [
        (keyed(1), Fired::Enqueued(id(1)), (1, 0, Some(id(1)), None)),
        (keyed(2), Fired::Skipped(Some(id(1))), (1, 1, Some(id(1)), None)),
        // A NUL is made storable: it must not be the reason why a slot cannot be recorded.
        (
            failed(3, "no\0input"),
            Fired::Skipped(None),
            (1, 2, Some(id(1)), Some("no\u{fffd}input")),
        ),
        (
            Fire::skip("s", slot(4), None),
            Fired::Skipped(None),
            (1, 3, Some(id(1)), Some("no\u{fffd}input")),
        ),
        (failed(5, "still none"), Fired::Skipped(None), (1, 4, Some(id(1)), Some("still none"))),
        (fire("s", 6), Fired::Enqueued(id(6)), (2, 4, Some(id(6)), None)),
        (told, Fired::Skipped(Some(id(1))), (2, 5, Some(id(6)), Some("late"))),
        (fire("s", 8), Fired::Enqueued(id(8)), (3, 5, Some(id(8)), None)),
    ];
    for (fire, answer, (fired, skipped, last_job, last_error)) in story {
        check_eq!(store.fire(&fire).await?, answer, "the slot {}", fire.slot);
        expected.last_slot = fire.slot;
        (expected.fired, expected.skipped, expected.last_job) = (fired, skipped, last_job);
        expected.last_error = last_error.map(str::to_owned);
        check_eq!(store.schedules().await?, vec![expected.clone()], "the statistics");
    }
    let handles = case.handles(4).await?;
    let slots = case.times(15) as u64;
    let answers = race(4, |i| {
        let store = handles[i].clone();
        async move {
            let (mut mine, mut seen) = (0, 0);
            for slot in 1..=slots {
                match store.fire(&fire("busy", slot)).await? {
                    Fired::Enqueued(_) => mine += 1,
                    Fired::Already { last_slot } => {
                        check!(
                            last_slot >= self::slot(slot),
                            "Already, but the last is {last_slot}"
                        );
                    }
                    other => return Err(Stop::fail(format!("a slot was answered {other:?}"))),
                }
                let now = stat(&store, "busy").await?;
                check!(now.fired >= seen, "fired went from {seen} to {}", now.fired);
                check!(now.last_slot >= self::slot(slot), "the last slot went back");
                seen = now.fired;
            }
            Ok(mine)
        }
    })
    .await?;
    let busy = stat(store, "busy").await?;
    let sum: u64 = answers.iter().sum();
    check_eq!((busy.fired, busy.skipped), (sum, 0), "fired, against slots acknowledged");
    check_eq!(busy.last_slot, slot(slots), "the last slot");
    let enqueued = store.count(&JobFilter::kind("scheduled")).await?;
    check_eq!(enqueued, sum + 3, "jobs enqueued, against slots acknowledged");
    Ok(())
}

async fn a_repeat_makes_no_second_job(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut first = Fire::new("s", slot(1), job("scheduled"));
    if let Some(job) = &mut first.job {
        job.queue = queue("mail")?;
        job.when = When::After(secs(60));
        job.labels.insert("a".into(), "b".into());
    }
    check_eq!(store.fire(&first).await?, Fired::Enqueued(JobId::for_slot("s", slot(1))), "a slot");
    let stored = read(store, JobId::for_slot("s", slot(1))).await?;
    check_eq!(stored.queue.as_str(), "mail", "the queue of a scheduled job");
    check_eq!(stored.labels.len(), 1, "its labels");
    check!(
        stored.run_at == stored.created_at.plus(secs(60)),
        "its delay counts from the store's now"
    );
    let mut other = first.clone();
    if let Some(job) = &mut other.job {
        job.input = value("another");
    }
    for again in [first, other] {
        for handle in case.handles(2).await? {
            let answer = handle.fire(&again).await?;
            check_eq!(answer, Fired::Already { last_slot: slot(1) }, "a repeat");
            check_unchanged(store, &stored, "a repeat").await?;
        }
    }
    check_eq!(jobs(store).await?, 1, "jobs");
    // Its job is there, but the slot was never counted: somebody inserted it.
    let mut early = job("early");
    early.id = JobId::for_slot("s", slot(2));
    put(store, &early).await?;
    let answer = store.fire(&fire("s", 2)).await?;
    check_eq!(answer, Fired::Skipped(Some(early.id)), "a slot whose job is there");
    check_eq!(read(store, early.id).await?.kind, "early", "the job that was there");

    // Refused whole.
    let mut bad = fire("s", 3);
    if let Some(job) = &mut bad.job {
        job.id = JobId::new();
    }
    let unnamed = Fire::skip("", slot(3), None);
    let mut broken = fire("s", 3);
    if let Some(job) = &mut broken.job {
        job.kind = "".into();
    }
    let before = store.schedules().await?;
    for fire in [bad, unnamed, broken] {
        let answer = store.fire(&fire).await.map_err(|error| (error.kind(), error.effect()));
        check_eq!(answer, Err((ErrorKind::Invalid, Effect::None)), "a malformed {fire:?}");
    }
    check_eq!(store.schedules().await?, before, "the statistics after malformed calls");
    check_eq!(jobs(store).await?, 2, "jobs after malformed calls");
    Ok(())
}

async fn schedules_are_independent(case: &Case<'_>) -> Checked {
    let store = case.store();
    // Names that differ in case, in a letter's form, or by what a pattern would match.
    let mut names = ["b", "a", "A", "a%", "a_", "ab", "\u{e9}", "e\u{301}"];
    case.rng().shuffle(&mut names);
    for (i, name) in names.iter().enumerate() {
        for step in 0..=i as u64 {
            let fired = store.fire(&fire(name, 10 * step)).await?;
            let expected = Fired::Enqueued(JobId::for_slot(name, slot(10 * step)));
            check_eq!(fired, expected, "slot {step} of {name:?}");
        }
        skip_slot(store, name, slot(1_000), Some(format!("error of {name}"))).await?;
    }
    let stats = store.schedules().await?;
    let mut sorted = names;
    sorted.sort_unstable();
    let listed: Vec<&str> = stats.iter().map(|stat| stat.schedule.as_str()).collect();
    check_eq!(listed, sorted.to_vec(), "the schedules, by name");
    for stat in &stats {
        let i = names.iter().position(|name| *name == stat.schedule).unwrap_or_default() as u64;
        check_eq!((stat.fired, stat.skipped), (i + 1, 1), "fired and skipped of {}", stat.schedule);
        check_eq!(stat.last_slot, slot(1_000), "the last slot of {}", stat.schedule);
        let last = JobId::for_slot(&stat.schedule, slot(10 * i));
        check_eq!(stat.last_job, Some(last), "the last job of {}", stat.schedule);
        let error = format!("error of {}", stat.schedule);
        check_eq!(stat.last_error, Some(error), "the last error of {}", stat.schedule);
    }
    Ok(())
}

async fn pruned_slots_stay_fired(case: &Case<'_>) -> Checked {
    let store = case.store();
    for i in 1..4 {
        check_eq!(
            store.fire(&fire("s", i)).await?,
            Fired::Enqueued(JobId::for_slot("s", slot(i))),
            "slot {i}"
        );
        let id = JobId::for_slot("s", slot(i));
        if i != 2 {
            let held = take_id(store, id).await?;
            settle(store, &held, complete()).await?;
        }
        check_eq!(store.delete(&JobFilter::id(id), n(1)).await?, 1, "jobs pruned");
        if case.is_clocked() {
            case.advance(HOUR)?;
        }
        let before = stat(store, "s").await?;
        for old in 1..=i {
            let answer = store.fire(&fire("s", old)).await?;
            check_eq!(
                answer,
                Fired::Already { last_slot: slot(i) },
                "slot {old} once its job is gone"
            );
        }
        check_eq!(jobs(store).await?, 0, "jobs after slots were fired again");
        check_eq!(stat(store, "s").await?, before, "the statistics");
        check_eq!(before.last_job, Some(id), "the last job, although it is gone");
    }
    Ok(())
}
