//! Flaws that show once in a hundred calls or later: too seldom for the properties that make a few dozen.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use queue_core::{
    Ack, Claimed, Guard, JobId, JobUpdate, LogEntry, Outcome, Record, Seq, State, Transition,
    Version,
    spec::{Stored, World},
};

use super::{Flaw, Mutant, raw};

/// Counts calls, and says when one of them is to go wrong.
struct Every(u64, AtomicU64);

impl Every {
    const fn nth(n: u64) -> Self {
        Every(n, AtomicU64::new(0))
    }

    /// Whether this one is to.
    fn is_due(&self) -> bool {
        (self.1.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(self.0)
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "his-claim-hands-out-a-held-job",
        "every 80th claim that takes fewer than it may also takes a job that another holds",
        &["HIS-1"],
        || {
            let every = Every::nth(80);
            Flaw::none().claim(move |world, request, now| {
                let held: Option<JobId> = world.running().last();
                let mut claimed = world.claim(request, now)?;
                let has_room = claimed.jobs.len() < request.limit.get() as usize;
                if let (Some(held), true, false) = (held, has_room, claimed.jobs.is_empty())
                    && every.is_due()
                {
                    claimed.jobs.extend(raw::take(world, &[(held, None)], request, now).jobs);
                }
                Ok(claimed)
            })
        },
    ),
    Mutant::new(
        "his-job-forgotten",
        "the job of the 100th release is in no index any more: no claim finds it again",
        &["HIS-1"],
        || {
            let (every, lost) = (Every::nth(100), Arc::new(Mutex::new(Vec::<JobId>::new())));
            let forgotten = lost.clone();
            Flaw::none()
                .update(move |world, updates, now| {
                    let outcomes = world.update(updates, now)?;
                    for (update, outcome) in updates.iter().zip(&outcomes) {
                        let released =
                            matches!(update.patch.transition, Some(Transition::Release { .. }));
                        if released && outcome.applied().is_some() && every.is_due() {
                            lost.lock().unwrap_or_else(PoisonError::into_inner).push(update.id);
                        }
                    }
                    Ok(outcomes)
                })
                .claim(move |world, request, now| {
                    let lost = forgotten.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    without(world, &lost, |world| world.claim(request, now))
                })
        },
    ),
    Mutant::new(
        "his-claim-comes-back-empty",
        "every 50th claim finds nothing, and says that there is nothing",
        &["HIS-1"],
        || {
            let every = Every::nth(50);
            Flaw::none().claim(move |world, request, now| match every.is_due() {
                true => Ok(Claimed::new(Vec::new(), None)),
                false => world.claim(request, now),
            })
        },
    ),
    Mutant::new(
        "his-claim-overtakes",
        "every 60th claim that has a choice passes over the first job",
        &["HIS-1"],
        || {
            let every = Every::nth(60);
            Flaw::none().claim(move |world, request, now| {
                let first = raw::due(world, request, now).first().map(|(id, _)| *id);
                let many = raw::due(world, request, now).len() > request.limit.get() as usize;
                match first {
                    Some(first) if many && every.is_due() => {
                        without(world, &[first], |world| world.claim(request, now))
                    }
                    _ => world.claim(request, now),
                }
            })
        },
    ),
    Mutant::new(
        "his-settle-lost",
        "every 150th end of a run is acknowledged and not made",
        &["HIS-1"],
        || {
            let every = Every::nth(150);
            Flaw::none().update(move |world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let ends = update.patch.transition.is_some() && is_held(world, update);
                    (ends && every.is_due()).then(raw::applied)
                })
            })
        },
    ),
    Mutant::new(
        "his-holder-refused",
        "every 100th write of a holder is refused as if the job were lost",
        &["HIS-1"],
        || {
            let every = Every::nth(100);
            Flaw::none().update(move |world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    (is_held(world, update) && every.is_due()).then_some(Outcome::Fenced)
                })
            })
        },
    ),
    Mutant::new(
        "his-zombie-let-in",
        "every second end that comes after the run was reaped is made all the same",
        &["HIS-1"],
        || {
            let every = Every::nth(2);
            Flaw::none().update(move |world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Fence(fence) = update.guard else { return None };
                    let control = &world.job(update.id)?.row.control;
                    let own = control.settled.is_some_and(|settled| settled.fence == fence);
                    let held = control.state == State::Running && control.fence == fence;
                    let late = update.patch.transition.is_some()
                        && control.crashes > 0
                        && !(own || held || control.state.is_final());
                    (late && every.is_due()).then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "his-append-lost",
        "every 300th append is acknowledged and lost",
        &["HIS-2"],
        || {
            let every = Every::nth(300);
            Flaw::none().patching(move |update| {
                if !update.patch.log.is_empty() && every.is_due() {
                    update.patch.log.clear();
                }
            })
        },
    ),
    Mutant::new(
        "his-log-counter-overflows",
        "from its 257th append on, a job's log takes no entries, as of a counter of 8 bits",
        &["HIS-2"],
        || {
            let counts: Mutex<HashMap<JobId, u64>> = Mutex::default();
            Flaw::none().patching(move |update| {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count = counts.entry(update.id).or_default();
                *count += update.patch.log.iter().take(1).count() as u64;
                if *count == 257 {
                    *count = 0;
                    update.patch.log.clear();
                }
            })
        },
    ),
    Mutant::new(
        "his-entry-comes-and-goes",
        "every 70th read misses the last entry, which is there again later",
        &["HIS-2"],
        || {
            let every = Every::nth(70);
            Flaw::none().get(move |world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                for job in jobs.iter_mut().flatten().filter(|job| !job.log.is_empty()) {
                    if every.is_due() {
                        job.log.pop();
                        job.log_len -= 1;
                    }
                }
                Ok(jobs)
            })
        },
    ),
    Mutant::new(
        "his-refused-append-stays",
        "every 40th append that is refused is made all the same",
        &["HIS-2"],
        || {
            let every = Every::nth(40);
            Flaw::none().update(move |world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&outcomes) {
                    let refused = !outcome.is_saved() && !update.patch.log.is_empty();
                    if refused && every.is_due() {
                        world.edit(update.id, |stored| stored.append(&update.patch.log, now));
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "his-append-before-the-last",
        "every 150th append stands before the entry that was the last one",
        &["HIS-2"],
        || {
            let every = Every::nth(150);
            Flaw::none().update(move |world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&outcomes) {
                    let one = update.patch.log.len() == 1 && outcome.applied().is_some();
                    if one && every.is_due() {
                        world.edit(update.id, |stored| swap_last(&mut stored.log));
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "his-patch-seen-in-part",
        "every 50th patch of several entries is written entry by entry",
        &["HIS-2"],
        || {
            let every = Every::nth(50);
            Flaw::none().update_racing(move |store, updates| {
                let apart = updates.iter().any(|u| u.patch.log.len() > 1) && every.is_due();
                async move {
                    if !apart {
                        return store.step(|world, now| world.update(updates, now));
                    }
                    let mut first = updates.to_vec();
                    first.iter_mut().for_each(|update| update.patch.log.truncate(1));
                    store.step(|world, now| world.update(&first, now))?;
                    store.pause().await;
                    store.step(|world, now| world.update(updates, now))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "his-version-skipped",
        "every 60th change of a job adds two to its version",
        &["HIS-3"],
        || {
            let every = Every::nth(60);
            Flaw::none().update(move |world, updates, now| {
                let mut outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&mut outcomes) {
                    let Outcome::Applied(Ack { version: Some(version), .. }) = outcome else {
                        continue;
                    };
                    if update.patch.is_edit(false) && every.is_due() {
                        *version = Version(version.0 + 1);
                        let version = *version;
                        world.edit(update.id, |stored| stored.row.control.version = version);
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "his-stale-version-passes",
        "every 40th change at the version before the current one is made",
        &["HIS-3"],
        || {
            let every = Every::nth(40);
            Flaw::none().update(move |world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let Guard::Version(version) = update.guard else { return None };
                    let current = world.job(update.id)?.row.control.version;
                    (version.0 + 1 == current.0 && every.is_due())
                        .then(|| raw::force(world, update, now))
                })
            })
        },
    ),
    Mutant::new(
        "his-put-lost",
        "every 80th put of a record is acknowledged and not made",
        &["HIS-3"],
        || {
            let every = Every::nth(80);
            Flaw::none().put_record(move |world, record, expect, now| {
                let before = world.clone();
                let outcome = world.put_record(record, *expect, now)?;
                if outcome.applied().is_some() && every.is_due() {
                    *world = before;
                }
                Ok(outcome)
            })
        },
    ),
    Mutant::new(
        "his-old-record-read",
        "every 15th read of records shows what they were at the one before",
        &["HIS-3"],
        || {
            let (every, last) = (Every::nth(15), Mutex::new(HashMap::<String, Vec<Record>>::new()));
            Flaw::none().records(move |world, prefix, _| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let now = world.records(prefix);
                let before = last.insert(prefix.to_owned(), now.clone());
                Ok(before.filter(|_| every.is_due()).unwrap_or(now))
            })
        },
    ),
    Mutant::new(
        "his-conflict-tells-an-old-version",
        "every 50th conflict tells the version before the one that was in the way",
        &["HIS-3"],
        || {
            let every = Every::nth(50);
            Flaw::none().put_record(move |world, record, expect, now| {
                let outcome = world.put_record(record, *expect, now)?;
                Ok(match outcome {
                    Outcome::Conflict { actual } if actual.0 > 1 && every.is_due() => {
                        Outcome::Conflict { actual: Version(actual.0 - 1) }
                    }
                    outcome => outcome,
                })
            })
        },
    ),
];

/// The last two entries change places.
fn swap_last(log: &mut [LogEntry]) {
    if let [.., last, new] = log {
        std::mem::swap(last, new);
        std::mem::swap::<Seq>(&mut last.seq, &mut new.seq);
    }
}

/// Does something while these jobs are out of sight.
fn without<T>(world: &mut World, ids: &[JobId], act: impl FnOnce(&mut World) -> T) -> T {
    let hidden: Vec<Stored> = ids.iter().filter_map(|id| world.take(*id)).collect();
    let answer = act(world);
    hidden.into_iter().for_each(|stored| world.place(stored));
    answer
}

fn is_held(world: &World, update: &JobUpdate) -> bool {
    let Guard::Fence(fence) = update.guard else { return false };
    world.job(update.id).is_some_and(|stored| {
        let control = &stored.row.control;
        control.state == State::Running && control.fence == fence
    })
}
