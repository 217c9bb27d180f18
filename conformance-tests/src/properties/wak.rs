//! WAK: wake-ups come where they are promised, and nothing depends on them.

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use queue_core::{
    ClaimRequest, JobPatch, JobStoreExt, JobUpdate, Lane, NewJob, QueueName, Reach, Wakeup, When,
};
use tokio::time::{Instant, timeout};

use super::scene::{
    HOUR, Store, cancelling, complete, ids, job, put, queue, release, retry, settle, take_id,
    wanted, wanted_from, wanted_ids,
};
use crate::{Case, Checked, Fault, Property, Stop, check, check_eq, property::group};

/// After how long a wake-up that was promised counts as one that never comes.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a stream that promises nothing is listened to.
const SILENCE: Duration = Duration::from_millis(300);
/// A store that would sleep until it is woken is given no longer than this to find a job by itself.
const POLLS: usize = 200;
/// The events that end the connection on which wake-ups come.
const EVENTS: [Fault; 4] = [Fault::Cut, Fault::Reset, Fault::Terminated, Fault::Restarted];

mod listed {
    use super::*;

    group! {
        "WAK-1", "where wake-ups are promised, one comes for whatever makes a job due" => they_come;
        "WAK-2", "jobs are found by polling, whatever becomes of the wake-ups" => polling_is_enough;
        "WAK-3", "wake-ups come again after their connection has ended" => they_come_again;
        "WAK-4", "where wake-ups are not promised, none come" => silence_is_kept;
    }
}

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let properties = listed::properties().into_iter();
    properties.map(|property| property.within(Duration::from_secs(60))).collect()
}

type Hints = BoxStream<'static, Wakeup>;

/// Waits for a hint that a job in this queue may be due. Hints of what was done before may come first: what is done is
/// repeated until one comes that is ours.
async fn heard(hints: &mut Hints, queue: &QueueName, what: &str) -> Checked {
    let ours = async {
        while let Some(hint) = hints.next().await {
            if hint.queue.as_ref().is_none_or(|name| name == queue) {
                return Ok(());
            }
        }
        Err(Stop::fail(format!("the stream of wake-ups has ended while waiting for {what}")))
    };
    match timeout(DEADLINE, ours).await {
        Ok(heard) => heard,
        Err(_) => Err(Stop::fail(format!("no wake-up came within {DEADLINE:?} for {what}"))),
    }
}

/// Takes in what was said until nothing is for a while, so that what is heard next is of what is done next.
async fn hush(hints: &mut Hints) -> Checked {
    let begun = Instant::now();
    loop {
        match timeout(Duration::from_millis(60), hints.next()).await {
            Err(_) => return Ok(()),
            Ok(Some(_)) if begun.elapsed() < DEADLINE => {}
            Ok(Some(_)) => {
                return Err(Stop::fail("wake-ups come without end, and without a cause"));
            }
            Ok(None) => return Err(Stop::fail("the stream of wake-ups has ended")),
        }
    }
}

/// Makes the stream live: the first hint may be lost while a connection is made.
async fn live(listening: &Store, writing: &Store, name: &QueueName) -> Checked<Hints> {
    let mut hints = listening.wakeups();
    let begun = Instant::now();
    loop {
        let mut first = job("first");
        first.queue = name.clone();
        put(writing, &first).await?;
        match timeout(Duration::from_millis(200), hints.next()).await {
            Ok(Some(_)) => break,
            Ok(None) => return Err(Stop::fail("the stream of wake-ups has ended at once")),
            Err(_) if begun.elapsed() < DEADLINE => {}
            Err(_) => {
                return Err(Stop::fail(format!(
                    "no wake-up came within {DEADLINE:?}, for one insert after the other"
                )));
            }
        }
    }
    hush(&mut hints).await?;
    Ok(hints)
}

async fn they_come(case: &Case<'_>) -> Checked {
    let Some(reach) = case.info().capabilities.wakeups else {
        return silence_is_kept(case).await;
    };
    let name = queue("woken")?;
    // Siblings are other processes on the same machine.
    let far = reach > Reach::Process && case.has_sibling();
    let handles = case.handles(if far { 2 } else { 1 }).await?;
    let mut causes = 0;
    for writing in &handles {
        let listening = case.store();
        let mut hints = live(listening, writing, &name).await?;
        causes += all_causes(&mut hints, writing, &name).await?;
        // Each listener hears it.
        let (mut one, mut other) = (listening.wakeups(), listening.wakeups());
        one = fed(one, writing, &name).await?;
        other = fed(other, writing, &name).await?;
        hush(&mut one).await?;
        hush(&mut other).await?;
        put(writing, &in_queue(&name)).await?;
        heard(&mut one, &name, "an insert, on one of two streams").await?;
        heard(&mut other, &name, "an insert, on the other of two streams").await?;
    }
    case.note(format!("{causes} causes, each heard, through {} handles", handles.len()));
    Ok(())
}

