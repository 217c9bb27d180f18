//! Claiming: which jobs are taken, in which order, and when to come back.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
};

use queue_core::{
    ClaimRequest, Claimed, Effect, Guard, Job, JobFilter, JobUpdate, Kinds, Lane, Outcome,
    QueueName, Queues, Result, Timestamp, Transition, Uuid,
};
use sqlx::postgres::PgRow;

use crate::{
    args::Args,
    codec::{self, get},
    db::{self, Db},
    error,
    filter::Conditions,
    sql::Shape,
    update::{self, Verdict, micros},
};

/// How many jobs beyond the limit are looked at, in case that rivals hold the first ones.
const SPARE: i64 = 4;
/// The same, after everything that was looked at was held by rivals.
const MANY_SPARE: i64 = 64;
/// How often a claim begins anew that found rivals ahead of it.
const TRIES: u32 = 6;

/// The names that a request wants; `None` is every name.
struct Wanted {
    queues: Option<BTreeSet<String>>,
    kinds: Option<BTreeSet<String>>,
    shape: Shape,
}

impl Wanted {
    fn of(request: &ClaimRequest) -> Self {
        let filter = request.filter.as_ref();
        let asked = match &request.queues {
            Queues::All => None,
            Queues::Only(queues) => Some(names(queues.iter().map(QueueName::as_str))),
        };
        let by_filter = filter.and_then(|filter| filter.queues.as_ref());
        let queues =
            both(asked, by_filter.map(|queues| names(queues.iter().map(QueueName::as_str))));
        let asked = match &request.kinds {
            Kinds::All => None,
            Kinds::Only(kinds) => Some(names(kinds.iter())),
        };
        let by_filter = filter.and_then(|filter| filter.kinds.as_ref());
        let kinds = both(asked, by_filter.map(|kinds| names(kinds.iter())));
        let shape =
            Shape { queues: queues.is_some(), kinds: kinds.is_some(), order: request.order };
        Wanted { queues, kinds, shape }
    }
}

fn names<T: AsRef<str>>(names: impl Iterator<Item = T>) -> BTreeSet<String> {
    names.map(|name| name.as_ref().to_owned()).collect()
}

fn both(
    one: Option<BTreeSet<String>>,
    other: Option<BTreeSet<String>>,
) -> Option<BTreeSet<String>> {
    match (one, other) {
        (None, names) | (names, None) => names,
        (Some(one), Some(other)) => Some(one.intersection(&other).cloned().collect()),
    }
}

/// Whether a filter says nothing but queues and kinds, which is what ranges are made of.
fn is_ranges_only(filter: &JobFilter) -> bool {
    let mut rest = filter.clone();
    (rest.queues, rest.kinds) = (None, None);
    rest == JobFilter::all()
}

/// The values of a claim, as `sql::number` names them.
fn bind(args: Args, request: &ClaimRequest, wanted: &Wanted, spare: i64) -> Args {
    let limit = i64::from(request.limit.get());
    let list =
        |names: &Option<BTreeSet<String>>| names.iter().flatten().cloned().collect::<Vec<String>>();
    args.with(request.token)
        .with(request.holder.to_string())
        .with(micros(request.lease))
        .with(limit)
        .with(limit + spare)
        .with(codec::after(request.log))
        .with(list(&wanted.queues))
        .with(list(&wanted.kinds))
}

/// What a single statement answered.
enum Answer {
    Claimed(Claimed),
    /// The token holds jobs already.
    Repeated,
    /// Jobs with lanes wait: it took nothing.
    Lanes,
}

fn answer(rows: &[PgRow], request: &ClaimRequest) -> Result<Answer> {
    // The statement answers with one row at least.
    let Some(first) = rows.first() else { return Err(error::corrupt("a claim without an answer")) };
    if get(first, "repeated")? {
        return Ok(Answer::Repeated);
    }
    if get(first, "laned")? {
        return Ok(Answer::Lanes);
    }
    let due = get::<Option<i64>>(first, "next_due")?.map(codec::time).transpose()?;
    let taken = rows.iter().filter_map(|row| match get::<Option<i64>>(row, "place") {
        Ok(None) => None,
        Ok(Some(_)) => Some(codec::job(row)),
        Err(error) => Some(Err(error)),
    });
    let jobs = taken.collect::<Result<Vec<Job>>>()?;
    let full = jobs.len() >= request.limit.get() as usize;
    Ok(Answer::Claimed(Claimed::new(jobs, due.filter(|_| !full))))
}

