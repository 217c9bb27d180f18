use std::num::NonZeroU32;

use queue_core::{
    BulkChange, BulkOutcome, Capabilities, ClaimRequest, Effect, EntryId, EntryKind, Error,
    ErrorKind, Guard, Inserted, JobFilter, JobId, JobPatch, JobUpdate, LogRead, NewEntry, NewJob,
    OnConflict, Outcome, Payload, Queues, Reach, Record, Result, StoreInfo, Timestamp, Transition,
    Unique, Uuid, Version, When,
    spec::{Answer, Spec},
};

use super::*;
use crate::mutants::{Mutant, mutants};

const NOW: Timestamp = Timestamp::EPOCH;
const LEASE: Duration = Duration::from_secs(10);

fn id(n: u128) -> JobId {
    JobId::from_uuid(Uuid::from_u128(n))
}

fn job(n: u128) -> NewJob {
    let mut job = NewJob::new("made", Payload::null());
    job.id = id(n);
    job
}

fn claim(token: u128) -> Op {
    let mut request = ClaimRequest::new(Queues::All, "w", NonZeroU32::MIN, LEASE);
    request.token = Uuid::from_u128(token);
    Op::Claim(request)
}

fn cancel(n: u128) -> Op {
    Op::UpdateWhere(JobFilter::id(id(n)), BulkChange::Cancel { reason: "stop".to_owned() })
}

fn get(n: u128) -> Op {
    Op::Get(vec![id(n)], LogRead::All)
}

fn append(n: u128, entry: u128) -> Op {
    let entry = EntryId::from_uuid(Uuid::from_u128(entry));
    let entry = NewEntry::with_id(entry, EntryKind::Line, Payload::null());
    Op::Update(vec![JobUpdate::new(id(n), Guard::None, JobPatch::append([entry]))])
}

fn lost() -> Result<Answer> {
    Err(Error::new(ErrorKind::Unavailable, "cut").with_effect(Effect::Unknown))
}

/// A history, and the machine that gives the answers to what is told in order.
#[derive(Default)]
struct Told {
    spec: Spec,
    events: Vec<Event>,
}

impl Told {
    /// An operation of handle 0 in this interval, answered by the machine as things stand.
    fn told(&mut self, interval: (u64, u64), op: &Op) -> Result<Answer> {
        let answer = self.spec.answer(op, NOW);
        self.event(interval, op, &answer);
        answer
    }

    fn event(&mut self, interval: (u64, u64), op: &Op, answer: &Result<Answer>) {
        self.events.push(Event::new(0, interval, NOW, op, answer));
    }

    fn verdict(&self) -> Result<(), String> {
        let store = StoreInfo::new("told", Capabilities::new(Reach::Process));
        check_parallel(&History::new(store, self.events.iter().map(Event::to_call).collect()))
    }
}

/// A history that begins with these jobs.
fn with(jobs: &[NewJob]) -> Told {
    let mut history = Told::default();
    history.told((0, 1), &Op::Insert(jobs.to_vec())).unwrap();
    history
}

#[test]
fn of_two_claims_at_once_the_one_that_ends_later_may_have_come_first() {
    let mut history = with(&[job(1)]);
    history.told((2, 5), &claim(1)).unwrap();
    history.told((3, 4), &claim(2)).unwrap();
    assert_eq!(history.verdict(), Ok(()));
}

#[test]
fn a_job_that_two_claims_took_has_no_order() {
    let mut history = with(&[job(1)]);
    let mut rival = history.spec.clone();
    history.told((2, 5), &claim(1)).unwrap();
    let second = rival.answer(&claim(2), NOW);
    history.event((3, 4), &claim(2), &second);
    let why = history.verdict().unwrap_err();
    assert!(why.contains("was not to be had"), "{why}");
}

#[test]
fn a_lost_append_has_no_order_and_one_that_lasts_has() {
    for kept in [false, true] {
        let mut history = with(&[job(1)]);
        history.told((2, 5), &append(1, 1)).unwrap();
        let before = history.spec.clone();
        history.told((3, 4), &append(1, 2)).unwrap();
        if !kept {
            history.spec = before;
        }
        history.told((6, 7), &get(1)).unwrap();
        assert_eq!(history.verdict().is_ok(), kept);
    }
}

