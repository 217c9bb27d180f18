//! Changes of many jobs at once: cancels, wakes, priorities, queues.

use queue_core::{
    BulkChange, BulkOutcome, JobFilter, JobId, Result, State, Timestamp, Version,
    spec::{Stored, World},
};

use super::super::{Flaw, Mutant};

/// A bulk change to whose counts something is done, by the states of the matching jobs before it.
fn counting(spoil: fn(&BulkChange, &[Stored], &mut BulkOutcome)) -> Flaw {
    Flaw::none().update_where(move |world, filter, change, now| {
        let matching = matching(world, filter);
        let mut counts = world.update_where(filter, change, now)?;
        spoil(change, &matching, &mut counts);
        Ok(counts)
    })
}

/// A bulk change that spares some jobs.
fn sparing(spares: fn(&BulkChange, &Stored, Timestamp) -> bool) -> Flaw {
    Flaw::none().update_where(move |world, filter, change, now| {
        filter.check()?;
        let matching = matching(world, filter).into_iter();
        let ids = matching.filter(|job| !spares(change, job, now)).map(|job| job.row.id);
        world.update_where(&JobFilter::ids(ids), change, now)
    })
}

/// A bulk change after which something more is done to each job that it met.
fn then(more: fn(&BulkChange, &Stored, &mut Stored, Timestamp)) -> Flaw {
    Flaw::none().update_where(move |world, filter, change, now| {
        let matching = matching(world, filter);
        let counts = world.update_where(filter, change, now)?;
        for was in &matching {
            world.edit(was.row.id, |is| more(change, was, is, now));
        }
        Ok(counts)
    })
}

fn matching(world: &World, filter: &JobFilter) -> Vec<Stored> {
    world.jobs().filter(|job| job.row.matches(filter)).cloned().collect()
}

fn is(job: &Stored, state: State) -> bool {
    job.row.control.state == state
}