/// Takes the first due jobs that the request matches.
pub(crate) async fn claim(db: &Db, request: &ClaimRequest) -> Result<Claimed> {
    let wanted = Wanted::of(request);
    let claimed = match request.filter.as_ref().filter(|filter| !is_ranges_only(filter)) {
        Some(filter) => claim_by_looking(db, request, &wanted, Some(filter)).await?,
        None => claim_at_once(db, request, &wanted).await?,
    };
    complete_logs(db, request, claimed).await
}

async fn claim_at_once(db: &Db, request: &ClaimRequest, wanted: &Wanted) -> Result<Claimed> {
    let (mut spare, mut tried) = (SPARE, 0);
    loop {
        let args = || bind(Args::new().with(db.now()), request, wanted, spare);
        let rows = match db.try_rows(db.sql.claim(wanted.shape), args).await {
            // The same claim, given up and not ended yet, was faster: then this one finds what that took.
            Err(error) if error::is_unique_violation(&error) => {
                tried += 1;
                if tried == TRIES {
                    return Err(db::contention("claim"));
                }
                db::pause(tried).await;
                continue;
            }
            rows => rows.map_err(|error| error::from_sqlx(error, "claim"))?,
        };
        match answer(&rows, request)? {
            Answer::Repeated => {
                if let Some(claimed) = repeated(db, request).await? {
                    return Ok(claimed);
                }
            }
            Answer::Lanes => return claim_by_looking(db, request, wanted, None).await,
            Answer::Claimed(claimed) => {
                let passed_over = claimed.jobs.is_empty()
                    && claimed.next_due.is_some_and(|due| is_now(&rows, due).unwrap_or(false));
                if !passed_over || spare == MANY_SPARE {
                    return Ok(claimed);
                }
                spare = MANY_SPARE;
            }
        }
    }
}

fn is_now(rows: &[PgRow], due: Timestamp) -> Result<bool> {
    match rows.first() {
        None => Ok(false),
        Some(row) => Ok(due <= codec::time(get(row, "now")?)?),
    }
}

/// Updates and claims in one statement. `None`: this pair needs two.
pub(crate) async fn update_and_claim(
    db: &Db,
    updates: &[JobUpdate],
    request: &ClaimRequest,
    limit: u64,
) -> Result<Option<(Vec<Outcome>, Claimed)>> {
    // The claim sees the jobs as before the updates. It must not miss what they give back, and one statement
    // changes a row once at most: jobs that it might claim cannot be edited in it.
    let fits = |update: &JobUpdate| {
        matches!(update.guard, Guard::Fence(_))
            && !matches!(
                update.patch.transition,
                Some(Transition::Retry { .. } | Transition::Release { .. })
            )
    };
    let is_one = db::parts(updates, update::bytes).len() == 1;
    if updates.is_empty() || !updates.iter().all(fits) || request.filter.is_some() || !is_one {
        return Ok(None);
    }
    let wanted = Wanted::of(request);
    let args = || bind(update::args(db.now(), updates, limit), request, &wanted, SPARE);
    let rows = match db.try_rows(db.sql.fused(wanted.shape), args).await {
        // The same claim was faster, or holds a job that these updates end.
        Err(error) if error::is_unique_violation(&error) => return Ok(None),
        rows => rows.map_err(|error| error::from_sqlx(error, "update_and_claim"))?,
    };
    let Some(first) = rows.first() else {
        return Err(error::corrupt("an update without an answer"));
    };
    let outcomes = fused_outcomes(first, updates, limit)?;
    if get(first, "lane_freed")? {
        db.hints.anywhere();
    }
    let claimed = match answer(&rows, request)? {
        Answer::Claimed(claimed) => complete_logs(db, request, claimed).await,
        Answer::Repeated => claim(db, request).await,
        Answer::Lanes => match claim_by_looking(db, request, &wanted, None).await {
            Ok(claimed) => complete_logs(db, request, claimed).await,
            Err(error) => Err(error),
        },
    };
    // The updates are made.
    let claimed = claimed.map_err(|error| error.with_effect(Effect::Unknown))?;
    Ok(Some((outcomes, claimed)))
}