#[test]
fn a_read_that_begins_after_a_write_was_acknowledged_must_see_it() {
    for (write, read, allowed) in [((2, 3), (4, 5), false), ((2, 5), (3, 4), true)] {
        let mut history = with(&[job(1)]);
        let stale = history.spec.answer(&get(1), NOW);
        history.told(write, &append(1, 1)).unwrap();
        history.event(read, &get(1), &stale);
        assert_eq!(history.verdict().is_ok(), allowed, "{read:?}");
    }
}

#[test]
fn an_operation_of_unknown_effect_may_have_happened_at_any_time_after_its_begin_or_never() {
    // Which of the reads after the lost append see it, and whether that is allowed.
    for (seen, allowed) in [
        ([false, false], true),
        ([false, true], true),
        ([true, true], true),
        ([true, false], false),
    ] {
        let mut history = with(&[job(1)]);
        let unseen = history.spec.answer(&get(1), NOW);
        history.event((2, 3), &append(1, 1), &lost());
        history.spec.answer(&append(1, 1), NOW).unwrap();
        let read = history.spec.answer(&get(1), NOW);
        for (at, seen) in [4, 6].into_iter().zip(seen) {
            history.event((at, at + 1), &get(1), if seen { &read } else { &unseen });
        }
        assert_eq!(history.verdict().is_ok(), allowed, "{seen:?}");
    }
}

#[test]
fn an_operation_of_unknown_effect_has_not_happened_before_its_begin() {
    let mut history = with(&[job(1)]);
    history.spec.answer(&append(1, 1), NOW).unwrap();
    history.told((2, 3), &get(1)).unwrap();
    history.event((4, 5), &append(1, 1), &lost());
    assert!(history.verdict().is_err());
}

#[test]
fn a_call_that_failed_without_effect_has_not_happened() {
    let mut history = with(&[job(1)]);
    let refused = Err(Error::new(ErrorKind::Unavailable, "refused"));
    history.event((2, 3), &append(1, 1), &refused);
    assert_eq!(history.verdict(), Ok(()));
    history.spec.answer(&append(1, 1), NOW).unwrap();
    history.told((4, 5), &get(1)).unwrap();
    assert!(history.verdict().is_err());
}

#[test]
fn a_claim_of_unknown_effect_may_have_taken_a_job() {
    for taken in [false, true] {
        let mut history = with(&[job(1), job(2)]);
        history.event((2, 3), &claim(1), &lost());
        if taken {
            history.spec.answer(&claim(1), NOW).unwrap();
        }
        history.told((4, 5), &get(1)).unwrap();
        history.told((6, 7), &get(2)).unwrap();
        assert_eq!(history.verdict(), Ok(()), "{taken}");
    }
}

#[test]
fn the_items_of_a_batch_may_be_seen_apart_but_each_within_its_call() {
    let both = |entry: u128| {
        let (Op::Update(mut one), Op::Update(other)) = (append(1, entry), append(2, entry)) else {
            unreachable!()
        };
        one.extend(other);
        Op::Update(one)
    };
    for (end, allowed) in [(7, true), (3, false)] {
        let mut history = with(&[job(1), job(2)]);
        let first = history.spec.answer(&get(1), NOW);
        history.told((2, end), &both(1)).unwrap();
        // The second item is seen, and after that the first is not.
        history.told((4, 5), &get(2)).unwrap();
        history.event((6, 8), &get(1), &first);
        assert_eq!(history.verdict().is_ok(), allowed);
    }
}

fn keyed(n: u128, on_conflict: OnConflict) -> NewJob {
    let mut unique = Unique::new("key");
    unique.on_conflict = on_conflict;
    let mut job = job(n);
    job.unique = Some(unique);
    job
}

