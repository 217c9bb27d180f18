//! `queue list`.

use std::num::NonZeroU32;

use queue::{Job, JobFilter, JobQuery, JobStates, StoreRegistry, core::MAX_PAGE};
use serde::Serialize;

use crate::{
    args::ListArgs,
    failure::{Ending, Failure},
    store, text,
};

#[derive(Serialize)]
struct Listing<'a> {
    data: &'a [Job],
    more: bool,
}

pub(crate) async fn list(registry: &StoreRegistry, args: ListArgs) -> Result<Ending, Failure> {
    let queue = store::open_existing(registry, &args.db).await?;
    let mut filter = JobFilter::all();
    if !args.state.is_empty() {
        filter = filter.with_states(args.state.into_iter().collect::<JobStates>());
    }
    if !args.queue.is_empty() {
        filter.queues = Some(args.queue);
    }
    if !args.kind.is_empty() {
        filter.kinds = Some(args.kind.into_iter().map(Into::into).collect());
    }
    filter.labels.extend(args.label);
    let mut query = JobQuery::new(filter);
    let mut jobs = Vec::new();
    while let Some(left) = left(args.limit, jobs.len()) {
        query.limit = left.min(MAX_PAGE);
        let page = queue.find(query.clone()).await?;
        jobs.extend(page.items);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    if args.json {
        text::json_to_stdout(&Listing { data: &jobs, more: query.after.is_some() })?;
        return Ok(Ending::Done);
    }
    let now = queue.store().ping().await?;
    let head = ["ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "CREATED", "INPUT"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(jobs.iter().map(|job| {
        vec![
            job.id.to_string(),
            job.phase(now).to_owned(),
            text::brief(&job.kind, 40),
            text::brief(job.queue.as_str(), 40),
            job.attempt.to_string(),
            job.created_at.to_string(),
            text::brief(job.input.as_str(), 60),
        ]
    }));
    text::to_stdout(&text::table(&rows));
    if query.after.is_some() {
        text::to_stderr("there are more; raise --limit to see them");
    }
    Ok(Ending::Done)
}

fn left(limit: u32, listed: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(limit.saturating_sub(u32::try_from(listed).unwrap_or(u32::MAX)))
}
