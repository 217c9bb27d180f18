//! INS: what an insert stores, and what it answers.

mod conflicts;

use std::time::Duration;

use queue_core::{
    Effect, ErrorKind, Fence, Inserted, Job, JobFilter, JobStoreExt, Keep, Lane, NewJob,
    OnConflict, Payload, State, States, Timestamp, Unique, Version, When,
};

use super::scene::{
    End, HOUR, brief, check_time, check_unchanged, job, n, new_ids, plain_jobs, put, put_all,
    queue, read, settle, take_for, take_id, value,
};
use crate::{Case, Checked, Stop, check, check_eq, property::group, race};

group! {
    "INS-1", "all fields of a new job survive" => every_field_survives;
    "INS-2", "answers are positional" => answers_are_positional;
    "INS-3", "an id that is there is Existing, and its job stays as it is" => a_known_id_changes_nothing;
    "INS-4", "an empty batch is answered empty" => an_empty_batch_is_free;
    "INS-5", "1,000 jobs go in one call" => a_thousand_in_one_call;
    "INS-6", "of N racing inserts of a unique key exactly one is New" => one_winner_per_key;
    "INS-7", "a unique key is held within its scope and free once the job leaves it" => keys_follow_their_scope;
    "INS-8", "duplicates inside one batch are treated one after the other" => duplicates_in_a_batch;
    "INS-9", "After counts from the store's clock" => delays_count_from_the_stores_clock;
    "INS-10", "an invalid or oversized job is refused, and nothing of its batch is stored" => malformed_batches_store_nothing;
    "INS-11", "whether a key is held is decided by its holder's scope, and a conflict leaves the holder alone" => conflicts::the_holders_scope_decides;
    "INS-12", "a job is superseded until it starts, and never after" => conflicts::only_what_never_started_is_superseded;
}

