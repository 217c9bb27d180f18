//! Every operation of a store, each with what it needs, and the store that says what it should come to.

use std::{sync::Arc, time::Duration};

use queue_core::{
    ClaimRequest, Clock, Fence, Fire, Held, JobFilter, JobId, JobPatch, JobQuery, JobStore,
    JobUpdate, LogRead, MemoryStore, NewJob, Progress, Record, Timestamp, Unique, Version,
    spec::{Answer, Op},
};
use serde::Serialize;
use serde_json::Value;

use super::super::scene::{
    HOUR, Store, brief, cancelling, complete, entry, job, n, queue, secs, value, wanted_from,
};
use super::recovered;
use crate::{Case, Checked, Stop, start};

/// An operation on jobs of its own, which stand ready.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    setup: Vec<Op>,
    /// The operation needs this much time to have passed.
    wait: Duration,
    pub(super) op: Op,
    pub(super) ids: Vec<JobId>,
    schedule: String,
    prefix: String,
}

/// A store that is asked the same, and never fails: what there is to be seen of a scene, before its operation, after it, and
/// after it was repeated.
pub(super) struct Expected {
    pub(super) before: Vec<Value>,
    pub(super) once: Vec<Value>,
    pub(super) twice: Vec<Value>,
    pub(super) answers: [Value; 2],
}

/// What it takes to expect anything: a reference store, and whether its times are those of the store under test.
pub(super) struct Reference {
    store: Store,
    is_clocked: bool,
}

impl Reference {
    pub(super) fn of(case: &Case<'_>) -> Checked<Self> {
        let is_clocked = case.is_clocked();
        let clock = if is_clocked { case.clock()?.clone() } else { Clock::system() };
        Ok(Reference { store: Arc::new(MemoryStore::with_clock(clock)), is_clocked })
    }

    /// The times of two stores with clocks of their own cannot be compared.
    fn seen(&self, value: Value) -> Value {
        match (self.is_clocked, value) {
            (false, Value::Object(fields)) => {
                const TIMES: [&str; 8] = [
                    "created_at",
                    "run_at",
                    "started_at",
                    "finished_at",
                    "lease_until",
                    "at",
                    "updated_at",
                    "next_due",
                ];
                let kept = fields.into_iter().filter(|(name, _)| !TIMES.contains(&name.as_str()));
                Value::Object(kept.map(|(name, value)| (name, self.seen(value))).collect())
            }
            (_, Value::Array(items)) => items.into_iter().map(|item| self.seen(item)).collect(),
            (true, Value::Object(fields)) => {
                fields.into_iter().map(|(name, value)| (name, self.seen(value))).collect()
            }
            (_, other) => other,
        }
    }

    fn value(&self, of: impl Serialize) -> Checked<Value> {
        let value = serde_json::to_value(of);
        Ok(self.seen(value.map_err(|error| Stop::inconclusive(error.to_string()))?))
    }

    /// An answer without what the contract leaves open.
    pub(super) fn answer(&self, scene: &Scene, answer: Answer) -> Checked<Value> {
        let answer = match answer {
            Answer::Claimed(mut claimed) => {
                claimed.next_due = None;
                Answer::Claimed(claimed)
            }
            Answer::OutcomesAndClaimed(outcomes, mut claimed) => {
                claimed.next_due = None;
                Answer::OutcomesAndClaimed(outcomes, claimed)
            }
            Answer::Schedules(mut stats) => {
                stats.retain(|stat| stat.schedule == scene.schedule);
                Answer::Schedules(stats)
            }
            other => other,
        };
        self.value(answer)
    }

    /// What there is to be seen of a scene: its schedule, its records, each of its jobs.
    pub(super) async fn look(&self, store: &dyn JobStore, scene: &Scene) -> Checked<Vec<Value>> {
        // A slot before its job: that one is there is to say that the other is.
        let mut stats = store.schedules().await?;
        stats.retain(|stat| stat.schedule == scene.schedule);
        let records = store.records(&scene.prefix).await?;
        let jobs = store.get(&scene.ids, LogRead::All).await?;
        let first = [self.value(stats)?, self.value(records)?].into_iter();
        let jobs = jobs.into_iter().map(|job| self.value(job)).collect::<Checked<Vec<_>>>()?;
        Ok(first.chain(jobs).collect())
    }

