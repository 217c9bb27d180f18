use std::{
    cmp::Reverse,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use queue_core::{
    Claimed, Error, ErrorKind, Fence, JobId, Kinds, LogRead, Order, Queues, State, Timestamp, Uuid,
};

use super::{Flaw, Mutant, raw};

const MICRO: Duration = Duration::from_micros(1);

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new(
        "claim-drops-malformed-kinds",
        "kinds and labels that no job can have are passed over instead of refused",
        &["CLM-15"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut request = request.clone();
                if let queue_core::Kinds::Only(kinds) = &mut request.kinds {
                    kinds.retain(|kind| queue_core::name::check_name("kind", kind).is_ok());
                }
                request.filter = request.filter.filter(|filter| filter.check().is_ok());
                world.claim(&request, now)
            })
        },
    ),
    Mutant::new(
        "claim-takes-before-it-checks",
        "a malformed claim is refused after it has taken its jobs",
        &["CLM-15"],
        || {
            Flaw::none().claim(|world, request, now| {
                let checked = request.check();
                let mut sound = request.clone();
                sound.lease = sound.lease.max(std::time::Duration::from_secs(1));
                sound.holder = "sound".into();
                let claimed = match checked.is_ok() {
                    true => world.claim(request, now),
                    false => world.claim(&sound, now),
                };
                checked.and(claimed)
            })
        },
    ),
    Mutant::new(
        "claim-select-then-update",
        "jobs are selected, then updated by id, without lock or guard",
        &["CLM-1"],
        || {
            Flaw::none().claim_racing(|store, request| {
                async move {
                    request.check()?;
                    let picked =
                        store.step(|world, now| match world.repeated_claim(request, now) {
                            Some(repeated) => Err(repeated),
                            None => Ok(world.pick(request, now)),
                        });
                    match picked {
                        Err(repeated) => Ok(repeated),
                        Ok(picked) => {
                            store.pause().await;
                            Ok(store.step(|world, now| raw::take(world, &picked, request, now)))
                        }
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "claim-by-filter-selects-then-updates",
        "jobs that a filter names are selected, then updated by id, without lock or guard",
        &["CLM-16"],
        || {
            Flaw::none().claim_racing(|store, request| {
                async move {
                    request.check()?;
                    let picked = store.step(|world, now| {
                        match (world.repeated_claim(request, now), &request.filter) {
                            (Some(repeated), _) => Err(Ok(repeated)),
                            (None, None) => Err(world.claim(request, now)),
                            (None, Some(_)) => Ok(world.pick(request, now)),
                        }
                    });
                    match picked {
                        Err(answer) => answer,
                        Ok(picked) => {
                            store.pause().await;
                            Ok(store.step(|world, now| raw::take(world, &picked, request, now)))
                        }
                    }
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "claim-limit-plus-one",
        "a claim takes one job too many",
        &["CLM-2", "MOD-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut more = request.clone();
                more.limit = request.limit.saturating_add(1);
                world.claim(&more, now)
            })
        },
    ),
    Mutant::new("claim-ignores-limit", "a claim takes whatever is due", &["CLM-2"], || {
        Flaw::none().claim(|world, request, now| {
            let mut more = request.clone();
            more.limit = NonZeroU32::MAX;
            world.claim(&more, now)
        })
    }),
    Mutant::new(
        "claim-answers-in-database-order",
        "the right jobs are taken, and answered in the order of the update",
        &["CLM-3"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                claimed.jobs.reverse();
                Ok(claimed)
            })
        },
    ),
    Mutant::new(
        "claim-answers-by-id",
        "the right jobs are taken, and answered by id",
        &["CLM-3"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                claimed.jobs.sort_by_key(|job| job.id);
                Ok(claimed)
            })
        },
    ),
    Mutant::new("claim-is-lifo", "the newest job goes first", &["CLM-4", "MOD-1"], || {
        Flaw::none().claim(|world, request, now| {
            let mut turned = request.clone();
            turned.order = Order::Lifo;
            world.claim(&turned, now)
        })
    }),
    Mutant::new("claim-by-id", "jobs go by id instead of run_at", &["CLM-4"], || {
        Flaw::none().claim(|world, request, now| {
            raw::claim_by(world, request, now, |world, picked| {
                picked.sort_by_key(|(id, _)| (Reverse(raw::stored(world, *id).row.priority), *id));
            })
        })
    }),
    Mutant::new("claim-ignores-lifo", "LIFO is FIFO", &["CLM-5"], || {
        Flaw::none().claim(|world, request, now| {
            let mut turned = request.clone();
            turned.order = Order::Fifo;
            world.claim(&turned, now)
        })
    }),
    Mutant::new(
        "claim-lifo-keeps-ids-ascending",
        "with LIFO, jobs of one instant still go by ascending id",
        &["CLM-5"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    if request.order == Order::Lifo {
                        picked.sort_by_key(|(id, _)| {
                            let row = raw::stored(world, *id).row;
                            (Reverse(row.priority), Reverse(row.control.run_at), *id)
                        });
                    }
                })
            })
        },
    ),
    Mutant::new("claim-ignores-priority", "jobs go by time alone", &["CLM-6"], || {
        Flaw::none().claim(|world, request, now| {
            raw::claim_by(world, request, now, |world, picked| {
                picked.sort_by_key(|(id, _)| (raw::stored(world, *id).row.control.run_at, *id));
            })
        })
    }),
    Mutant::new(
        "claim-priority-ascending",
        "the least important job goes first",
        &["CLM-6"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    picked.sort_by_key(|(id, _)| raw::stored(world, *id).row.priority);
                })
            })
        },
    ),
    Mutant::new(
        "claim-time-before-priority",
        "priority decides only between jobs of one instant",
        &["CLM-6"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    picked.sort_by_key(|(id, _)| {
                        let row = raw::stored(world, *id).row;
                        (row.control.run_at, Reverse(row.priority), *id)
                    });
                })
            })
        },
    ),
    Mutant::new(
        "claim-priority-unsigned",
        "a negative priority is taken for a large one",
        &["CLM-6"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    picked.sort_by_key(|(id, _)| {
                        Reverse(raw::stored(world, *id).row.priority.cast_unsigned())
                    });
                })
            })
        },
    ),
    Mutant::new("claim-ignores-run-at", "jobs are taken before they are due", &["CLM-7"], || {
        Flaw::none().claim(|world, request, now| {
            request.check()?;
            if let Some(repeated) = world.repeated_claim(request, now) {
                return Ok(repeated);
            }
            let picked = world.pick(request, Timestamp::MAX);
            Ok(raw::take(world, &picked, request, now))
        })
    }),
    Mutant::new(
        "claim-run-at-exclusive",
        "a job due this very instant is not due",
        &["CLM-7"],
        || {
            Flaw::none().claim(|world, request, now| {
                raw::claim_by(world, request, now, |world, picked| {
                    picked.retain(|(id, _)| raw::stored(world, *id).row.control.run_at < now);
                })
            })
        },
    ),
    Mutant::new(
        "claim-late-by-a-second",
        "due times are rounded up to whole seconds",
        &["CLM-7"],
        || {
            Flaw::none().claim(|world, request, now| {
                let rounded = now.as_micros().div_euclid(1_000_000) * 1_000_000;
                raw::claim_by(world, request, now, |world, picked| {
                    picked.retain(|(id, _)| {
                        raw::stored(world, *id).row.control.run_at.as_micros() <= rounded
                    });
                })
            })
        },
    ),
    Mutant::new(
        "claim-a-microsecond-early",
        "a job is due a microsecond early",
        &["CLM-7"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                if let Some(repeated) = world.repeated_claim(request, now) {
                    return Ok(repeated);
                }
                let picked = world.pick(request, now.plus(MICRO));
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    Mutant::new("claim-ignores-queue", "jobs of every queue are taken", &["CLM-8"], || {
        Flaw::none().claim(|world, request, now| {
            let mut wide = request.clone();
            wide.queues = Queues::All;
            world.claim(&wide, now)
        })
    }),
    Mutant::new(
        "claim-asks-first-queue-only",
        "of several queues only the first counts",
        &["CLM-8"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut narrow = request.clone();
                if let Queues::Only(queues) = &mut narrow.queues {
                    queues.truncate(1);
                }
                world.claim(&narrow, now)
            })
        },
    ),
    Mutant::new("claim-ignores-kinds", "jobs of every kind are taken", &["CLM-8"], || {
        Flaw::none().claim(|world, request, now| {
            let mut wide = request.clone();
            wide.kinds = Kinds::All;
            world.claim(&wide, now)
        })
    }),
    Mutant::new("claim-ignores-filter", "the filter of a claim is ignored", &["CLM-8"], || {
        Flaw::none().claim(|world, request, now| {
            let mut wide = request.clone();
            wide.filter = None;
            world.claim(&wide, now)
        })
    }),
    Mutant::new(
        "claim-takes-fewer",
        "a claim takes one less than its limit, silently",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut less = request.clone();
                less.limit = NonZeroU32::new(request.limit.get() - 1).unwrap_or(NonZeroU32::MIN);
                world.claim(&less, now)
            })
        },
    ),
    Mutant::new("claim-skips-the-head", "the first due job is passed over", &["CLM-9"], || {
        Flaw::none().claim(|world, request, now| {
            raw::claim_by(world, request, now, |_, picked| {
                if picked.len() > 1 {
                    picked.remove(0);
                }
            })
        })
    }),
    Mutant::new(
        "next-due-missing",
        "a claim never says when to come again",
        &["CLM-9", "MOD-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                Ok(Claimed::new(world.claim(request, now)?.jobs, None))
            })
        },
    ),
    Mutant::new(
        "next-due-late",
        "a claim says to come again a second too late",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let claimed = world.claim(request, now)?;
                let late = claimed.next_due.map(|due| due.plus(Duration::from_secs(1)));
                Ok(Claimed::new(claimed.jobs, late))
            })
        },
    ),
    Mutant::new(
        "next-due-ignores-leases",
        "next_due looks at waiting jobs only",
        &["CLM-9"],
        || {
            Flaw::none().claim(|world, request, now| {
                let claimed = world.claim(request, now)?;
                let ends = world.running().filter_map(|id| world.job(id)?.row.control.lease_until);
                let lease = ends.min();
                let due = claimed.next_due.filter(|due| lease != Some(*due));
                Ok(Claimed::new(claimed.jobs, due))
            })
        },
    ),
    Mutant::new(
        "fence-kept-on-reclaim",
        "only the first claim of a job gets a fence of its own",
        &["CLM-10", "LSE-5"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) && was.row.control.fence.count > 0 {
                    is.row.control.fence = was.row.control.fence;
                }
            })
        },
    ),
    Mutant::new(
        "claim-counts-no-attempt",
        "a claim leaves the attempt as it was",
        &["CLM-10"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::claimed(was, is) {
                    is.row.control.attempt = was.row.control.attempt;
                }
            })
        },
    ),
    Mutant::new("claim-keeps-version", "a claim does not bump the version", &["CLM-10"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::claimed(was, is) {
                is.row.control.version = was.row.control.version;
            }
        })
    }),
    Mutant::new(
        "lease-from-run-at",
        "the lease counts from run_at instead of now",
        &["CLM-10"],
        || {
            Flaw::none().changing(|was, is, now| {
                let control = &mut is.row.control;
                if was.row.control.state == State::Waiting
                    && let Some(until) = control.lease_until
                {
                    control.lease_until = Some(control.run_at.plus(now.until(until)));
                }
            })
        },
    ),
    Mutant::new(
        "started-at-kept",
        "started_at tells the first attempt, not the latest",
        &["CLM-10"],
        || {
            Flaw::none().changing(|was, is, _| {
                let first = was.row.control.started_at;
                is.row.control.started_at = first.or(is.row.control.started_at);
            })
        },
    ),
    Mutant::new("nonce-by-the-store", "the nonce is not the claim's token", &["CLM-10"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::claimed(was, is) {
                let count = is.row.control.fence.count;
                is.row.control.fence = Fence::new(count, Uuid::now_v7());
            }
        })
    }),
    Mutant::new(
        "claim-token-forgotten",
        "a repeated claim takes further jobs",
        &["CLM-10", "MOD-1"],
        || {
            Flaw::none().claim(|world, request, now| {
                request.check()?;
                let picked = world.pick(request, now);
                Ok(raw::take(world, &picked, request, now))
            })
        },
    ),
    Mutant::new("claim-takes-failed", "failed jobs are taken again", &["CLM-11"], || {
        Flaw::none().claim(|world, request, now| {
            revive(world, State::Failed);
            world.claim(request, now)
        })
    }),
    Mutant::new("claim-takes-cancelled", "cancelled jobs are taken", &["CLM-11"], || {
        Flaw::none().claim(|world, request, now| {
            revive(world, State::Cancelled);
            world.claim(request, now)
        })
    }),
    Mutant::new("claim-takes-completed", "completed jobs are taken again", &["CLM-11"], || {
        Flaw::none().claim(|world, request, now| {
            revive(world, State::Completed);
            world.claim(request, now)
        })
    }),
    Mutant::new(
        "claim-refuses-a-second-claimer",
        "a claim that meets another one gives up with an error",
        &["CLM-12"],
        || {
            let open = Arc::new(AtomicU64::new(0));
            Flaw::none().claim_racing(move |store, request| {
                let open = open.clone();
                async move {
                    let others = open.fetch_add(1, Ordering::SeqCst);
                    let claimed = match others {
                        0 => {
                            let claimed = store.step(|world, now| world.claim(request, now));
                            store.pause().await;
                            claimed
                        }
                        _ => Err(Error::new(ErrorKind::Contention, "lock not available")),
                    };
                    open.fetch_sub(1, Ordering::SeqCst);
                    claimed
                }
                .boxed()
            })
        },
    ),
    Mutant::new(
        "claim-answers-the-old-row",
        "a claim answers jobs as they were",
        &["CLM-13"],
        || {
            Flaw::none().claim(|world, request, now| {
                let before = world.clone();
                let mut claimed = world.claim(request, now)?;
                let ids: Vec<JobId> = claimed.jobs.iter().map(|job| job.id).collect();
                let fences: Vec<Fence> = claimed.jobs.iter().map(|job| job.fence).collect();
                claimed.jobs = before.get(&ids, request.log).into_iter().flatten().collect();
                for (job, fence) in claimed.jobs.iter_mut().zip(fences) {
                    job.fence = fence;
                }
                Ok(claimed)
            })
        },
    ),
    Mutant::new("claim-answers-without-labels", "a claim answers no labels", &["CLM-13"], || {
        Flaw::none().claim(|world, request, now| {
            let mut claimed = world.claim(request, now)?;
            claimed.jobs.iter_mut().for_each(|job| job.labels.clear());
            Ok(claimed)
        })
    }),
    Mutant::new("claim-answers-no-log", "a claim answers no log", &["CLM-14"], || {
        Flaw::none().claim(|world, request, now| {
            let mut quiet = request.clone();
            quiet.log = LogRead::None;
            world.claim(&quiet, now)
        })
    }),
    Mutant::new(
        "claim-answers-a-short-log",
        "a claim answers the last entry only",
        &["CLM-14"],
        || {
            Flaw::none().claim(|world, request, now| {
                let mut claimed = world.claim(request, now)?;
                for job in &mut claimed.jobs {
                    job.log.drain(..job.log.len().saturating_sub(1));
                }
                Ok(claimed)
            })
        },
    ),
];

/// Makes ended jobs look waiting.
fn revive(world: &mut queue_core::spec::World, state: State) {
    let ended = world.jobs().filter(|stored| stored.row.control.state == state);
    let ended: Vec<JobId> = ended.map(|stored| stored.row.id).collect();
    for id in ended {
        world.edit(id, |stored| {
            stored.row.control.state = State::Waiting;
            stored.row.control.finished_at = None;
        });
    }
}