/// A stream that has heard something.
async fn fed(mut hints: Hints, writing: &Store, name: &QueueName) -> Checked<Hints> {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        put(writing, &in_queue(name)).await?;
        if let Ok(Some(_)) = timeout(Duration::from_millis(200), hints.next()).await {
            return Ok(hints);
        }
    }
    Err(Stop::fail("a second stream hears nothing"))
}

fn in_queue(name: &QueueName) -> NewJob {
    let mut job = job("woken");
    job.queue = name.clone();
    job
}

const CAUSES: usize = 8;

/// Everything that makes a job due.
async fn all_causes(hints: &mut Hints, store: &Store, name: &QueueName) -> Checked<usize> {
    put(store, &in_queue(name)).await?;
    heard(hints, name, "an insert of a job that is due").await?;
    let mut later = in_queue(name);
    later.when = When::After(HOUR);
    put(store, &later).await?;
    hush(hints).await?;
    store.wake(later.id).await?;
    heard(hints, name, "a wake of a waiting job").await?;
    for (what, transition) in
        [("a release until now", release(When::Now)), ("a retry now", retry(When::Now))]
    {
        let held = take_id(store, later.id).await?;
        hush(hints).await?;
        settle(store, &held, transition).await?;
        heard(hints, name, what).await?;
    }
    let mut laned = [in_queue(name), in_queue(name), in_queue(name)];
    for job in &mut laned {
        job.lane = Some(Lane::new("the lane"));
    }
    store.insert(&laned).await?;
    let first = take_id(store, laned[0].id).await?;
    hush(hints).await?;
    settle(store, &first, complete()).await?;
    heard(hints, name, "a settle that frees a lane").await?;
    let second = take_id(store, laned[1].id).await?;
    hush(hints).await?;
    // As a worker does it.
    let nothing: ClaimRequest = wanted_ids(&[], 1);
    let done = JobUpdate::held(second.id, second.fence, JobPatch::transition(complete()));
    store.update_and_claim(&[done], &nothing).await?;
    heard(hints, name, "a settle with a claim that frees a lane").await?;
    let third = take_id(store, laned[2].id).await?;
    settle(store, &third, complete()).await?;
    hush(hints).await?;
    let slot = store.ping().await?;
    let schedule = format!("schedule of {slot} {}", later.id);
    let fire = queue_core::Fire::new(schedule, slot, in_queue(name));
    let fired = store.fire(&fire).await?;
    check!(matches!(fired, queue_core::Fired::Enqueued(_)), "a new slot: {fired:?}");
    heard(hints, name, "a slot that is fired").await?;
    hush(hints).await?;
    store.pause(name).await?;
    hush(hints).await?;
    store.resume(name).await?;
    heard(hints, name, "a queue that is resumed").await?;
    // Out of the way of the next round.
    store.update_where(&queue_core::JobFilter::queue(name.clone()), &cancelling("over")).await?;
    store.delete(&queue_core::JobFilter::queue(name.clone()), super::scene::n(1_000)).await?;
    Ok(CAUSES)
}

