//! Handles in processes of their own.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use conformance_tests::{async_trait, processes, start};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, pending},
    stream::BoxStream,
};
use libtest_mimic::{Arguments, Trial};
use queue_core::{
    Clock, Effect, Error, ErrorKind, JobFilter, JobQuery, JobStore, JobStoreExt, LogRead,
    MemoryStore, NewJob, Payload, Result, StoreInfo, Timestamp, Wakeup, When,
    spec::{Answer, ByOp, Op, RunOp},
};

/// Answers only what time it is.
#[derive(Debug)]
struct Stuck(Clock);

#[async_trait]
impl RunOp for Stuck {
    fn info(&self) -> StoreInfo {
        MemoryStore::new().info()
    }

    async fn ping(&self) -> Result<Timestamp> {
        Ok(self.0.now())
    }

    fn wakeups(&self) -> BoxStream<'static, Wakeup> {
        futures::stream::pending().boxed()
    }

    async fn run(&self, _: Op) -> Result<Answer> {
        pending().await
    }
}

/// What a process opens: its own memory, with its number as the name of a first job.
async fn serve(place: String, clock: Clock) -> Result<Arc<dyn JobStore>> {
    match place.as_str() {
        "refused" => {
            return Err(Error::new(ErrorKind::Timeout, "nobody there").with_effect(Effect::Unknown));
        }
        "gone" => std::process::exit(3),
        "never open" => return pending().await,
        "stuck" => return Ok(Arc::new(ByOp(Stuck(clock)))),
        _ => {}
    }
    let store = MemoryStore::with_clock(clock);
    store.insert(&[NewJob::new(std::process::id().to_string(), Payload::null())]).await?;
    Ok(Arc::new(store))
}

async fn open(place: &str) -> Result<(Arc<dyn JobStore>, Clock)> {
    let clock = Clock::manual(start());
    Ok((processes::open(place, &clock).await?, clock))
}

async fn number(store: &Arc<dyn JobStore>) -> u32 {
    let page = store.find(&JobQuery::new(JobFilter::all())).await.unwrap();
    page.items[0].kind.parse().unwrap()
}

async fn each_handle_is_another_process_which_ends_with_it() {
    let (one, two) = (open("memory").await.unwrap().0, open("memory").await.unwrap().0);
    let numbers = [number(&one).await, number(&two).await];
    assert!(numbers[0] != numbers[1] && !numbers.contains(&std::process::id()));
    drop((one, two));
    // A process that has been waited for is in no table any more.
    #[cfg(target_os = "linux")]
    for number in numbers {
        assert!(!std::path::Path::new(&format!("/proc/{number}")).exists());
    }
}

async fn the_clock_goes_with_every_question() {
    let (store, clock) = open("memory").await.unwrap();
    assert_eq!(store.ping().await.unwrap(), start());
    clock.advance(Duration::from_secs(7));
    assert_eq!(store.ping().await.unwrap(), start().plus(Duration::from_secs(7)));
    let mut job = NewJob::new("x", Payload::null());
    job.when = When::Now;
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    assert_eq!(store.get_one(job.id).await.unwrap().unwrap().created_at, clock.now());
}

async fn payloads_arrive_byte_for_byte() {
    let (store, _) = open("memory").await.unwrap();
    let text =
        "{ \"a\" :\n\t1e3,\"a\":-0.0, \"n\": 18446744073709551615 , \"s\":\"\\ud83d\\u0000\"}";
    let job = NewJob::new("x", Payload::from_text(text).unwrap());
    store.insert(std::slice::from_ref(&job)).await.unwrap();
    let stored = store.get(&[job.id], LogRead::None).await.unwrap().remove(0).unwrap();
    assert_eq!(stored.input.as_str(), text);
}

async fn errors_arrive_with_their_kind_and_effect() {
    let error = open("refused").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, Effect::Unknown));
    assert!(error.message().contains("nobody there"), "{error}");
    let (store, _) = open("memory").await.unwrap();
    let error = store.insert(&[NewJob::new("", Payload::null())]).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Invalid, Effect::None));
}

async fn a_process_that_ends_at_once_is_an_error_that_says_what_may_be_missing() {
    let error = open("gone").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    assert!(error.message().contains("processes::serve"), "{error}");
}

fn check_lost<T: std::fmt::Debug>(answer: Result<T>) {
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
}

async fn a_killed_process_leaves_its_calls_unknown_and_is_gone() {
    let process = processes::Killable::start("stuck", &Clock::manual(start())).unwrap();
    let store = process.open().await.unwrap();
    let mut call = store.schedules();
    assert!(futures::poll!(&mut call).is_pending());
    // Questions are answered in their order of arrival: it has the call.
    store.ping().await.unwrap();
    assert!(futures::poll!(&mut call).is_pending());
    process.kill();
    check_lost(call.await);
    check_lost(store.ping().await);
    process.kill();
}

async fn a_process_can_be_killed_while_it_opens_its_store() {
    let process = processes::Killable::start("never open", &Clock::manual(start())).unwrap();
    let opening = process.open();
    tokio::pin!(opening);
    assert!(futures::poll!(&mut opening).is_pending());
    process.kill();
    check_lost(opening.await.map(drop));
}

async fn wake_ups_arrive() {
    let (store, _) = open("memory").await.unwrap();
    let mut wakeups = store.wakeups();
    let heard = Arc::new(Mutex::new(Vec::<Wakeup>::new()));
    // When the other side begins to listen cannot be seen: jobs are inserted until it has heard of one.
    let deadline = Instant::now() + Duration::from_secs(20);
    while heard.lock().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "no wake-up came");
        store.insert(&[NewJob::new("x", Payload::null())]).await.unwrap();
        if let Some(Some(wakeup)) = wakeups.next().now_or_never() {
            heard.lock().unwrap().push(wakeup);
        }
        tokio::task::yield_now().await;
    }
}

fn main() -> ExitCode {
    if let Some(code) = processes::serve(serve) {
        return code;
    }
    type Test = fn() -> BoxFuture<'static, ()>;
    let tests: [(&str, Test); 8] = [
        ("each_handle_is_another_process_which_ends_with_it", || {
            each_handle_is_another_process_which_ends_with_it().boxed()
        }),
        ("the_clock_goes_with_every_question", || the_clock_goes_with_every_question().boxed()),
        ("payloads_arrive_byte_for_byte", || payloads_arrive_byte_for_byte().boxed()),
        ("errors_arrive_with_their_kind_and_effect", || {
            errors_arrive_with_their_kind_and_effect().boxed()
        }),
        ("a_process_that_ends_at_once_is_an_error_that_says_what_may_be_missing", || {
            a_process_that_ends_at_once_is_an_error_that_says_what_may_be_missing().boxed()
        }),
        ("a_killed_process_leaves_its_calls_unknown_and_is_gone", || {
            a_killed_process_leaves_its_calls_unknown_and_is_gone().boxed()
        }),
        ("a_process_can_be_killed_while_it_opens_its_store", || {
            a_process_can_be_killed_while_it_opens_its_store().boxed()
        }),
        ("wake_ups_arrive", || wake_ups_arrive().boxed()),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(test());
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}