fn fused_outcomes(row: &PgRow, updates: &[JobUpdate], limit: u64) -> Result<Vec<Outcome>> {
    let codes: Vec<i32> = get(row, "verdicts")?;
    let states: Vec<Option<i16>> = get(row, "states")?;
    let versions: Vec<Option<i64>> = get(row, "versions")?;
    let actuals: Vec<Option<i64>> = get(row, "actuals")?;
    let reasons: Vec<Option<String>> = get(row, "reasons")?;
    let cancels: Vec<Option<i64>> = get(row, "cancels")?;
    let guards = updates.iter().map(|update| update.guard);
    let verdicts =
        codes.into_iter().zip(states).zip(versions).zip(actuals).zip(reasons).zip(cancels);
    verdicts
        .zip(guards)
        .map(|((((((code, state), version), actual), reason), at), guard): (_, Guard)| {
            let state = state.map(codec::state).transpose()?;
            Verdict { code, state, version, actual, cancel: codec::cancel(reason, at)? }
                .outcome(guard, limit)
        })
        .collect()
}

/// The answer to a request whose token took jobs before that are still held under it.
async fn repeated(db: &Db, request: &ClaimRequest) -> Result<Option<Claimed>> {
    let args = || Args::new().with(db.now()).with(request.token).with(codec::after(request.log));
    let rows = db.rows("claim", &db.sql.held, args).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let now = codec::time(get(first, "now")?)?;
    let mut jobs = rows.iter().map(codec::job).collect::<Result<Vec<Job>>>()?;
    jobs.sort_by(|a, b| {
        let (before, after) = ((a.run_at, a.id), (b.run_at, b.id));
        let within = match request.order {
            queue_core::Order::Fifo => before.cmp(&after),
            queue_core::Order::Lifo => after.cmp(&before),
        };
        b.priority.cmp(&a.priority).then(within)
    });
    let full = jobs.len() >= request.limit.get() as usize;
    Ok(Some(Claimed::new(jobs, (!full).then_some(now))))
}

/// A due job, as it was when it was looked at.
struct Candidate {
    id: Uuid,
    queue: String,
    kind: String,
    rank: i32,
    lane: Option<Lane>,
    slots: Vec<i64>,
}

fn candidate(row: &PgRow) -> Result<Option<Candidate>> {
    let Some(id) = get::<Option<Uuid>>(row, "id")? else { return Ok(None) };
    Ok(Some(Candidate {
        id,
        queue: get(row, "queue")?,
        kind: get(row, "kind")?,
        rank: get(row, "rank")?,
        lane: codec::lane(get(row, "lane_key")?, get(row, "lane_limit")?)?,
        slots: get::<Option<Vec<i64>>>(row, "slots")?.unwrap_or_default(),
    }))
}

/// Gives out slots in order: each job the lowest free one below its own limit.
fn pick(candidates: Vec<Candidate>, limit: usize) -> Vec<(Candidate, Option<i64>)> {
    let mut held: HashMap<String, BTreeSet<i64>> = HashMap::new();
    for candidate in &candidates {
        if let Some(lane) = &candidate.lane {
            held.entry(lane.key.clone()).or_default().extend(&candidate.slots);
        }
    }
    let mut picked = Vec::new();
    for candidate in candidates {
        if picked.len() == limit {
            break;
        }
        let slot = match &candidate.lane {
            None => None,
            Some(lane) => {
                let held = held.entry(lane.key.clone()).or_default();
                let Some(slot) = (0..i64::from(lane.limit.get())).find(|slot| !held.contains(slot))
                else {
                    continue;
                };
                held.insert(slot);
                Some(slot)
            }
        };
        picked.push((candidate, slot));
    }
    picked
}