async fn polling_is_enough(case: &Case<'_>) -> Checked {
    let store = case.store();
    let name = queue("polled")?;
    // A stream that is never polled, with more than it can hold behind it.
    let never = store.wakeups();
    drop(store.wakeups());
    for _ in 0..3 {
        let jobs: Vec<NewJob> = (0..200).map(|_| in_queue(&name)).collect();
        store.insert(&jobs).await?;
    }
    let mut found = 0;
    loop {
        let claimed = store.claim(&wanted_from(&["polled"], 100)?).await?;
        if claimed.jobs.is_empty() {
            check_eq!(
                claimed.next_due.is_some(),
                true,
                "the lease of a job that is held is awaited"
            );
            break;
        }
        found += claimed.jobs.len();
    }
    check_eq!(found, 600, "jobs found without listening");
    drop(never);
    // A job that falls due while nobody is told.
    let mut later = in_queue(&name);
    let wait = if case.is_clocked() { HOUR } else { Duration::from_millis(200) };
    later.when = When::After(wait);
    put(store, &later).await?;
    let empty = store.claim(&wanted(1)).await?;
    check_eq!(ids(&empty.jobs), [], "jobs that are due");
    let due = empty.next_due.ok_or_else(|| Stop::fail("nothing says when to ask again"))?;
    let now = case.now().await?;
    check!(due <= now.plus(wait), "a job is due in {wait:?}, and the next look is to be at {due}");
    case.pass(wait + case.info().capabilities.schedule_slack).await?;
    found_by_polling(case, later.id).await?;
    // And one that is made due by another.
    let mut woken = in_queue(&name);
    woken.when = When::After(HOUR);
    put(store, &woken).await?;
    store.wake(woken.id).await?;
    found_by_polling(case, woken.id).await
}

async fn found_by_polling(case: &Case<'_>, id: queue_core::JobId) -> Checked {
    for _ in 0..POLLS {
        let claimed = case.store().claim(&wanted_ids(&[id], 1)).await?;
        if ids(&claimed.jobs) == [id] {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Stop::fail(format!("job {id} is due, and not found by {POLLS} claims")))
}

async fn they_come_again(case: &Case<'_>) -> Checked {
    let mut met = Vec::new();
    for fault in EVENTS {
        let (broken, breaking) = match case.broken_by(fault).await {
            Err(Stop::Skip(_)) => continue,
            opened => opened?,
        };
        if broken.info().capabilities.wakeups.is_none() {
            return silence_is_kept(case).await;
        }
        let store = broken.store();
        let name = queue("again")?;
        let mut hints = live(store, store, &name).await?;
        for _ in 0..if fault == Fault::Restarted { 1 } else { 3 } {
            breaking.on().await?;
            // Something for the connection to break on.
            drop(insist(store, &name, 1).await);
        }
        breaking.off().await?;
        let begun = Instant::now();
        loop {
            insist(store, &name, 40).await?;
            match timeout(Duration::from_millis(100), hints.next()).await {
                Ok(Some(hint)) if hint.queue.as_ref() == Some(&name) => break,
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => {
                    return Err(Stop::fail(format!(
                        "the stream of wake-ups has ended when the store was `{fault}`"
                    )));
                }
            }
            check!(
                begun.elapsed() < DEADLINE + breaking.patience(),
                "no wake-up has come since the store was `{fault}`, for one insert after the other"
            );
        }
        met.push(fault.to_string());
    }
    match met.is_empty() {
        true => Err(Stop::skip("the harness has no fault that ends a connection")),
        false => {
            case.note(format!("heard again after: {}", met.join(", ")));
            Ok(())
        }
    }
}

/// Inserts a job, also by the worst connections of a pool.
async fn insist(store: &Store, name: &QueueName, tries: usize) -> Checked {
    let new = [in_queue(name)];
    let mut last = None;
    for _ in 0..tries {
        match store.insert(&new).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(last.map_or_else(|| Stop::inconclusive("no try was made"), Stop::from))
}

async fn silence_is_kept(case: &Case<'_>) -> Checked {
    let store = case.store();
    if case.info().capabilities.wakeups.is_some() {
        // Promised: then polling must be enough all the same.
        return polling_is_enough(case).await;
    }
    let mut hints = store.wakeups();
    let working = async {
        let name = queue("silent")?;
        let new = in_queue(&name);
        put(store, &new).await?;
        let held = take_id(store, new.id).await?;
        settle(store, &held, release(When::Now)).await?;
        store.wake(new.id).await?;
        Ok::<_, Stop>(())
    };
    quiet(&mut hints, working).await?;
    // Out of the way of what is polled for.
    let silent = queue_core::JobFilter::queue(queue("silent")?);
    store.update_where(&silent, &cancelling("over")).await?;
    polling_is_enough(case).await
}

/// That nothing is heard while something is done, nor for a while after.
async fn quiet(hints: &mut Hints, working: impl Future<Output = Checked>) -> Checked {
    let listening = async {
        let heard = hints.next().await;
        Err(Stop::fail(format!("no wake-ups are promised, but the stream says {heard:?}")))
    };
    tokio::select! {
        ended = listening => ended,
        done = async {
            working.await?;
            tokio::time::sleep(SILENCE).await;
            Ok(())
        } => done,
    }
}