#[test]
fn a_job_that_supersedes_another_may_come_into_sight_later_but_before_its_call_ends() {
    for (end, allowed) in [(9, true), (5, false)] {
        let mut history = with(&[keyed(1, OnConflict::Supersede)]);
        let unseen = Ok(Answer::Jobs(vec![None]));
        history.told((2, end), &Op::Insert(vec![keyed(2, OnConflict::Supersede)])).unwrap();
        history.told((3, 4), &get(1)).unwrap();
        history.event((6, 7), &get(2), &unseen);
        assert_eq!(history.verdict().is_ok(), allowed);
    }
}

#[test]
fn a_key_is_not_free_while_the_job_that_superseded_is_not_in_sight() {
    let mut history = with(&[keyed(1, OnConflict::Supersede)]);
    history.told((2, 9), &Op::Insert(vec![keyed(2, OnConflict::Supersede)])).unwrap();
    history.told((3, 4), &get(1)).unwrap();
    let new = Ok(Answer::Inserted(vec![Inserted::New(id(3))]));
    history.event((5, 6), &Op::Insert(vec![keyed(3, OnConflict::Return)]), &new);
    assert!(history.verdict().is_err());
}

#[test]
fn a_claim_may_pass_over_a_job_only_while_another_operation_may_be_writing_it() {
    let mut laned = [job(1), job(2)];
    laned.iter_mut().for_each(|job| job.lane = Some(queue_core::Lane::new("lane")));
    for jobs in [[job(1), job(2)], laned] {
        for (write, allowed) in [((2, 6), true), ((2, 3), false)] {
            let mut history = with(&jobs);
            history.told(write, &append(1, 1)).unwrap();
            // As if the first job were not there.
            let mut second = Spec::new(history.spec.world().clone());
            second.answer(&cancel(1), NOW).unwrap();
            let answer = second.answer(&claim(1), NOW);
            history.event((4, 5), &claim(1), &answer);
            assert_eq!(history.verdict().is_ok(), allowed, "{write:?}");
        }
    }
}

#[test]
fn a_claim_that_got_nothing_may_not_sleep_while_there_is_something_to_be_had() {
    for (next_due, allowed) in [(Some(NOW), true), (None, false)] {
        let mut history = with(&[job(1)]);
        history.told((2, 5), &append(1, 1)).unwrap();
        let nothing = queue_core::Claimed::new(Vec::new(), next_due);
        history.event((3, 4), &claim(1), &Ok(Answer::Claimed(nothing)));
        assert_eq!(history.verdict().is_ok(), allowed, "{next_due:?}");
    }
}

#[test]
fn a_claim_during_which_a_run_ends_may_not_forget_the_job() {
    let mut history = with(&[job(1)]);
    let Ok(Answer::Claimed(claimed)) = history.told((2, 3), &claim(1)) else { panic!() };
    let back = Transition::Release { when: When::Now };
    let back = JobPatch::transition(back);
    let back = JobUpdate::held(id(1), claimed.jobs[0].fence, back);
    history.told((4, 7), &Op::Update(vec![back])).unwrap();
    let nothing = queue_core::Claimed::new(Vec::new(), None);
    history.event((5, 6), &claim(2), &Ok(Answer::Claimed(nothing)));
    let why = history.verdict().unwrap_err();
    assert!(why.contains("next_due must not be later"), "{why}");
}

#[test]
fn a_cancel_that_counts_a_waiting_job_which_a_claim_had_taken_has_no_order() {
    let mut history = with(&[job(1)]);
    history.told((2, 5), &claim(1)).unwrap();
    let mut counts = BulkOutcome::default();
    counts.changed = 1;
    history.event((3, 4), &cancel(1), &Ok(Answer::Bulk(counts)));
    assert!(history.verdict().is_err());
}

#[test]
fn of_two_versioned_puts_at_once_one_is_refused() {
    let put = Op::PutRecord(Record::new("a/x", Payload::null()), Some(Version(0)));
    let mut history = Told::default();
    history.told((1, 4), &put).unwrap();
    let second = history.told((2, 3), &put).unwrap();
    assert!(matches!(second, Answer::Put(Outcome::Conflict { .. })));
    assert_eq!(history.verdict(), Ok(()));
    history.events.pop();
    let first = history.events[0].answer.to_result();
    history.event((2, 3), &put, &first);
    assert!(history.verdict().is_err());
}