/// How much more a look finds whose answer was cut off too early, and where that ends.
const FOUR: NonZeroU32 = NonZeroU32::new(4).unwrap();
const WIDEST: u32 = 1 << 24;

/// Claims in two statements: one finds candidates and free slots, the other takes what was picked.
async fn claim_by_looking(
    db: &Db,
    request: &ClaimRequest,
    wanted: &Wanted,
    filter: Option<&JobFilter>,
) -> Result<Claimed> {
    let (mut tried, mut passed, mut wider) = (0, BTreeSet::new(), request.clone());
    loop {
        tried += 1;
        let conditions =
            filter.map(|filter| (Conditions::of(filter, 10), Conditions::of(filter, 13)));
        let look = match &conditions {
            None => db.sql.look(wanted.shape).clone(),
            Some((conditions, _)) => db.sql.look_filtered(wanted.shape, conditions.text()),
        };
        let args = || {
            let args = bind(Args::new().with(db.now()), &wider, wanted, 0);
            conditions.iter().fold(args, |args, (conditions, _)| conditions.bind(args))
        };
        let rows = db.rows("claim", &look, args).await?;
        // The statement answers with one row at least.
        let Some(first) = rows.first() else {
            return Err(error::corrupt("a claim without an answer"));
        };
        if get(first, "repeated")?
            && let Some(claimed) = repeated(db, request).await?
        {
            return Ok(claimed);
        }
        let now = codec::time(get(first, "now")?)?;
        let later = [get::<Option<i64>>(first, "future")?, get(first, "lease")?];
        let later = later.into_iter().flatten().min().map(codec::time).transpose()?;
        let candidates: Vec<Candidate> =
            rows.iter().filter_map(|row| candidate(row).transpose()).collect::<Result<_>>()?;
        let is_cut = filter.is_some() && candidates.len() >= wider.limit.get() as usize;
        let candidates =
            candidates.into_iter().filter(|there| !passed.contains(&there.id)).collect();
        let picked = pick(candidates, request.limit.get() as usize);
        if is_cut && picked.len() < request.limit.get() as usize && wider.limit.get() < WIDEST {
            // Jobs of different limits in one lane took each other's slots, or were passed over: others may be behind them.
            wider.limit = wider.limit.saturating_mul(FOUR);
            continue;
        }
        if picked.is_empty() {
            let due = if passed.is_empty() { later } else { Some(now) };
            return Ok(Claimed::new(Vec::new(), due));
        }
        let conditions = conditions.as_ref().map(|(_, conditions)| conditions);
        match take(db, request, &picked, conditions).await {
            // Somebody has them all locked, for who knows how long: then those behind them.
            Ok(jobs) if jobs.is_empty() && tried < TRIES => {
                passed.extend(picked.iter().map(|(candidate, _)| candidate.id));
                wider.limit = wider.limit.saturating_add(MANY_SPARE.unsigned_abs() as u32);
                db::pause(tried).await;
            }
            Ok(jobs) if jobs.len() >= request.limit.get() as usize => {
                return Ok(Claimed::new(jobs, None));
            }
            // Rivals were at some of them, or of those before them.
            Ok(jobs) if jobs.len() < picked.len() || !passed.is_empty() => {
                return Ok(Claimed::new(jobs, Some(now)));
            }
            Ok(jobs) => {
                let lease = jobs.iter().filter_map(|job| job.lease_until).min();
                let due = [later, lease].into_iter().flatten().min();
                return Ok(Claimed::new(jobs, due));
            }
            // A rival took a slot between the look and the lock, or the same claim a job.
            Err(error) if error::is_unique_violation(&error) && tried < TRIES => {
                db::pause(tried).await
            }
            // Still: they are passed over, like any job that a rival is at, unless it was the same claim.
            Err(error) if error::is_unique_violation(&error) => {
                let held = repeated(db, request).await?;
                return Ok(held.unwrap_or_else(|| Claimed::new(Vec::new(), Some(now))));
            }
            Err(error) => return Err(error::from_sqlx(error, "claim")),
        }
    }
}

