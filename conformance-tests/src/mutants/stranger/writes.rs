//! What is written: times, defaults, labels, progress.

use std::{collections::HashSet, time::Duration};

use queue_core::{
    Inserted, Job, JobUpdate, NewJob, State, Timestamp, Transition, When, spec::Stored,
};

use super::{
    super::{Flaw, Mutant, raw},
    asked_due, millis,
};

/// A store that spoils every new job when it stores it.
fn storing(spoil: fn(&mut Stored, &NewJob, Timestamp)) -> Flaw {
    Flaw::none().insert(move |world, jobs, now| {
        let inserted = world.insert(jobs, now)?;
        for (job, inserted) in jobs.iter().zip(&inserted) {
            if inserted.is_new()
                && world.job(job.id).is_some_and(|stored| stored.row.created_at == now)
            {
                world.edit(job.id, |stored| spoil(stored, job, now));
            }
        }
        Ok(inserted)
    })
}

/// An update whose transition's due time is spoilt.
fn due(spoil: fn(&mut When)) -> Flaw {
    Flaw::none().patching(move |update: &mut JobUpdate| {
        if let Some(when) = update.patch.transition.as_mut().and_then(asked_due) {
            spoil(when);
        }
    })
}

fn in_milliseconds(when: &mut When) {
    match when {
        When::Now => {}
        When::At(at) => *at = millis(*at),
        When::After(delay) => {
            if let Ok(whole) = u64::try_from(delay.as_millis()) {
                *delay = Duration::from_millis(whole);
            }
        }
    }
}

fn wrapped(when: &mut When) {
    if let When::After(delay) = when
        && *delay > Duration::from_secs(86_400 * 365 * 8_000)
    {
        *when = When::Now;
    }
}

fn nanoseconds(at: Timestamp) -> Timestamp {
    let (least, most) = (i64::MIN / 1_000, i64::MAX / 1_000);
    Timestamp::from_micros_saturating(at.as_micros().clamp(least, most))
}

fn times(job: &mut Job, spoil: fn(Timestamp) -> Timestamp) {
    job.created_at = spoil(job.created_at);
    job.run_at = spoil(job.run_at);
    job.started_at = job.started_at.map(spoil);
    job.finished_at = job.finished_at.map(spoil);
    job.lease_until = job.lease_until.map(spoil);
}

