//! The thread that writes.
//!
//! redb has one writer at a time, and what a commit costs is its fsync. So calls queue up for one thread, which carries out
//! all that wait in one transaction and commits once for all of them: group commit.

use std::{
    iter,
    sync::{Arc, mpsc},
};

use queue_core::{Clock, Effect, Result, Wakeup};
use tokio::sync::{broadcast, oneshot};

use crate::{
    medium::{Failure, Medium},
    work::{Hints, Work},
};

/// How many calls one transaction carries out at most, so that none waits long for the others.
const GROUP: usize = 128;

/// A call that waits to be carried out.
pub(crate) trait Call: Send {
    /// Carries it out; once more when the transaction around it was given up.
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), redb::Error>;

    /// Answers it, the transaction being committed or given up.
    fn answer(self: Box<Self>, committed: Result<(), Failure>);
}

/// A call with its work and the place where its answer is awaited.
pub(crate) struct Asked<T, F> {
    pub(crate) operation: &'static str,
    pub(crate) work: F,
    pub(crate) done: Option<T>,
    pub(crate) reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Call for Asked<T, F>
where
    T: Send,
    F: FnMut(&mut Work<'_>) -> Result<T, redb::Error> + Send,
{
    fn run(&mut self, work: &mut Work<'_>) -> Result<(), redb::Error> {
        self.done = Some((self.work)(work)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Failure>) {
        let Asked { operation, done, reply, .. } = *self;
        let done = committed.and_then(|()| done.ok_or_else(Failure::unanswered));
        // Whoever gave up waiting has no use for the answer; the call has happened all the same.
        let _ = reply.send(done.map_err(|failure| failure.into_error(operation)));
    }
}

/// Carries out calls until no handle is left.
pub(crate) fn serve(
    calls: &mpsc::Receiver<Box<dyn Call>>,
    medium: &Arc<Medium>,
    clock: &Clock,
    wakeups: &broadcast::Sender<Wakeup>,
) {
    while let Ok(first) = calls.recv() {
        let group: Vec<_> = iter::once(first).chain(calls.try_iter().take(GROUP - 1)).collect();
        carry_out(group, medium, clock, wakeups);
    }
}

fn carry_out(
    mut group: Vec<Box<dyn Call>>,
    medium: &Arc<Medium>,
    clock: &Clock,
    wakeups: &broadcast::Sender<Wakeup>,
) {
    match commit(&mut group, medium, clock) {
        Ok(hints) => {
            group.into_iter().for_each(|call| call.answer(Ok(())));
            for queue in hints {
                let hint = queue.map_or_else(Wakeup::anywhere, Wakeup::queue);
                // Nobody listening is no trouble.
                let _ = wakeups.send(hint);
            }
        }
        // One that fails must not take the others with it. Nothing of them was committed, so each is tried by itself.
        Err(failure) if failure.effect == Effect::None && group.len() > 1 => {
            group.into_iter().for_each(|call| carry_out(vec![call], medium, clock, wakeups));
        }
        Err(failure) => group.into_iter().for_each(|call| call.answer(Err(failure.clone()))),
    }
}

fn commit(
    group: &mut [Box<dyn Call>],
    medium: &Arc<Medium>,
    clock: &Clock,
) -> Result<Hints, Failure> {
    medium.with(|database| {
        let transaction = database.begin_write()?;
        let mut work = Work::new(&transaction, clock.now())?;
        for call in group {
            call.run(&mut work)?;
        }
        match work.finish() {
            Some(hints) => {
                // The default durability: what is committed is on the medium.
                transaction.commit().map_err(|error| Failure::from(error).of_commit())?;
                Ok(hints)
            }
            None => {
                transaction.abort()?;
                Ok(Hints::new())
            }
        }
    })
}
