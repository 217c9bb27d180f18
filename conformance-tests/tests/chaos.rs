//! The chaos store: each fault does to a call what its documentation says, and no more.

use std::{sync::Arc, time::Duration};

use conformance_tests::{ChaosStore, Fault, Switch};
use futures::StreamExt;
use queue_core::{
    Effect, ErrorKind, JobFilter, JobStore, JobStoreExt, MemoryStore, NewJob, Payload,
};

const PATIENCE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(10);

fn chaos(share: u8) -> (MemoryStore, ChaosStore) {
    let memory = MemoryStore::new();
    let chaos = ChaosStore::new(Arc::new(memory.clone()), 3).with_patience(PATIENCE);
    (memory, chaos.with_share(share))
}

fn job() -> NewJob {
    NewJob::new("x", Payload::null())
}

async fn jobs(store: &dyn JobStore) -> u64 {
    store.count(&JobFilter::all()).await.unwrap()
}

#[tokio::test]
async fn each_fault_has_its_kind_its_effect_and_its_consequence() {
    use ErrorKind::{Backend, Contention, Timeout, Unavailable};
    for (fault, kind, effect, made) in [
        (Fault::Unreachable, Unavailable, Effect::None, Some(0)),
        (Fault::Restarted, Unavailable, Effect::None, Some(0)),
        (Fault::RequestLost, Unavailable, Effect::Unknown, Some(0)),
        (Fault::AnswerLost, Unavailable, Effect::Unknown, Some(1)),
        (Fault::Cut, Unavailable, Effect::Unknown, None),
        (Fault::Reset, Unavailable, Effect::Unknown, Some(0)),
        (Fault::Terminated, Unavailable, Effect::Unknown, Some(0)),
        (Fault::Silent, Timeout, Effect::Unknown, Some(0)),
        (Fault::Full, Backend, Effect::None, Some(0)),
        (Fault::Locked, Contention, Effect::None, Some(0)),
    ] {
        let (memory, chaos) = chaos(100);
        chaos.begin(fault);
        let error = chaos.store().insert(&[job()]).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (kind, effect), "{fault}");
        let there = jobs(&memory).await;
        assert!(made.is_none_or(|made| made == there), "{fault}: {there}");
        assert_eq!(chaos.struck(), 1, "{fault}");
        chaos.end();
        assert!(chaos.store().insert(&[job()]).await.unwrap()[0].is_new(), "{fault}");
    }
}

#[tokio::test]
async fn a_slow_store_answers_and_a_full_or_locked_one_can_be_read() {
    let (_, chaos) = chaos(100);
    chaos.begin(Fault::Slow);
    assert!(chaos.store().insert(&[job()]).await.unwrap()[0].is_new());
    for fault in [Fault::Full, Fault::Locked] {
        chaos.begin(fault);
        assert_eq!(jobs(&*chaos.store()).await, 1, "{fault}");
    }
}

#[tokio::test]
async fn what_a_silence_swallowed_is_made_later_or_never() {
    let (mut later, mut never) = (0, 0);
    for seed in 0..20 {
        let memory = MemoryStore::new();
        let chaos =
            ChaosStore::new(Arc::new(memory.clone()), seed).with_patience(Duration::from_millis(2));
        let switch = chaos.switch(Fault::Silent);
        switch.on().await.unwrap();
        chaos.store().insert(&[job()]).await.unwrap_err();
        assert_eq!(jobs(&memory).await, 0);
        switch.off().await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        match jobs(&memory).await {
            0 => never += 1,
            _ => later += 1,
        }
    }
    assert!(later > 0 && never > 0, "{later} later, {never} never");
}

#[tokio::test]
async fn a_call_that_a_short_silence_holds_up_is_answered() {
    let (_, chaos) = chaos(100);
    let chaos = chaos.with_patience(DEADLINE);
    chaos.begin(Fault::Silent);
    let store = chaos.store();
    let call = tokio::spawn(async move { store.insert(&[job()]).await });
    while chaos.struck() == 0 {
        tokio::task::yield_now().await;
    }
    chaos.end();
    assert!(call.await.unwrap().unwrap()[0].is_new());
}

#[tokio::test]
async fn a_share_of_the_calls_meets_a_fault_and_a_single_one_can_be_chosen() {
    let (_, chaos) = chaos(30);
    chaos.begin(Fault::RequestLost);
    let mut lost = 0;
    for _ in 0..200 {
        lost += u32::from(chaos.store().ping().await.is_err());
    }
    assert!((30..90).contains(&lost), "{lost} of 200");
    chaos.end();
    chaos.strike_next(Fault::AnswerLost);
    assert!(chaos.store().ping().await.is_err());
    assert!(chaos.store().ping().await.is_ok());
}

#[tokio::test]
async fn hints_are_lost_in_a_fault_and_summed_up_after_it() {
    let (_, chaos) = chaos(0);
    let store = chaos.store();
    let mut hints = store.wakeups();
    chaos.begin(Fault::Cut);
    store.insert(&[job()]).await.unwrap();
    let nothing = tokio::time::timeout(PATIENCE, hints.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    chaos.end();
    let told = tokio::time::timeout(DEADLINE, hints.next()).await.unwrap().unwrap();
    assert_eq!(told.queue, None);
}