#[test]
fn a_run_is_not_ended_twice() {
    let mut history = with(&[job(1)]);
    let Ok(Answer::Claimed(claimed)) = history.told((2, 3), &claim(1)) else { panic!() };
    let end = |transition| {
        let held = JobUpdate::held(id(1), claimed.jobs[0].fence, JobPatch::transition(transition));
        Op::Update(vec![held])
    };
    let error = Payload::null();
    let mut rival = history.spec.clone();
    history.told((4, 7), &end(Transition::Complete { output: None })).unwrap();
    let second = end(Transition::Fail { error });
    let both = rival.answer(&second, NOW);
    history.event((5, 6), &second, &both);
    assert!(history.verdict().is_err());
}

#[test]
fn three_handles_with_four_operations_each_take_few_states() {
    let mut history = with(&[job(1)]);
    // Everything overlaps with everything of the other handles; as many append as in any script.
    for number in 0..12 {
        let (handle, turn) = (number % 3, number / 3);
        let begin = 10 + 10 * turn + handle;
        let op = if turn < 2 { append(1, u128::from(number) + 1) } else { cancel(2) };
        history.told((begin, begin + 9), &op).unwrap();
    }
    history.told((100, 101), &get(1)).unwrap();
    let mut checker = Checker::new(Capabilities::new(Reach::Process));
    assert_eq!(checker.take(&history.events), Ok(()));
    assert!(checker.visited < 4_000, "{} states", checker.visited);
    assert!(checker.visited > 12, "nothing was searched");
}

#[test]
fn a_history_in_which_too_much_overlaps_is_given_up_not_passed() {
    let mut history = with(&[job(1)]);
    for number in 0..129 {
        history.told((10 + number, 1_000 + number), &append(1, u128::from(number) + 1)).unwrap();
    }
    let why = history.verdict().unwrap_err();
    assert!(why.contains("128 are the most"), "{why}");
}

#[test]
fn a_line_that_makes_no_sense_is_named() {
    let mut history = with(&[job(1)]);
    history.told((3, 2), &get(1)).unwrap();
    let why = history.verdict().unwrap_err();
    assert!(why.starts_with("line 3: it ends before it begins"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machine_without_a_flaw_is_linearisable() {
    let unbroken = Mutant::unbroken();
    let case = Case::open(&unbroken, 1, 1).await.unwrap();
    assert_eq!(parallel(&case).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_script_becomes_small_and_its_history_is_refused_again() {
    let mutant = mutants().into_iter().find(|m| m.name == "insert-loses-the-holder").unwrap();
    let case = Case::open(&mutant, 1, 1).await.unwrap();
    let mut rng = case.rng();
    loop {
        let script: Script = (0..12).map(|number| episode(number, &mut rng)).collect();
        let failed = run(&case, &script).await.unwrap();
        if failed.failure.is_none() {
            continue;
        }
        let (script, smaller) =
            shrink(&case, script, failed, Duration::from_secs(20)).await.unwrap();
        assert_eq!(script.len(), 1);
        let calls = smaller.events.iter().map(Event::to_call).collect();
        let saved = History::new(case.info(), calls).to_text();
        assert!(smaller.events.len() <= 5, "too many operations are left:\n{saved}");
        assert!(check_parallel(&History::from_text(&saved).unwrap()).is_err());
        return;
    }
}

#[test]
fn the_same_seed_gives_the_same_episodes() {
    let episodes = |seed| {
        let mut rng = crate::Rng::new(seed);
        (0..script::ROUND).map(|number| episode(number, &mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(episodes(5), episodes(5));
    assert_ne!(episodes(5), episodes(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 20 seeds for every mutant that is named for this check"]
async fn the_mutants_named_for_it_are_killed_whatever_the_seed() {
    let mut survived = Vec::new();
    for mutant in mutants().into_iter().filter(|mutant| mutant.killers.contains(&"MOD-2")) {
        for seed in 0..20 {
            let case = Case::open(&mutant, seed, 1).await.unwrap();
            if !matches!(parallel(&case).await, Err(Stop::Fail(_))) {
                survived.push((mutant.name, seed));
            }
        }
    }
    assert_eq!(survived, []);
}
