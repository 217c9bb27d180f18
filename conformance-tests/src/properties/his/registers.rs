//! Few jobs and records, many editors who go by versions.

use queue_core::{
    Guard, JobId, JobPatch, JobUpdate, LogRead, Outcome, Record, Version,
    spec::{Answer, Op},
};

use super::super::scene::{Store, plain_jobs, value};
use super::{done, judge, recorded, strange};
use crate::{Case, Checked, Rng, history::check_register, race};

const JOBS: usize = 3;
const RECORDS: [&str; 3] = ["register/a", "register/b", "register/c"];
const EDITORS: usize = 8;
const HANDLES: usize = 4;
/// The calls of each editor.
const CALLS: usize = 250;

pub(super) async fn versions_form_a_chain(case: &Case<'_>) -> Checked {
    let (recorder, handles) = recorded(case, HANDLES).await?;
    let jobs = plain_jobs(JOBS);
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    done(&handles[0], Op::Insert(jobs)).await?;
    let calls = case.times(CALLS);
    race(EDITORS, |who| {
        let store = handles[who % HANDLES].clone();
        let editor = Editor {
            who,
            rng: Rng::new(case.seed() ^ (who as u64) << 32),
            jobs: ids.iter().map(|id| (*id, Version(1))).collect(),
            records: RECORDS.map(|key| (key, Version(0))).into(),
        };
        async move { editor.edit(&store, calls).await }
    })
    .await?;
    for store in &handles {
        done(store, Op::Get(ids.clone(), LogRead::None)).await?;
        done(store, Op::Records("register/".to_owned())).await?;
    }
    judge(case, recorder.take(), check_register)
}

struct Editor {
    who: usize,
    rng: Rng,
    /// What it edits, with the latest version that it knows of.
    jobs: Vec<(JobId, Version)>,
    records: Vec<(&'static str, Version)>,
}

/// The version after a change, or the one that was in the way.
fn told(outcome: &Outcome) -> Option<Version> {
    match outcome {
        Outcome::Applied(ack) => ack.version,
        Outcome::Conflict { actual } => Some(*actual),
        _ => None,
    }
}

impl Editor {
    async fn edit(mut self, store: &Store, calls: usize) -> Checked {
        for step in 0..calls {
            match self.rng.below(2) {
                0 => self.edit_job(store, step).await?,
                _ => self.edit_record(store, step).await?,
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn edit_job(&mut self, store: &Store, step: usize) -> Checked {
        let at = self.rng.below(self.jobs.len());
        let (id, known) = self.jobs[at];
        let named = JobPatch::default().with_label("by", format!("{}-{step}", self.who));
        let (guard, patch) = match self.rng.below(20) {
            0 => (Guard::None, named),
            1 => (Guard::Version(known), JobPatch::append([super::super::scene::entry(step)])),
            2..16 => (Guard::Version(known), named),
            _ => {
                let answer = done(store, Op::Get(vec![id], LogRead::None)).await?;
                let Answer::Jobs(jobs) = answer else { return Err(strange(&answer)) };
                self.jobs[at].1 = jobs.iter().flatten().next().map_or(known, |job| job.version);
                return Ok(());
            }
        };
        let answer = done(store, Op::Update(vec![JobUpdate::new(id, guard, patch)])).await?;
        let Answer::Outcomes(outcomes) = answer else { return Err(strange(&answer)) };
        self.jobs[at].1 = outcomes.first().and_then(told).unwrap_or(known);
        Ok(())
    }

    async fn edit_record(&mut self, store: &Store, step: usize) -> Checked {
        let at = self.rng.below(self.records.len());
        let (key, known) = self.records[at];
        let expect = match self.rng.below(20) {
            0 => None,
            1..16 => Some(known),
            _ => {
                let answer = done(store, Op::Records(key.to_owned())).await?;
                let Answer::Records(records) = answer else { return Err(strange(&answer)) };
                self.records[at].1 = records.first().map_or(known, |record| record.version);
                return Ok(());
            }
        };
        let record = Record::new(key, value(format!("{}-{step}", self.who)));
        let answer = done(store, Op::PutRecord(record, expect)).await?;
        let Answer::Put(outcome) = answer else { return Err(strange(&answer)) };
        self.records[at].1 = told(&outcome).unwrap_or(known);
        Ok(())
    }
}