/// What an editor or a holder wrote, spoilt: the job as it was and as it is.
fn written(spoil: fn(&Stored, &mut Stored)) -> Flaw {
    Flaw::none().changing(move |was, is, _| spoil(was, is))
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "one that has passed makes the job due at once, with that place in the order"
    Mutant::new(
        "past-due-time-of-an-insert-is-now",
        "a job inserted with a due time that has passed is due when it was inserted",
        &["CLM-3"],
        || storing(|job, _, now| job.row.control.run_at = job.row.control.run_at.max(now)),
    ),
    Mutant::new(
        "past-due-time-of-a-retry-is-now",
        "a retry with a due time that has passed is due when it was made",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, now| {
                if raw::retried(was, is) {
                    is.row.control.run_at = is.row.control.run_at.max(now);
                }
            })
        },
    ),
    Mutant::new(
        "past-due-time-of-a-release-is-now",
        "a release with a due time that has passed is due when it was made",
        &["UPD-4"],
        || {
            Flaw::none().changing(|was, is, now| {
                if raw::released(was, is) {
                    is.row.control.run_at = is.row.control.run_at.max(now);
                }
            })
        },
    ),
    // "An instant with microsecond precision"
    Mutant::new(
        "insert-due-in-milliseconds",
        "a new job's due time drops the microseconds",
        &["CLM-3"],
        || Flaw::none().writing(|job| in_milliseconds(&mut job.when)),
    ),
    Mutant::new(
        "retry-due-in-milliseconds",
        "the due time of a retry or release drops the microseconds",
        &["UPD-4"],
        || due(in_milliseconds),
    ),
    Mutant::new(
        "clock-in-milliseconds",
        "what the store dates with its clock drops the microseconds",
        &["CAN-1"],
        || {
            Flaw::none().reading(|job| {
                job.started_at = job.started_at.map(millis);
                job.finished_at = job.finished_at.map(millis);
                if let Some(cancel) = &mut job.cancel {
                    cancel.at = millis(cancel.at);
                }
            })
        },
    ),
    // "a delay of a million years means "never", not an overflow"
    Mutant::new(
        "endless-delay-of-an-insert-is-none",
        "a new job whose delay exceeds the calendar is due now",
        &["INS-9"],
        || Flaw::none().writing(|job| wrapped(&mut job.when)),
    ),
    Mutant::new(
        "endless-delay-of-a-retry-is-none",
        "a retry or release whose delay exceeds the calendar is due now",
        &["FID-6"],
        || due(wrapped),
    ),
    // "between the years 1 and 9999"
    Mutant::new("times-in-nanoseconds", "times end in the year 2262", &["FID-6"], || {
        Flaw::none().reading(|job| times(job, nanoseconds))
    }),
    Mutant::new(
        "due-times-begin-in-1970",
        "a due time before 1970 becomes 1970",
        &["FID-6"],
        || {
            storing(|job, _, _| {
                job.row.control.run_at = job.row.control.run_at.max(Timestamp::EPOCH)
            })
        },
    ),
    Mutant::new(
        "retry-at-a-time-is-a-delay-from-its-start",
        "the delay of a retry counts from the start of its attempt",
        &["UPD-16"],
        || {
            Flaw::none().update(|world, updates, now| {
                let mut updates = updates.to_vec();
                for update in &mut updates {
                    let start = world.job(update.id).and_then(|job| job.row.control.started_at);
                    if let (Some(When::After(delay)), Some(start)) =
                        (update.patch.transition.as_mut().and_then(asked_due).cloned(), start)
                        && let Some(when) = update.patch.transition.as_mut().and_then(asked_due)
                    {
                        *when = When::At(start.plus(delay));
                    }
                }
                world.update(&updates, now)
            })
        },
    ),
    // insert: defaults
    Mutant::new(
        "no-crash-allowed-is-stored-as-the-default",
        "a job that may crash not even once is stored with three crashes",
        &["INS-1"],
        || {
            Flaw::none().writing(|job| {
                if job.max_crashes == 0 {
                    job.max_crashes = queue_core::DEFAULT_MAX_CRASHES;
                }
            })
        },
    ),
    Mutant::new(
        "max-crashes-in-16-bits",
        "the crashes that a job survives are at most 32767",
        &["INS-1"],
        || Flaw::none().writing(|job| job.max_crashes = job.max_crashes.min(32_767)),
    ),
    Mutant::new(
        "priority-is-at-least-zero",
        "a negative priority is stored as 0",
        &["CLM-6"],
        || Flaw::none().writing(|job| job.priority = job.priority.max(0)),
    ),
    Mutant::new(
        "batch-shares-the-keep-of-its-first",
        "all jobs of one call are kept as the first says",
        &["INS-1"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let mut jobs = jobs.to_vec();
                let keep = jobs.first().map(|job| job.keep).unwrap_or_default();
                jobs.iter_mut().for_each(|job| job.keep = keep);
                world.insert(&jobs, now)
            })
        },
    ),
    Mutant::new(
        "batch-shares-the-due-time-of-its-first",
        "all jobs of one call are due when the first is",
        &["CLM-3"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let mut jobs = jobs.to_vec();
                let when = jobs.first().map_or(When::Now, |job| job.when);
                jobs.iter_mut().for_each(|job| job.when = when);
                world.insert(&jobs, now)
            })
        },
    ),
    Mutant::new(
        "insert-of-at-most-1000",
        "an insert stores the first thousand jobs and answers for all",
        &["REA-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let stored = world.insert(&jobs[..jobs.len().min(1_000)], now)?;
                let rest = jobs.iter().skip(1_000).map(|job| Inserted::New(job.id));
                Ok(stored.into_iter().chain(rest).collect())
            })
        },
    ),
    Mutant::new(
        "same-id-twice-is-new-twice",
        "an id that stands twice in one call is answered as new both times",
        &["INS-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let mut inserted = world.insert(jobs, now)?;
                let mut new = HashSet::new();
                for answer in &mut inserted {
                    match *answer {
                        Inserted::New(id) => drop(new.insert(id)),
                        Inserted::Existing(id) if new.contains(&id) => {
                            *answer = Inserted::New(id);
                        }
                        Inserted::Existing(_) => {}
                    }
                }
                Ok(inserted)
            })
        },
    ),
    Mutant::new("lane-limit-in-one-byte", "a lane's limit is stored in a byte", &["LAN-7"], || {
        Flaw::none().writing(|job| {
            if let Some(lane) = &mut job.lane {
                let limit = lane.limit.get().min(255);
                lane.limit = std::num::NonZeroU32::new(limit).unwrap_or(lane.limit);
            }
        })
    }),
    Mutant::new(
        "unique-scope-is-live",
        "whatever its scope, a unique key is stored as one among waiting and running jobs",
        &["DEL-4"],
        || {
            Flaw::none().writing(|job| {
                if let Some(unique) = &mut job.unique {
                    unique.within = queue_core::States::LIVE;
                }
            })
        },
    ),
    // "Labels to set, or to remove where the value is `None`; others stay."
    Mutant::new(
        "settle-sets-no-labels",
        "the labels of an update with a transition are not set",
        &["UPD-11"],
        || {
            Flaw::none().patching(|update| {
                if update.patch.transition.is_some() {
                    update.patch.labels.clear();
                }
            })
        },
    ),
    Mutant::new(
        "settle-sets-no-progress",
        "the progress of an update with a transition is not set",
        &["UPD-16"],
        || {
            Flaw::none().patching(|update| {
                if update.patch.transition.is_some() {
                    update.patch.progress = None;
                }
            })
        },
    ),
    Mutant::new(
        "release-appends-nothing",
        "the entries of an update with a release are not appended",
        &["UPD-16"],
        || {
            Flaw::none().patching(|update| {
                if let Some(Transition::Release { .. }) = update.patch.transition {
                    update.patch.log.clear();
                }
            })
        },
    ),
    Mutant::new(
        "cancel-appends-nothing",
        "the entries of an update with a cancel are not appended",
        &["UPD-16"],
        || {
            Flaw::none().patching(|update| {
                if let Some(Transition::Cancel { .. }) = update.patch.transition {
                    update.patch.log.clear();
                }
            })
        },
    ),
    Mutant::new(
        "labels-are-set-or-removed",
        "an update that sets a label and removes another only sets",
        &["UPD-11"],
        || {
            Flaw::none().patching(|update| {
                if update.patch.labels.values().any(Option::is_some) {
                    update.patch.labels.retain(|_, value| value.is_some());
                }
            })
        },
    ),
    Mutant::new(
        "labels-with-dots-are-not-removed",
        "a label whose key has a dot is not removed",
        &["FID-10"],
        || {
            Flaw::none().patching(|update| {
                update.patch.labels.retain(|key, value| value.is_some() || !key.contains('.'));
            })
        },
    ),
    Mutant::new(
        "removing-a-label-removes-those-that-begin-so",
        "the removal of a label removes those whose keys begin with its key and a dot",
        &["FID-10"],
        || {
            Flaw::none().changing(|was, is, _| {
                let removed: Vec<String> = was
                    .row
                    .labels
                    .keys()
                    .filter(|key| !is.row.labels.contains_key(*key))
                    .map(|key| format!("{key}."))
                    .collect();
                is.row.labels.retain(|key, _| removed.iter().all(|gone| !key.starts_with(gone)));
            })
        },
    ),
    // The table of effects: version +1, once.
    Mutant::new(
        "settle-with-labels-bumps-twice",
        "a settle that sets labels adds two to the version",
        &["UPD-11"],
        || {
            written(|was, is| {
                if was.row.control.state == State::Running
                    && is.row.control.state != State::Running
                    && was.row.labels != is.row.labels
                {
                    is.row.control.version.0 += 1;
                }
            })
        },
    ),
    Mutant::new(
        "labels-and-progress-bump-twice",
        "an edit of labels and progress adds two to the version",
        &["LOG-4"],
        || {
            written(|was, is| {
                if was.row.control.state == is.row.control.state
                    && was.row.labels != is.row.labels
                    && was.row.progress != is.row.progress
                {
                    is.row.control.version.0 += 1;
                }
            })
        },
    ),
    Mutant::new(
        "labels-of-the-holder-keep-the-version",
        "a change of labels by the holder keeps the version",
        &["LOG-4"],
        || {
            Flaw::none().update(|world, updates, now| {
                raw::update_by(world, updates, now, |world, update| {
                    let version = world.job(update.id)?.row.control.version;
                    let held = matches!(update.guard, queue_core::Guard::Fence(_));
                    let outcome = world.update(std::slice::from_ref(update), now).ok()?.remove(0);
                    if held && update.patch.transition.is_none() && outcome.is_saved() {
                        world.edit(update.id, |job| job.row.control.version = version);
                    }
                    Some(outcome)
                })
            })
        },
    ),
    Mutant::new(
        "progress-on-a-finished-job-keeps-the-version",
        "an edit of a finished job keeps its version",
        &["UPD-3"],
        || {
            written(|was, is| {
                if was.row.control.state.is_final() {
                    is.row.control.version = was.row.control.version;
                }
            })
        },
    ),
    // "How far the job has come."
    Mutant::new(
        "progress-keeps-an-old-message",
        "progress without a message keeps the old one",
        &["LSE-12"],
        || {
            written(|was, is| {
                let old = was.row.progress.as_ref().and_then(|old| old.message.clone());
                if let Some(progress) = &mut is.row.progress
                    && progress.message.is_none()
                {
                    progress.message = old;
                }
            })
        },
    ),
    Mutant::new("progress-never-falls", "progress cannot fall", &["LSE-12"], || {
        written(|was, is| {
            if let (Some(was), Some(is)) = (&was.row.progress, &mut is.row.progress) {
                is.percent = is.percent.max(was.percent);
            }
        })
    }),
    Mutant::new(
        "no-progress-yet-is-none",
        "progress of 0 without a message is no progress",
        &["FID-9"],
        || {
            Flaw::none().reading(|job| {
                job.progress = job.progress.take().filter(|p| p.percent > 0 || p.message.is_some());
            })
        },
    ),
    Mutant::new(
        "empty-message-is-none",
        "a progress message that is empty is none",
        &["FID-9"],
        || {
            Flaw::none().reading(|job| {
                if let Some(progress) = &mut job.progress {
                    progress.message = progress.message.take().filter(|text| !text.is_empty());
                }
            })
        },
    ),
    Mutant::new(
        "empty-reason-is-no-request",
        "a request to cancel without a reason is none",
        &["UPD-17"],
        || {
            Flaw::none().reading(|job| {
                job.cancel = job.cancel.take().filter(|cancel| !cancel.reason.is_empty());
            })
        },
    ),
];
