//! The history checkers, on histories made by hand: sound ones, and each kind of unsound one.

mod script;

use conformance_tests::{
    Verdict,
    history::{
        Answered, History, Malformed, Summary, Violation, check_claims, check_logs, check_register,
        check_sequence,
    },
    mutants::mutants,
    properties, run_property,
};
use queue_core::{
    Effect, Error, ErrorKind, Fence, Guard, JobPatch, LogRead, Outcome, Record, Seq, State,
    Transition, Uuid, Version, When,
    spec::{Answer, Op},
};
use script::{Script, claim_as, entry, job, released, update};

type Check = fn(&History) -> Result<Summary, Violation>;

fn refused(check: Check, history: &History, why: &str) -> Violation {
    let violation = check(history).expect_err("the history should have been refused");
    let text = violation.to_string();
    assert!(text.contains(why), "refused, but not because {why:?}:\n{text}");
    assert!(text.lines().count() <= 8, "not a handful of lines:\n{text}");
    violation
}

#[track_caller]
fn sound(check: Check, history: &History) -> Summary {
    check(history).unwrap_or_else(|violation| panic!("{violation}"))
}

// ----- claims

#[tokio::test]
async fn runs_one_after_the_other_are_sound() {
    let mut script = Script::new();
    let new = job(1);
    script.call(0..1, Op::Insert(vec![new.clone()])).await;
    let first = script.claim(2..3, 1).await;
    script.call(4..5, released(&first)).await;
    let second = script.claim(6..7, 1).await;
    assert_eq!(second.fence.count, 2);
    script.call(8..9, Op::Get(vec![new.id], LogRead::None)).await;
    let summary = sound(check_claims, &script.history());
    assert_eq!((summary.count("claims"), summary.count("claims judged for order")), (2, 2));
}

#[tokio::test]
async fn a_claim_that_ends_before_the_run_before_it_does_is_refused() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let first = script.claim(2..3, 1).await;
    let release = script.call(4..5, released(&first)).await;
    let second = script.claim(6..7, 1).await;
    // The same calls, but the second claim had ended before the first holder gave the job back.
    script.at(release, 8..9);
    let violation = refused(check_claims, &script.history(), "cannot have been held");
    assert_eq!(violation.calls.len(), 3, "{violation}");
    assert!(violation.to_string().contains(&second.id.to_string()));
    // Where the two overlap, there is an order that does.
    script.at(release, 6..9);
    sound(check_claims, &script.history());
}

#[tokio::test]
async fn a_claim_of_a_run_that_nobody_ended_is_refused_unless_an_unknown_call_may_have_ended_it() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let first = script.claim(2..3, 1).await;
    let release = script.call(4..5, released(&first)).await;
    script.claim(6..7, 1).await;
    let whole = script.history();
    let mut without = whole.clone();
    without.calls.remove(release);
    refused(check_claims, &without, "no call can have ended the run of claim 1");
    let mut unknown = whole.clone();
    let lost = Error::new(ErrorKind::Timeout, "lost").with_effect(Effect::Unknown);
    unknown.calls[release].answer = Some(Answered::of(&Err(lost)));
    sound(check_claims, &unknown);
    // One that changed nothing has not ended it; one that never came back may have.
    let nothing = Error::new(ErrorKind::Contention, "busy");
    unknown.calls[release].answer = Some(Answered::of(&Err(nothing)));
    refused(check_claims, &unknown, "no call can have ended the run of claim 1");
    (unknown.calls[release].answer, unknown.calls[release].end) = (None, None);
    sound(check_claims, &unknown);
    // But not before it began.
    unknown.calls[release].begin = 7_500;
    refused(check_claims, &unknown, "cannot have been held");
}

#[tokio::test]
async fn one_claim_for_two_requests_is_refused_and_for_repeats_of_one_it_is_not() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    script.claim(2..3, 1).await;
    let Op::Claim(request) = script.op(1) else { panic!("the second call is the claim") };
    script.call(4..5, Op::Claim(request.clone())).await;
    sound(check_claims, &script.history());
    let mut history = script.history();
    let other = Uuid::now_v7();
    let Op::Claim(request) = &mut history.calls[2].op else { panic!("a claim") };
    request.token = other;
    let Some(Answered::Ok(Answer::Claimed(claimed))) = &mut history.calls[2].answer else {
        panic!("an answer")
    };
    claimed.jobs[0].fence.nonce = other;
    refused(check_claims, &history, "claim 1 of job");
}

