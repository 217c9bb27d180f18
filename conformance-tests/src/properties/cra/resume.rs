//! CRA-4.

use queue_core::{
    EntryId, EntryKind, Fence, JobPatch, JobStoreExt, Lane, NewEntry, Outcome, Record, State, When,
};

use super::site::Site;
use crate::{
    Case, Checked, check, check_eq,
    properties::scene::{
        HOUR, beat, brief, complete, job, put, put_all, queue, read, reap_all, release, retry,
        secs, settle, take_for, take_id, try_settle, value, wanted, wanted_ids, write,
    },
};

/// The stages of a life, with a kill between each and the next.
pub(super) async fn goes_on(case: &Case<'_>) -> Checked {
    let (site, life) = Site::durable(case).await?;
    let store = &life.store;
    let [mut waiting, mut expiring, held, mut laned, mut behind, settled, mut paused] =
        ["waiting", "expiring", "held", "laned", "behind", "settled", "paused"].map(job);
    waiting.when = When::Now;
    expiring.max_crashes = 1;
    (laned.lane, behind.lane) = (Some(Lane::new("lane")), Some(Lane::new("lane")));
    paused.queue = queue("paused")?;
    put_all(store, &[waiting.clone(), expiring.clone(), held.clone(), laned.clone()]).await?;
    put_all(store, &[behind.clone(), settled.clone(), paused.clone()]).await?;
    let mut lost = wanted_ids(&[expiring.id], 1);
    lost.lease = brief(case);
    let taken = store.claim(&lost).await?.jobs;
    let long = take_for(store, held.id, HOUR).await?;
    let entry = NewEntry::with_id(EntryId::new(), EntryKind::Step, value("once"));
    write(store, &long, JobPatch::append([entry.clone()])).await?;
    take_for(store, laned.id, HOUR).await?;
    let done = take_id(store, settled.id).await?;
    settle(store, &done, retry(When::Now)).await?;
    let again = take_id(store, settled.id).await?;
    settle(store, &again, release(When::Now)).await?;
    store.pause(&paused.queue).await?;
    life.process.kill();

    // Tokens, holders, settles, lanes and pauses.
    let life = site.reopen().await?;
    let store = &life.store;
    let repeated = store.claim(&lost).await?.jobs;
    check_eq!(repeated, taken, "a claim repeated by its token after a crash");
    check!(beat(store, &long, HOUR).await?.is_saved(), "a heartbeat of the holder after a crash");
    write(store, &long, JobPatch::append([entry.clone()])).await?;
    let log = read(store, held.id).await?.log;
    check_eq!(log.len(), 1, "entries after one was appended again, after a crash");
    let outcome = try_settle(store, &again, release(When::Now)).await?;
    check!(matches!(outcome, Outcome::Repeated(_)), "a settle repeated after a crash: {outcome:?}");
    let outcome = try_settle(store, &done, retry(When::Now)).await?;
    check_eq!(outcome, Outcome::Fenced, "the settle of an earlier run after a crash");
    // A pause may take a second to be heeded.
    let mut blocked = vec![behind.id];
    if case.is_clocked() {
        case.advance(secs(1))?;
        blocked.push(paused.id);
    }
    let blocked = wanted_ids(&blocked, 10);
    let none = store.claim(&blocked).await?;
    check_eq!(none.jobs, [], "jobs from a full lane and a paused queue, after a crash");
    check!(
        none.next_due.is_some(),
        "an answer that is empty after a crash says when a lease is over"
    );
    life.process.kill();

    // Leases end, fences go on, what waits is claimed.
    let life = site.reopen().await?;
    let store = &life.store;
    case.pass(brief(case)).await?;
    let reaped = reap_all(store).await?;
    check!(
        reaped.iter().any(|reaped| (reaped.id, reaped.crashes) == (expiring.id, 1)),
        "a lease that is over after a crash is reaped: {reaped:?}"
    );
    let mut due: Vec<_> = store.claim(&wanted(100)).await?.jobs;
    due.retain(|job| [waiting.id, expiring.id, settled.id].contains(&job.id));
    due.sort_by_key(|job| job.id);
    let mut expected = [(waiting.id, 1), (expiring.id, 2), (settled.id, 3)]
        .map(|(id, fence)| (id, fence, State::Running));
    expected.sort_by_key(|(id, ..)| *id);
    let found: Vec<_> = due.iter().map(|job| (job.id, job.fence.count, job.state)).collect();
    check_eq!(found, expected, "id, fence and state of what is claimed after two crashes");
    life.process.kill();

    let life = site.reopen().await?;
    let store = &life.store;
    for held in &due {
        let stale = Fence::new(held.fence.count - 1, held.fence.nonce);
        let mut zombie = held.clone();
        zombie.fence = stale;
        check_eq!(try_settle(store, &zombie, complete()).await?, Outcome::Fenced, "a stale fence");
        settle(store, held, complete()).await?;
    }
    settle(store, &long, complete()).await?;
    store.resume(&paused.queue).await?;
    let pauses = store.records(&Record::pause_key(&paused.queue)).await?;
    check_eq!(pauses, [], "the pauses after a resume");
    let last = put(store, &job("last")).await?;
    life.process.kill();
    let life = site.reopen().await?;
    take_id(&life.store, last).await?;
    check_eq!(read(&life.store, held.id).await?.state, State::Completed, "what was settled last");
    case.note("4 kills between claims, settles, reaps and their repeats");
    Ok(())
}
