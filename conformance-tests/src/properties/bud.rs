//! BUD: what a call costs in trips to the database. The bounds are those of the table in [`queue_core::JobStore`].

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use queue_core::{
    BulkChange, Fire, Guard, Held, Job, JobFilter, JobId, JobPatch, JobQuery, JobUpdate, LogRead,
    NewJob, Progress, Record, States, Timestamp,
};

use super::scene::{
    HOUR, Store, brief, complete, ending, entry, job, n, put_all, queue, value, wanted_from,
};
use crate::{Case, Checked, Property, check, check_eq};

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let one = Duration::from_secs(60);
    vec![
        Property::new(
            "BUD-1",
            "a call about one job costs no more trips than the contract says",
            |case| Box::pin(calls(case, 1)),
        )
        .within(one),
        Property::new(
            "BUD-2",
            "a call about a hundred jobs costs no more than one about one",
            |case| Box::pin(calls(case, 100)),
        )
        .within(one),
        Property::new("BUD-3", "a call without items costs nothing", |case| {
            Box::pin(nothing(case))
        })
        .within(one),
        Property::new(
            "BUD-4",
            "a whole job with its last log entry costs at most four trips, and a settle that claims the next as many",
            |case| Box::pin(whole_job(case)),
        )
        .within(one),
    ]
}

/// How often each call is made: what else a store has to ask now and then, such as the time, may fall into one of them.
const TRIES: usize = 3;

/// The trips that calls cost at most, by their names.
const BOUNDS: [(&str, u64); 17] = [
    ("ping", 1),
    ("insert", 1),
    ("insert again", 2),
    ("claim", 4),
    ("update_jobs", 1),
    ("update_jobs, fenced", 3),
    ("heartbeat", 1),
    ("update_where", 2),
    ("reap", 4),
    ("delete", 2),
    ("get", 1),
    ("find", 1),
    ("tally", 1),
    ("fire", 5),
    ("schedules", 1),
    ("records", 1),
    ("put_record", 1),
];

/// The least that each call has cost.
struct Ledger<'c, 'h> {
    case: &'c Case<'h>,
    least: BTreeMap<&'static str, u64>,
}

impl Ledger<'_, '_> {
    async fn count<T>(
        &mut self,
        name: &'static str,
        call: BoxFuture<'_, queue_core::Result<T>>,
    ) -> Checked<T> {
        let before = self.case.trips().await?;
        let answer = call.await?;
        let trips = self.case.trips().await?.saturating_sub(before);
        self.least.entry(name).and_modify(|least| *least = trips.min(*least)).or_insert(trips);
        Ok(answer)
    }