#[tokio::test]
async fn a_fence_that_skips_a_claim_is_refused() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    script.claim(2..3, 1).await;
    let mut history = script.history();
    let Some(Answered::Ok(Answer::Claimed(claimed))) = &mut history.calls[1].answer else {
        panic!("an answer")
    };
    claimed.jobs[0].fence.count = 2;
    refused(check_claims, &history, "no call can have made claim 1");
}

#[tokio::test]
async fn a_holder_who_is_refused_while_nobody_took_its_job_is_told() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let held = script.claim(2..3, 1).await;
    let patch = JobPatch::append([entry("line")]);
    let write = script.call(4..5, update(&held, Guard::Fence(held.fence), patch)).await;
    sound(check_claims, &script.history());
    let mut history = script.history();
    history.calls[write].answer = Some(Answered::of(&Ok(Answer::Outcomes(vec![Outcome::Fenced]))));
    refused(check_claims, &history, "no call can have ended the run of claim 1");
}

#[tokio::test]
async fn a_write_under_a_token_that_is_not_the_claims_is_refused() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let held = script.claim(2..3, 1).await;
    let write = script.call(4..5, released(&held)).await;
    let mut history = script.history();
    let Op::Update(updates) = &mut history.calls[write].op else { panic!("an update") };
    updates[0].guard = Guard::Fence(Fence::new(1, Uuid::now_v7()));
    refused(check_claims, &history, "a token that is not the claim's");
}

#[tokio::test]
async fn a_run_that_ends_twice_is_refused() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let held = script.claim(2..3, 1).await;
    let write = script.call(4..5, released(&held)).await;
    let mut history = script.history();
    let mut again = history.calls[write].clone();
    (again.begin, again.end) = (5_500, Some(6_000));
    history.calls.push(again);
    refused(check_claims, &history, "the run of claim 1 of job");
}

#[tokio::test]
async fn a_short_answer_while_a_job_was_waiting_is_refused_unless_it_says_that_there_is_more() {
    let mut script = Script::new();
    let insert = script.call(0..1, Op::Insert(vec![job(1)])).await;
    script.claim(2..3, 5).await;
    let mut history = script.history();
    let answer = |history: &mut History, next_due| {
        let empty = queue_core::Claimed::new(Vec::new(), next_due);
        history.calls[1].answer = Some(Answered::of(&Ok(Answer::Claimed(empty))));
    };
    answer(&mut history, None);
    let violation = refused(check_claims, &history, "was due and waiting all the while");
    assert_eq!(violation.calls, [0, 1]);
    let now = history.calls[1].now.unwrap();
    answer(&mut history, Some(now));
    sound(check_claims, &history);
    answer(&mut history, Some(now.plus(std::time::Duration::from_secs(1))));
    refused(check_claims, &history, "was due and waiting all the while");
    // It may have come first while the job was still on its way.
    history.calls[insert].end = Some(2_500);
    sound(check_claims, &history);
    // Or somebody else has it, who was not told.
    history.calls[insert].end = Some(1_000);
    let mut lost = history.calls[1].clone();
    lost.op = claim_as(Uuid::now_v7(), 1);
    (lost.begin, lost.end, lost.answer) = (1_500, None, None);
    history.calls.insert(1, lost);
    sound(check_claims, &history);
}

#[tokio::test]
async fn a_job_that_is_overtaken_is_told_unless_somebody_was_writing_it() {
    let mut script = Script::new();
    let (early, late) = (job(1), job(2));
    script.call(0..1, Op::Insert(vec![early.clone(), late.clone()])).await;
    script.claim(2..3, 1).await;
    script.claim(6..7, 1).await;
    let history = script.history();
    sound(check_claims, &history);
    // The second one is given first.
    let mut turned = history.clone();
    (turned.calls[1].begin, turned.calls[1].end) = (8_000, Some(9_000));
    turned.calls.swap(1, 2);
    let violation = refused(check_claims, &turned, "was overtaken by job");
    assert!(violation.what.starts_with(&format!("job {}", early.id)), "{violation}");
    let edit = JobPatch::default().with_label("by", "somebody");
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![early.clone(), late])).await;
    let edit = Op::Update(vec![queue_core::JobUpdate::new(early.id, Guard::None, edit)]);
    script.call(2..7, edit).await;
    let mut written = turned.clone();
    written.calls.insert(1, script.history().calls[1].clone());
    sound(check_claims, &written);
}

