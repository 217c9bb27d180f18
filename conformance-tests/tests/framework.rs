//! The framework itself: a suite that cannot fail proves nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use conformance_tests::{
    Case, Checked, Fixture, Harness, Level, Property, Report, Rng, RunReport, Stop, Suite, Verdict,
    async_trait, check, check_eq, properties, race, run_property, start,
};
use queue_core::{Clock, Error, ErrorKind, JobStore, MemoryStore, Result};

/// The memory store without hooks, with the clock, or with both hooks.
enum Memory {
    Bare,
    Clocked,
    Hooked(Arc<AtomicUsize>),
}

#[async_trait]
impl Harness for Memory {
    async fn fresh(&self, clock: &Clock) -> Result<Fixture> {
        let store = match self {
            Memory::Bare => MemoryStore::new(),
            Memory::Clocked | Memory::Hooked(_) => MemoryStore::with_clock(clock.clone()),
        };
        let fixture = Fixture::new(Arc::new(store.clone()));
        Ok(match self {
            Memory::Bare => fixture,
            Memory::Clocked => fixture.clocked(),
            Memory::Hooked(opened) => {
                let opened = opened.clone();
                fixture.clocked().with_sibling(move || {
                    opened.fetch_add(1, Ordering::SeqCst);
                    let sibling: Arc<dyn JobStore> = Arc::new(store.clone());
                    Box::pin(async move { Ok(sibling) })
                })
            }
        })
    }
}

/// A harness whose server is down.
struct Down;

#[async_trait]
impl Harness for Down {
    async fn fresh(&self, _: &Clock) -> Result<Fixture> {
        Err(Error::new(ErrorKind::Unavailable, "connection refused"))
    }
}

async fn passes(_: &Case<'_>) -> Checked {
    Ok(())
}

async fn fails(_: &Case<'_>) -> Checked {
    check!(1 > 2, "one is not more than {}", 2);
    Ok(())
}

async fn differs(_: &Case<'_>) -> Checked {
    check_eq!(vec![1], vec![2], "the answer to {}", "everything");
    Ok(())
}

async fn panics(_: &Case<'_>) -> Checked {
    panic!("out of {}", "order")
}

async fn panics_in_a_task(_: &Case<'_>) -> Checked {
    race(3, |i| async move {
        assert!(i != 1, "racer {i} fell");
        Ok(())
    })
    .await
    .map(drop)
}

async fn hangs(_: &Case<'_>) -> Checked {
    std::future::pending().await
}

async fn skips(case: &Case<'_>) -> Checked {
    case.advance(Duration::from_secs(1))
}

async fn wavers(_: &Case<'_>) -> Checked {
    Err(Stop::inconclusive("the budget is spent"))
}

async fn gets_an_error(case: &Case<'_>) -> Checked {
    let mut query = queue_core::JobQuery::new(queue_core::JobFilter::all());
    query.limit = std::num::NonZeroU32::MAX;
    case.store().find(&query).await?;
    Ok(())
}

const PASSES: Property = Property::new("T-1", "passes", |case| Box::pin(passes(case)));
const FAILS: Property = Property::new("T-2", "fails", |case| Box::pin(fails(case)));
const SKIPS: Property = Property::new("U-1", "skips", |case| Box::pin(skips(case)));
const WAVERS: Property = Property::new("U-2", "wavers", |case| Box::pin(wavers(case)));

async fn verdict(property: Property) -> Verdict {
    run_property(&property, &Memory::Bare, 1).await
}

#[tokio::test]
async fn a_property_that_holds_passes() {
    assert_eq!(verdict(PASSES).await, Verdict::Pass);
}

