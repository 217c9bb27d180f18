use queue_core::{
    BulkChange, ErrorKind, Fence, Fire, Held, JobFilter, JobId, JobPatch, JobQuery, JobUpdate,
    MAX_FILTER_LABELS, MAX_PAGE, Progress, Record, TimeRange, Timestamp,
    spec::{Answer, Op},
};

use super::super::scene::{
    HOUR, Store, check_unchanged, complete, entry, job, n, put, read, running, value, wanted,
};
use crate::{Case, Checked, Stop, check, check_eq};

/// Names that no store takes.
const BAD: [&str; 3] = ["", "a\nb", "a\0"];

/// Calls that are malformed whatever is in the store, and what is wrong with them.
pub(super) fn calls() -> Checked<Vec<(String, Op)>> {
    let mut calls: Vec<(String, Op)> = Vec::new();
    let mut add = |what: &str, op: Op| calls.push((what.to_owned(), op));
    for bad in BAD.iter().map(|bad| (*bad).to_owned()).chain(["x".repeat(257)]) {
        let what = format!("{:.8?}", bad);
        add(&format!("a fire of the schedule {what}"), {
            Op::Fire(Box::new(Fire::skip(bad.clone(), Timestamp::EPOCH, None)))
        });
        let filters = [
            (format!("a filter by the kind {what}"), JobFilter::kind(bad.clone())),
            (format!("a filter by the label {what}"), JobFilter::label(bad.clone(), "x")),
            (format!("a filter by the label value {what}"), JobFilter::label("x", bad.clone())),
        ];
        for (what, filter) in filters {
            for (call, op) in with_filter(filter) {
                add(&format!("{call} with {what}"), op);
            }
        }
        let mut holder = wanted(1);
        holder.holder = bad.clone().into();
        add(&format!("an update_and_claim for the holder {what}"), {
            Op::UpdateAndClaim(vec![], holder)
        });
        add(&format!("a put of the record {what}"), {
            Op::PutRecord(Record::new(bad.clone(), value(1)), None)
        });
        if !bad.is_empty() {
            add(&format!("a listing of the records {what}"), Op::Records(bad));
        }
    }
    let mut crowd = JobFilter::all();
    for label in 0..=MAX_FILTER_LABELS {
        crowd = crowd.with_label(format!("label {label}"), "x");
    }
    for (call, op) in with_filter(crowd) {
        add(&format!("{call} with too many labels"), op);
    }
    let mut long = JobQuery::new(JobFilter::all());
    long.limit = n(MAX_PAGE.get() + 1);
    add("a page that is too long", Op::Find(long));
    let slot = Timestamp::EPOCH;
    let mut foreign = Fire::new("nightly", slot, job("plain"));
    if let Some(job) = &mut foreign.job {
        job.id = JobId::new();
    }
    add("a fire of a job with another id", Op::Fire(Box::new(foreign)));
    let mut nameless = job("plain");
    nameless.kind = "".into();
    add("a fire of a job without a kind", {
        Op::Fire(Box::new(Fire::new("nightly", slot, nameless)))
    });
    Ok(calls)
}

fn with_filter(filter: JobFilter) -> [(&'static str, Op); 4] {
    [
        ("an update_where", Op::UpdateWhere(filter.clone(), BulkChange::Wake)),
        ("a delete", Op::Delete(filter.clone(), n(10))),
        ("a find", Op::Find(JobQuery::new(filter.clone()))),
        ("a tally", Op::Tally(filter)),
    ]
}

async fn refused(store: &Store, what: &str, op: &Op) -> Checked {
    match op.run(&**store).await {
        Err(error) => {
            let is_fit = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge);
            check!(is_fit, "{what} is malformed, but the error says {error}");
            check_eq!(error.effect(), queue_core::Effect::None, "the effect of {what}");
            Ok(())
        }
        Ok(answer) => Err(Stop::fail(format!("{what} is malformed, but was answered {answer:?}"))),
    }
}

/// What belongs to one method alone is with that method: INS-10, CLM-15, UPD-6, REC-5. This is the rest.
pub(super) async fn refused_before_anything(case: &Case<'_>) -> Checked {
    let store = case.store();
    let held = running(store).await?;
    let waiting = put(store, &job("plain")).await?;
    let others = read(store, waiting).await?;
    let calls = calls()?;
    for (what, op) in &calls {
        refused(store, what, op).await?;
    }
    // Each of these would do something if only its sound half were looked at.
    let own = |fence: Fence| Held::new(held.id, fence);
    let mut over = own(held.fence);
    over.progress = Some(Progress::new(1));
    if let Some(progress) = &mut over.progress {
        progress.percent = 101;
    }
    let twice = vec![own(held.fence), own(held.fence)];
    let settle = |patch: JobPatch| JobUpdate::held(held.id, held.fence, patch);
    let done = settle(JobPatch::transition(complete()).with_log([entry("end")]));
    let mut endless = wanted(1);
    endless.lease = std::time::Duration::ZERO;
    let mut overdone = JobPatch::append([entry("x")]).with_progress(Progress::new(1));
    if let Some(progress) = &mut overdone.progress {
        progress.percent = 101;
    }
    let halves = [
        (
            "a heartbeat for no time",
            Op::Heartbeat(vec![own(held.fence)], std::time::Duration::ZERO),
        ),
        ("a heartbeat of a job twice", Op::Heartbeat(twice, HOUR * 9)),
        ("a heartbeat with 101 percent", Op::Heartbeat(vec![over], HOUR * 9)),
        ("a sound update and a claim for no time", Op::UpdateAndClaim(vec![done.clone()], endless)),
        (
            "an update of a job twice and a sound claim",
            Op::UpdateAndClaim(vec![done.clone(), done], wanted(1)),
        ),
        (
            "an update with 101 percent and a sound claim",
            Op::UpdateAndClaim(vec![settle(overdone)], wanted(1)),
        ),
    ];
    for (what, op) in &halves {
        refused(store, what, op).await?;
        check_unchanged(store, &held, what).await?;
        check_unchanged(store, &others, what).await?;
    }
    check_eq!(store.schedules().await?, [], "schedules after fires that were refused");
    check_eq!(store.records("").await?, [], "records after puts that were refused");
    // Bounds that no job can be within are not malformed: they match nothing.
    let (early, late) = (Timestamp::EPOCH, Timestamp::EPOCH.plus(HOUR));
    let mut never = JobFilter::all();
    never.created = TimeRange::between(late, early);
    let op = Op::Tally(never);
    check_eq!(
        op.run(&**store).await?,
        Answer::Tallies(vec![]),
        "a span that ends before it begins"
    );
    case.note(format!("{} malformed calls", calls.len() + halves.len()));
    Ok(())
}