    /// Has the jobs of these scenes stand ready in both stores, and says what is to be expected.
    pub(super) async fn prepare(
        &self,
        case: &Case<'_>,
        store: &Store,
        scenes: &[Scene],
    ) -> Checked<Vec<Expected>> {
        for scene in scenes {
            for op in &scene.setup {
                // It may be made as often as it takes.
                recovered("a preparation", || async { Ok(op.run(&**store).await?) }).await?;
                op.run(&*self.store).await?;
            }
        }
        let longest = scenes.iter().map(|scene| scene.wait).max().unwrap_or_default();
        if longest > Duration::ZERO {
            case.pass(longest).await?;
        }
        let mut expected = Vec::with_capacity(scenes.len());
        for scene in scenes {
            let before = self.look(&*self.store, scene).await?;
            let first = self.answer(scene, scene.op.run(&*self.store).await?)?;
            let once = self.look(&*self.store, scene).await?;
            let second = self.answer(scene, scene.op.run(&*self.store).await?)?;
            let twice = self.look(&*self.store, scene).await?;
            expected.push(Expected { before, once, twice, answers: [first, second] });
        }
        Ok(expected)
    }
}

/// What has the jobs of a scene stand ready, and its operation.
type Make<'m> = dyn Fn(&Stage) -> Checked<(Vec<Op>, Op)> + 'm;

