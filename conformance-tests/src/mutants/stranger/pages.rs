//! Pages.

use std::cmp::Reverse;

use queue_core::{Cursor, Job, JobId, JobQuery, Page, Sort, spec::World};

use super::{
    super::{Flaw, Mutant},
    millis,
};

/// A page made in its own way: of all matching jobs, in the order of the query.
fn paging(page: fn(&World, &JobQuery, Vec<Job>) -> Page<Job>) -> Flaw {
    Flaw::none().find(move |world, query, _| {
        query.check()?;
        let mut all = JobQuery::new(query.filter.clone());
        (all.sort, all.limit) = (query.sort, queue_core::MAX_PAGE);
        let mut jobs = Vec::new();
        loop {
            let found = world.find(&all)?;
            jobs.extend(found.items);
            all.after = found.next;
            if all.after.is_none() {
                return Ok(page(world, query, jobs));
            }
        }
    })
}

/// Cuts the query's page out of jobs that begin after its cursor.
fn cut(query: &JobQuery, jobs: Vec<Job>) -> Page<Job> {
    let offset = usize::try_from(query.offset).unwrap_or(usize::MAX);
    let limit = query.limit.get() as usize;
    let mut rest = jobs.into_iter().skip(offset);
    let items: Vec<Job> = rest.by_ref().take(limit).collect();
    let next = rest.next().and(items.last()).map(Cursor::of);
    Page::new(items, next)
}

fn beyond(query: &JobQuery, job: &Job) -> bool {
    let place = (job.created_at, job.id);
    query.after.is_none_or(|cursor| match query.sort {
        Sort::OldestFirst => place > (cursor.created_at, cursor.id),
        Sort::NewestFirst => place < (cursor.created_at, cursor.id),
    })
}

/// Jobs sorted in another way, and cut as if they were not.
fn sorted<K: Ord + 'static>(query: &JobQuery, mut jobs: Vec<Job>, key: fn(&Job) -> K) -> Page<Job> {
    jobs.retain(|job| beyond(query, job));
    match query.sort {
        Sort::OldestFirst => jobs.sort_by_key(key),
        Sort::NewestFirst => jobs.sort_by_key(|job| Reverse(key(job))),
    }
    cut(query, jobs)
}