    fn check(&self, bounds: &[(&'static str, u64)], items: usize) -> Checked {
        let costs: Vec<String> =
            self.least.iter().map(|(name, trips)| format!("{name} {trips}")).collect();
        self.case.note(format!("of {items}: {}", costs.join(", ")));
        for (name, bound) in bounds {
            let trips = self.least.get(name).copied().unwrap_or(0);
            check!(
                trips <= *bound,
                "{name} of {items} costs {trips} trips at least, and at most {bound} are promised"
            );
        }
        Ok(())
    }
}

fn jobs(queue_name: &str, count: usize) -> Checked<Vec<NewJob>> {
    let queue = queue(queue_name)?;
    let new = |i| {
        let mut job = NewJob::new("budget", value(i));
        job.queue = queue.clone();
        job
    };
    Ok((0..count).map(new).collect())
}

fn updates(held: &[Job], patch: &JobPatch) -> Vec<JobUpdate> {
    held.iter()
        .map(|job| {
            let patch = patch.clone().with_log([entry("last")]);
            JobUpdate::new(job.id, Guard::Fence(job.fence), patch)
        })
        .collect()
}

async fn calls(case: &Case<'_>, count: usize) -> Checked {
    // Without the hook there is nothing to be counted.
    case.trips().await?;
    let mut ledger = Ledger { case, least: BTreeMap::new() };
    for round in 0..=TRIES {
        round_of_calls(case, &mut ledger, count, round).await?;
        if round == 0 {
            // The first time, statements are prepared and what is to be known for later calls is asked.
            ledger.least.clear();
        }
    }
    ledger.check(&BOUNDS, count)
}

async fn round_of_calls(
    case: &Case<'_>,
    ledger: &mut Ledger<'_, '_>,
    count: usize,
    round: usize,
) -> Checked {
    let store: &Store = case.store();
    let name = format!("budget {round}");
    let limit = n(u32::try_from(count).unwrap_or(1));
    let all = JobFilter::queue(queue(&name)?);
    let new = jobs(&name, count)?;
    let ids: Vec<JobId> = new.iter().map(|job| job.id).collect();
    ledger.count("ping", store.ping()).await?;
    let inserted = ledger.count("insert", store.insert(&new)).await?;
    check!(inserted.iter().all(|inserted| inserted.is_new()), "new jobs: {inserted:?}");
    ledger.count("insert again", store.insert(&new)).await?;
    let mut request = wanted_from(&[&name], limit.get())?;
    request.lease = HOUR;
    let held = ledger.count("claim", store.claim(&request)).await?.jobs;
    check_eq!(held.len(), count, "jobs claimed");
    let edit = updates(&held, &JobPatch::progress(Progress::new(50)));
    let outcomes = ledger.count("update_jobs", store.update_jobs(&edit)).await?;
    check!(outcomes.iter().all(queue_core::Outcome::is_saved), "updates by holders: {outcomes:?}");
    let beats: Vec<Held> = held.iter().map(|job| Held::new(job.id, job.fence)).collect();
    ledger.count("heartbeat", store.heartbeat(&beats, brief(case))).await?;
    let counts =
        ledger.count("update_where", store.update_where(&all, &BulkChange::Priority(3))).await?;
    check_eq!(counts.changed, count as u64, "jobs changed");
    ledger.count("get", store.get(&ids, LogRead::All)).await?;
    ledger.count("find", store.find(&JobQuery::new(all.clone()))).await?;
    ledger.count("tally", store.tally(&all)).await?;
    case.pass(brief(case)).await?;
    let reaped = ledger.count("reap", store.reap(limit)).await?;
    check_eq!(reaped.len(), count, "jobs reaped");
    let late = updates(&held, &ending(complete(), JobPatch::default()));
    ledger.count("update_jobs, fenced", store.update_jobs(&late)).await?;
    let held = store.claim(&super::scene::another(&request)).await?.jobs;
    store.update_jobs(&updates(&held, &ending(complete(), JobPatch::default()))).await?;
    let ended = all.with_states(States::FINAL);
    let deleted = ledger.count("delete", store.delete(&ended, limit)).await?;
    check_eq!(deleted, count as u64, "jobs deleted");
    for item in 0..count.min(3) {
        let slot = Timestamp::from_micros_saturating((round * 10 + item + 1) as i64);
        let fire = Fire::new("budget", slot, job("fired"));
        let _ = ledger.count("fire", store.fire(&fire)).await?;
    }
    ledger.count("schedules", store.schedules()).await?;
    let record = Record::new(format!("budget/{round}"), value(round));
    let _ = ledger.count("put_record", store.put_record(&record, None)).await?;
    ledger.count("records", store.records("budget/")).await?;
    Ok(())
}

async fn nothing(case: &Case<'_>) -> Checked {
    case.trips().await?;
    let store = case.store();
    let mut ledger = Ledger { case, least: BTreeMap::new() };
    store.ping().await?;
    for _ in 0..TRIES {
        check_eq!(ledger.count("insert", store.insert(&[])).await?, [], "no jobs");
        check_eq!(ledger.count("update_jobs", store.update_jobs(&[])).await?, [], "no updates");
        check_eq!(ledger.count("heartbeat", store.heartbeat(&[], HOUR)).await?, [], "none held");
        check_eq!(ledger.count("get", store.get(&[], LogRead::All)).await?, [], "no ids");
    }
    ledger.check(&[("insert", 0), ("update_jobs", 0), ("heartbeat", 0), ("get", 0)], 0)
}

async fn whole_job(case: &Case<'_>) -> Checked {
    case.trips().await?;
    let store = case.store();
    let mut ledger = Ledger { case, least: BTreeMap::new() };
    for round in 0..=TRIES {
        let name = format!("whole {round}");
        let one = jobs(&name, 1)?;
        put_all(store, &jobs(&name, 1)?).await?;
        let request = wanted_from(&[&name], 1)?;
        let whole = async {
            store.insert(&one).await?;
            let held = store.claim(&request).await?.jobs;
            let done = updates(&held, &ending(complete(), JobPatch::default()));
            let outcomes = store.update_jobs(&done).await?;
            Ok((held.len(), outcomes.iter().all(queue_core::Outcome::is_saved)))
        };
        let done = ledger.count("a whole job", Box::pin(whole)).await?;
        check_eq!(done, (1, true), "jobs claimed, and settled");
        let next = super::scene::another(&request);
        let held = store.claim(&next).await?.jobs;
        put_all(store, &jobs(&name, 1)?).await?;
        let done = updates(&held, &ending(complete(), JobPatch::default()));
        let then = super::scene::another(&request);
        let (_, claimed) = ledger
            .count("a settle that claims the next", store.update_and_claim(&done, &then))
            .await?;
        check_eq!(claimed.jobs.len(), 1, "jobs claimed with a settle");
        if round == 0 {
            ledger.least.clear();
        }
    }
    ledger.check(&[("a whole job", 4), ("a settle that claims the next", 4)], 1)
}