fn rich_jobs() -> Checked<Vec<NewJob>> {
    let at = |micros| Ok::<_, Stop>(When::At(Timestamp::from_micros(micros)?));
    let mut full = NewJob::new("rich", super::scene::text(r#"{"b":[1,2.50,null],"a":"x"}"#)?);
    full.queue = queue("mail")?;
    full.priority = -7;
    full.when = at(1_900_000_000_000_001)?;
    full.max_crashes = 9;
    full.keep = Keep::UnlessCompleted;
    full.labels = [("tenant", "acme"), ("region", "eu"), ("a b", "c=d")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    full.unique = Some(Unique::new("key-1"));
    full.lane = Some(Lane::with_limit("lane-1", n(3)));

    let mut highest = job("highest");
    highest.priority = i16::MAX;
    highest.max_crashes = u32::MAX;
    highest.when = at(1)?;
    let mut wide = Unique::new("key-2");
    wide.within = States::LIVE | State::Completed.into() | State::Failed.into();
    highest.unique = Some(wide);

    let mut lowest = job("lowest");
    lowest.priority = i16::MIN;
    lowest.max_crashes = 0;
    let mut replacing = Unique::supersede("key-3");
    replacing.within = States::ALL;
    lowest.unique = Some(replacing);
    lowest.lane = Some(Lane::new("lane-2"));
    Ok(vec![full, job("plain"), highest, lowest])
}

fn check_new(stored: &Job, new: &NewJob, from: Timestamp, to: Timestamp) -> Checked {
    check_eq!(stored.id, new.id, "id");
    check_eq!(stored.queue, new.queue, "queue");
    check_eq!(stored.kind, new.kind, "kind");
    check_eq!(stored.input, new.input, "input");
    check_eq!(stored.priority, new.priority, "priority");
    check_eq!(stored.labels, new.labels, "labels");
    check_eq!(stored.unique, new.unique, "unique");
    check_eq!(stored.lane, new.lane, "lane");
    check_eq!(stored.keep, new.keep, "keep");
    check_eq!(stored.max_crashes, new.max_crashes, "max_crashes");
    check_eq!(stored.state, State::Waiting, "state");
    check_eq!((stored.attempt, stored.crashes), (0, 0), "attempt and crashes");
    check_eq!(stored.fence, Fence::default(), "the fence of a job that was never claimed");
    check_eq!(stored.version, Version(1), "the version of a new job");
    check_time(Some(stored.created_at), from, to, "created_at")?;
    check_time(Some(stored.run_at), new.when.resolve(from), new.when.resolve(to), "run_at")?;
    check_eq!((stored.started_at, stored.finished_at), (None, None), "started_at and finished_at");
    check_eq!((&stored.holder, stored.lease_until), (&None, None), "holder and lease");
    check_eq!((&stored.progress, &stored.cancel), (&None, &None), "progress and cancel");
    check_eq!((&stored.output, &stored.error), (&None, &None), "output and error");
    check_eq!((stored.log_len, stored.log.len()), (0, 0), "the log");
    Ok(())
}

async fn every_field_survives(case: &Case<'_>) -> Checked {
    let jobs = rich_jobs()?;
    let from = case.now().await?;
    put_all(case.store(), &jobs).await?;
    let to = case.now().await?;
    for handle in case.handles(2).await? {
        for new in &jobs {
            check_new(&read(&handle, new.id).await?, new, from, to)?;
        }
    }
    Ok(())
}

async fn answers_are_positional(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut known = plain_jobs(6);
    for (i, job) in known.iter_mut().enumerate().filter(|(i, _)| i % 2 == 0) {
        job.unique = Some(Unique::new(format!("key-{i}")));
    }
    put_all(store, &known).await?;
    // New jobs, known ids and held keys, in an order that has nothing to do with their ids.
    let mut batch: Vec<(NewJob, Inserted)> = Vec::new();
    for (i, old) in known.iter().enumerate() {
        let new = job("new");
        batch.push((new.clone(), Inserted::New(new.id)));
        batch.push((old.clone(), Inserted::Existing(old.id)));
        if i % 2 == 0 {
            let mut rival = job("rival");
            rival.unique = Some(Unique::new(format!("key-{i}")));
            batch.push((rival, Inserted::Existing(old.id)));
        }
    }
    case.rng().shuffle(&mut batch);
    let (jobs, expected): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let answers = store.insert(&jobs).await?;
    check_eq!(answers, expected, "the answers to a mixed batch, by position");
    check_eq!(store.count(&JobFilter::all()).await?, 12, "jobs stored in all");
    Ok(())
}

async fn a_known_id_changes_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let first = job("first");
    put(store, &first).await?;
    let mut other = job("other");
    other.id = first.id;
    other.queue = queue("elsewhere")?;
    other.priority = 5;
    other.labels.insert("a".into(), "b".into());
    other.unique = Some(Unique::new("other"));
    let again = async |before: &Job, when: &str| -> Checked {
        for job in [&first, &other] {
            let answer = store.insert_one(job).await?;
            check_eq!(answer, Inserted::Existing(job.id), "an id that is there ({when})");
        }
        check_unchanged(store, before, when).await
    };
    again(&read(store, first.id).await?, "an insert of a waiting job's id").await?;
    let held = take_id(store, first.id).await?;
    again(&held, "an insert of a running job's id").await?;
    settle(store, &held, super::scene::complete()).await?;
    again(&read(store, first.id).await?, "an insert of a completed job's id").await?;
    // What was refused must not hold its key either.
    let mut free = job("free");
    free.unique = Some(Unique::new("other"));
    put(store, &free).await?;

    let handles = case.handles(4).await?;
    for round in 0..case.times(6) {
        let id = job("x").id;
        let answers = race(4, |i| {
            let store = handles[i].clone();
            let mut job = NewJob::new("racing", value((round, i)));
            job.id = id;
            async move { Ok((store.insert_one(&job).await?, job.input)) }
        })
        .await?;
        let winners: Vec<&Payload> =
            answers.iter().filter(|(answer, _)| answer.is_new()).map(|(_, input)| input).collect();
        check_eq!(winners.len(), 1, "winners among racing inserts of one id: {answers:?}");
        check_eq!(&read(store, id).await?.input, winners[0], "the input stored is the winner's");
    }
    Ok(())
}

async fn an_empty_batch_is_free(case: &Case<'_>) -> Checked {
    let store = case.store();
    check_eq!(store.insert(&[]).await?, vec![], "an insert of nothing");
    check_eq!(store.update_jobs(&[]).await?, vec![], "an update of nothing");
    check_eq!(store.heartbeat(&[], HOUR).await?, vec![], "a heartbeat of nothing");
    check_eq!(store.get(&[], queue_core::LogRead::All).await?, vec![], "a read of nothing");
    check_eq!(store.count(&JobFilter::all()).await?, 0, "jobs stored by all that");
    Ok(())
}

async fn a_thousand_in_one_call(case: &Case<'_>) -> Checked {
    let store = case.store();
    let mut jobs = plain_jobs(1_000);
    case.rng().shuffle(&mut jobs);
    put_all(store, &jobs).await?;
    check_eq!(store.count(&JobFilter::all()).await?, 1_000, "jobs stored");
    let stored = store.get(&new_ids(&jobs), queue_core::LogRead::None).await?;
    for (new, stored) in jobs.iter().zip(stored) {
        check_eq!(stored.map(|job| job.input), Some(new.input.clone()), "the input of {}", new.id);
    }
    let again = store.insert(&jobs).await?;
    check!(again.iter().all(|answer| !answer.is_new()), "a repeat of the call is all Existing");
    check_eq!(store.count(&JobFilter::all()).await?, 1_000, "jobs stored after the repeat");
    Ok(())
}

async fn one_winner_per_key(case: &Case<'_>) -> Checked {
    let handles = case.handles(4).await?;
    for round in 0..case.times(10) {
        let keys = [format!("a{round}"), format!("b{round}"), format!("c{round}")];
        let answers = race(8, |i| {
            let store = handles[i % handles.len()].clone();
            // Two keys each, in either order, so that batches overlap in part and crosswise.
            let picked = [i % 3, (i + 1 + i % 2) % 3];
            let jobs = picked.map(|key| {
                let mut job = job("racing");
                job.unique = Some(Unique::new(keys[key].clone()));
                job
            });
            async move { Ok(picked.into_iter().zip(store.insert(&jobs).await?).collect::<Vec<_>>()) }
        })
        .await?;
        let answers: Vec<(usize, Inserted)> = answers.into_iter().flatten().collect();
        check_eq!(answers.len(), 16, "answers");
        for key in 0..3 {
            let of_key: Vec<Inserted> =
                answers.iter().filter(|(k, _)| *k == key).map(|(_, answer)| *answer).collect();
            let new: Vec<_> = of_key.iter().filter(|answer| answer.is_new()).collect();
            check_eq!(new.len(), 1, "New among racing inserts of one key: {of_key:?}");
            let winner = new[0].id();
            check!(
                of_key.iter().all(|answer| answer.id() == winner),
                "every loser is told the winner {winner}: {of_key:?}"
            );
        }
        let stored = case.store().count(&JobFilter::all()).await?;
        check_eq!(stored, 3 * (round as u64 + 1), "jobs stored after {} rounds", round + 1);
    }
    Ok(())
}

/// Inserts a further job of the key, and says whether the key was free.
async fn is_free(case: &Case<'_>, unique: &Unique, holder: &Job, when: &str) -> Checked<bool> {
    let mut next = job("next");
    next.unique = Some(unique.clone());
    let answer = case.store().insert_one(&next).await?;
    match answer {
        Inserted::New(id) => check_eq!(id, next.id, "the id of a new job"),
        Inserted::Existing(id) => check_eq!(id, holder.id, "the holder of the key {when}"),
    }
    Ok(answer.is_new())
}

async fn keys_follow_their_scope(case: &Case<'_>) -> Checked {
    let store = case.store();
    let scopes = [
        States::LIVE,
        States::LIVE | State::Completed.into(),
        States::LIVE | State::Failed.into() | State::Cancelled.into(),
        States::ALL,
    ];
    for (i, within) in scopes.into_iter().enumerate() {
        for end in End::ALL {
            let mut unique = Unique::new(format!("{i}-{end:?}"));
            unique.within = within;
            let mut first = job("first");
            first.unique = Some(unique.clone());
            end.prepare(&mut first);
            put(store, &first).await?;
            let waiting = read(store, first.id).await?;
            let free = is_free(case, &unique, &waiting, "while it waits").await?;
            check!(!free, "a waiting job holds its key within {within:?}");
            let held = take_for(store, first.id, brief(case)).await?;
            let free = is_free(case, &unique, &held, "while it runs").await?;
            check!(!free, "a running job holds its key within {within:?}");
            end.make(case, &held, When::After(HOUR)).await?;
            let free = is_free(case, &unique, &held, "after its run").await?;
            let expected = !within.contains(end.state());
            check_eq!(free, expected, "whether the key (within {within:?}) is free after {end:?}");
        }
    }
    let mut waiting = job("cancelled while waiting");
    waiting.unique = Some(Unique::new("waiting"));
    put(store, &waiting).await?;
    super::scene::cancel(store, waiting.id, "stop").await?;
    let cancelled = read(store, waiting.id).await?;
    let free = is_free(case, &Unique::new("waiting"), &cancelled, "after a cancel").await?;
    check!(free, "a cancel of a waiting job frees its key");
    Ok(())
}

async fn duplicates_in_a_batch(case: &Case<'_>) -> Checked {
    let store = case.store();
    let (first, mut second) = (job("first"), job("second"));
    second.id = first.id;
    let answers = store.insert(&[first.clone(), second]).await?;
    let expected = vec![Inserted::New(first.id), Inserted::Existing(first.id)];
    check_eq!(answers, expected, "one id twice in a batch");
    check_eq!(
        read(store, first.id).await?.kind,
        "first",
        "the first of two jobs with one id stays"
    );

    let keyed = |on_conflict, key: &str| {
        let mut job = job("keyed");
        let mut unique = Unique::new(key);
        unique.on_conflict = on_conflict;
        job.unique = Some(unique);
        job
    };
    let twins: Vec<NewJob> = (0..3).map(|_| keyed(OnConflict::Return, "one")).collect();
    let answers = store.insert(&twins).await?;
    let holder = twins[0].id;
    let expected =
        vec![Inserted::New(holder), Inserted::Existing(holder), Inserted::Existing(holder)];
    check_eq!(answers, expected, "one key three times in a batch");

    let heirs: Vec<NewJob> = (0..3).map(|_| keyed(OnConflict::Supersede, "two")).collect();
    put_all(store, &heirs).await?;
    let mut states = Vec::new();
    for heir in &heirs {
        states.push(read(store, heir.id).await?.state);
    }
    let expected = vec![State::Cancelled, State::Cancelled, State::Waiting];
    check_eq!(states, expected, "three superseding jobs of one key in a batch");
    Ok(())
}

async fn delays_count_from_the_stores_clock(case: &Case<'_>) -> Checked {
    let store = case.store();
    for (step, delay) in
        [Duration::ZERO, Duration::from_micros(1), HOUR, Duration::MAX].into_iter().enumerate()
    {
        let mut late = job("late");
        late.when = When::After(delay);
        let from = case.now().await?;
        put_all(store, &[late.clone(), job("now")]).await?;
        let to = case.now().await?;
        let stored = read(store, late.id).await?;
        check_time(Some(stored.run_at), from.plus(delay), to.plus(delay), "run_at of After")?;
        if case.is_clocked() {
            // Not by the machine's clock: the store's stands elsewhere, and is moved.
            case.advance(Duration::from_micros(7_000_003 * (step as u64 + 1)))?;
        }
    }
    let mut past = job("past");
    past.when = When::At(Timestamp::EPOCH);
    put(store, &past).await?;
    check_eq!(read(store, past.id).await?.run_at, Timestamp::EPOCH, "run_at of an instant gone by");
    Ok(())
}

async fn malformed_batches_store_nothing(case: &Case<'_>) -> Checked {
    let store = case.store();
    let broken = |change: fn(&mut NewJob)| {
        let mut job = job("broken");
        change(&mut job);
        job
    };
    let malformed = [
        ("an empty kind", broken(|job| job.kind = "".into())),
        ("a kind of 257 bytes", broken(|job| job.kind = "x".repeat(257).into())),
        ("a control character in a kind", broken(|job| job.kind = "a\nb".into())),
        ("an empty label", broken(|job| drop(job.labels.insert("a".into(), String::new())))),
        ("a NUL in a label", broken(|job| drop(job.labels.insert("a\0".into(), "b".into())))),
        ("an empty lane", broken(|job| job.lane = Some(Lane::new("")))),
        ("a key of 257 bytes", broken(|job| job.unique = Some(Unique::new("k".repeat(257))))),
        (
            "a key that a running job does not hold",
            broken(|job| {
                let mut unique = Unique::new("k");
                unique.within = State::Waiting.into();
                job.unique = Some(unique);
            }),
        ),
    ];
    for (what, bad) in malformed {
        refused(case, bad, ErrorKind::Invalid, what).await?;
    }
    let limit = store.info().capabilities.max_payload_bytes;
    // Beyond this the document itself would be the load test.
    if limit <= 64 * 1024 * 1024 {
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let bad = NewJob::new("large", value("x".repeat(size - 1)));
        refused(case, bad, ErrorKind::TooLarge, "an input one byte over the limit").await?;
    }
    Ok(())
}

async fn refused(case: &Case<'_>, bad: NewJob, kind: ErrorKind, what: &str) -> Checked {
    let store = case.store();
    for batch in [vec![bad.clone()], vec![job("good"), bad.clone()], vec![bad, job("good")]] {
        match store.insert(&batch).await {
            Ok(answers) => {
                return Err(Stop::fail(format!("{what} was accepted: {answers:?}")));
            }
            Err(error) => {
                check_eq!(error.kind(), kind, "the kind of error for {what}");
                check_eq!(error.effect(), Effect::None, "the effect of refusing {what}");
            }
        }
        check_eq!(store.count(&JobFilter::all()).await?, 0, "jobs stored along with {what}");
    }
    Ok(())
}