#[tokio::test]
async fn a_job_may_be_overtaken_while_a_claim_is_under_way_that_saw_it_before_it_waited() {
    let mut script = Script::new();
    let (early, late) = (job(1), job(2));
    script.call(0..1, Op::Insert(vec![early.clone(), late.clone()])).await;
    script.claim(2..3, 1).await;
    script.claim(6..7, 1).await;
    let mut history = script.history();
    (history.calls[1].begin, history.calls[1].end) = (8_000, Some(9_000));
    history.calls.swap(1, 2);
    refused(check_claims, &history, "was overtaken by job");
    let mut rival = Script::new();
    let place = rival.call(0..1, claim_as(Uuid::now_v7(), 1)).await;
    let mut rival = rival.history().calls[place].clone();
    // Begun when the job was there already, it would have had to take it as well.
    (rival.begin, rival.end) = (1_500, Some(6_500));
    let mut others = history.clone();
    others.calls.insert(1, rival.clone());
    others.calls[1].now = None;
    let Some(Answered::Ok(Answer::Claimed(empty))) = &mut others.calls[1].answer else {
        panic!("a claim")
    };
    empty.next_due = queue_core::Timestamp::from_micros(0).ok();
    refused(check_claims, &others, "was overtaken by job");
    others.calls[1].begin = 500;
    sound(check_claims, &others);
}

// ----- logs

/// A running job whose log got three entries, of two patches, and was read after each.
async fn logged() -> (Script, queue_core::Job) {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let held = script.claim(2..3, 1).await;
    let first = JobPatch::append([entry("one")]);
    script.call(4..5, update(&held, Guard::Fence(held.fence), first)).await;
    script.call(6..7, Op::Get(vec![held.id], LogRead::All)).await;
    let second = JobPatch::append([entry("two"), entry("three")]);
    script.call(8..9, update(&held, Guard::None, second)).await;
    script.call(10..11, Op::Get(vec![held.id], LogRead::All)).await;
    script.call(12..13, Op::Get(vec![held.id], LogRead::After(Seq(1)))).await;
    (script, held)
}

/// The log as the call at this place answered it.
fn log_of(history: &mut History, place: usize) -> &mut queue_core::Job {
    match &mut history.calls[place].answer {
        Some(Answered::Ok(Answer::Jobs(jobs))) => jobs[0].as_mut().unwrap(),
        other => panic!("not a read: {other:?}"),
    }
}

#[tokio::test]
async fn a_log_that_grows_is_sound() {
    let (script, _) = logged().await;
    let summary = sound(check_logs, &script.history());
    assert_eq!((summary.count("entries acknowledged"), summary.count("entries found")), (3, 3));
    // An append that was never answered, or whose effect is unknown, may be there and may not.
    let mut unknown = script.history();
    (unknown.calls[4].end, unknown.calls[4].answer) = (None, None);
    sound(check_logs, &unknown);
    unknown.calls.truncate(5);
    sound(check_logs, &unknown);
}

#[tokio::test]
async fn entries_that_are_lost_or_come_from_nowhere_are_told() {
    let (script, _) = logged().await;
    let mut history = script.history();
    history.calls.truncate(6);
    let job = log_of(&mut history, 5);
    job.log.truncate(1);
    job.log_len = 1;
    refused(check_logs, &history, "was acknowledged, but is not among");
    let mut history = script.history();
    history.calls.remove(4);
    refused(check_logs, &history, "was appended by nobody");
    let mut history = script.history();
    let refusal = Ok(Answer::Outcomes(vec![Outcome::Fenced]));
    history.calls[4].answer = Some(Answered::of(&refusal));
    refused(check_logs, &history, "was refused to everybody");
    let mut history = script.history();
    for place in [3, 5] {
        log_of(&mut history, place).log[0].body = queue_core::Payload::from_value("other").unwrap();
    }
    refused(check_logs, &history, "is not as it was first appended");
}

#[tokio::test]
async fn positions_with_gaps_repeats_or_changes_are_told() {
    let (script, _) = logged().await;
    let mut history = script.history();
    log_of(&mut history, 5).log.remove(1);
    refused(check_logs, &history, "position 3 follows where 2 is due");
    let mut history = script.history();
    let log = &mut log_of(&mut history, 5).log;
    (log[2].id, log[2].body) = (log[1].id, log[1].body.clone());
    refused(check_logs, &history, "is at 2 and at 3");
    let mut history = script.history();
    let log = &mut log_of(&mut history, 6).log;
    log[0].at = log[0].at.plus(std::time::Duration::from_secs(1));
    refused(check_logs, &history, "position 2 does not stay what it was");
    let mut history = script.history();
    log_of(&mut history, 5).log_len = 4;
    refused(check_logs, &history, "answered 3 entries of 4");
}