fn count(jobs: &[Stored], holds: impl Fn(&Stored) -> bool) -> u64 {
    jobs.iter().filter(|job| holds(job)).count() as u64
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "Every matching job is counted once."
    Mutant::new(
        "second-cancel-is-not-counted",
        "a running job that is to be cancelled already does not count as signalled",
        &["CAN-6"],
        || {
            counting(|change, jobs, counts| {
                if let BulkChange::Cancel { .. } = change {
                    let marked =
                        |job: &Stored| is(job, State::Running) && job.row.control.cancel.is_some();
                    counts.signalled -= count(jobs, marked);
                }
            })
        },
    ),
    Mutant::new(
        "second-wake-is-not-counted",
        "a running job that was woken already does not count as signalled",
        &["SIG-1"],
        || {
            counting(|change, jobs, counts| {
                if *change == BulkChange::Wake {
                    counts.signalled -=
                        count(jobs, |job| is(job, State::Running) && job.row.control.wake);
                }
            })
        },
    ),
    Mutant::new(
        "waking-a-due-job-is-not-counted",
        "a waiting job that is due already does not count as woken",
        &["SIG-1"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let due = count(&matching(world, filter), |job| super::is_due(&job.row, now));
                let mut counts = world.update_where(filter, change, now)?;
                if *change == BulkChange::Wake {
                    counts.changed -= due;
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new(
        "same-priority-is-not-counted",
        "a job that has the priority already does not count as changed",
        &["UPD-12"],
        || {
            counting(|change, jobs, counts| {
                if let BulkChange::Priority(priority) = change {
                    counts.changed -= count(jobs, |job| {
                        !job.row.control.state.is_final() && job.row.priority == *priority
                    });
                }
            })
        },
    ),
    Mutant::new(
        "same-queue-is-not-counted",
        "a job that is in the queue already does not count as moved",
        &["UPD-12"],
        || {
            counting(|change, jobs, counts| {
                if let BulkChange::Queue(queue) = change {
                    counts.changed -= count(jobs, |job| {
                        !job.row.control.state.is_final() && job.row.queue == *queue
                    });
                }
            })
        },
    ),
    Mutant::new(
        "moved-running-jobs-are-signalled",
        "a running job that is moved or given a priority counts as signalled",
        &["UPD-12"],
        || {
            counting(|change, jobs, counts| {
                if let BulkChange::Priority(_) | BulkChange::Queue(_) = change {
                    let running = count(jobs, |job| is(job, State::Running));
                    counts.changed -= running;
                    counts.signalled += running;
                }
            })
        },
    ),
    Mutant::new(
        "finished-jobs-count-only-for-a-cancel",
        "a wake, a priority or a move does not count the jobs that have ended",
        &["SIG-1"],
        || {
            counting(|change, _, counts| {
                if !matches!(change, BulkChange::Cancel { .. }) {
                    counts.finished = 0;
                }
            })
        },
    ),
    // The table of effects: version +1 where the table says so, and only there.
    Mutant::new(
        "second-cancel-bumps-the-version",
        "a second request to cancel a running job adds one to its version",
        &["CAN-6"],
        || {
            then(|change, was, is_now, _| {
                let marked = is(was, State::Running) && was.row.control.cancel.is_some();
                if let (BulkChange::Cancel { .. }, true) = (change, marked) {
                    is_now.row.control.version.0 += 1;
                }
            })
        },
    ),
    Mutant::new(
        "cancel-mark-keeps-the-version",
        "the request to cancel a running job keeps its version",
        &["CAN-2"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Cancel { .. }, true) = (change, is(was, State::Running)) {
                    is_now.row.control.version = was.row.control.version;
                }
            })
        },
    ),
    Mutant::new(
        "wake-of-a-running-job-bumps-the-version",
        "the wake of a running job adds one to its version",
        &["SIG-1"],
        || {
            then(|change, was, is_now, _| {
                if *change == BulkChange::Wake && is(was, State::Running) {
                    is_now.row.control.version.0 += 1;
                }
            })
        },
    ),
    Mutant::new(
        "wake-keeps-the-version",
        "the wake of a waiting job keeps its version, though its due time changes",
        &["REA-7"],
        || {
            then(|change, was, is_now, _| {
                if *change == BulkChange::Wake {
                    is_now.row.control.version = was.row.control.version;
                }
            })
        },
    ),
    Mutant::new(
        "priority-keeps-the-version",
        "a change of priority keeps the version",
        &["LOG-4"],
        || {
            then(|change, was, is_now, _| {
                if let BulkChange::Priority(_) = change {
                    is_now.row.control.version = was.row.control.version;
                }
            })
        },
    ),
    Mutant::new(
        "move-of-a-running-job-keeps-the-version",
        "the move of a running job keeps its version",
        &["UPD-12"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Queue(_), true) = (change, is(was, State::Running)) {
                    is_now.row.control.version = was.row.control.version;
                }
            })
        },
    ),
    Mutant::new(
        "finished-job-is-bumped",
        "a bulk change adds one to the version of a job that has ended",
        &["CAN-4"],
        || {
            then(|_, was, is_now, _| {
                if was.row.control.state.is_final() {
                    is_now.row.control.version = Version(was.row.control.version.0 + 1);
                }
            })
        },
    ),
    // "Jobs that had ended before, and were left alone."
    Mutant::new(
        "finished-jobs-are-moved",
        "a move takes jobs that have ended along",
        &["UPD-12"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Queue(queue), true) = (change, was.row.control.state.is_final())
                {
                    is_now.row.queue = queue.clone();
                }
            })
        },
    ),
    Mutant::new(
        "finished-jobs-get-the-priority",
        "a change of priority changes jobs that have ended",
        &["UPD-12"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Priority(priority), true) =
                    (change, was.row.control.state.is_final())
                {
                    is_now.row.priority = *priority;
                }
            })
        },
    ),
    Mutant::new(
        "finished-jobs-are-marked",
        "a cancel marks jobs that have completed or failed",
        &["UPD-13"],
        || {
            then(|change, was, is_now, now| {
                if let (BulkChange::Cancel { reason }, true) =
                    (change, was.row.control.state.is_final() && was.row.control.cancel.is_none())
                {
                    is_now.row.control.cancel = Some(queue_core::CancelRequest::new(reason, now));
                }
            })
        },
    ),
    // "Makes waiting jobs due now": one that is due keeps its place.
    Mutant::new(
        "wake-sends-due-jobs-back",
        "the wake of a job that is due sets its due time to now, behind those that waited less",
        &["UPD-18"],
        || {
            then(|change, was, is_now, now| {
                if *change == BulkChange::Wake && super::is_due(&was.row, now) {
                    is_now.row.control.run_at = now;
                }
            })
        },
    ),
    Mutant::new(
        "wake-spares-retries",
        "a job that waits for its retry is not woken",
        &["SIG-1"],
        || {
            sparing(|change, job, _| {
                *change == BulkChange::Wake
                    && is(job, State::Waiting)
                    && job.row.control.attempt > 0
            })
        },
    ),
    // "Ends waiting jobs at once"
    Mutant::new(
        "cancel-spares-jobs-that-are-not-due",
        "a waiting job that is not due yet is not cancelled",
        &["CAN-1"],
        || {
            sparing(|change, job, now| {
                matches!(change, BulkChange::Cancel { .. })
                    && is(job, State::Waiting)
                    && job.row.control.run_at > now
            })
        },
    ),
    Mutant::new(
        "cancel-spares-retries",
        "a job that waits for its retry is not cancelled",
        &["CAN-1"],
        || {
            sparing(|change, job, _| {
                matches!(change, BulkChange::Cancel { .. })
                    && is(job, State::Waiting)
                    && job.row.control.attempt > 0
            })
        },
    ),
    Mutant::new(
        "cancel-spares-expired-jobs",
        "a running job whose lease is over is not marked",
        &["UPD-18"],
        || {
            sparing(|change, job, now| {
                matches!(change, BulkChange::Cancel { .. }) && job.row.control.is_expired(now)
            })
        },
    ),
    Mutant::new(
        "cancel-makes-due",
        "a waiting job that is cancelled is due when it was cancelled",
        &["CAN-1"],
        || {
            then(|change, was, is_now, now| {
                if let (BulkChange::Cancel { .. }, true) = (change, is(was, State::Waiting)) {
                    is_now.row.control.run_at = now;
                }
            })
        },
    ),
    Mutant::new(
        "cancel-clears-the-error",
        "a job that is cancelled while it waits for its retry loses the error",
        &["CAN-1"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Cancel { .. }, true) = (change, is(was, State::Waiting)) {
                    is_now.row.error = None;
                }
            })
        },
    ),
    // "Sets the priority of waiting and running jobs."
    Mutant::new(
        "priority-spares-running-jobs",
        "a change of priority counts running jobs and leaves them as they are",
        &["LOG-4"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Priority(_), true) = (change, is(was, State::Running)) {
                    is_now.row.priority = was.row.priority;
                }
            })
        },
    ),
    Mutant::new(
        "priority-never-falls",
        "a change of priority does not lower any",
        &["UPD-12"],
        || {
            then(|change, was, is_now, _| {
                if let BulkChange::Priority(_) = change {
                    is_now.row.priority = is_now.row.priority.max(was.row.priority);
                }
            })
        },
    ),
    Mutant::new(
        "priority-in-eight-bits",
        "a priority beyond a signed number of 8 bits becomes its largest or smallest",
        &["UPD-18"],
        || {
            then(|change, _, is_now, _| {
                if let BulkChange::Priority(_) = change {
                    let range = i16::from(i8::MIN)..=i16::from(i8::MAX);
                    is_now.row.priority = is_now.row.priority.clamp(*range.start(), *range.end());
                }
            })
        },
    ),
    // "Moves waiting and running jobs to another queue."
    Mutant::new("move-makes-due", "a waiting job that is moved is due now", &["UPD-18"], || {
        then(|change, was, is_now, now| {
            if let (BulkChange::Queue(_), true) = (change, is(was, State::Waiting)) {
                is_now.row.control.run_at = is_now.row.control.run_at.min(now);
            }
        })
    }),
    Mutant::new(
        "move-resets-the-lease",
        "the move of a running job takes it from its holder",
        &["CAN-5"],
        || {
            then(|change, was, is_now, _| {
                if let (BulkChange::Queue(_), true) = (change, is(was, State::Running)) {
                    is_now.row.control.state = State::Waiting;
                    is_now.row.control.lease_until = None;
                    is_now.row.control.holder = None;
                    is_now.row.control.slot = None;
                }
            })
        },
    ),
    // "Changes all matching jobs and counts them."
    Mutant::new(
        "bulk-change-of-at-most-1000",
        "a bulk change meets the first thousand matching jobs",
        &["REA-10"],
        || {
            Flaw::none().update_where(|world, filter, change, now| -> Result<BulkOutcome> {
                filter.check()?;
                let ids: Vec<JobId> =
                    matching(world, filter).iter().map(|job| job.row.id).take(1_000).collect();
                world.update_where(&JobFilter::ids(ids), change, now)
            })
        },
    ),
];
