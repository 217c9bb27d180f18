use std::num::NonZeroU32;

use futures::FutureExt;
use queue_core::{
    Ack, BulkChange, ClaimRequest, Claimed, Fired, Guard, Inserted, Job, JobId, JobUpdate,
    Judgement, NewJob, Outcome, Reaped, Result, ScheduleStat, State, Timestamp, Transition,
    spec::{Stored, World, superseded_by},
};

use super::{Flaw, Mutant, Shared, raw};

/// Mutants whose flaw is a race between two operations: each is in two steps, between which something else happens.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "supersede-judges-then-cancels",
        "an insert looks whether the holder of its key has started, and cancels it although it has meanwhile",
        &["MOD-2"],
        || Flaw::none().insert_racing(|store, jobs| supersede(store, jobs).boxed()),
    ),
    Mutant::new(
        "insert-loses-the-holder",
        "an insert that met its key held looks for the holder afterwards, and says that its own job is there when it finds none",
        &["MOD-2"],
        || Flaw::none().insert_racing(|store, jobs| insert_then_look(store, jobs).boxed()),
    ),
    Mutant::new(
        "claim-reads-afterwards",
        "a claim takes jobs, and reads them in a second step",
        &["MOD-2"],
        || {
            Flaw::none().claim_racing(|store, request| {
                async move {
                    let mut claimed = store.step(|world, now| world.claim(request, now))?;
                    if claimed.jobs.is_empty() {
                        return Ok(claimed);
                    }
                    store.pause().await;
                    let ids: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
                    let read = store.step(|world, _| world.get(&ids, request.log));
                    claimed.jobs = read.into_iter().flatten().collect();
                    Ok(claimed)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "repeat-beside-its-claim-takes-as-much",
        "a claim looks whether it is a repeat before it takes its jobs, with nothing to hold both together",
        &["CLM-25"],
        || beside(|_| true),
    ),
    Mutant::new(
        "filtered-repeat-beside-its-claim-takes-as-much",
        "the same, of claims that are narrowed by a filter",
        &["CLM-25"],
        || beside(|request| request.filter.is_some()),
    ),
    Mutant::new(
        "update-and-claim-beside-its-repeat-takes-as-much",
        "the same, of claims that are made with updates",
        &["CLM-25"],
        || {
            Flaw::none().both_racing(move |store, updates, request| {
                async move {
                    request.check()?;
                    let outcomes = store.step(|world, now| world.update(updates, now))?;
                    Ok((outcomes, look_then_take(store, request).await?))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "claim-and-its-repeat-answer-a-part-each",
        "a claim and its repeat share their limit, and each answers the part that it took itself",
        &["CLM-25"],
        || Flaw::none().claim_racing(|store, request| take_one_by_one(store, request).boxed()),
    ),
    Mutant::new(
        "heartbeat-writes-the-row-back",
        "a heartbeat reads the job, and writes all of it with the new lease",
        &["MOD-2"],
        || {
            Flaw::none().heartbeat_racing(|store, held, lease| {
                async move {
                    let (outcomes, rows) = store.step(|world, now| {
                        let mut trial = world.clone();
                        let outcomes = trial.heartbeat(held, *lease, now)?;
                        let beaten = held.iter().zip(&outcomes);
                        let beaten = beaten.filter(|(_, outcome)| outcome.applied().is_some());
                        let rows = beaten.map(|(held, _)| raw::stored(&trial, held.id));
                        let rows: Vec<Stored> = rows.collect();
                        Ok::<_, queue_core::Error>((outcomes, rows))
                    })?;
                    write_back(store, rows).await;
                    Ok(outcomes)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "move-writes-the-row-back",
        "a change of priority or queue reads the jobs, and writes all of them",
        &["MOD-2"],
        || {
            Flaw::none().update_where_racing(|store, filter, change| {
                async move {
                    let (BulkChange::Priority(_) | BulkChange::Queue(_)) = change else {
                        return store.step(|world, now| world.update_where(filter, change, now));
                    };
                    let (counts, rows) = store.step(|world, now| {
                        let mut trial = world.clone();
                        let counts = trial.update_where(filter, change, now)?;
                        let changed = trial.jobs().filter(|is| world.job(is.row.id) != Some(is));
                        let rows: Vec<Stored> = changed.cloned().collect();
                        Ok::<_, queue_core::Error>((counts, rows))
                    })?;
                    write_back(store, rows).await;
                    Ok(counts)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "reap-ignores-a-renewal",
        "a reaper chooses expired jobs, and takes them although their lease was renewed meanwhile",
        &["MOD-2"],
        || {
            Flaw::none().reap_racing(|store, limit| {
                async move {
                    let mut expired = store.step(|world, now| {
                        let mut trial = world.clone();
                        trial.reap(*limit, now).iter().map(|reaped| reaped.id).collect::<Vec<_>>()
                    });
                    if !expired.is_empty() {
                        store.pause().await;
                    }
                    Ok(store.step(|world, now| {
                        expired.retain(|id| {
                            let state = world.job(*id).map(|job| job.row.control.state);
                            state == Some(State::Running)
                        });
                        let reaped = expired.into_iter().filter_map(|id| world.reap_one(id, now));
                        reaped.collect::<Vec<Reaped>>()
                    }))
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "release-misses-a-wake",
        "a release looks for a wake first, and loses one that comes before it writes",
        &["MOD-2"],
        || {
            before_the_write(
                |update| matches!(update.patch.transition, Some(Transition::Release { .. })),
                |was, is| is.row.control.wake = was.row.control.wake,
            )
        },
    ),
    Mutant::new(
        "retry-misses-a-cancel",
        "a retry looks for a request to cancel first, and loses one that comes before it writes",
        &["MOD-2"],
        || {
            before_the_write(
                |update| matches!(update.patch.transition, Some(Transition::Retry { .. })),
                |was, is| is.row.control.cancel.clone_from(&was.row.control.cancel),
            )
        },
    ),
    Mutant::new(
        "labels-read-then-written",
        "an edit of labels reads all of them, and writes all of them",
        &["MOD-2"],
        || {
            before_the_write(
                |update| !update.patch.labels.is_empty(),
                |was, is| is.row.labels.clone_from(&was.row.labels),
            )
        },
    ),
    Mutant::new(
        "append-judges-then-writes",
        "an append checks the fence, and writes although the run has ended meanwhile",
        &["MOD-2"],
        || {
            racing_update(
                |update| {
                    matches!(update.guard, Guard::Fence(_)) && update.patch.transition.is_none()
                },
                |world, update, was, now| match was.row.control.judge(update.guard, None) {
                    Judgement::Apply(_) => raw::force(world, update, now),
                    Judgement::Refuse(refused) => refused,
                },
            )
        },
    ),
    Mutant::new(
        "ack-reads-the-version-afterwards",
        "an editor is told the version that the job has a moment later",
        &["MOD-2"],
        || {
            Flaw::none().update_racing(|store, updates| {
                async move {
                    let mut outcomes = store.step(|world, now| world.update(updates, now))?;
                    let editor = |outcome: &Outcome| {
                        outcome.applied().is_some_and(|ack| ack.version.is_some())
                    };
                    if outcomes.iter().any(editor) {
                        store.pause().await;
                    }
                    store.step(|world, _| {
                        for (update, outcome) in updates.iter().zip(&mut outcomes) {
                            if let (true, Some(job)) = (editor(outcome), world.job(update.id)) {
                                let version = job.row.control.version;
                                *outcome = Outcome::Applied(Ack::editor(version));
                            }
                        }
                    });
                    Ok(outcomes)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "delete-chooses-then-deletes",
        "a delete chooses jobs, and deletes them although they were claimed meanwhile",
        &["MOD-2"],
        || {
            Flaw::none().delete_racing(|store, filter, limit| {
                async move {
                    let chosen = store.step(|world, _| {
                        let mut trial = world.clone();
                        trial.delete(filter, *limit)?;
                        let gone = world.jobs().map(|job| job.row.id);
                        let gone = gone.filter(|id| trial.job(*id).is_none());
                        Ok::<_, queue_core::Error>(gone.collect::<Vec<JobId>>())
                    })?;
                    if !chosen.is_empty() {
                        store.pause().await;
                    }
                    let deleted = store.step(|world, _| {
                        chosen.into_iter().filter_map(|id| world.take(id)).count()
                    });
                    Ok(deleted as u64)
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "plain-put-counts-from-before",
        "a put without a version answers with the version after the one that it read first",
        &["MOD-2"],
        || {
            Flaw::none().put_record_racing(|store, record, expect| {
                async move {
                    let answer = store.step(|world, now| {
                        let mut trial = world.clone();
                        trial.put_record(record, *expect, now)
                    })?;
                    if expect.is_none() {
                        store.pause().await;
                    }
                    let put = store.step(|world, now| world.put_record(record, *expect, now))?;
                    Ok(if expect.is_none() { answer } else { put })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "fire-writes-the-statistics-back",
        "a fire reads the statistics of its schedule, and writes all of them",
        &["MOD-2"],
        || {
            Flaw::none().fire_racing(|store, fire| {
                async move {
                    fire.check()?;
                    let stat = store.step(|world, _| stat(world, &fire.schedule));
                    if let Some(stat) = stat.as_ref().filter(|stat| fire.slot <= stat.last_slot) {
                        return Ok(Fired::Already { last_slot: stat.last_slot });
                    }
                    store.pause().await;
                    store.step(|world, now| {
                        let inserted = match &fire.job {
                            None => None,
                            Some(job) => Some(world.insert(std::slice::from_ref(job), now)?[0]),
                        };
                        let fired = match inserted {
                            None => Fired::Skipped(None),
                            Some(Inserted::New(id)) => Fired::Enqueued(id),
                            Some(Inserted::Existing(id)) => Fired::Skipped(Some(id)),
                        };
                        let mut stat = stat
                            .unwrap_or_else(|| ScheduleStat::new(fire.schedule.clone(), fire.slot));
                        stat.count(fire.slot, &fired, fire.error.clone());
                        world.place_schedule(stat);
                        Ok(fired)
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "get-reads-the-log-afterwards",
        "a read takes the fields first, and the log in a second step",
        &["MOD-2"],
        || {
            Flaw::none().get_racing(|store, ids, log| {
                async move {
                    let mut jobs = store.step(|world, _| world.get(ids, *log));
                    if jobs.iter().any(Option::is_some) {
                        store.pause().await;
                    }
                    let later = store.step(|world, _| world.get(ids, *log));
                    for (job, later) in jobs.iter_mut().zip(later) {
                        if let (Some(job), Some(Job { log, .. })) = (job, later) {
                            job.log = log;
                        }
                    }
                    Ok(jobs)
                }
                .boxed()
            })
        },
    ),
];

/// Writes rows as they were read, whatever happened to them since.
async fn write_back(store: &Shared, rows: Vec<Stored>) {
    if !rows.is_empty() {
        store.pause().await;
    }
    store.step(|world, _| rows.into_iter().for_each(|row| world.place(row)));
}

async fn supersede(store: &Shared, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let victim = |world: &World, job: &NewJob| {
        let unique = job.unique.as_ref()?;
        let id = world.key_holder(&unique.key).filter(|_| world.job(job.id).is_none())?;
        raw::stored(world, id).row.control.yields_to(unique).then_some(id)
    };
    // What is refused is refused before anything is cancelled.
    store.step(|world, now| world.clone().insert(jobs, now))?;
    let victims: Vec<Option<JobId>> =
        store.step(|world, _| jobs.iter().map(|job| victim(world, job)).collect());
    if victims.iter().any(Option::is_some) {
        store.pause().await;
    }
    store.step(|world, now| {
        for (job, victim) in jobs.iter().zip(victims) {
            let Some(victim) = victim else { continue };
            world.edit(victim, |old| {
                let control = &mut old.row.control;
                if control.state == State::Running {
                    control.state = State::Waiting;
                    (control.holder, control.lease_until, control.slot) = (None, None, None);
                }
                control.cancel(&superseded_by(job.id), now);
            });
        }
        world.insert(jobs, now)
    })
}

async fn insert_then_look(store: &Shared, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let mut answers = store.step(|world, now| world.insert(jobs, now))?;
    let met = |job: &NewJob, answer: &Inserted| !answer.is_new() && answer.id() != job.id;
    if jobs.iter().zip(&answers).any(|(job, answer)| met(job, answer)) {
        store.pause().await;
    }
    store.step(|world, _| {
        for (job, answer) in jobs.iter().zip(&mut answers) {
            if met(job, answer) {
                let key = job.unique.as_ref().map(|unique| unique.key.as_str());
                let holder = key.and_then(|key| world.key_holder(key));
                *answer = Inserted::Existing(holder.unwrap_or(job.id));
            }
        }
    });
    Ok(answers)
}

fn stat(world: &World, schedule: &str) -> Option<ScheduleStat> {
    world.schedules().into_iter().find(|stat| stat.schedule == schedule)
}

/// Updates of this sort are made by the job as it was a moment before.
fn racing_update(
    racing: fn(&JobUpdate) -> bool,
    write: impl Fn(&mut World, &JobUpdate, &Stored, Timestamp) -> Outcome + Copy + Send + Sync + 'static,
) -> Flaw {
    Flaw::none().update_racing(move |store, updates| {
        async move {
            queue_core::check_updates(updates)?;
            let read: Vec<Option<Stored>> = store.step(|world, _| {
                updates.iter().map(|update| world.job(update.id).cloned()).collect()
            });
            if updates.iter().any(racing) {
                store.pause().await;
            }
            store.step(|world, now| {
                let one = |(update, was): (&JobUpdate, &Option<Stored>)| match was {
                    Some(was) if racing(update) && world.job(update.id).is_some() => {
                        Ok(write(world, update, was, now))
                    }
                    _ => Ok(world.update(std::slice::from_ref(update), now)?.remove(0)),
                };
                updates.iter().zip(&read).map(one).collect()
            })
        }
        .boxed()
    })
}

/// Updates of this sort take something back to what it was a moment before they write.
fn before_the_write(racing: fn(&JobUpdate) -> bool, restore: fn(&Stored, &mut Stored)) -> Flaw {
    racing_update(racing, move |world, update, was, now| {
        if let Some(Judgement::Apply(_)) = raw::judgement(world, update) {
            world.edit(update.id, |is| restore(was, is));
        }
        let outcomes = world.update(std::slice::from_ref(update), now);
        outcomes.map_or(Outcome::Missing, |mut outcomes| outcomes.remove(0))
    })
}

async fn look_then_take(store: &Shared, request: &ClaimRequest) -> Result<Claimed> {
    request.check()?;
    if let Some(repeated) = store.step(|world, now| world.repeated_claim(request, now)) {
        return Ok(repeated);
    }
    store.pause().await;
    Ok(store.step(|world, now| {
        let picked = world.pick(request, now);
        raw::take(world, &picked, request, now)
    }))
}

/// Takes one job after the other while fewer are held under the token than its limit, and answers those.
async fn take_one_by_one(store: &Shared, request: &ClaimRequest) -> Result<Claimed> {
    request.check()?;
    if let Some(repeated) = store.step(|world, now| world.repeated_claim(request, now)) {
        return Ok(repeated);
    }
    let mut one = request.clone();
    one.limit = NonZeroU32::MIN;
    let mut taken = Claimed::new(Vec::new(), None);
    for _ in 0..request.limit.get() {
        store.pause().await;
        let next = store.step(|world, now| {
            let held = world.repeated_claim(request, now).map_or(0, |held| held.jobs.len());
            (held < request.limit.get() as usize).then(|| {
                let picked = world.pick(&one, now);
                raw::take(world, &picked, &one, now)
            })
        });
        let Some(next) = next else { break };
        taken.next_due = next.next_due;
        match next.jobs.is_empty() {
            true => break,
            false => taken.jobs.extend(next.jobs),
        }
    }
    Ok(taken)
}

/// Where it is concerned, a claim does not notice that it runs beside its repeat.
fn beside(concerned: fn(&ClaimRequest) -> bool) -> Flaw {
    Flaw::none().claim_racing(move |store, request| {
        async move {
            match concerned(request) {
                true => look_then_take(store, request).await,
                false => store.step(|world, now| world.claim(request, now)),
            }
        }
        .boxed()
    })
}