#[tokio::test]
async fn reads_that_go_back_or_run_ahead_are_told() {
    let (script, _) = logged().await;
    let mut back = script.history();
    *log_of(&mut back, 6) = log_of(&mut script.history(), 3).clone();
    back.calls[6].op = back.calls[5].op.clone();
    refused(check_logs, &back, "it had 3 entries, and then 1");
    let mut ahead = script.history();
    *log_of(&mut ahead, 3) = log_of(&mut script.history(), 5).clone();
    refused(check_logs, &ahead, "it had 3 entries before they were appended");
    let mut part = script.history();
    part.calls[5].begin = 8_500;
    part.calls[5].end = Some(8_600);
    let job = log_of(&mut part, 5);
    job.log.truncate(2);
    job.log_len = 2;
    refused(check_logs, &part, "shows a part of a patch");
}

#[tokio::test]
async fn positions_that_contradict_real_time_are_told() {
    let (script, _) = logged().await;
    let mut history = script.history();
    history.calls.remove(3);
    // The entry at 1 was appended only after those at 2 and 3 were acknowledged.
    (history.calls[2].begin, history.calls[2].end) = (9_100, Some(9_200));
    history.calls.swap(2, 3);
    refused(check_logs, &history, "was acknowledged before one that stands before it");
    history.calls[2].end = Some(9_150);
    sound(check_logs, &history);
}

// ----- registers

fn put(key: &str, body: u64, expect: Option<u64>) -> Op {
    let record = Record::new(key, queue_core::Payload::from_value(&body).unwrap());
    Op::PutRecord(record, expect.map(Version))
}

/// Three puts and a conflict, with reads.
async fn versioned() -> Script {
    let mut script = Script::new();
    script.call(0..1, put("r", 1, Some(0))).await;
    script.call(2..3, put("r", 2, Some(1))).await;
    script.call(4..5, put("r", 9, Some(1))).await;
    script.call(6..7, Op::Records("r".to_owned())).await;
    script.call(8..9, put("r", 3, None)).await;
    script.call(10..11, Op::Records("r".to_owned())).await;
    script
}

#[tokio::test]
async fn a_chain_of_versions_is_sound() {
    let script = versioned().await;
    let summary = sound(check_register, &script.history());
    assert_eq!((summary.count("changes"), summary.count("conflicts")), (3, 1));
    let mut unknown = script.history();
    (unknown.calls[1].end, unknown.calls[1].answer) = (None, None);
    sound(check_register, &unknown);
}

#[tokio::test]
async fn a_version_that_is_left_twice_or_skipped_is_told() {
    let script = versioned().await;
    let applied =
        |version| Ok(Answer::Put(Outcome::Applied(queue_core::Ack::editor(Version(version)))));
    let mut twice = script.history();
    twice.calls[2].answer = Some(Answered::of(&applied(2)));
    refused(check_register, &twice, "version 2 of the record \"r\" was made twice");
    let mut skipped = script.history();
    skipped.calls[1].answer = Some(Answered::of(&applied(3)));
    refused(check_register, &skipped, "does not lead from the version expected");
    let mut skipped = script.history();
    skipped.calls.truncate(5);
    skipped.calls[4].answer = Some(Answered::of(&applied(4)));
    refused(check_register, &skipped, "no call can have made version 3");
    let mut untold = script.history();
    let told = Ok(Answer::Put(Outcome::Applied(queue_core::Ack::holder(None))));
    untold.calls[0].answer = Some(Answered::of(&told));
    refused(check_register, &untold, "its version not told");
}

#[tokio::test]
async fn an_acknowledged_change_that_is_not_read_is_told() {
    let script = versioned().await;
    let mut stale = script.history();
    let before = stale.calls[3].answer.clone();
    stale.calls[5].answer = before;
    let violation = refused(check_register, &stale, "cannot have been there");
    assert!(violation.calls.contains(&4) && violation.calls.contains(&5), "{violation}");
    let mut other = script.history();
    let Some(Answered::Ok(Answer::Records(records))) = &mut other.calls[5].answer else {
        panic!("a read")
    };
    records[0].body = Some(queue_core::Payload::null());
    refused(check_register, &other, "not with what was put");
}

#[tokio::test]
async fn a_conflict_with_a_version_that_was_not_there_is_told() {
    let script = versioned().await;
    let conflict = |version| Ok(Answer::Put(Outcome::Conflict { actual: Version(version) }));
    let mut same = script.history();
    same.calls[2].answer = Some(Answered::of(&conflict(1)));
    refused(check_register, &same, "was a conflict with the version expected");
    let mut future = script.history();
    future.calls[2].answer = Some(Answered::of(&conflict(3)));
    refused(check_register, &future, "cannot have been there");
    let mut never = script.history();
    never.calls[2].answer = Some(Answered::of(&conflict(77)));
    refused(check_register, &never, "no call can have made version");
}

