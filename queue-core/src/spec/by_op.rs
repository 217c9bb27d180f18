use std::{fmt, num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{Answer, Op};
use crate::{
    BulkChange, BulkOutcome, ClaimRequest, Claimed, Error, ErrorKind, Fire, Fired, Held, Inserted,
    Job, JobFilter, JobId, JobQuery, JobStore, JobUpdate, LogRead, NewJob, Outcome, Page, Reaped,
    Record, Result, ScheduleStat, StoreInfo, Tally, Timestamp, Version, Wakeup,
};

/// What carries out operations as values; [`ByOp`] makes a store of it.
#[async_trait]
pub trait RunOp: fmt::Debug + Send + Sync + 'static {
    /// As [`JobStore::info`].
    fn info(&self) -> StoreInfo;

    /// As [`JobStore::ping`].
    async fn ping(&self) -> Result<Timestamp>;

    /// As [`JobStore::wakeups`].
    fn wakeups(&self) -> BoxStream<'static, Wakeup>;

    /// Carries out an operation. The answer must be of its kind.
    async fn run(&self, op: Op) -> Result<Answer>;
}

/// A store all of whose operations go through one function: for wrappers that count, break or forward calls.
#[derive(Debug)]
pub struct ByOp<T>(pub T);

macro_rules! by_op {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty, $op:expr => $answer:pat => $value:expr;)*) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<T: RunOp> JobStore for ByOp<T> {
            fn info(&self) -> StoreInfo {
                self.0.info()
            }

            async fn ping(&self) -> Result<Timestamp> {
                self.0.ping().await
            }

            fn wakeups(&self) -> BoxStream<'static, Wakeup> {
                self.0.wakeups()
            }

            $(
                async fn $name(&self, $($arg: $type),*) -> Result<$out> {
                    match self.0.run($op).await? {
                        $answer => Ok($value),
                        _ => Err(Error::new(ErrorKind::Backend, "the answer is to another operation")
                            .with_operation(stringify!($name))),
                    }
                }
            )*
        }
    };
}

by_op! {
    insert(jobs: &[NewJob]) -> Vec<Inserted>, Op::Insert(jobs.to_vec()) => Answer::Inserted(a) => a;
    claim(request: &ClaimRequest) -> Claimed, Op::Claim(request.clone()) => Answer::Claimed(a) => a;
    update_jobs(updates: &[JobUpdate]) -> Vec<Outcome>,
        Op::Update(updates.to_vec()) => Answer::Outcomes(a) => a;
    update_and_claim(updates: &[JobUpdate], request: &ClaimRequest) -> (Vec<Outcome>, Claimed),
        Op::UpdateAndClaim(updates.to_vec(), request.clone()) => Answer::OutcomesAndClaimed(a, b) => (a, b);
    heartbeat(held: &[Held], lease: Duration) -> Vec<Outcome>,
        Op::Heartbeat(held.to_vec(), lease) => Answer::Outcomes(a) => a;
    reap(limit: NonZeroU32) -> Vec<Reaped>, Op::Reap(limit) => Answer::Reaped(a) => a;
    update_where(filter: &JobFilter, change: &BulkChange) -> BulkOutcome,
        Op::UpdateWhere(filter.clone(), change.clone()) => Answer::Bulk(a) => a;
    delete(filter: &JobFilter, limit: NonZeroU32) -> u64,
        Op::Delete(filter.clone(), limit) => Answer::Deleted(a) => a;
    get(ids: &[JobId], log: LogRead) -> Vec<Option<Job>>, Op::Get(ids.to_vec(), log) => Answer::Jobs(a) => a;
    find(query: &JobQuery) -> Page<Job>, Op::Find(query.clone()) => Answer::Page(a) => a;
    tally(filter: &JobFilter) -> Vec<Tally>, Op::Tally(filter.clone()) => Answer::Tallies(a) => a;
    fire(fire: &Fire) -> Fired, Op::Fire(Box::new(fire.clone())) => Answer::Fired(a) => a;
    schedules() -> Vec<ScheduleStat>, Op::Schedules => Answer::Schedules(a) => a;
    records(prefix: &str) -> Vec<Record>, Op::Records(prefix.to_owned()) => Answer::Records(a) => a;
    put_record(record: &Record, expect: Option<Version>) -> Outcome,
        Op::PutRecord(record.clone(), expect) => Answer::Put(a) => a;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Reach};

    #[derive(Debug)]
    struct Confused;

    #[async_trait]
    impl RunOp for Confused {
        fn info(&self) -> StoreInfo {
            StoreInfo::new("confused", Capabilities::new(Reach::Process))
        }

        async fn ping(&self) -> Result<Timestamp> {
            Ok(Timestamp::EPOCH)
        }

        fn wakeups(&self) -> BoxStream<'static, Wakeup> {
            Box::pin(futures::stream::pending())
        }

        async fn run(&self, _: Op) -> Result<Answer> {
            Ok(Answer::Deleted(1))
        }
    }

    #[tokio::test]
    async fn an_answer_to_another_operation_is_an_error_that_names_the_one_asked() {
        let store = ByOp(Confused);
        assert_eq!(store.delete(&JobFilter::all(), NonZeroU32::MIN).await.unwrap(), 1);
        let error = store.schedules().await.unwrap_err();
        assert!(error.to_string().contains("schedules"), "{error}");
    }
}