pub(super) const MUTANTS: &[Mutant] = &[
    // "One of these ids": a value that stands twice matches as one that stands once.
    Mutant::new(
        "doubled-id-is-listed-twice",
        "an id that stands twice in a filter is listed twice",
        &["REA-2"],
        || {
            paging(|_, query, mut jobs| {
                jobs.retain(|job| beyond(query, job));
                let twice = |id: JobId| {
                    let ids = query.filter.ids.iter().flatten();
                    ids.filter(|known| **known == id).count().max(1)
                };
                let jobs = jobs.into_iter().flat_map(|job| {
                    let copies = twice(job.id);
                    std::iter::repeat_n(job, copies)
                });
                cut(query, jobs.collect())
            })
        },
    ),
    // Sort: "by creation, then by id"
    Mutant::new(
        "newest-first-breaks-ties-forwards",
        "of jobs inserted at one instant the newest-first page shows the smallest id first",
        &["REA-3"],
        || {
            paging(|_, query, mut jobs| {
                if query.sort == Sort::OldestFirst {
                    return sorted(query, jobs, |job| (job.created_at, job.id));
                }
                jobs.sort_by_key(|job| (Reverse(job.created_at), job.id));
                jobs.retain(|job| {
                    query.after.is_none_or(|cursor| {
                        (Reverse(job.created_at), job.id) > (Reverse(cursor.created_at), cursor.id)
                    })
                });
                cut(query, jobs)
            })
        },
    ),
    Mutant::new(
        "pages-sort-by-id",
        "a page shows jobs by id, which their writers minted, and not by when they were inserted",
        &["REA-12"],
        || paging(|_, query, jobs| sorted(query, jobs, |job| job.id)),
    ),
    Mutant::new(
        "pages-sort-by-due-time",
        "a page shows jobs by when they are due",
        &["REA-2"],
        || paging(|_, query, jobs| sorted(query, jobs, |job| (job.run_at, job.id))),
    ),
    Mutant::new(
        "pages-sort-by-the-millisecond",
        "a page shows jobs inserted in the same millisecond by their ids",
        &["REA-12"],
        || paging(|_, query, jobs| sorted(query, jobs, |job| (millis(job.created_at), job.id))),
    ),
    Mutant::new(
        "ids-of-a-page-sort-as-signed",
        "a page compares ids as signed numbers, so that those that begin with f are the smallest",
        &["REA-11"],
        || {
            paging(|_, query, jobs| {
                sorted(query, jobs, |job| (job.created_at, job.id.as_uuid().as_u128() as i128))
            })
        },
    ),
    // "A walk by cursor shows every job that exists throughout exactly once"
    Mutant::new(
        "cursor-skips-the-same-instant",
        "the page after a cursor leaves out jobs inserted at the cursor's instant",
        &["REA-3"],
        || {
            paging(|_, query, mut jobs| {
                jobs.retain(|job| {
                    beyond(query, job)
                        && query.after.is_none_or(|cursor| job.created_at != cursor.created_at)
                });
                cut(query, jobs)
            })
        },
    ),
    Mutant::new("cursor-in-milliseconds", "a cursor keeps whole milliseconds", &["REA-3"], || {
        paging(|_, query, mut jobs| {
            jobs.retain(|job| beyond(query, job));
            let mut page = cut(query, jobs);
            if let Some(next) = &mut page.next {
                next.created_at = millis(next.created_at);
            }
            page
        })
    }),
    Mutant::new(
        "cursor-needs-its-job",
        "the page after a cursor whose job is gone is the first page",
        &["REA-4"],
        || {
            paging(|world, query, mut jobs| {
                let known = query.after.is_none_or(|cursor| world.job(cursor.id).is_some());
                jobs.retain(|job| !known || beyond(query, job));
                cut(query, jobs)
            })
        },
    ),
    Mutant::new(
        "cursor-needs-its-job-to-match",
        "the page after a cursor whose job does not match any more is empty",
        &["REA-4"],
        || {
            paging(|world, query, mut jobs| {
                let matches = query.after.is_none_or(|cursor| {
                    world.job(cursor.id).is_none_or(|job| job.row.matches(&query.filter))
                });
                jobs.retain(|job| matches && beyond(query, job));
                cut(query, jobs)
            })
        },
    ),
    // "Where the next one begins; `None` on the last."
    Mutant::new(
        "full-last-page-has-a-next",
        "a last page that is full names a next one",
        &["REA-4"],
        || {
            paging(|_, query, mut jobs| {
                jobs.retain(|job| beyond(query, job));
                let mut page = cut(query, jobs);
                if page.items.len() == query.limit.get() as usize {
                    page.next = page.items.last().map(Cursor::of);
                }
                page
            })
        },
    ),
    Mutant::new(
        "next-is-the-first-of-the-next",
        "the cursor of a page is the place of the first job of the next, which is passed over",
        &["REA-3"],
        || {
            paging(|_, query, mut jobs| {
                jobs.retain(|job| beyond(query, job));
                let mut page = cut(query, jobs.clone());
                let last = page.items.last().map(|job| job.id);
                let place = jobs.iter().position(|job| Some(job.id) == last);
                if page.next.is_some() {
                    page.next = place.and_then(|place| jobs.get(place + 1)).map(Cursor::of);
                }
                page
            })
        },
    ),
    // "Then pass over so many": after the cursor, too.
    Mutant::new(
        "cursor-forgets-the-offset",
        "a query with a cursor does not pass over the jobs of its offset",
        &["REA-8"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut query = query.clone();
                if query.after.is_some() {
                    query.offset = 0;
                }
                world.find(&query)
            })
        },
    ),
    Mutant::new(
        "offset-forgets-the-cursor",
        "a query with an offset begins at the first job, whatever its cursor",
        &["REA-8"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut query = query.clone();
                if query.offset > 0 {
                    query.after = None;
                }
                world.find(&query)
            })
        },
    ),
    Mutant::new(
        "page-with-an-offset-has-no-next",
        "a page that passed over some jobs names no next one",
        &["REA-8"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut page = world.find(query)?;
                if query.offset > 0 {
                    page.next = None;
                }
                Ok(page)
            })
        },
    ),
    Mutant::new(
        "offset-in-63-bits",
        "an offset that a signed number cannot hold passes over nothing",
        &["REA-10"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut query = query.clone();
                if i64::try_from(query.offset).is_err() {
                    query.offset = 0;
                }
                world.find(&query)
            })
        },
    ),
    Mutant::new(
        "page-of-at-most-500",
        "a page has at most 500 jobs and calls itself the last",
        &["REA-8"],
        || {
            Flaw::none().find(|world, query, _| {
                let mut page = world.find(query)?;
                if page.items.len() > 500 {
                    page.items.truncate(500);
                    page.next = None;
                }
                Ok(page)
            })
        },
    ),
];