#[tokio::test]
async fn edits_of_jobs_are_checked_like_records_and_appends_make_no_version() {
    let mut script = Script::new();
    let new = job(1);
    script.call(0..1, Op::Insert(vec![new.clone()])).await;
    let edit = |version, by: &str, at| {
        let patch = JobPatch::default().with_label("by", by);
        (
            Op::Update(vec![queue_core::JobUpdate::new(
                new.id,
                Guard::Version(Version(version)),
                patch,
            )]),
            at,
        )
    };
    let (one, at) = edit(1, "one", 2..3);
    script.call(at, one).await;
    let append = JobPatch::append([entry("line")]);
    let append = queue_core::JobUpdate::new(new.id, Guard::Version(Version(2)), append);
    script.call(4..5, Op::Update(vec![append])).await;
    let (two, at) = edit(2, "two", 6..7);
    script.call(at, two).await;
    script.call(8..9, Op::Get(vec![new.id], LogRead::None)).await;
    let summary = sound(check_register, &script.history());
    assert_eq!(summary.count("changes"), 2);
    let mut lost = script.history();
    log_of(&mut lost, 4).labels.clear();
    refused(check_register, &lost, "not with what was put");
}

// ----- files

#[tokio::test]
async fn a_saved_history_is_judged_as_it_was_when_it_was_made() {
    let file = std::env::temp_dir().join(format!("history-{}.jsonl", Uuid::now_v7()));
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let first = script.claim(2..3, 1).await;
    let release = script.call(4..5, released(&first)).await;
    script.claim(6..7, 1).await;
    let whole = script.history();
    whole.write(&file).unwrap();
    let read = History::read(&file).unwrap();
    assert_eq!(check_claims(&read), check_claims(&whole));
    assert_eq!(check_sequence(&read), Some(Ok(())));
    script.at(release, 8..9);
    let unsound = script.history();
    unsound.write(&file).unwrap();
    let read = History::read(&file).unwrap();
    let violation = check_claims(&read).unwrap_err();
    assert_eq!(Err(violation.clone()), check_claims(&unsound));
    // It names lines of the file.
    let text = std::fs::read_to_string(&file).unwrap();
    let named = violation.to_string();
    let line = named.split("\n  line ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let line = text.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap();
    assert!(line.contains(&first.id.to_string()), "{line}");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_property_refuses_is_saved_and_refused_again_for_the_same_reason() {
    let mutants = mutants();
    let mutant = mutants.iter().find(|mutant| mutant.name == "his-put-lost").unwrap();
    let properties = properties();
    let property = properties.iter().find(|property| property.id == "HIS-3").unwrap();
    let Verdict::Fail(why) = run_property(property, mutant, 5).await else {
        panic!("the mutant was not noticed")
    };
    let (violation, saved) = why.rsplit_once('\n').unwrap();
    let file = saved.split_once("saved as ").unwrap().1.trim_end_matches(')');
    let history = History::read(file.as_ref()).unwrap();
    assert_eq!(check_register(&history).unwrap_err().to_string(), violation);
    sound(check_claims, &history);
    sound(check_logs, &history);
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    assert_eq!(History::from_text("").unwrap_err().line, 1);
    let store = serde_json::to_string(&queue_core::StoreInfo::new(
        "memory",
        queue_core::Capabilities::new(queue_core::Reach::Process),
    ));
    let header = format!("{{\"store\":{}}}\n", store.unwrap());
    assert!(History::from_text(&header).unwrap().calls.is_empty());
    let Malformed { line, .. } = History::from_text(&format!("{header}{{}}\n")).unwrap_err();
    assert_eq!(line, 2);
    let missing = std::path::Path::new("/nowhere/history.jsonl");
    assert!(History::read(missing).unwrap_err().to_string().contains("/nowhere/history.jsonl"));
}

#[tokio::test]
async fn answers_one_after_the_other_are_held_to_the_specification() {
    let mut script = Script::new();
    script.call(0..1, Op::Insert(vec![job(1)])).await;
    let held = script.claim(2..3, 1).await;
    let end = Transition::Release { when: When::Now };
    script.call(4..5, update(&held, Guard::Fence(held.fence), JobPatch::transition(end))).await;
    script.call(6..7, Op::Get(vec![held.id], LogRead::None)).await;
    let mut history = script.history();
    assert_eq!(check_sequence(&history), Some(Ok(())));
    log_of(&mut history, 3).state = State::Failed;
    assert!(check_sequence(&history).unwrap().is_err());
    // Of calls that overlap, the specification alone says nothing.
    history.calls[3].begin = 4_500;
    assert_eq!(check_sequence(&history), None);
}