/// All operations, each on jobs of its own. `tag` tells those of one call from those of another.
pub(super) fn scenes(case: &Case<'_>, tag: &str) -> Checked<Vec<Scene>> {
    let mut scenes = Vec::new();
    let mut add = |name: &'static str, make: &Make<'_>| {
        let stage = Stage::new(&format!("{tag} {name}"))?;
        let (setup, op) = make(&stage)?;
        let wait = if name == "reap" { brief(case) } else { Duration::ZERO };
        let ids = stage.jobs.iter().map(|job| job.id).chain([stage.scheduled]).collect();
        let (schedule, prefix) = (stage.name.clone(), stage.name.clone());
        scenes.push(Scene { name, setup, wait, op, ids, schedule, prefix });
        Ok::<_, Stop>(())
    };
    add("insert", &|stage| {
        let mut jobs = stage.jobs.clone();
        jobs[1].unique = Some(Unique::new(stage.name.clone()));
        Ok((vec![], Op::Insert(jobs)))
    })?;
    add("claim", &|stage| Ok((vec![stage.insert()], Op::Claim(stage.wanted(2, HOUR)?))))?;
    add("complete", &|stage| {
        let (setup, fence) = stage.running(HOUR)?;
        let patch = JobPatch::transition(complete())
            .with_log([entry("end"), entry("and more")])
            .with_label("done", "yes");
        Ok((setup, Op::Update(vec![JobUpdate::held(stage.jobs[0].id, fence, patch)])))
    })?;
    add("append", &|stage| {
        let (setup, fence) = stage.running(HOUR)?;
        let patch = JobPatch::append([entry(1), entry(2)]).with_progress(Progress::new(50));
        Ok((setup, Op::Update(vec![JobUpdate::held(stage.jobs[0].id, fence, patch)])))
    })?;
    add("update_and_claim", &|stage| {
        let mut wanted = stage.wanted(1, HOUR)?;
        let (mut setup, fence) = stage.running(HOUR)?;
        setup.push(Op::UpdateWhere(
            JobFilter::ids([stage.jobs[1].id]),
            cancelling("only one is to be had"),
        ));
        wanted.filter = Some(JobFilter::ids([stage.jobs[2].id]));
        let patch = JobPatch::transition(complete()).with_log([entry("end")]);
        let update = JobUpdate::held(stage.jobs[0].id, fence, patch);
        Ok((setup, Op::UpdateAndClaim(vec![update], wanted)))
    })?;
    add("heartbeat", &|stage| {
        let (setup, fence) = stage.running(HOUR)?;
        let mut held = Held::new(stage.jobs[0].id, fence);
        held.progress = Some(Progress::new(7));
        Ok((setup, Op::Heartbeat(vec![held], HOUR * 2)))
    })?;
    add("reap", &|stage| {
        let (setup, _) = stage.running(brief(case))?;
        Ok((setup, Op::Reap(n(1_000))))
    })?;
    add("update_where", &|stage| {
        let (setup, _) = stage.running(HOUR)?;
        let filter = JobFilter::ids(stage.jobs.iter().map(|job| job.id));
        Ok((setup, Op::UpdateWhere(filter, cancelling("enough"))))
    })?;
    add("delete", &|stage| {
        let (mut setup, fence) = stage.running(HOUR)?;
        let patch = JobPatch::transition(complete()).with_log([entry("end")]);
        setup.push(Op::Update(vec![JobUpdate::held(stage.jobs[0].id, fence, patch)]));
        let filter = JobFilter::ids(stage.jobs.iter().map(|job| job.id));
        Ok((setup, Op::Delete(filter, n(10))))
    })?;
    add("fire", &|stage| {
        let mut scheduled = job("plain");
        scheduled.queue = queue(&stage.name)?;
        Ok((vec![], Op::Fire(Box::new(Fire::new(stage.name.clone(), slot(), scheduled)))))
    })?;
    add("put_record", &|stage| {
        let record = Record::new(stage.name.clone(), value("body"));
        Ok((vec![], Op::PutRecord(record, Some(Version(0)))))
    })?;
    let all = |stage: &Stage| Ok::<_, Stop>(JobFilter::queue(queue(&stage.name)?));
    add("get", &|stage| {
        let ids = stage.jobs.iter().map(|job| job.id).collect();
        Ok((vec![stage.insert()], Op::Get(ids, LogRead::All)))
    })?;
    add("find", &|stage| Ok((vec![stage.insert()], Op::Find(JobQuery::new(all(stage)?)))))?;
    add("tally", &|stage| Ok((vec![stage.insert()], Op::Tally(all(stage)?))))?;
    add("schedules", &|stage| {
        let skip = Fire::skip(stage.name.clone(), slot(), None);
        Ok((vec![Op::Fire(Box::new(skip))], Op::Schedules))
    })?;
    add("records", &|stage| {
        let record = Record::new(stage.name.clone(), value("body"));
        let setup = vec![Op::PutRecord(record, Some(Version(0)))];
        Ok((setup, Op::Records(stage.name.clone())))
    })?;
    Ok(scenes)
}

fn slot() -> Timestamp {
    start().plus(secs(60))
}

/// Three jobs in a queue of their own.
struct Stage {
    name: String,
    jobs: Vec<NewJob>,
    scheduled: JobId,
}

impl Stage {
    fn new(name: &str) -> Checked<Self> {
        let mut jobs = vec![job("plain"), job("plain"), job("plain")];
        for job in &mut jobs {
            job.queue = queue(name)?;
        }
        Ok(Stage { name: name.to_owned(), jobs, scheduled: JobId::for_slot(name, slot()) })
    }

    fn insert(&self) -> Op {
        Op::Insert(self.jobs.clone())
    }

    fn wanted(&self, limit: u32, lease: Duration) -> Checked<ClaimRequest> {
        let mut wanted = wanted_from(&[&self.name], limit)?;
        wanted.lease = lease;
        Ok(wanted)
    }

    /// The first job is held, the others wait.
    fn running(&self, lease: Duration) -> Checked<(Vec<Op>, Fence)> {
        let mut wanted = self.wanted(1, lease)?;
        wanted.filter = Some(JobFilter::id(self.jobs[0].id));
        let fence = Fence::new(1, wanted.token);
        Ok((vec![self.insert(), Op::Claim(wanted)], fence))
    }
}