#[tokio::test]
async fn a_failure_carries_its_message_and_both_values() {
    assert_eq!(verdict(FAILS).await, Verdict::Fail("one is not more than 2".to_owned()));
    let unequal = Property::new("T-3", "differs", |case| Box::pin(differs(case)));
    let expected = "the answer to everything\n  expected: [2]\n       got: [1]";
    assert_eq!(verdict(unequal).await, Verdict::Fail(expected.to_owned()));
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_message() {
    let panicking = Property::new("T-4", "panics", |case| Box::pin(panics(case)));
    assert_eq!(verdict(panicking).await, Verdict::Fail("panicked: out of order".to_owned()));
    let in_task = Property::new("T-5", "panics", |case| Box::pin(panics_in_a_task(case)));
    assert_eq!(verdict(in_task).await, Verdict::Fail("panicked: racer 1 fell".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_property_that_hangs_fails_and_says_so() {
    let hanging = Property::new("T-6", "hangs", |case| Box::pin(hangs(case)));
    let Verdict::Fail(why) = verdict(hanging).await else { panic!("a hang did not fail") };
    assert!(why.contains("did not end within 20s"), "{why}");
    let Verdict::Fail(why) = verdict(hanging.within(Duration::from_secs(3))).await else {
        panic!("a hang did not fail")
    };
    assert!(why.contains("did not end within 3s"), "{why}");
}

#[tokio::test]
async fn a_missing_hook_is_a_skip_and_names_itself() {
    assert_eq!(verdict(SKIPS).await, Verdict::Skip("no clock hook".to_owned()));
    assert_eq!(run_property(&SKIPS, &Memory::Clocked, 1).await, Verdict::Pass);
}

#[tokio::test]
async fn an_error_where_an_answer_is_due_is_a_failure() {
    let erring = Property::new("T-7", "errs", |case| Box::pin(gets_an_error(case)));
    let Verdict::Fail(why) = verdict(erring).await else { panic!("an error did not fail") };
    assert!(why.contains("a page has at most 1000 jobs"), "{why}");
    let Verdict::Fail(why) = run_property(&PASSES, &Down, 1).await else {
        panic!("a property passed without a store")
    };
    assert!(why.contains("connection refused"), "{why}");
}

#[tokio::test]
async fn a_case_opens_siblings_where_it_can_and_clones_where_it_cannot() {
    let opened = Arc::new(AtomicUsize::new(0));
    let hooked = Memory::Hooked(opened.clone());
    let case = Case::open(&hooked, 1, 2).await.unwrap();
    assert_eq!(case.handles(4).await.unwrap().len(), 4);
    assert_eq!(opened.load(Ordering::SeqCst), 3);
    assert!(case.has_sibling() && case.is_clocked());
    assert_eq!(case.times(10), 20);

    let bare = Case::open(&Memory::Bare, 1, 1).await.unwrap();
    let handles = bare.handles(2).await.unwrap();
    assert!(Arc::ptr_eq(&handles[0], &handles[1]) && !bare.has_sibling());
}

#[tokio::test]
async fn the_clock_of_a_case_drives_its_store_alone() {
    let case = Case::open(&Memory::Clocked, 1, 1).await.unwrap();
    let other = case.fresh().await.unwrap();
    case.advance(Duration::from_secs(5)).unwrap();
    assert_eq!(case.now().await.unwrap(), start().plus(Duration::from_secs(5)));
    assert_eq!(other.now().await.unwrap(), start());
    // Without the hook short times pass in earnest, and long ones do not.
    let bare = Case::open(&Memory::Bare, 1, 1).await.unwrap();
    let before = bare.now().await.unwrap();
    bare.pass(Duration::from_millis(3)).await.unwrap();
    assert!(bare.now().await.unwrap() >= before.plus(Duration::from_millis(3)));
    assert_eq!(
        bare.pass(Duration::from_secs(9)).await,
        Err(Stop::Skip("no clock hook".to_owned()))
    );
}

#[tokio::test]
async fn every_property_has_a_seed_of_its_own_that_follows_from_the_runs() {
    async fn tells_its_seed(case: &Case<'_>) -> Checked {
        Err(Stop::fail(format!("{} {}", case.seed(), case.rng().next_u64())))
    }
    let told = async |id, seed| {
        let property = Property::new(id, "tells its seed", |case| Box::pin(tells_its_seed(case)));
        run_property(&property, &Memory::Bare, seed).await
    };
    assert_eq!(told("T-1", 1).await, told("T-1", 1).await);
    assert_ne!(told("T-1", 1).await, told("T-1", 2).await);
    assert_ne!(told("T-1", 1).await, told("T-2", 1).await);
    assert_ne!(Rng::new(1).next_u64(), Rng::new(2).next_u64());
}

#[tokio::test]
async fn a_suite_reports_what_it_ran_and_only_that() {
    let suite =
        Suite::new(Memory::Bare).with_seed(3).with_properties([PASSES, FAILS, SKIPS, WAVERS]);
    let reports = suite.outcomes().await;
    let words: Vec<&str> = reports.iter().map(|report| report.verdict.word()).collect();
    assert_eq!(words, ["pass", "fail", "skip", "inconclusive"]);
    let only = |wanted: &'static [&'static str]| {
        Suite::new(Memory::Bare)
            .with_properties([PASSES, FAILS, SKIPS, WAVERS])
            .only(wanted.iter().copied())
    };
    assert_eq!(only(&["T"]).outcomes().await.len(), 2);
    assert_eq!(only(&["T-2", "U-1"]).outcomes().await.len(), 2);
}

fn run(verdicts: &[Verdict]) -> RunReport {
    let reports = verdicts
        .iter()
        .zip(["T-1", "T-2", "U-1", "U-2"])
        .map(|(verdict, id)| {
            Report::new(id, "a | b", verdict.clone(), Duration::from_millis(1_500))
        })
        .collect();
    RunReport::new("memory", Level::Concurrent, 77, reports)
}

#[test]
fn only_passes_count_and_what_is_undecided_fails_the_run() {
    let skip = Verdict::Skip("no clock hook".to_owned());
    let inconclusive = Verdict::Inconclusive("budget".to_owned());
    let good = run(&[Verdict::Pass, skip.clone()]);
    assert!(!good.has_failed());
    assert_eq!(good.text().lines().last(), Some("1 passed, 0 failed, 1 skipped"));
    let undecided = run(&[Verdict::Pass, inconclusive]);
    assert!(undecided.has_failed());
    let last = "1 passed, 0 failed, 0 skipped, 1 inconclusive";
    assert_eq!(undecided.text().lines().last(), Some(last));
    assert!(run(&[Verdict::Pass, Verdict::Fail("broken".to_owned())]).has_failed());
}

#[test]
fn a_report_says_how_to_replay_and_is_written_for_people_and_programs() {
    let report = run(&[Verdict::Pass, Verdict::Fail("broken".to_owned()), Verdict::Pass]);
    let text = report.text();
    assert!(text.contains("CONFORMANCE_SEED=77") && text.contains("'T-2:'"), "{text}");
    assert!(text.contains("store memory, level Concurrent, seed 77"), "{text}");
    assert_eq!(report.groups().iter().map(|(group, _)| *group).collect::<Vec<_>>(), ["T", "U"]);
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["failed"], 1);
    assert_eq!(json["properties"][1]["reason"], "broken");
    assert!(
        report.markdown().contains("| T-2 | a \\| b | fail | 1.500 |"),
        "{}",
        report.markdown()
    );
}

#[test]
fn the_catalogue_is_whole_and_names_nothing_twice() {
    let expected = [
        ("INS", 12),
        ("CLM", 25),
        ("LOG", 15),
        ("UPD", 21),
        ("LSE", 14),
        ("CAN", 7),
        ("LAN", 8),
        ("REC", 5),
        ("REA", 12),
        ("DEL", 4),
        ("FID", 11),
        ("SCH", 8),
        ("SIG", 1),
        ("WAK", 4),
        ("FLT", 10),
        ("ERR", 8),
        ("HIS", 3),
        ("CRA", 7),
        ("MIG", 3),
        ("BUD", 4),
        ("MOD", 2),
    ];
    let ids: Vec<String> = properties().iter().map(|property| property.id.to_owned()).collect();
    let catalogue: Vec<String> = expected
        .iter()
        .flat_map(|(group, count)| (1..=*count).map(move |number| format!("{group}-{number}")))
        .collect();
    assert_eq!(ids, catalogue);
    assert!(properties().iter().all(|property| !property.sentence.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_hooks_fails_nothing_and_skips_only_for_want_of_them() {
    let reports = Suite::new(Memory::Bare).outcomes().await;
    for report in &reports {
        match &report.verdict {
            Verdict::Pass => {}
            Verdict::Skip(why) => assert!(
                ["no clock hook", "no trips hook", "no place hook", "no secret hook"]
                    .contains(&why.as_str())
                    || why.starts_with("the harness has no "),
                "{}: {why}",
                report.id
            ),
            other => panic!("{}: {other}", report.id),
        }
    }
    let passed = reports.iter().filter(|report| report.verdict.is_pass()).count();
    assert!(passed >= 100, "only {passed} of {} properties ran without hooks", reports.len());
}
