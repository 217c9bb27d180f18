use queue_core::{BulkChange, JobFilter, Outcome, State, spec::World};

use super::{Flaw, Mutant, raw};

/// Mutants of labels, of changes of many jobs, and of the end's time.
pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("labels-replaced", "a change of labels replaces all of them", &["UPD-11"], || {
        Flaw::none().update(|world, updates, now| {
            let outcomes = world.update(updates, now)?;
            for (update, outcome) in updates.iter().zip(&outcomes) {
                if outcome.applied().is_some() && !update.patch.labels.is_empty() {
                    world.edit(update.id, |stored| {
                        let named = &update.patch.labels;
                        stored.row.labels.retain(|key, _| named.contains_key(key));
                    });
                }
            }
            Ok(outcomes)
        })
    }),
    Mutant::new("label-removal-ignored", "labels can be set but not removed", &["UPD-11"], || {
        Flaw::none().patching(|update| update.patch.labels.retain(|_, value| value.is_some()))
    }),
    Mutant::new("label-insert-only", "a label that is there keeps its value", &["UPD-11"], || {
        Flaw::none().changing(|was, is, _| {
            for (key, value) in &was.row.labels {
                if let Some(now) = is.row.labels.get_mut(key) {
                    now.clone_from(value);
                }
            }
        })
    }),
    Mutant::new("bulk-keeps-version", "a bulk change bumps no version", &["UPD-12"], || {
        Flaw::none().update_where(|world, filter, change, now| {
            let before = world.clone();
            let counts = world.update_where(filter, change, now)?;
            for stored in before.jobs() {
                let version = stored.row.control.version;
                world.edit(stored.row.id, |stored| stored.row.control.version = version);
            }
            Ok(counts)
        })
    }),
    Mutant::new(
        "bulk-ignores-labels",
        "a bulk change ignores the labels of its filter",
        &["UPD-12"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let mut wide = filter.clone();
                wide.labels.clear();
                world.update_where(&wide, change, now)
            })
        },
    ),
    Mutant::new(
        "bulk-counts-everything-as-changed",
        "a bulk change sums its counts up",
        &["UPD-12"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let mut counts = world.update_where(filter, change, now)?;
                counts.changed += counts.signalled + counts.finished;
                (counts.signalled, counts.finished) = (0, 0);
                Ok(counts)
            })
        },
    ),
    Mutant::new(
        "bulk-touches-finished",
        "priority and queue of finished jobs change",
        &["UPD-12"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let finished = matching(world, filter, |state| state.is_final());
                let counts = world.update_where(filter, change, now)?;
                for id in finished {
                    world.edit(id, |stored| match change {
                        BulkChange::Priority(priority) => stored.row.priority = *priority,
                        BulkChange::Queue(queue) => stored.row.queue = queue.clone(),
                        _ => {}
                    });
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new(
        "bulk-misses-running",
        "priority and queue of running jobs stay",
        &["UPD-12"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let before = world.clone();
                let running = matching(world, filter, |state| state == State::Running);
                let counts = world.update_where(filter, change, now)?;
                if matches!(change, BulkChange::Priority(_) | BulkChange::Queue(_)) {
                    for id in running {
                        world.place(raw::stored(&before, id));
                    }
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new(
        "edit-restamps-the-end",
        "an edit of a finished job moves finished_at",
        &["UPD-13"],
        || {
            Flaw::none().changing(|was, is, now| {
                if was.row.control.state.is_final() {
                    is.row.control.finished_at = Some(now);
                }
            })
        },
    ),
    Mutant::new(
        "repeat-restamps-the-end",
        "a repeated settle moves finished_at",
        &["UPD-13"],
        || {
            Flaw::none().update(|world, updates, now| {
                let outcomes = world.update(updates, now)?;
                for (update, outcome) in updates.iter().zip(&outcomes) {
                    if matches!(outcome, Outcome::Repeated(_)) {
                        world.edit(update.id, |stored| {
                            let end = &mut stored.row.control.finished_at;
                            *end = end.map(|_| now);
                        });
                    }
                }
                Ok(outcomes)
            })
        },
    ),
    Mutant::new(
        "cancel-restamps-the-end",
        "cancelling a finished job moves finished_at",
        &["UPD-13"],
        || {
            Flaw::none().update_where(|world, filter, change, now| {
                let finished = matching(world, filter, |state| state.is_final());
                let counts = world.update_where(filter, change, now)?;
                if matches!(change, BulkChange::Cancel { .. }) {
                    for id in finished {
                        world.edit(id, |stored| stored.row.control.finished_at = Some(now));
                    }
                }
                Ok(counts)
            })
        },
    ),
    Mutant::new("complete-has-no-end", "a completed job has no finished_at", &["UPD-13"], || {
        Flaw::none().changing(|was, is, _| {
            if raw::ended(was, is, State::Completed) {
                is.row.control.finished_at = None;
            }
        })
    }),
];

fn matching(
    world: &World,
    filter: &JobFilter,
    state: impl Fn(State) -> bool,
) -> Vec<queue_core::JobId> {
    let rows = world.jobs().map(|stored| &stored.row);
    let rows = rows.filter(|row| row.matches(filter) && state(row.control.state));
    rows.map(|row| row.id).collect()
}