async fn take(
    db: &Db,
    request: &ClaimRequest,
    picked: &[(Candidate, Option<i64>)],
    conditions: Option<&Conditions>,
) -> Result<Vec<Job>, sqlx::Error> {
    let text: Arc<str> = match conditions {
        None => db.sql.take[usize::from(request.order == queue_core::Order::Lifo)].clone(),
        Some(conditions) => db.sql.take_where(request.order, conditions.text()),
    };
    fn column<T>(picked: &[(Candidate, Option<i64>)], field: impl Fn(&Candidate) -> T) -> Vec<T> {
        picked.iter().map(|(candidate, _)| field(candidate)).collect()
    }
    let args = || {
        let args = Args::new()
            .with(db.now())
            .with(column(picked, |candidate| candidate.id))
            .with(column(picked, |candidate| candidate.queue.clone()))
            .with(column(picked, |candidate| candidate.kind.clone()))
            .with(column(picked, |candidate| candidate.rank))
            .with(column(picked, |candidate| candidate.lane.as_ref().map(|lane| lane.key.clone())))
            .with(column(picked, |candidate| {
                candidate.lane.as_ref().map(|lane| i64::from(lane.limit.get()))
            }))
            .with(picked.iter().map(|(_, slot)| *slot).collect::<Vec<Option<i64>>>())
            .with(request.token)
            .with(request.holder.to_string())
            .with(micros(request.lease))
            .with(codec::after(request.log));
        match conditions {
            None => args,
            Some(conditions) => conditions.bind(args),
        }
    };
    let rows = db.try_rows(&text, args).await?;
    let jobs = rows.iter().map(codec::job).collect::<Result<Vec<Job>>>();
    jobs.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Reads logs again that the statement saw shorter than they were when it got its lock: an entry was
/// committed in between.
async fn complete_logs(db: &Db, request: &ClaimRequest, mut claimed: Claimed) -> Result<Claimed> {
    let Some(after) = request.log.after() else { return Ok(claimed) };
    let is_short = |job: &Job| (job.log.len() as u64) < job.log_len.saturating_sub(after.0);
    let short: Vec<_> = claimed.jobs.iter().filter(|job| is_short(job)).map(|job| job.id).collect();
    if short.is_empty() {
        return Ok(claimed);
    }
    let read = crate::read::get(db, &short, request.log).await;
    // The jobs are taken.
    let read = read.map_err(|error| error.with_effect(Effect::Unknown))?;
    for read in read.into_iter().flatten() {
        if let Some(job) = claimed.jobs.iter_mut().find(|job| job.id == read.id) {
            job.log = read.log;
            job.log.truncate(
                usize::try_from(job.log_len.saturating_sub(after.0)).unwrap_or(usize::MAX),
            );
        }
    }
    Ok(claimed)
}

/// The statements of a claim, for those who look at their plans.
#[cfg(test)]
pub(crate) mod statements {
    use super::*;
    use crate::sql::Sql;

    fn of(first: Args, request: &ClaimRequest, spare: i64) -> (Shape, Args) {
        let wanted = Wanted::of(request);
        (wanted.shape, bind(first, request, &wanted, spare))
    }

    /// Of jobs without lanes.
    pub(crate) fn claim(sql: &Sql, request: &ClaimRequest) -> (Arc<str>, Args) {
        let (shape, args) = of(Args::new().with(None::<i64>), request, SPARE);
        (sql.claim(shape).clone(), args)
    }

    /// With updates before it.
    pub(crate) fn fused(
        sql: &Sql,
        updates: &[JobUpdate],
        request: &ClaimRequest,
    ) -> (Arc<str>, Args) {
        let (shape, args) = of(update::args(None, updates, u64::MAX), request, SPARE);
        (sql.fused(shape).clone(), args)
    }

    /// Where jobs with lanes wait.
    pub(crate) fn look(sql: &Sql, request: &ClaimRequest) -> (Arc<str>, Args) {
        let (shape, args) = of(Args::new().with(None::<i64>), request, 0);
        (sql.look(shape).clone(), args)
    }
}
