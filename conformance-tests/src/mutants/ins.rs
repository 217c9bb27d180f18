use futures::FutureExt;
use queue_core::{
    Capabilities, Clock, Error, ErrorKind, Inserted, JobId, NewJob, OnConflict, Payload, Reach,
    State, States, When, spec::World,
};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("insert-loses-labels", "labels are not stored", &["INS-1"], || {
        Flaw::none().writing(|job| job.labels.clear())
    }),
    Mutant::new("insert-loses-max-crashes", "max_crashes is a constant", &["INS-1"], || {
        Flaw::none().writing(|job| job.max_crashes = 3)
    }),
    Mutant::new("insert-loses-keep", "completed jobs are always kept", &["INS-1"], || {
        Flaw::none().writing(|job| job.keep = queue_core::Keep::Always)
    }),
    Mutant::new("insert-loses-lane-limit", "every lane has the limit 1", &["INS-1"], || {
        Flaw::none().writing(|job| {
            if let Some(lane) = &mut job.lane {
                lane.limit = std::num::NonZeroU32::MIN;
            }
        })
    }),
    Mutant::new("insert-answers-in-reverse", "answers come in reverse", &["INS-2"], || {
        Flaw::none().insert(|world, jobs, now| {
            let mut answers = world.insert(jobs, now)?;
            answers.reverse();
            Ok(answers)
        })
    }),
    Mutant::new(
        "insert-answers-new-jobs-first",
        "the rows returned by the statement come first, then those that existed",
        &["INS-2"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let mut answers = world.insert(jobs, now)?;
                answers.sort_by_key(|answer| !answer.is_new());
                Ok(answers)
            })
        },
    ),
    Mutant::new("insert-overwrites", "the same id again replaces the job", &["INS-3"], || {
        Flaw::none().insert(|world, jobs, now| {
            let known: Vec<bool> = jobs.iter().map(|job| world.take(job.id).is_some()).collect();
            let answers = world.insert(jobs, now)?;
            let both = answers.into_iter().zip(known);
            Ok(both
                .map(|(answer, known)| if known { Inserted::Existing(answer.id()) } else { answer })
                .collect())
        })
    }),
    Mutant::new(
        "insert-upserts-input",
        "the same id again updates the input of the waiting job",
        &["INS-3"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let answers = world.insert(jobs, now)?;
                for job in jobs {
                    world.edit(job.id, |stored| stored.row.input = job.input.clone());
                }
                Ok(answers)
            })
        },
    ),
    Mutant::new(
        "insert-same-id-is-an-error",
        "the same id again is a key violation",
        &["INS-3"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                match jobs.iter().any(|job| world.job(job.id).is_some()) {
                    true => Err(Error::new(ErrorKind::Backend, "duplicate key value")),
                    false => world.insert(jobs, now),
                }
            })
        },
    ),
    Mutant::new(
        "insert-empty-is-an-error",
        "a statement without rows is malformed",
        &["INS-4"],
        || {
            Flaw::none().insert(|world, jobs, now| match jobs {
                [] => Err(Error::new(ErrorKind::Backend, "syntax error at end of input")),
                jobs => world.insert(jobs, now),
            })
        },
    ),
    Mutant::new(
        "insert-truncates-batch",
        "only the first 999 jobs of a call are stored, and all are acknowledged",
        &["INS-5"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let (kept, lost) = jobs.split_at(jobs.len().min(999));
                let mut answers = world.insert(kept, now)?;
                answers.extend(lost.iter().map(|job| Inserted::New(job.id)));
                Ok(answers)
            })
        },
    ),
    Mutant::new("insert-too-many-variables", "large batches are refused", &["INS-5"], || {
        Flaw::none().insert(|world, jobs, now| match jobs.len() > 500 {
            true => Err(Error::new(ErrorKind::Backend, "too many variables")),
            false => world.insert(jobs, now),
        })
    }),
    Mutant::new(
        "unique-check-then-insert",
        "the key is looked up, then the job inserted",
        &["INS-6"],
        || {
            Flaw::none().insert_racing(|store, jobs| {
                async move {
                    let held = store.step(|world, now| {
                        world.insert(&[], now)?;
                        Capabilities::new(Reach::Process).check_new(jobs)?;
                        Ok::<_, Error>(
                            jobs.iter().map(|job| obstacle(world, job)).collect::<Vec<_>>(),
                        )
                    })?;
                    if jobs.iter().any(|job| job.unique.is_some()) {
                        store.pause().await;
                    }
                    store.step(|world, now| {
                        let both = jobs.iter().zip(held);
                        both.map(|(job, held)| match (held, job.unique.as_ref()) {
                            (Some(holder), _) => Ok(Inserted::Existing(holder)),
                            (None, Some(unique)) if unique.on_conflict == OnConflict::Return => {
                                raw::insert_blindly(world, job, now)
                            }
                            _ => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
                        })
                        .collect()
                    })
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "unique-key-never-freed",
        "a key stays taken after its job ended",
        &["INS-7"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                insert_each(world, jobs, now, |world, job, now| {
                    let key = &job.unique.as_ref()?.key;
                    let same = |stored: &&queue_core::spec::Stored| {
                        stored.row.control.unique.as_ref().is_some_and(|unique| unique.key == *key)
                    };
                    let holder = world.jobs().find(same).map(|stored| stored.row.id);
                    let _ = now;
                    holder.map(|holder| Ok(Inserted::Existing(holder)))
                })
            })
        },
    ),
    Mutant::new(
        "unique-key-freed-by-claim",
        "a running job does not hold its key",
        &["INS-7"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                insert_each(world, jobs, now, |world, job, now| {
                    let holder = world.key_holder(&job.unique.as_ref()?.key)?;
                    let running = world.job(holder)?.row.control.state == State::Running;
                    (running && world.job(job.id).is_none())
                        .then(|| raw::insert_blindly(world, job, now))
                })
            })
        },
    ),
    Mutant::new(
        "unique-scope-is-always-live",
        "a key is freed when its job ends, whatever its scope says",
        &["INS-7"],
        || {
            Flaw::none().changing(|_, is, _| {
                let control = &mut is.row.control;
                if control.state.is_final()
                    && let Some(unique) = &mut control.unique
                {
                    unique.within = States::LIVE;
                }
            })
        },
    ),
    Mutant::new(
        "unique-freed-by-failure",
        "a failed job frees its key although failure is within the scope",
        &["INS-7"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                insert_each(world, jobs, now, |world, job, now| {
                    let holder = world.key_holder(&job.unique.as_ref()?.key)?;
                    let failed = world.job(holder)?.row.control.state == State::Failed;
                    (failed && world.job(job.id).is_none())
                        .then(|| raw::insert_blindly(world, job, now))
                })
            })
        },
    ),
    Mutant::new(
        "unique-not-within-batch",
        "the keys of a batch are looked up before any of it is inserted",
        &["INS-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                world.insert(&[], now)?;
                let held: Vec<Option<JobId>> =
                    jobs.iter().map(|job| obstacle(world, job)).collect();
                let mut held = held.into_iter();
                insert_each(world, jobs, now, |world, job, now| match held.next().flatten() {
                    Some(holder) => Some(Ok(Inserted::Existing(holder))),
                    None => Some(raw::insert_blindly(world, job, now)),
                })
            })
        },
    ),
    Mutant::new(
        "batch-duplicate-fails-the-call",
        "a key twice in one batch is a violation of the index",
        &["INS-8"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                let keys: Vec<&str> =
                    jobs.iter().filter_map(|job| Some(job.unique.as_ref()?.key.as_str())).collect();
                let distinct: std::collections::BTreeSet<&str> = keys.iter().copied().collect();
                match distinct.len() == keys.len() {
                    true => world.insert(jobs, now),
                    false => Err(Error::new(ErrorKind::Backend, "duplicate key value")),
                }
            })
        },
    ),
    Mutant::new(
        "after-by-the-callers-clock",
        "a delay counts from the caller's clock",
        &["INS-9"],
        || {
            Flaw::none().writing(|job| {
                if let When::After(delay) = job.when {
                    job.when = When::At(Clock::system().now().plus(delay));
                }
            })
        },
    ),
    Mutant::new("after-is-now", "a delay is ignored", &["INS-9"], || {
        Flaw::none().writing(|job| {
            if matches!(job.when, When::After(_)) {
                job.when = When::Now;
            }
        })
    }),
    Mutant::new(
        "invalid-batch-half-stored",
        "the jobs before the malformed one are stored",
        &["INS-10"],
        || Flaw::none().insert(|world, jobs, now| insert_each(world, jobs, now, |_, _, _| None)),
    ),
    Mutant::new(
        "control-characters-are-dropped",
        "a malformed label is mended instead of refused",
        &["INS-10"],
        || {
            Flaw::none().writing(|job| {
                let clean = |text: &String| {
                    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
                    if clean.is_empty() { "_".to_owned() } else { clean }
                };
                job.labels = job.labels.iter().map(|(k, v)| (clean(k), clean(v))).collect();
            })
        },
    ),
    Mutant::new(
        "oversized-input-is-dropped",
        "an input over the limit becomes null",
        &["INS-10"],
        || {
            Flaw::none().writing(|job| {
                if job.input.len() > 2 * 1024 * 1024 {
                    job.input = Payload::null();
                }
            })
        },
    ),
];

/// The job that keeps this one from being inserted, as a look at the store tells.
fn obstacle(world: &World, job: &NewJob) -> Option<JobId> {
    let same = world.job(job.id).map(|stored| stored.row.id);
    same.or_else(|| {
        let unique = job.unique.as_ref()?;
        let holder = world.key_holder(&unique.key)?;
        (!world.job(holder)?.row.control.yields_to(unique)).then_some(holder)
    })
}

/// Inserts jobs one by one, some of them in another way than the contract's.
fn insert_each(
    world: &mut World,
    jobs: &[NewJob],
    now: queue_core::Timestamp,
    mut other: impl FnMut(
        &mut World,
        &NewJob,
        queue_core::Timestamp,
    ) -> Option<queue_core::Result<Inserted>>,
) -> queue_core::Result<Vec<Inserted>> {
    jobs.iter()
        .map(|job| match other(world, job, now) {
            Some(answer) => answer,
            None => Ok(world.insert(std::slice::from_ref(job), now)?.remove(0)),
        })
        .collect()
}
