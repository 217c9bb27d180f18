//! Deleting by the time of the end: exact, whatever the clock did.

use std::{num::NonZeroU32, time::Duration};

use queue_core::{
    BulkChange, Clock, JobFilter, JobId, JobStore, LogRead, NewJob, Payload, QueueName, States,
    TimeRange, Timestamp,
};
use queue_sqlite::SqliteOptions;

fn at(seconds: u64) -> Timestamp {
    Timestamp::EPOCH.plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn what_ended_before_an_instant_is_deleted_the_oldest_first_though_the_clock_was_set_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(at(0));
    let options = SqliteOptions::new(directory.path().join("jobs.db")).clock(clock.clone());
    let store = options.open().await.unwrap();
    let mut ids: Vec<JobId> = Vec::new();
    // Inserted and ended at: the third ended, by the clock, before it was inserted.
    for (inserted, ended) in [(100, 110), (120, 300), (250, 130), (140, 150)] {
        let job = NewJob::new("x", Payload::null());
        ids.push(job.id);
        clock.set(at(inserted));
        store.insert(std::slice::from_ref(&job)).await.unwrap();
        clock.set(at(ended));
        let cancel = BulkChange::Cancel { reason: "done".into() };
        store.update_where(&JobFilter::id(job.id), &cancel).await.unwrap();
    }
    let mut old = JobFilter::queue(QueueName::default()).with_states(States::FINAL);
    old.finished = TimeRange::before(at(200));
    let mut deleted = Vec::new();
    for _ in 0..4 {
        let count = store.delete(&old, NonZeroU32::MIN).await.unwrap();
        let left = store.get(&ids, LogRead::None).await.unwrap();
        deleted.push((count, left.iter().map(Option::is_some).collect::<Vec<_>>()));
    }
    assert_eq!(
        deleted,
        [
            (1, vec![false, true, true, true]),
            (1, vec![false, true, true, false]),
            (1, vec![false, true, false, false]),
            (0, vec![false, true, false, false]),
        ]
    );
}
