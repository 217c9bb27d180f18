//! What an insert does that finds its key held, and by whom a key is held.

use queue_core::{
    BulkChange, Inserted, Job, JobFilter, JobId, JobPatch, Keep, NewJob, OnConflict, State, States,
    Unique, When,
};

use super::super::scene::{
    HOUR, Store, cancel, complete, edit, job, n, put, put_all, queue, read, retry, settle, take_id,
};
use crate::{Case, Checked, check, check_eq};

fn keyed(key: &str, within: States, on_conflict: OnConflict) -> NewJob {
    let mut new = job("keyed");
    let mut unique = Unique::new(key);
    (unique.within, unique.on_conflict) = (within, on_conflict);
    new.unique = Some(unique);
    new
}

/// A job of this key that differs from others in everything else.
fn stranger(key: &str, on_conflict: OnConflict) -> Checked<NewJob> {
    let mut new = keyed(key, States::LIVE, on_conflict);
    (new.kind, new.queue, new.priority) = ("stranger".into(), queue("strange")?, 9);
    Ok(new)
}

async fn insert(store: &Store, job: &NewJob) -> Checked<Vec<Inserted>> {
    Ok(store.insert(std::slice::from_ref(job)).await?)
}

async fn check_held(store: &Store, key: &str, holder: JobId, why: &str) -> Checked {
    let before = read(store, holder).await?;
    let answer = insert(store, &stranger(key, OnConflict::Return)?).await?;
    check_eq!(answer, vec![Inserted::Existing(holder)], "{why}: an insert of its key");
    check_eq!(read(store, holder).await?, before, "{why}: the holder of a key, after a conflict");
    Ok(())
}

pub(super) async fn the_holders_scope_decides(case: &Case<'_>) -> Checked {
    let store = case.store();
    let ret = OnConflict::Return;
    // Held while it waits, runs, is to be cancelled and waits again, whatever else becomes of the job.
    let mut first = keyed("live", States::LIVE, ret);
    first.when = When::After(HOUR);
    put(store, &first).await?;
    check_held(store, "live", first.id, "a job not yet due").await?;
    let _ = store.update_where(&JobFilter::id(first.id), &BulkChange::Wake).await?;
    check_held(store, "live", first.id, "a job that was woken").await?;
    let held = take_id(store, first.id).await?;
    settle(store, &held, retry(When::Now)).await?;
    check_held(store, "live", first.id, "a job that waits for its retry").await?;
    let held = take_id(store, first.id).await?;
    cancel(store, first.id, "stop").await?;
    check_held(store, "live", first.id, "a running job that is to be cancelled").await?;
    settle(store, &held, complete()).await?;
    // What the newcomer thinks of completed jobs is its own affair.
    let wide = keyed("live", States::ALL, ret);
    check_eq!(insert(store, &wide).await?, vec![Inserted::New(wide.id)], "the key of an ended job");
    cancel(store, wide.id, "stop").await?;
    check_held(store, "live", wide.id, "a cancelled job with cancelled jobs in its scope").await?;
    let supersede = stranger("live", OnConflict::Supersede)?;
    let answer = insert(store, &supersede).await?;
    check_eq!(answer, vec![Inserted::Existing(wide.id)], "a job that would supersede an ended one");

    // A job that is gone holds nothing: deleted by its completion, or by hand.
    let mut dropped = keyed("dropped", States::ALL, ret);
    dropped.keep = Keep::UnlessCompleted;
    put(store, &dropped).await?;
    let held: Job = take_id(store, dropped.id).await?;
    settle(store, &held, complete()).await?;
    put(store, &stranger("dropped", ret)?).await?;
    check_eq!(store.delete(&JobFilter::id(wide.id), n(1)).await?, 1, "a deletion");
    put(store, &stranger("live", ret)?).await?;

    // The jobs of one call are treated in the order of the call.
    let mut batch = [keyed("batch", States::LIVE, ret), keyed("batch", States::LIVE, ret)];
    batch.sort_by_key(|job| std::cmp::Reverse(job.id));
    let answers = store.insert(&batch).await?;
    let expected = vec![Inserted::New(batch[0].id), Inserted::Existing(batch[0].id)];
    check_eq!(answers, expected, "two jobs of one key, the one with the larger id first");
    Ok(())
}

pub(super) async fn only_what_never_started_is_superseded(case: &Case<'_>) -> Checked {
    let store = case.store();
    let supersede = OnConflict::Supersede;
    // Edited, moved, woken, of another kind: what has never started is superseded.
    for how in 0..5 {
        let key = format!("key {how}");
        let mut old =
            keyed(&key, States::LIVE, if how == 4 { OnConflict::Return } else { supersede });
        old.when = When::After(HOUR);
        put(store, &old).await?;
        let filter = JobFilter::id(old.id);
        match how {
            0 => drop(edit(store, old.id, JobPatch::default().with_label("a", "b")).await?),
            1 => drop(store.update_where(&filter, &BulkChange::Queue(queue("moved")?)).await?),
            2 => drop(store.update_where(&filter, &BulkChange::Wake).await?),
            _ => drop(store.update_where(&filter, &BulkChange::Priority(3)).await?),
        }
        let version = read(store, old.id).await?.version;
        let new = stranger(&key, supersede)?;
        put(store, &new).await?;
        let ended = read(store, old.id).await?;
        check_eq!(ended.state, State::Cancelled, "case {how}: a job that was superseded");
        check_eq!(ended.version.0, version.0 + 1, "case {how}: its version");
        check!(ended.cancel.is_some() && ended.finished_at.is_some(), "case {how}: {ended:?}");
    }
    // Running, retrying and ended jobs stay, and are no conflict to anybody, whatever their scope says.
    let old = keyed("started", States::ALL, supersede);
    put(store, &old).await?;
    let held = take_id(store, old.id).await?;
    let mut newest = old.id;
    for (what, transition) in [
        ("runs", None),
        ("waits for its retry", Some(retry(When::After(HOUR)))),
        ("has completed", Some(complete())),
    ] {
        if let Some(transition) = transition {
            let held = match what {
                "has completed" => {
                    let _ = store.update_where(&JobFilter::id(old.id), &BulkChange::Wake).await?;
                    take_id(store, old.id).await?
                }
                _ => held.clone(),
            };
            settle(store, &held, transition).await?;
        }
        for on_conflict in [OnConflict::Return, supersede] {
            let before = read(store, old.id).await?;
            let new = stranger("started", on_conflict)?;
            let answer = insert(store, &new).await?;
            check_eq!(answer, vec![Inserted::New(new.id)], "a job whose predecessor {what}");
            check_eq!(read(store, old.id).await?, before, "a superseding job that {what}");
            newest = new.id;
            // It waits, and holds the key: out of the way with it.
            cancel(store, newest, "next").await?;
        }
    }
    // The repeat of an insert leaves alone what has superseded its job.
    let pair = [stranger("pair", supersede)?, stranger("pair", supersede)?];
    put_all(store, &pair).await?;
    for job in &pair {
        let answer = insert(store, job).await?;
        check_eq!(answer, vec![Inserted::Existing(job.id)], "the repeat of an insert");
    }
    let states = [read(store, pair[0].id).await?.state, read(store, pair[1].id).await?.state];
    check_eq!(
        states,
        [State::Cancelled, State::Waiting],
        "two superseding jobs of one call, repeated"
    );
    check!(read(store, newest).await?.state == State::Cancelled, "a cancelled job has come back");
    Ok(())
}
