use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{
    Cursor, Job, JobFilter, JobId, JobQuery, LogRead, MAX_PAGE, Page, Sort, State, States,
    TimeRange, Timestamp, spec::World,
};

use super::{Flaw, Mutant};

const MICRO: Duration = Duration::from_micros(1);

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("get-omits-missing", "jobs that are not there leave no gap", &["REA-1"], || {
        Flaw::none().get(|world, ids, log, _| {
            Ok(world.get(ids, *log).into_iter().filter(Option::is_some).collect())
        })
    }),
    Mutant::new("get-in-database-order", "jobs come by id, not as asked", &["REA-1"], || {
        Flaw::none().get(|world, ids, log, _| {
            let mut sorted = ids.to_vec();
            sorted.sort_unstable();
            Ok(world.get(&sorted, *log))
        })
    }),
    Mutant::new(
        "get-collapses-duplicates",
        "an id asked for twice is answered once",
        &["REA-1"],
        || {
            Flaw::none().get(|world, ids, log, _| {
                let mut jobs = world.get(ids, *log);
                let seen = |i: usize| ids[..i].contains(&ids[i]);
                (0..ids.len()).filter(|i| seen(*i)).for_each(|i| jobs[i] = None);
                Ok(jobs)
            })
        },
    ),
    Mutant::new("filter-any-label", "one of several labels is enough", &["REA-9"], || {
        filtering(|filter| {
            let first = filter.labels.pop_first();
            filter.labels = first.into_iter().collect();
        })
    }),
    Mutant::new("filter-end-inclusive", "a range of time includes its end", &["REA-2"], || {
        filtering(|filter| {
            for range in [&mut filter.created, &mut filter.run_at, &mut filter.finished] {
                range.before = range.before.map(|before| before.plus(MICRO));
            }
        })
    }),
    Mutant::new("filter-start-exclusive", "a range of time excludes its start", &["REA-2"], || {
        filtering(|filter| {
            for range in [&mut filter.created, &mut filter.run_at, &mut filter.finished] {
                range.from = range.from.map(|from| from.plus(MICRO));
            }
        })
    }),
    Mutant::new(
        "filter-ignores-states",
        "listings ignore the states asked for",
        &["REA-2"],
        || filtering(|filter| filter.states = States::ALL),
    ),
    Mutant::new("filter-ignores-kinds", "listings ignore the kinds asked for", &["REA-2"], || {
        filtering(|filter| filter.kinds = None)
    }),
    Mutant::new(
        "filter-empty-list-is-all",
        "an empty list of queues matches all",
        &["REA-2"],
        || filtering(|filter| filter.queues = filter.queues.take().filter(|list| !list.is_empty())),
    ),
    Mutant::new(
        "filter-finished-includes-live",
        "a bound on the end lets through jobs that have not ended",
        &["REA-2"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut wide = query.clone();
                wide.filter.finished = TimeRange::default();
                wide.limit = MAX_PAGE;
                let page = world.find(&wide)?;
                let range = query.filter.finished;
                let live = |job: &Job| job.finished_at.is_none();
                let matches = |job: &Job| live(job) || range.contains(job.finished_at);
                Ok(cut(page.items.into_iter().filter(matches).collect(), query))
            })
        },
    ),
    Mutant::new("cursor-is-an-offset", "the cursor counts rows", &["REA-3"], || {
        Flaw::none().find(|world, query, _| {
            let from = query.after.map_or(0, |cursor| cursor.created_at.as_micros());
            let mut counted = query.clone();
            counted.after = None;
            counted.offset += from.unsigned_abs();
            let page = world.find(&counted)?;
            let next = page.next.map(|next| Cursor {
                created_at: Timestamp::from_micros_saturating(from + page.items.len() as i64),
                id: next.id,
            });
            Ok(Page::new(page.items, next))
        })
    }),
    Mutant::new(
        "cursor-is-inclusive",
        "a page begins with the last job of the one before",
        &["REA-3"],
        || {
            Flaw::none().find(|world, query, _| {
                let page = world.find(query)?;
                let cursor = query.after.and_then(|cursor| world.job(cursor.id));
                let Some(again) = cursor.filter(|_| query.limit > NonZeroU32::MIN) else {
                    return Ok(page);
                };
                let mut items = page.items;
                items.insert(0, again.row.clone().into_job(Vec::new()));
                Ok(cut(items, query))
            })
        },
    ),
    Mutant::new(
        "cursor-by-time-alone",
        "jobs of the cursor's own instant are passed over",
        &["REA-3"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut narrow = query.clone();
                if let Some(cursor) = narrow.after.take() {
                    let created = &mut narrow.filter.created;
                    match query.sort {
                        Sort::NewestFirst => created.before = Some(cursor.created_at),
                        Sort::OldestFirst => created.from = Some(cursor.created_at.plus(MICRO)),
                    }
                }
                world.find(&narrow)
            })
        },
    ),
    Mutant::new("sort-ignored", "listings are newest first whatever is asked", &["REA-3"], || {
        Flaw::none().find(|world, query, _| {
            let mut newest = query.clone();
            newest.sort = Sort::NewestFirst;
            world.find(&newest)
        })
    }),
    Mutant::new("next-page-missing", "no page says where the next one begins", &["REA-3"], || {
        Flaw::none().find(|world, query, _| Ok(Page::new(world.find(query)?.items, None)))
    }),
    Mutant::new("cursor-needs-its-row", "a page after a deleted job is empty", &["REA-4"], || {
        Flaw::none().find(|world, query, _| match query.after {
            Some(cursor) if world.job(cursor.id).is_none() => Ok(Page::new(Vec::new(), None)),
            _ => world.find(query),
        })
    }),
    Mutant::new("tally-is-off", "a tally misses one job", &["REA-5", "MOD-1"], || {
        Flaw::none().tally(|world, filter, _| {
            let mut tallies = world.tally(filter)?;
            if let Some(tally) = tallies.first_mut() {
                tally.count += 1;
            }
            Ok(tallies)
        })
    }),
    Mutant::new("tally-counts-running-as-waiting", "a tally mixes states", &["REA-5"], || {
        Flaw::none().tally(|world, filter, _| {
            let mut tallies = world.tally(filter)?;
            for tally in tallies.iter_mut().filter(|tally| tally.state == State::Running) {
                tally.state = State::Waiting;
            }
            Ok(tallies)
        })
    }),
    Mutant::new("tally-ignores-filter", "a tally counts all jobs", &["REA-5"], || {
        Flaw::none().tally(|world, filter, _| {
            filter.check()?;
            world.tally(&JobFilter::all())
        })
    }),
    Mutant::new("log-read-anyway", "a read without log brings the log", &["REA-6"], || {
        Flaw::none().get(|world, ids, _, _| Ok(world.get(ids, LogRead::All)))
    }),
    Mutant::new("find-brings-logs", "a listing brings the logs", &["REA-6"], || {
        Flaw::none().find(|world, query, _| {
            let mut page = world.find(query)?;
            for job in &mut page.items {
                job.log = world.job(job.id).map(|stored| stored.log.clone()).unwrap_or_default();
            }
            Ok(page)
        })
    }),
    Mutant::new(
        "reads-are-cached",
        "a job read once is read the same for ever",
        &["REA-7"],
        || {
            let cache: Mutex<HashMap<JobId, Job>> = Mutex::default();
            Flaw::none().get(move |world, ids, log, _| {
                let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                let mut jobs = world.get(ids, *log);
                for job in jobs.iter_mut().flatten() {
                    *job = cache.entry(job.id).or_insert_with(|| job.clone()).clone();
                }
                Ok(jobs)
            })
        },
    ),
    Mutant::new(
        "listing-lags",
        "a listing shows the jobs as the listing before met them",
        &["REA-7"],
        || {
            let last: Mutex<World> = Mutex::default();
            Flaw::none().find(move |world, query, _| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *last, world.clone()).find(query)
            })
        },
    ),
    Mutant::new(
        "page-limit-clamped",
        "a page that is too large is cut silently",
        &["REA-8"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut clamped = query.clone();
                clamped.limit = query.limit.min(MAX_PAGE);
                world.find(&clamped)
            })
        },
    ),
    Mutant::new("page-of-at-most-50", "a page never has more than 50 jobs", &["REA-8"], || {
        Flaw::none().find(|world, query, _| {
            query.check()?;
            let mut small = query.clone();
            small.limit = NonZeroU32::new(50).map_or(query.limit, |fifty| fifty.min(query.limit));
            world.find(&small)
        })
    }),
    Mutant::new("page-limit-ignored", "a page has all jobs", &["REA-8"], || {
        Flaw::none().find(|world, query, _| {
            query.check()?;
            let mut large = query.clone();
            large.limit = MAX_PAGE;
            world.find(&large)
        })
    }),
];

/// A listing that reads its filter in another way.
fn filtering(spoil: fn(&mut JobFilter)) -> Flaw {
    Flaw::none().find(move |world, query, _| {
        let mut other: JobQuery = query.clone();
        spoil(&mut other.filter);
        world.find(&other)
    })
}

/// The first page of these jobs.
fn cut(mut items: Vec<Job>, query: &JobQuery) -> Page<Job> {
    let limit = query.limit.get() as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(Cursor::of) } else { None };
    Page::new(items, next)
}
